"""gunicorn's gevent worker classes, and the stop of their worker.

gunicorn stops a worker by a signal, by its own count of requests, or because the arbiter has ended; the application is
not notified. A worker class of ours checks for it itself. Under gunicorn's own worker classes the worker is found at
its first WebSocket (``watch_worker``).
"""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from typing import Any

import gevent.ssl
from gevent import get_hub, getcurrent

from ..connection.channel import Channel, check_peer
from ..process import shutdown
from ..process.shutdown import ShutdownCoordinator
from ..typing import Environ, Headers, StartResponse, Write
from .base import (
    HIDDEN,
    LOG_RAISED,
    NOT_PASSED_ON,
    SWITCHING,
    LogLine,
    NoSocketError,
    Server,
    channel_of,
    is_listened_to,
    is_used,
    owner_of,
    watch_socket,
)

__all__ = ["GunicornGevent", "find_worker", "watch_worker"]

log = logging.getLogger("gws_middleware")

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


class GunicornGevent(Server):
    """``gunicorn -k gevent`` and its descendants, ours among them (gunicorn.workers.ggevent.GeventWorker)."""

    def __init__(self, sock: Any, environ: Environ, start_response: StartResponse) -> None:
        self._sock, self._input, self._environ = sock, environ.get("wsgi.input"), environ
        self._response = owner_of(start_response, "force_close", "resp", "sock", sock)
        environ.pop("wsgi.early_hints", None)  # they would be sent on this socket; nothing needs them before a 101
        watch_socket(sock)

    @property
    def taken(self) -> bool:  # type: ignore[override]
        return self._sock is not None and is_used(self._sock)

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
        channel = channel_of(self._sock)
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
        worker, response = find_worker(), self._response
        logger = getattr(worker, "log", None)
        if response is None or logger is None or not is_listened_to(logger):
            return None
        access = _skipping(logger)
        response.gws_middleware_later = True
        request = response.req
        if _is_gunicorns(access) and _is_gunicorns(getattr(logger, "atoms", access)):  # reads these attributes
            request, response = _Logged(request.headers), _Logged(response.headers, response.status)
        else:  # a logger of the project's gets what gunicorn would pass, without the buffers
            response.sock = request.unreader = request.body = None

        def log_line(environ: Environ, seconds: float, sent: int) -> None:
            response.sent = sent
            try:
                access(response, request, environ, timedelta(seconds=seconds))
            except Exception:
                log.exception(LOG_RAISED, ascii(environ.get("PATH_INFO", "")))

        return log_line


def find_worker() -> Any:
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


def watch_worker() -> None:
    """A WebSocket is being opened: from now on the stop of this process closes its WebSockets."""
    if shutdown.is_watched():
        return
    worker = find_worker()
    is_own = isinstance(getattr(worker, "shutdown", None), ShutdownCoordinator)
    shutdown.watch(None if worker is None else lambda: not worker.alive, at_exit=not is_own)
    if worker is not None and not is_own:
        _check_at_each_heartbeat(worker)


def _check_at_each_heartbeat(worker: Any) -> None:
    """A worker of gunicorn's calls ``notify()`` each second, and when it stops not before it has stopped accepting."""
    coordinator, notify = ShutdownCoordinator(lambda: not worker.alive, worker.cfg.graceful_timeout), worker.notify

    def notify_and_check() -> None:
        notify()
        coordinator.check()

    worker.notify = notify_and_check
