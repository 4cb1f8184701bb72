"""From a WSGI environ to the socket under it: one small class for each server, and the only reader of their private
keys.

A server is asked for two things. ``switch()`` sends the 101 through the server's own ``start_response``, so that its
access log and hooks see a real response, and hands over the connection with the bytes that the server had read already.
``refuse_more()`` makes the server close the connection behind an ordinary response: a refused upgrade must not leave a
connection on which a second, smuggled request is served.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any

import gevent.socket
import gevent.ssl
from gevent import get_hub, getcurrent, monkey, pywsgi

from . import adapter
from .channel import Channel, check_peer, plain_channel, tls_channel
from .typing import Environ, Headers, StartResponse, Write

__all__ = [
    "HANDLER_KEY",
    "SERVER_KEY",
    "NoSocketError",
    "Server",
    "close_after",
    "ends_process",
    "find",
    "gunicorn_worker",
    "warn_if_views_block",
]

logger = logging.getLogger("gws_middleware")

HANDLER_KEY = "gws_middleware.pywsgi.handler"
"""Where our handler for ``gevent.pywsgi`` leaves a weak reference to itself in environ. A strong one would be a cycle,
and a TLS connection would stay open until the garbage collector comes by.
"""
SERVER_KEY = "gws_middleware.server"
"""Where a server of a kind of its own (the one of ``testing``) leaves a ``Server`` in environ."""

SWITCHING = "101 Switching Protocols"

SWITCHED_ALREADY = "geventwebsocket"

NOT_PATCHED = (
    "The standard library is not patched for gevent, so each view that waits for it blocks all the others: call "
    "gevent.monkey.patch_all() in the first lines of the program."
)
LOG_RAISED = "WebSocket %s: the access log raised"
HIDDEN = (
    "a WSGI wrapper calls WebSocketMiddleware in a greenlet of its own and hides the server's start_response: put "
    "WebSocketMiddleware outside of it"
)
NOT_PASSED_ON = (
    "a WSGI wrapper around WebSocketMiddleware does not call the server's start_response at once: put "
    "WebSocketMiddleware outside of it"
)

# What browsers and proxies send with every handshake: header names as gunicorn spells them, and a few values.
_SHARED = {
    text: text
    for text in (  # noqa: SIM905
        "HOST CONNECTION UPGRADE ORIGIN USER-AGENT COOKIE ACCEPT ACCEPT-ENCODING ACCEPT-LANGUAGE CACHE-CONTROL PRAGMA "
        "SEC-WEBSOCKET-KEY SEC-WEBSOCKET-VERSION SEC-WEBSOCKET-EXTENSIONS SEC-WEBSOCKET-PROTOCOL SEC-FETCH-DEST "
        "SEC-FETCH-MODE SEC-FETCH-SITE DNT AUTHORIZATION FORWARDED VIA X-FORWARDED-FOR X-FORWARDED-PROTO "
        "X-FORWARDED-HOST X-FORWARDED-PORT X-REAL-IP X-REQUEST-ID"
    ).split()
}
_SHARED.update({text: text for text in ["HTTP_" + name.replace("-", "_") for name in _SHARED]})
_SHARED.update(
    {
        text: text
        for text in (
            "websocket",
            "Upgrade",
            "keep-alive, Upgrade",
            "upgrade",
            "13",
            "no-cache",
            "gzip, deflate, br, zstd",
            "gzip, deflate, br",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate",
        )
    }
)


LogLine = Callable[[Environ, float, int], None]
"""Writes the line of a request in the access log, with its environ, its seconds and the bytes that were sent. It raises
nothing: an error of the project's own logger is logged.
"""


class NoSocketError(RuntimeError):
    """The connection cannot be taken from this server."""


class Server:
    """How one kind of server gives its connection away."""

    close_headers: tuple[tuple[str, str], ...] = ()
    """Headers that make this server close the connection behind an ordinary response."""
    subprotocol: str | None = None
    """What a server that has sent the 101 itself has agreed on."""
    switched = False
    """Whether the server has sent a 101 of its own before the application was called."""
    taken = False
    """Whether the application, before anything was answered, has used the server's socket itself, as simple-websocket
    and flask-sock do: the connection is its own then.
    """
    closes_by_exception = False
    """Whether the keep-alive loop must be left by an exception, because nothing else can be reached."""

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        """Send the 101 and take the connection: its channel, and the bytes read behind the request. OSError when the
        peer has disconnected.
        """
        raise NotImplementedError

    def refuse_more(self, write: Write) -> None:
        """An ordinary response was started with ``write``: see to it that the connection ends behind it."""

    def opened(self, ws: Any) -> None:
        """The connection is that WebSocket's now."""

    def leave(self, sent: int) -> None:
        """The application is done; ``sent`` bytes of frames were written, for the access log."""

    def log_later(self) -> LogLine | None:
        """The view has left and the connection lives on: the access log's line is to come at the end of that. What
        writes it, or None where this server does not wait with its line, or has no access log.
        """
        return None


def find(environ: Environ, start_response: StartResponse) -> Server | None:
    """How to take this request's connection, or None where the server offers no way."""
    server = environ.get(SERVER_KEY)
    if isinstance(server, Server):
        return server
    if HANDLER_KEY in environ:
        return _PyWSGI(environ[HANDLER_KEY]())
    foreign = environ.get("wsgi.websocket")
    if foreign is not None and type(foreign).__module__.partition(".")[0] == SWITCHED_ALREADY:
        return _GeventWebSocket(foreign)
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        return _GunicornGevent(sock, environ, start_response) if _on_gevent(sock) else None
    sock = environ.get("gunicorn.sock")
    if sock is not None and _on_gevent(sock):
        return _GunicornPyWSGI(sock, start_response)
    return None


def close_after(environ: Environ, start_response: StartResponse) -> None:
    """The answer to this request is the last one on its connection, whose server offers no way to take it: a handshake
    that is not answered with 101 must not be followed by a request that a proxy has taken for bytes of a WebSocket.
    """
    response = _owner(start_response, "force_close", "resp", "sock", environ.get("gunicorn.socket"))
    if response is not None:
        response.force_close()
        return
    handler: Any = getattr(start_response, "__self__", None)  # of gevent.pywsgi, and so gevent-websocket's
    if hasattr(handler, "close_connection"):
        handler.close_connection = True


def _owner(start_response: StartResponse, sign: str, variable: str, its_socket: str, sock: Any) -> Any:
    """The object of the server's that ``start_response`` is a method of; it has the attribute ``sign``. Where a wrapper
    hides it: the server has called the wrapper, so its frame is on this stack, with the object in a local variable.
    """
    owner = getattr(start_response, "__self__", None)
    if hasattr(owner, sign):
        return owner
    frame = sys._getframe(1).f_back
    while frame is not None:
        if variable in frame.f_code.co_varnames:
            found = frame.f_locals.get(variable)
            if hasattr(found, sign) and getattr(found, its_socket, None) is sock:
                return found
        frame = frame.f_back
    return None


def _on_gevent(sock: Any) -> bool:
    """Whether the connection is a greenlet's own. gunicorn's other workers leave a socket in environ too; in theirs
    a view that waits would hold up a thread or the whole worker.
    """
    return isinstance(sock, gevent.socket.socket) and getcurrent().parent is get_hub()


def _channel(sock: Any) -> Channel:
    return tls_channel(sock) if isinstance(sock, gevent.ssl.SSLSocket) else plain_channel(sock)


_FIRST_USES = ("dup", "makefile", "recv", "recv_into", "recvmsg", "send", "sendall", "sendmsg", "shutdown")


def _watch(sock: Any) -> None:
    """From now on ``_used(sock)`` tells whether anything was read, sent or copied. The object gets a subclass of its
    class until then: servers and applications hold it in places of their own, so it cannot be replaced.
    """
    if _used(sock):
        kind: Any = type(sock)
        sock.__class__ = _watched(kind)


def _used(sock: Any) -> bool:
    return not hasattr(type(sock), "_gws_middleware_unused")


@lru_cache
def _watched(kind: Any) -> Any:
    def first(name: str) -> Callable[..., Any]:
        def use(self: Any, *arguments: Any, **options: Any) -> Any:
            self.__class__ = kind
            return getattr(self, name)(*arguments, **options)

        return use

    methods = {name: first(name) for name in _FIRST_USES if hasattr(kind, name)}
    return type(kind.__name__, (kind,), {**methods, "__slots__": (), "_gws_middleware_unused": True})


class _GunicornGevent(Server):
    """``gunicorn -k gevent`` and its descendants, ours among them (gunicorn.workers.ggevent.GeventWorker)."""

    def __init__(self, sock: Any, environ: Environ, start_response: StartResponse) -> None:
        self._sock, self._input, self._environ = sock, environ.get("wsgi.input"), environ
        self._response = _owner(start_response, "force_close", "resp", "sock", sock)
        environ.pop("wsgi.early_hints", None)  # they would be sent on this socket; nothing needs them before a 101
        _watch(sock)

    @property
    def taken(self) -> bool:  # type: ignore[override]
        return self._sock is not None and _used(self._sock)

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        response = self._response
        if response is None:
            raise NoSocketError(HIDDEN)
        start_response(SWITCHING, headers)
        if response.status != SWITCHING:
            raise NoSocketError(NOT_PASSED_ON)
        early = self._end_stream() or b""
        if not early:
            check_peer(self._sock)
        response.force_close()
        self._send_head(response)
        channel = _channel(self._sock)
        self._sock = self._input = None
        self._share_names()
        return channel, early

    def _send_head(self, response: Any) -> None:
        """What gunicorn would send, but for its name and the date: a 101 needs neither (RFC 9110 6.6.1), and gunicorn
        writes out the date anew each time, which costs as much as all that is done here.
        """
        response.headers_sent = True
        response.chunked = False  # before 26.1 gunicorn would end the chunks of a 101 later
        fields = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        head = f"HTTP/1.1 {response.status}\r\nConnection: Upgrade\r\n{fields}\r\n".encode("latin-1")
        sock = self._sock
        if not isinstance(sock, gevent.ssl.SSLSocket):
            try:
                head = head[sock._sock.send(head) :]  # nearly always all of it: gevent's sendall() costs as much again
            except BlockingIOError:
                pass
        if head:
            sock.sendall(head)

    def _share_names(self) -> None:
        """An open WebSocket keeps its request, and so does the next one: keep one copy of what is the same in all."""
        environ, shared = self._environ, _SHARED.get
        items = [(shared(k, k), shared(v, v) if type(v) is str else v) for k, v in environ.items()]
        environ.clear()
        environ.update(items)
        request = getattr(self._response, "req", None)
        if request is not None:
            request.headers = [(shared(name, name), shared(value, value)) for name, value in request.headers]

    def refuse_more(self, write: Write) -> None:
        # should_close() of gunicorn's Response is False for a status below 200, and gunicorn strips an application's
        # "Connection: close": only force_close() ends the keep-alive loop.
        if self._response is not None:
            self._response.force_close()
        elif self._end_stream() is None:
            self.closes_by_exception = True

    def _unreader(self) -> Any:
        """What gunicorn's parser reads from."""
        request = getattr(self._response, "req", None)
        return getattr(request or getattr(self._input, "reader", None), "unreader", None)

    def _end_stream(self) -> bytes | None:
        """What gunicorn's parser has read behind the request's head, which waits in its unreader. Whoever looks for
        another request finds the end from now on: a wrapper may hide the Response, and gunicorn 22 swallows what ends a
        view and asks the parser first. None where the unreader is out of reach.
        """
        unreader = self._unreader()
        if unreader is None:
            return None
        unreader.chunk = _end_of_stream
        if hasattr(unreader, "take_buffered"):
            early: bytes = unreader.take_buffered()
            return early
        early = unreader.buf.getvalue()  # before gunicorn 27
        unreader.buf.seek(0)
        unreader.buf.truncate()
        return early

    def leave(self, sent: int) -> None:
        if self._response is not None:
            self._response.sent = sent

    def log_later(self) -> LogLine | None:
        worker, response = gunicorn_worker(), self._response
        log = getattr(worker, "log", None)
        if response is None or log is None or not _is_heard(log):
            return None
        access = _skipping(log)
        response.gws_middleware_later = True
        request = response.req
        if _is_gunicorns(access) and _is_gunicorns(getattr(log, "atoms", access)):  # they read these attributes alone
            request, response = _Logged(request.headers), _Logged(response.headers, response.status)
        else:  # a logger of the project's gets what gunicorn would pass, without the buffers
            response.sock = request.unreader = request.body = None

        def log_line(environ: Environ, seconds: float, sent: int) -> None:
            response.sent = sent
            try:
                access(response, request, environ, timedelta(seconds=seconds))
            except Exception:
                logger.exception(LOG_RAISED, ascii(environ.get("PATH_INFO", "")))

        return log_line


def gunicorn_worker() -> Any:
    """The worker of this process, or None. No environ leads to it, and an application may replace signal handlers; but
    as long as it serves, the main greenlet is in its ``run()``.
    """
    main: Any = get_hub().parent
    frame = sys._getframe() if main is getcurrent() else main.gr_frame
    while frame is not None:
        worker = frame.f_locals.get("self") if frame.f_code.co_name == "run" else None
        if all(hasattr(worker, name) for name in ("alive", "notify", "cfg", "nr", "max_requests")):
            return worker
        frame = frame.f_back
    return None


class _Logged:
    """What gunicorn's own access log reads of a request or a response."""

    __slots__ = ("headers", "sent", "status")

    def __init__(self, headers: Headers, status: str = "") -> None:
        self.headers, self.status, self.sent = headers, status, 0


def _is_gunicorns(method: Any) -> bool:
    return str(method.__module__).partition(".")[0] == "gunicorn"


def ends_process(error: BaseException) -> bool:
    """Whether an exception that application code raised is the end of its process: gunicorn raises SystemExit in
    whatever runs, Python KeyboardInterrupt at Ctrl-C. The same from ``sys.exit()`` is an error of that code alone.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    worker = gunicorn_worker()
    return isinstance(error, (SystemExit, KeyboardInterrupt)) and worker is not None and not worker.alive


def _is_heard(log: Any) -> bool:
    """Whether anybody hears of a request from this logger of gunicorn's: its statsd does without an access log, too."""
    return bool(getattr(log, "access_log_enabled", True)) or hasattr(log, "increment")


def _skipping(log: Any) -> Any:
    """Let this logger of gunicorn's pass over requests whose line is to come later; its own way to write one."""
    known = getattr(log.access, "gws_middleware_original", None)
    if known is not None:
        return known
    original = log.access

    def access(response: Any, *arguments: Any) -> None:
        if not hasattr(response, "gws_middleware_later"):
            original(response, *arguments)

    access.gws_middleware_original = original  # type: ignore[attr-defined]
    log.access = access
    return original


def _end_of_stream(*size: int) -> bytes:
    """What reading returns at the end."""
    return b""


@lru_cache
def warn_if_views_block() -> None:
    """Once for each process, and not for frameworks whose adapter does it. The workers of gunicorn patch the standard
    library; a program that has a server of ``gevent.pywsgi`` has to.
    """
    if type(adapter.current()) is adapter.Adapter and not monkey.is_module_patched("socket"):
        logger.warning(NOT_PATCHED)


class _PyWSGI(Server):
    """``gevent.pywsgi`` with a handler that can be reached."""

    close_headers = (("Connection", "close"),)

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        if handler is not None:
            _watch(handler.socket)

    @property
    def taken(self) -> bool:  # type: ignore[override]
        sock = getattr(self._handler, "socket", None)
        return sock is not None and _used(sock)

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        handler = self._handler
        if handler is None:
            raise NoSocketError(HIDDEN)
        start_response(SWITCHING, headers)
        if handler.code != 101:
            raise NoSocketError(NOT_PASSED_ON)
        sock = handler.socket
        seconds = sock.gettimeout()
        early = _buffered(sock, handler.rfile)
        sock.settimeout(seconds)
        if not early:
            check_peer(sock)
        handler.write(b"")  # and not what start_response returned: a wrapper may have put a write() of its own there
        return self._take(handler)

    def _take(self, handler: Any) -> tuple[Channel, bytes]:
        warn_if_views_block()
        sock, rfile = handler.socket, handler.rfile
        early = _buffered(sock, rfile)
        handler.close_connection = True
        channel = _channel(sock)
        # There is no request body any more, for the application to read or for the handler to discard. The reader
        # itself counts as a user of a TLS socket: as long as something refers to it, close() would not close.
        handler.wsgi_input = handler.environ["wsgi.input"] = pywsgi.Input(io.BytesIO(), 0)  # type: ignore[arg-type]
        rfile.close()
        # When it ends, the handler reads from the bare socket behind gevent's and closes that: it must not find it.
        handler.socket = None
        return channel, early

    def refuse_more(self, write: Write) -> None:
        if self._handler is not None:
            self._handler.close_connection = True

    def opened(self, ws: Any) -> None:
        ws._server = server = self._handler.server
        websockets = getattr(server, "websockets", None)
        if websockets is not None:
            websockets.add(ws)

    def leave(self, sent: int) -> None:
        self._handler.response_length += sent

    def log_later(self) -> LogLine | None:
        handler = self._handler
        log, log_request = handler.server.log, type(handler).log_request
        written = log_request is not pywsgi.WSGIHandler.log_request or not isinstance(log, _NO_LOG)
        if not (written and _is_heard(log)):
            return None
        before = handler.response_length
        handler.log_request = _log_nothing

        def log_line(environ: Environ, seconds: float, sent: int) -> None:
            handler.environ = environ
            handler.time_finish = handler.time_start + seconds
            handler.response_length = before + sent
            try:
                log_request(handler)
            except Exception:
                logger.exception(LOG_RAISED, ascii(environ.get("PATH_INFO", "")))

        return log_line


_NO_LOG: Any = getattr(pywsgi, "_NoopLog", ())
"""What a server of gevent's has for a log that is None."""


def _log_nothing() -> None:
    """In place of a handler's ``log_request()``."""


class _GunicornPyWSGI(_PyWSGI):
    """``gunicorn -k gevent_pywsgi``: the handler owns the ``write`` that ``start_response`` returns."""

    def __init__(self, sock: Any, start_response: StartResponse) -> None:
        super().__init__(_owner(start_response, "rfile", "self", "socket", sock))


class _GeventWebSocket(_PyWSGI):
    """gevent-websocket's handler and worker: they have sent the 101 before the application was called."""

    switched = True

    def __init__(self, foreign: Any) -> None:
        super().__init__(foreign.handler)
        self._foreign = foreign
        for name, value in self._handler.response_headers:
            if name.lower() == b"sec-websocket-protocol":
                self.subprotocol = value.decode("latin-1")

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        # Their object would write a close frame of its own when the handler ends.
        self._foreign.closed = True
        return self._take(self._handler)

    def opened(self, ws: Any) -> None:
        super().opened(ws)
        # Their list has had their object until now. Their handler removes the entry when the view has returned.
        self._handler.server.clients[self._handler.client_address] = ws._as_client()


def _buffered(sock: Any, rfile: Any) -> bytes:
    """What the handler's buffered reader holds behind the request's head, without waiting for more."""
    sock.settimeout(0.0)
    try:
        early: bytes = rfile.peek()
    except OSError:  # nothing buffered, and TLS has nothing to read now
        early = b""
    return bytes(early)
