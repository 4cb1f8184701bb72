"""The handler of ``gevent.pywsgi``: in gevent's own server, and in gunicorn's ``gevent_pywsgi`` worker.

The handler object owns the socket, the buffered reader and the keep-alive loop. No environ leads to it; so our subclass
puts a reference into environ (``leave_handler``), and in gunicorn's worker it is found by ``find_owner``.
"""

from __future__ import annotations

import io
import logging
import weakref
from functools import lru_cache
from typing import Any

from gevent import monkey, pywsgi

from .. import hooks
from ..connection.channel import Channel, check_peer
from ..connection.control import set_server
from ..typing import Environ, Headers, StartResponse, Write
from .base import (
    ACCESS_LOG_RAISED,
    START_RESPONSE_DELAYED,
    START_RESPONSE_HIDDEN,
    SWITCHING,
    LogLine,
    NoSocketError,
    Server,
    channel_of,
    find_owner,
    is_used,
    logs_requests,
    watch_socket,
    write_deadline,
)
from .strings import share

__all__ = ["HANDLER_KEY", "GunicornPyWSGI", "PyWSGI", "leave_handler", "warn_if_views_block"]

logger = logging.getLogger("gws_middleware")

HANDLER_KEY = "gws_middleware.pywsgi.handler"
"""The environ key of a weak reference to the handler. A strong one would be a cycle, and a TLS connection would stay
open until the garbage collector runs.
"""
NOT_PATCHED = (
    "The standard library is not patched for gevent, so each view that waits for it blocks all the others: call "
    "gevent.monkey.patch_all() in the first lines of the program."
)


@lru_cache
def warn_if_views_block() -> None:
    """Log a warning where gevent has not patched the standard library, once for each process. gunicorn's workers patch
    it; a program that starts a server of ``gevent.pywsgi`` has to. Not where a framework's adapter warns itself.
    """
    if type(hooks.current()) is hooks.Adapter and not monkey.is_module_patched("socket"):
        logger.warning(NOT_PATCHED)


def leave_handler(environ: Environ, handler: Any) -> Environ:
    """Let the middleware find the handler of a request: put a reference into its environ.

    Returns:
        The same environ.

    """
    environ[HANDLER_KEY] = weakref.ref(handler)
    return environ


class PyWSGI(Server):
    """``gevent.pywsgi`` with a handler that can be reached."""

    close_headers = (("Connection", "close"),)

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        if handler is not None:
            watch_socket(handler.socket)

    @property
    def taken(self) -> bool:  # type: ignore[override]
        sock = getattr(self._handler, "socket", None)
        return sock is not None and is_used(sock)

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        handler = self._handler
        if handler is None:
            raise NoSocketError(START_RESPONSE_HIDDEN)
        start_response(SWITCHING, headers)
        if handler.code != 101:
            raise NoSocketError(START_RESPONSE_DELAYED)
        sock = handler.socket
        seconds = sock.gettimeout()
        early = _buffered(sock, handler.rfile)
        sock.settimeout(seconds)
        if not early:
            check_peer(sock)  # a view must not be given the connection of a peer that has disconnected
        with write_deadline(self.send_timeout):
            handler.write(b"")  # not the write() that start_response returned: it may be a wrapper's own
        return self._take(handler)

    def _take(self, handler: Any) -> tuple[Channel, bytes]:
        warn_if_views_block()
        sock, rfile = handler.socket, handler.rfile
        early = _buffered(sock, rfile)
        handler.close_connection = True  # ends the keep-alive loop
        channel = channel_of(sock)
        # No request body is left, for the application to read or for the handler to discard. The reader counts as a
        # user of a TLS socket: as long as something refers to it, close() would not close the socket.
        handler.wsgi_input = handler.environ["wsgi.input"] = pywsgi.Input(io.BytesIO(), 0)  # type: ignore[arg-type]
        rfile.close()
        share(handler.environ)
        handler.socket = None  # or the handler, at its end, reads from the socket below gevent's object and closes it
        return channel, early

    def refuse_more(self, write: Write) -> None:
        if self._handler is not None:
            self._handler.close_connection = True

    def opened(self, ws: Any) -> None:
        server = self._handler.server
        set_server(ws, server)
        websockets = getattr(server, "websockets", None)
        if websockets is not None:
            websockets.add(ws)

    def leave(self, sent: int) -> None:
        self._handler.response_length += sent

    def log_later(self) -> LogLine | None:
        handler = self._handler
        log, log_request = handler.server.log, type(handler).log_request
        written = log_request is not pywsgi.WSGIHandler.log_request or not isinstance(log, _NO_LOG)
        if not (written and logs_requests(log)):
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
                logger.exception(ACCESS_LOG_RAISED, ascii(environ.get("PATH_INFO", "")))

        return log_line


_NO_LOG: Any = getattr(pywsgi, "_NoopLog", ())
"""gevent's class for the log of a server that is started with ``log=None``."""


def _log_nothing() -> None:
    """Replaces ``log_request`` of a handler object: gevent would log when the view has returned."""


class GunicornPyWSGI(PyWSGI):
    """``gunicorn -k gevent_pywsgi``: gunicorn's own subclass of the handler, whose method ``start_response`` is."""

    def __init__(self, sock: Any, start_response: StartResponse) -> None:
        super().__init__(find_owner(start_response, "rfile", "self", "socket", sock))


def _buffered(sock: Any, rfile: Any) -> bytes:
    """The bytes after the request's head that the handler's buffered reader holds; does not wait for more."""
    sock.settimeout(0.0)
    try:
        early: bytes = rfile.peek()
    except OSError:  # nothing buffered, and TLS has nothing to read now
        early = b""
    return bytes(early)
