"""The lifetime of a WebSocket under WSGI, top to bottom: refuse or run, accept, discard, close, release.

Before the 101 the application's response is an ordinary one. After it nothing that the application returns or raises
reaches the wire: the response is discarded and closed (a framework cleans up there), an error is logged once.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import MethodType
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit, Timeout, getcurrent

from .codes import CloseCode
from .config import Config, Options
from .connection import control, logs
from .connection.channel import Channel
from .connection.websocket import WebSocket
from .exceptions import ConnectionClosed
from .process import registry, shutdown
from .process.limits import reserve_request_slots
from .protocol.handshake import Handshake, Refusal, Request, judge, upgrade_dropped, wants_websocket
from .servers.base import Server, write_deadline
from .servers.find import close_after_response, find_server
from .servers.gunicornworker import watch_worker
from .typing import Environ, Headers, StartResponse, Write, WSGIApp

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["WebSocketMiddleware", "is_wrapped"]

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

    def __init__(self, app: WSGIApp, **options: Unpack[Options]) -> None:
        self.app = app
        # As a bound method, a callable object runs in its caller's C frame: 0.7 KiB less stack for each waiting view.
        call = getattr(app, "__call__", None)  # noqa: B004
        self._call: WSGIApp = call if isinstance(call, MethodType) else app
        self.config = Config.load(options)
        self._warned_no_socket = False
        self._warned: set[str] = set()
        if hasattr(app, "app_protocol"):  # gevent-websocket's handler asks the application that it is given
            self.app_protocol = app.app_protocol

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        upgrade, key = environ.get("HTTP_UPGRADE"), environ.get("HTTP_SEC_WEBSOCKET_KEY")
        server: Server | None
        if key is not None and upgrade_dropped(upgrade, key):
            server = Server()  # to this server it is plain HTTP: the connection need not end, and is not taken
        elif upgrade is None or not wants_websocket(upgrade) or isinstance(environ.get("wsgi.websocket"), WebSocket):
            return self.app(environ, start_response)
        else:
            server = find_server(environ, start_response)
        if server is None:
            return self._no_socket(environ, start_response)
        config = self.config
        answer = judge(Request._make(map(environ.get, _KEYS)), config.allowed_origins, config.compression)
        if server.switched:
            return self._run_switched(environ, start_response, server, answer)
        if isinstance(answer, Refusal):
            self._log_refusal(environ, answer)
            return _refuse(answer, "handshake", server, environ, start_response, config.send_timeout)
        subprotocol = self._subprotocol(environ, answer)
        lifetime = _Lifetime(environ, start_response, server, answer, config, subprotocol)
        del start_response, upgrade, answer  # this frame would keep them for as long as the view runs
        return lifetime.run(self._call)

    def _run_switched(
        self,
        environ: Environ,
        start_response: StartResponse,
        server: Server,
        answer: Handshake | Refusal,
    ) -> Iterable[bytes]:
        """The server has sent the 101 before it called us: a refusal is a close frame."""
        refused = isinstance(answer, Refusal)
        handshake = Handshake("", ()) if isinstance(answer, Refusal) else answer._replace(compression=None)

        def refuse(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            assert isinstance(answer, Refusal)
            self._log_refusal(environ, answer)
            lifetime.ws.close(CloseCode.POLICY_VIOLATION, answer.sentence[:123])  # 5.5.1
            return []

        lifetime = _Lifetime(environ, start_response, server, handshake, self.config, None)
        return lifetime.run(refuse if refused else self._call)

    def _log_refusal(self, environ: Environ, refusal: Refusal) -> None:
        """A warning for the first of its status that a setting may cure; a peer can repeat it at will."""
        first = refusal.about_setup and refusal.status not in self._warned
        if first:
            self._warned.add(refusal.status)
        level = logging.WARNING if first else logging.INFO
        log.log(level, "WebSocket %s: refused: %s", logs.shown(environ.get("PATH_INFO", "")), refusal.sentence)

    def _subprotocol(self, environ: Environ, handshake: Handshake) -> str | None:
        """What gevent-websocket's ``Resource`` names for this path, if the client offers it."""
        app_protocol = getattr(self, "app_protocol", None)
        name = None if app_protocol is None else app_protocol(environ.get("PATH_INFO", ""))
        return name if name in handshake.subprotocols else None

    def _no_socket(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not self._warned_no_socket:
            self._warned_no_socket = True
            log.warning(NO_SOCKET)
        body = NO_SOCKET.encode() + b"\n"
        start_response("501 Not Implemented", _text_headers(body))
        close_after_response(environ, start_response)
        return _body(environ, body)


_INNER = ("app", "_app", "wsgi_app", "application")
"""Where WSGI wrappers and Flask keep the application that they call."""


def is_wrapped(app: Any) -> bool:
    """Whether this application has a WebSocketMiddleware already, which may be inside of other wrappers."""
    for _ in range(20):  # some wrapper may lead back to itself
        if app is None or isinstance(app, WebSocketMiddleware):
            break
        app = next((getattr(app, name) for name in _INNER if hasattr(app, name)), None)
    return isinstance(app, WebSocketMiddleware)


def _text_headers(body: bytes) -> Headers:
    return [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]


def _refuse(
    refusal: Refusal,
    reason: str,
    server: Server,
    environ: Environ,
    start_response: StartResponse,
    seconds: float,
) -> Iterable[bytes]:
    registry.current().counters.refused[reason] += 1
    body = refusal.sentence.encode() + b"\n"
    headers = [*_text_headers(body), *refusal.headers, *server.close_headers]
    server.refuse_more(start_response(refusal.status, headers))
    return _Response(_body(environ, body), server, seconds)


def _body(environ: Environ, body: bytes) -> list[bytes]:
    """None for HEAD: gunicorn does not send one, but logs a warning, which any client could repeat."""
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


_KEYS: Any = Request(
    method="REQUEST_METHOD",
    protocol="SERVER_PROTOCOL",
    host="HTTP_HOST",
    upgrade="HTTP_UPGRADE",
    connection="HTTP_CONNECTION",
    key="HTTP_SEC_WEBSOCKET_KEY",
    version="HTTP_SEC_WEBSOCKET_VERSION",
    subprotocols="HTTP_SEC_WEBSOCKET_PROTOCOL",
    extensions="HTTP_SEC_WEBSOCKET_EXTENSIONS",
    origin="HTTP_ORIGIN",
    content_length="CONTENT_LENGTH",
    transfer_encoding="HTTP_TRANSFER_ENCODING",
)
"""Where environ has the values of a request (PEP 3333)."""


def _discard(data: bytes) -> None:
    """The ``write`` of a discarded response."""


class _AcceptTimeout(Timeout):
    """``accept_timeout``, for an application that has not taken the connection itself."""

    def __init__(self, seconds: float, server: Server) -> None:
        super().__init__(seconds)
        self._server = server
        self.start()

    def _on_expiration(self, prev_greenlet: Any, ex: Any) -> None:
        """Runs in the hub."""
        if not self._server.taken:
            super()._on_expiration(prev_greenlet, ex)  # type: ignore[misc]


class _Lifetime:
    """One request that may become a WebSocket. Slots are reserved in it alone. Whatever exception comes out of it, from
    whichever line, ``_release()`` has released what the request held.
    """

    __slots__ = (
        "_code",
        "_deadline",
        "_discarded",
        "_environ",
        "_finished",
        "_released",
        "_seconds",
        "_server",
        "_start_response",
        "_started",
        "_view",
        "ws",
    )

    def __init__(
        self,
        environ: Environ,
        start_response: StartResponse,
        server: Server,
        handshake: Handshake,
        config: Config,
        subprotocol: str | None,
    ) -> None:
        self._environ, self._server = environ, server
        self._start_response: StartResponse | None = start_response
        self._started = self._discarded = self._finished = self._released = False
        self._seconds = config.send_timeout
        self._view = getcurrent()
        self._code: int = CloseCode.NORMAL
        self.ws = WebSocket(environ, handshake, self._switch, config, registry.current(), subprotocol)
        environ["wsgi.websocket"] = self.ws
        environ["wsgi.websocket_version"] = "13"
        self._deadline: Timeout | None = None

    def _switch(self, headers: Headers) -> tuple[Channel, bytes]:
        assert self._start_response is not None
        ws = self.ws
        self._cancel_deadline()
        watch_worker()
        control.set_view(ws, self._view)
        server = self._server
        server.send_timeout = control.config_of(ws).send_timeout
        channel, early = server.switch(self._start_response, headers)
        try:
            self._start_response = None
            server.opened(ws)
        except BaseException:
            channel.close()
            raise
        return channel, early

    def _release(self) -> None:
        """An exception comes out of the request, and may have interrupted what ends it."""
        self._forget(cut=not self._released)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.close()

    @property
    def over(self) -> bool:
        """Whether HTTP is over on this connection: the 101 has been sent, the peer had disconnected before it could be,
        or the application serves the connection itself.
        """
        return control.is_http_over(self.ws) or self._is_taken

    @property
    def _is_taken(self) -> bool:
        return control.is_pending(self.ws) and self._server.taken  # nothing of ours has used the socket so far

    # --- run -------------------------------------------------------------------------------------------------------

    def run(self, app: WSGIApp) -> Iterable[bytes]:
        """Reserve the slots, call the application and give the server what it may send."""
        try:
            return self._run(app)
        except BaseException:
            self._release()
            raise

    def _run(self, app: WSGIApp) -> Iterable[bytes]:
        result: Any = ()
        ws, server = self.ws, self._server
        try:
            if (seconds := control.config_of(ws).accept_timeout) is not None:
                self._deadline = _AcceptTimeout(seconds, server)
            if server.switched:
                control.accept_switched(ws, server.subprotocol)
            slots = registry.current().slots
            reached = reserve_request_slots(slots, ws, control.config_of(ws), self._environ)
            if reached is None:
                result = app(self._environ, self.start_response)
            elif not server.switched:
                return self._refuse(reached.refusal, reached.setting)
            else:
                ws.close(CloseCode.TRY_AGAIN_LATER, reached.refusal.sentence)
        except BaseException as error:
            if error is self._deadline:
                return _Response(self._too_late(), server, self._seconds)
            self._raised(error)
        if result is None or type(result) is object:  # a view without a result; gunicorn's ALREADY_HANDLED
            result = ()
        if self.over:
            self._discard_result(result)
            self._raise_lost()
            return _Response([], server, self._seconds) if server.closes_by_exception else []
        if self._started:
            self.forget()
        else:
            result = _Lazy(self, result)
        return _Response(result, server, self._seconds)

    def _refuse(self, refusal: Refusal, reason: str) -> Iterable[bytes]:
        """Answer without asking the application."""
        start_response = self._start_response
        assert start_response is not None
        self.forget()
        return _refuse(refusal, reason, self._server, self._environ, start_response, self._seconds)

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Write:
        """What the application gets as ``start_response``."""
        if self.over:
            return self._start_discarded(status, exc_info)
        start_response, server = self._start_response, self._server
        assert start_response is not None
        self._count_refusal()
        self._cancel_deadline()
        control.answer(self.ws)
        arguments = () if exc_info is None else (exc_info,)
        write = start_response(status, [*headers, *server.close_headers], *arguments)
        server.refuse_more(write)

        def write_in_time(data: bytes) -> object:
            with write_deadline(self._seconds):
                return write(data)

        return write_in_time

    def _count_refusal(self, reason: str = "application") -> None:
        """The answer is HTTP: count it once, however often it is begun."""
        if not self._started:
            self._started = True
            registry.current().counters.refused[reason] += 1

    def _start_discarded(self, status: str, exc_info: Any) -> Write:
        if exc_info:
            try:
                raise exc_info[1].with_traceback(exc_info[2])  # PEP 3333: the headers were sent
            finally:
                exc_info = None
        if self._discarded:
            raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
        self._discarded = True
        # Where it has ended already there is nothing to close; a framework has logged what made it answer so.
        if status[:1] == "5" and not (control.is_closed(self.ws) or self._is_taken):
            log.error(
                "WebSocket %s: the application answered %s; closed with 1011",
                ascii(self.ws.path),
                ascii(status),
            )
            self._code = CloseCode.INTERNAL_ERROR
        return _discard

    # --- discard ---------------------------------------------------------------------------------------------------

    def lazily(self, result: Iterable[bytes]) -> Iterator[bytes]:
        """The body of an application that does its work while it is iterated: before the 101 an ordinary one,
        nothing after.
        """
        try:
            for chunk in result:
                if not self.over:
                    yield chunk
                elif control.is_closed(self.ws):
                    break
        except GeneratorExit:
            raise
        except BaseException as error:
            if error is self._deadline:
                yield from self._too_late()
            else:
                self._raised(error)
        self._raise_lost()
        if not self.ws.accepted and not self._started:
            yield from self._unanswered()

    def _unanswered(self) -> Iterable[bytes]:
        """Neither accepted nor answered: refused by ``ws.close()``, or forgotten."""
        refused = control.is_closed(self.ws)
        status = "403 Forbidden" if refused else "500 Internal Server Error"
        body = b"The WebSocket was refused.\n" if refused else b"The application neither accepted nor answered.\n"
        if not refused:
            log.error("WebSocket %s: the application neither accepted nor answered", ascii(self.ws.path))
        self.start_response(status, _text_headers(body))
        return [body]

    def _too_late(self) -> Iterable[bytes]:
        """``accept_timeout`` has passed before the application has accepted or answered."""
        seconds = control.config_of(self.ws).accept_timeout
        sentence = f"The application did not answer the handshake within {seconds:g} seconds."
        log.warning("WebSocket %s: %s", ascii(self.ws.path), sentence)
        body = sentence.encode() + b"\n"
        self._count_refusal("accept_timeout")
        self.start_response("503 Service Unavailable", _text_headers(body))
        self.forget()
        return [body]

    def _discard_result(self, result: Iterable[bytes]) -> None:
        try:
            try:
                for _ in result:
                    if control.is_closed(self.ws):
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
        # Other errors that are no Exception, e.g. gevent.Timeout, are the application's.
        if isinstance(error, GreenletExit) or shutdown.ends_process(error):
            self._code = control.config_of(ws).shutdown_close_code
            self.finish()
            if isinstance(error, GreenletExit):
                return  # gunicorn would swallow it and go on to read a request from the socket that is ours now
            try:
                raise error
            finally:
                del error
        if self._is_taken:
            if not isinstance(error, StopIteration):  # the way in which flask-sock ends under gunicorn
                log.error("WebSocket %s: the application raised on its own connection", ascii(ws.path), exc_info=error)
            return
        if isinstance(error, ConnectionClosed) and control.is_closed(ws):
            log.debug("WebSocket %s: %s", ascii(ws.path), error)
            return
        log.error("WebSocket %s: the application raised; closed with 1011", ascii(ws.path), exc_info=error)
        self._code = CloseCode.INTERNAL_ERROR

    def _raise_lost(self) -> None:
        """The peer disconnected before the 101, or the application has served the connection itself: what every server
        takes for the former, and closes the connection without writing anything.
        """
        if control.is_lost(self.ws) or self._is_taken:
            self.forget()
            raise BrokenPipeError(errno.EPIPE, "the connection has ended without a 101 of this server")

    # --- close and release -----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The application is done: close unless the connection is detached, and release the server."""
        if self._finished or not self.ws.accepted:
            return
        self._finished = True
        ws, log_line = self.ws, None
        try:
            if not (ws.detached and self._code == CloseCode.NORMAL):
                ws.close(self._code)  # which also sends what waits
            if ws.detached and not control.is_finished(ws):
                log_line = self._server.log_later()
            self._server.leave(ws.stats.bytes_sent)
        finally:
            self.forget()
            with suppress(GreenletExit):  # as in _raised: the server is to see this request end, and no other begin
                control.release(ws, log_line)
        self._released = True

    def forget(self) -> None:
        """Environ and WebSocket refer to each other, so do the WebSocket and its way to the server: part them, so that
        none waits for the garbage collector.
        """
        self._forget(cut=False)

    def _forget(self, *, cut: bool) -> None:
        ws = self.ws
        control.answer(ws)
        self._cancel_deadline()
        control.forget(ws, cut=cut)
        if self._environ.get("wsgi.websocket") is ws:
            del self._environ["wsgi.websocket"]


def _close(result: Iterable[bytes]) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()


class _Lazy:
    """The response of an application that has neither accepted nor answered when it returns: a generator, mostly."""

    def __init__(self, lifetime: _Lifetime, result: Iterable[bytes]) -> None:
        self._lifetime, self._result = lifetime, result

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._lifetime.lazily(self._result)
            self._end()
        except BaseException:
            self._lifetime._release()
            raise

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
        try:
            self._end()
        except BaseException:
            self._lifetime._release()
            raise


class _Response:
    """A response to a handshake as the server writes it, which is between two chunks, and after the last of them until
    it calls ``close()``. A peer that reads nothing must not hold it for ever, so each of these writes has a deadline.

    Where gunicorn's Response object is out of reach the connection must be closed all the same: an error from
    ``close()``, which comes after the access log, ends its keep-alive loop.
    """

    __slots__ = ("_deadline", "_result", "_seconds", "_server")

    def __init__(self, result: Iterable[bytes], server: Server, seconds: float) -> None:
        self._result, self._server, self._seconds = result, server, seconds
        self._deadline: Timeout | None = None

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._result:
            self._start()
            try:
                yield chunk
            finally:
                self._stop()
        self._start()

    def _start(self) -> None:
        self._stop()
        self._deadline = write_deadline(self._seconds)
        self._deadline.start()

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.close()
            self._deadline = None

    def close(self) -> None:
        """The server is done with the response."""
        self._stop()
        _close(self._result)
        if self._server.closes_by_exception:
            raise _end_of_connection()

    def __del__(self) -> None:
        self._stop()  # a wrapper outside of ours has read all of it, and forgotten to close it


def _end_of_connection() -> OSError:
    """What gunicorn takes for a peer that has disconnected. StopIteration would do too, but not through a generator."""
    return OSError(errno.ENOTCONN, "the connection ends here")
