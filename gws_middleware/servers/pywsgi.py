"""The handlers of ``gevent.pywsgi``: gevent's own server, and gunicorn's ``gevent_pywsgi`` worker."""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import Any

from gevent import monkey, pywsgi

from .. import hooks
from ..connection.channel import Channel, check_peer
from ..connection.control import set_server
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

__all__ = ["HANDLER_KEY", "GunicornPyWSGI", "PyWSGI", "warn_if_views_block"]

logger = logging.getLogger("gws_middleware")

HANDLER_KEY = "gws_middleware.pywsgi.handler"
"""Where our handler for ``gevent.pywsgi`` leaves a weak reference to itself in environ. A strong one would be a cycle,
and a TLS connection would stay open until the garbage collector comes by.
"""
NOT_PATCHED = (
    "The standard library is not patched for gevent, so each view that waits for it blocks all the others: call "
    "gevent.monkey.patch_all() in the first lines of the program."
)


@lru_cache
def warn_if_views_block() -> None:
    """Once for each process, and not for frameworks whose adapter does it. The workers of gunicorn patch the standard
    library; a program that has a server of ``gevent.pywsgi`` has to.
    """
    if type(hooks.current()) is hooks.Adapter and not monkey.is_module_patched("socket"):
        logger.warning(NOT_PATCHED)


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
        channel = channel_of(sock)
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
        if not (written and is_listened_to(log)):
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


class GunicornPyWSGI(PyWSGI):
    """``gunicorn -k gevent_pywsgi``: the handler owns the ``write`` that ``start_response`` returns."""

    def __init__(self, sock: Any, start_response: StartResponse) -> None:
        super().__init__(owner_of(start_response, "rfile", "self", "socket", sock))


def _buffered(sock: Any, rfile: Any) -> bytes:
    """What the handler's buffered reader holds behind the request's head, without waiting for more."""
    sock.settimeout(0.0)
    try:
        early: bytes = rfile.peek()
    except OSError:  # nothing buffered, and TLS has nothing to read now
        early = b""
    return bytes(early)
