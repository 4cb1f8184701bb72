"""The lifetime of a WebSocket under WSGI, top to bottom: refuse or run, accept, swallow, close, leave.

Before the 101 the application's response is an ordinary one. After it nothing that the application returns or raises
reaches the wire: the response is swallowed and closed (a framework cleans up there), an error is logged once.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import MethodType
from typing import Any

from gevent import GreenletExit, Timeout

from . import records, registry, stopping, takeover
from .admission import full
from .channel import Channel
from .codes import CloseCode
from .config import Config
from .exceptions import ConnectionClosed
from .protocol.handshake import Handshake, Refusal, Request, judge, upgrade_dropped, wants_websocket
from .typing import Environ, Headers, StartResponse, Write, WSGIApp
from .websocket import WebSocket

__all__ = ["WebSocketMiddleware"]

log = logging.getLogger("gws_middleware")

NO_SOCKET = (
    "This server cannot open WebSockets: run it with a gevent worker, e.g. "
    "gunicorn -k gws_middleware.worker.GeventWebSocketWorker."
)


class WebSocketMiddleware:
    """Wraps a WSGI application; its requests find their WebSocket in ``environ["wsgi.websocket"]``.

    The key is there on upgrade requests alone; everything else passes through untouched. ``options`` are the fields of
    ``Config``; ConfigError names a wrong or misspelt one.
    """

    def __init__(self, app: WSGIApp, **options: Any) -> None:
        self.app = app
        # As a bound method, a callable object runs in its caller's C frame: 0.7 KiB less stack for each waiting view.
        call = getattr(app, "__call__", None)  # noqa: B004
        self._call: WSGIApp = call if isinstance(call, MethodType) else app
        self.config = Config.load(options)
        self._told = False
        self._warned: set[str] = set()
        if hasattr(app, "app_protocol"):  # gevent-websocket's handler asks the application that it is given
            self.app_protocol = app.app_protocol

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        upgrade, key = environ.get("HTTP_UPGRADE"), environ.get("HTTP_SEC_WEBSOCKET_KEY")
        server: takeover.Server | None
        if key is not None and upgrade_dropped(upgrade, key):
            server = takeover.Server()  # to this server it is plain HTTP: the connection need not end, and is not taken
        elif upgrade is None or not wants_websocket(upgrade) or isinstance(environ.get("wsgi.websocket"), WebSocket):
            return self.app(environ, start_response)
        else:
            server = takeover.find(environ, start_response)
        if server is None:
            return self._no_socket(environ, start_response)
        config = self.config
        answer = judge(_request(environ), config.allowed_origins, config.compression)
        if server.switched:
            return self._run_switched(environ, start_response, server, answer)
        if isinstance(answer, Refusal):
            self._log_refusal(environ, answer)
            return _refuse(answer, "handshake", server, environ, start_response)
        subprotocol = self._subprotocol(environ, answer)
        lifetime = _Lifetime(environ, start_response, server, answer, config, subprotocol)
        found = full(config, environ, lifetime.ws._take_place)
        if found is not None:
            lifetime.forget()
            return _refuse(found.refusal, found.reason, server, environ, start_response)
        return lifetime.run(self._call)

    def _run_switched(
        self,
        environ: Environ,
        start_response: StartResponse,
        server: takeover.Server,
        answer: Handshake | Refusal,
    ) -> Iterable[bytes]:
        """The server sent the 101 before it asked us; what is left of a refusal is a close frame."""
        handshake = Handshake("", ()) if isinstance(answer, Refusal) else answer._replace(compression=None)
        lifetime = _Lifetime(environ, start_response, server, handshake, self.config, None)
        lifetime.ws._accept_switched(server.subprotocol)
        found = full(self.config, environ, lifetime.ws._take_place)
        if isinstance(answer, Refusal):
            self._log_refusal(environ, answer)
            lifetime.ws.close(CloseCode.POLICY_VIOLATION, answer.sentence[:123])  # 5.5.1
        elif found is not None:
            lifetime.ws.close(CloseCode.TRY_AGAIN_LATER, found.refusal.sentence)
        else:
            return lifetime.run(self._call)
        return lifetime.run(_nothing)

    def _log_refusal(self, environ: Environ, refusal: Refusal) -> None:
        """A warning for the first of its status that a setting may cure; a peer can repeat it at will."""
        first = refusal.about_setup and refusal.status not in self._warned
        if first:
            self._warned.add(refusal.status)
        level = logging.WARNING if first else logging.INFO
        log.log(level, "WebSocket %s: refused: %s", records.shown(environ.get("PATH_INFO", "")), refusal.sentence)

    def _subprotocol(self, environ: Environ, handshake: Handshake) -> str | None:
        """What gevent-websocket's ``Resource`` names for this path, if the client offers it."""
        app_protocol = getattr(self, "app_protocol", None)
        name = None if app_protocol is None else app_protocol(environ.get("PATH_INFO", ""))
        return name if name in handshake.subprotocols else None

    def _no_socket(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not self._told:
            self._told = True
            log.warning(NO_SOCKET)
        body = NO_SOCKET.encode() + b"\n"
        start_response("501 Not Implemented", _text_headers(body))
        return _body(environ, body)


def _text_headers(body: bytes) -> Headers:
    return [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]


def _refuse(
    refusal: Refusal, reason: str, server: takeover.Server, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    registry.current().counters.refused[reason] += 1
    body = refusal.sentence.encode() + b"\n"
    headers = [*_text_headers(body), *refusal.headers, *server.close_headers]
    server.refuse_more(start_response(refusal.status, headers))
    return _left(_body(environ, body), server)


def _body(environ: Environ, body: bytes) -> list[bytes]:
    """None behind HEAD: gunicorn does not send one, but warns of it in its log, once for each request of a stranger."""
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def _left(result: Iterable[bytes], server: takeover.Server) -> Iterable[bytes]:
    """``result`` itself, unless the server's keep-alive loop must be left by an exception."""
    return _LeaveByException(result) if server.closes_by_exception else result


def _request(environ: Environ) -> Request:
    get = environ.get
    return Request(
        method=get("REQUEST_METHOD", ""),
        protocol=get("SERVER_PROTOCOL", ""),
        host=get("HTTP_HOST"),
        upgrade=get("HTTP_UPGRADE"),
        connection=get("HTTP_CONNECTION"),
        key=get("HTTP_SEC_WEBSOCKET_KEY"),
        version=get("HTTP_SEC_WEBSOCKET_VERSION"),
        subprotocols=get("HTTP_SEC_WEBSOCKET_PROTOCOL"),
        extensions=get("HTTP_SEC_WEBSOCKET_EXTENSIONS"),
        origin=get("HTTP_ORIGIN"),
        content_length=get("CONTENT_LENGTH"),
        transfer_encoding=get("HTTP_TRANSFER_ENCODING"),
    )


def _nothing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return []


def _discard(data: bytes) -> None:
    """The ``write`` of a swallowed response."""


class _Lifetime:
    """One request that may become a WebSocket."""

    __slots__ = (
        "_code",
        "_deadline",
        "_environ",
        "_finished",
        "_server",
        "_start_response",
        "_started",
        "_swallowed",
        "ws",
    )

    def __init__(
        self,
        environ: Environ,
        start_response: StartResponse,
        server: takeover.Server,
        handshake: Handshake,
        config: Config,
        subprotocol: str | None,
    ) -> None:
        self._environ, self._server = environ, server
        self._start_response: StartResponse | None = start_response
        self._started = self._swallowed = self._finished = False
        self._code = CloseCode.NORMAL
        self.ws = WebSocket(environ, handshake, self._switch, config, registry.current(), subprotocol)
        environ["wsgi.websocket"] = self.ws
        environ["wsgi.websocket_version"] = "13"
        self._deadline = None if config.accept_timeout is None else Timeout.start_new(config.accept_timeout)

    def _switch(self, headers: Headers) -> tuple[Channel, bytes]:
        assert self._start_response is not None
        self._cancel_deadline()
        switched = self._server.switch(self._start_response, headers)
        self._start_response = None
        self._server.opened(self.ws)
        registry.current().began(self.ws)
        stopping.watch()
        return switched

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.close()

    @property
    def over(self) -> bool:
        """Whether HTTP is over on this connection: the 101 has been sent, or the peer had gone before it could be."""
        return self.ws.accepted or self.ws.vanished

    # --- run -------------------------------------------------------------------------------------------------------

    def run(self, app: WSGIApp) -> Iterable[bytes]:
        """Call the application and give the server what it may send."""
        result: Iterable[bytes] = ()
        try:
            result = app(self._environ, self.start_response)
        except BaseException as error:
            if error is self._deadline:
                return _left(self._too_late(), self._server)
            self._raised(error)
        if self.over:
            self._swallow(result)
            self._tell_lost()
            return _left([], self._server)
        if self._started:
            self.forget()
            return _left(result, self._server)
        return _Lazy(self, result)

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Write:
        """What the application gets as ``start_response``."""
        if self.over:
            return self._start_swallowed(status, exc_info)
        start_response, server = self._start_response, self._server
        assert start_response is not None
        self._count_refusal()
        self._cancel_deadline()
        self.ws._refuse()
        arguments = () if exc_info is None else (exc_info,)
        write = start_response(status, [*headers, *server.close_headers], *arguments)
        server.refuse_more(write)
        return write

    def _count_refusal(self, reason: str = "application") -> None:
        """The answer is HTTP: count it once, however often it is begun."""
        if not self._started:
            self._started = True
            registry.current().counters.refused[reason] += 1

    def _start_swallowed(self, status: str, exc_info: Any) -> Write:
        if exc_info:
            try:
                raise exc_info[1].with_traceback(exc_info[2])  # PEP 3333: the headers have gone
            finally:
                exc_info = None
        if self._swallowed:
            raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
        self._swallowed = True
        # Where it has ended already there is nothing to close; a framework has logged what made it answer so.
        if status[:1] == "5" and not self.ws.closed:
            log.error(
                "WebSocket %s: the application answered %s; closed with 1011",
                ascii(self.ws.path),
                ascii(status),
            )
            self._code = CloseCode.INTERNAL_ERROR
        return _discard

    # --- swallow ---------------------------------------------------------------------------------------------------

    def lazily(self, result: Iterable[bytes]) -> Iterator[bytes]:
        """The body of an application that does its work while it is iterated: before the 101 an ordinary one,
        nothing after.
        """
        try:
            for chunk in result:
                if not self.over:
                    yield chunk
                elif self.ws.closed:
                    break
        except GeneratorExit:
            raise
        except BaseException as error:
            if error is self._deadline:
                yield from self._too_late()
            else:
                self._raised(error)
        self._tell_lost()
        if not self.ws.accepted and not self._started:
            yield from self._unanswered()

    def _unanswered(self) -> Iterable[bytes]:
        """Neither accepted nor answered: refused by ``ws.close()``, or forgotten."""
        refused = self.ws.closed
        status = "403 Forbidden" if refused else "500 Internal Server Error"
        body = b"The WebSocket was refused.\n" if refused else b"The application neither accepted nor answered.\n"
        if not refused:
            log.error("WebSocket %s: the application neither accepted nor answered", ascii(self.ws.path))
        self.start_response(status, _text_headers(body))
        return [body]

    def _too_late(self) -> Iterable[bytes]:
        """``accept_timeout`` is over: nobody knows what the application was waiting for."""
        sentence = f"The application did not answer the handshake within {self.ws._config.accept_timeout:g} seconds."
        log.warning("WebSocket %s: %s", ascii(self.ws.path), sentence)
        body = sentence.encode() + b"\n"
        self._count_refusal("accept_timeout")
        self.start_response("503 Service Unavailable", _text_headers(body))
        self.forget()
        return [body]

    def _swallow(self, result: Iterable[bytes]) -> None:
        try:
            try:
                for _ in result:
                    if self.ws.closed:
                        break
            finally:
                _close(result)
        except BaseException as error:
            self._raised(error)
        self.finish()

    def _raised(self, error: BaseException) -> None:
        """The application raised ``error``; what must go on is raised again."""
        ws = self.ws
        if not self.over:
            self._count_refusal()
            if self._start_response is not None:  # a wrapper outside may make an ordinary response of it
                self._server.refuse_more(self._start_response)
            self.forget()
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        # The worker is stopping. (Other errors that are no Exception, e.g. gevent.Timeout, are the application's.)
        if isinstance(error, (GreenletExit, SystemExit, KeyboardInterrupt)):
            self._code = CloseCode.GOING_AWAY
            self.finish()
            if isinstance(error, GreenletExit):
                return  # gunicorn would swallow it and go on to read a request from the socket that is ours now
            try:
                raise error
            finally:
                del error
        if isinstance(error, ConnectionClosed) and ws.closed:
            log.debug("WebSocket %s: %s", ascii(ws.path), error)
            return
        log.error("WebSocket %s: the application raised; closed with 1011", ascii(ws.path), exc_info=error)
        self._code = CloseCode.INTERNAL_ERROR

    def _tell_lost(self) -> None:
        """The peer went before the 101: what every server takes for that, and drops the connection without a word."""
        if self.ws.vanished:
            self.forget()
            raise BrokenPipeError(errno.EPIPE, "the peer went before the 101")

    # --- close and leave -------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The application is done: close unless the connection is to live on, and leave the server."""
        if self._finished or not self.ws.accepted:
            return
        self._finished = True
        ws = self.ws
        if not (ws.detached and self._code == CloseCode.NORMAL):
            ws._finish(self._code)
        log_line = self._server.log_later() if ws.detached and not ws._is_over else None
        self._server.leave(ws.stats.bytes_sent)
        self.forget()
        with suppress(GreenletExit):  # as in _raised: the server is to see this request end, and no other begin
            if ws.detached:
                ws._leave(log_line)
            else:
                ws._over()

    def forget(self) -> None:
        """Environ and WebSocket refer to each other, so do the WebSocket and its way to the server: part them, so that
        none waits for the garbage collector.
        """
        self.ws._refuse()
        self._cancel_deadline()
        if not self.ws.accepted:
            self.ws._give_places()
        if self._environ.get("wsgi.websocket") is self.ws:
            del self._environ["wsgi.websocket"]

    @property
    def leave_by_exception(self) -> bool:
        """Whether the server's keep-alive loop must be left by an exception."""
        return self._server.closes_by_exception


def _close(result: Iterable[bytes]) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()


class _Lazy:
    """The response of an application that has neither accepted nor answered when it returns: a generator, mostly."""

    def __init__(self, lifetime: _Lifetime, result: Iterable[bytes]) -> None:
        self._lifetime, self._result = lifetime, result

    def __iter__(self) -> Iterator[bytes]:
        yield from self._lifetime.lazily(self._result)
        self._end()

    def _end(self) -> None:
        result, self._result = self._result, ()
        try:
            _close(result)
        except Exception as error:
            self._lifetime._raised(error)
        finally:
            self._lifetime.finish()
            self._lifetime.forget()

    def close(self) -> None:
        """The server is done with the response."""
        self._end()
        if self._lifetime.leave_by_exception:
            raise _left_behind()


class _LeaveByException:
    """A response behind which gunicorn must close the connection though its Response object is out of reach: an error
    from ``close()``, which comes after the access log, ends its keep-alive loop.
    """

    def __init__(self, result: Iterable[bytes]) -> None:
        self._result = result

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._result)

    def close(self) -> None:
        """The server is done with the response."""
        _close(self._result)
        raise _left_behind()


def _left_behind() -> OSError:
    """What gunicorn takes for a peer that has gone. StopIteration would do too, but not through a generator."""
    return OSError(errno.ENOTCONN, "the connection ends here")
