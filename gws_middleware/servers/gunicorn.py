"""gunicorn's ``gevent`` worker class and its subclasses, ours among them.

gunicorn reads each request with a parser of its own, in the keep-alive loop of ``AsyncWorker.handle``. After the 101
three of its objects must do nothing more: the Response (``force_close()`` ends the loop), the parser's unreader (it may
hold bytes of frames, and must find the end of the stream), and the logger (a detached connection has its line when it
ends). ``test_gunicorn`` and ``test_servers`` run all of this in a real gunicorn.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import gevent.ssl

from ..connection.channel import Channel, check_peer
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
from .gunicornworker import find_worker
from .strings import share

__all__ = ["GunicornGevent"]

log = logging.getLogger("gws_middleware")


_errors: Any = None
"""The latest ``wsgi.errors``: gunicorn makes one for each request, and an open WebSocket would keep it."""


def _share_errors(environ: Environ) -> None:
    """Replace ``wsgi.errors`` by the latest one if both write to the same streams. PEP 3333 forbids to close it; if an
    application has, the next connection has its own.
    """
    global _errors  # one for each process, by definition
    errors: Any = environ.get("wsgi.errors")
    if not hasattr(errors, "streams"):
        return
    if _errors is not None and errors.streams == _errors.streams and not _errors.closed:
        environ["wsgi.errors"] = _errors
    else:
        _errors = errors


class GunicornGevent(Server):
    """``gunicorn -k gevent`` (gunicorn.workers.ggevent.GeventWorker) and its subclasses."""

    def __init__(self, sock: Any, environ: Environ, start_response: StartResponse) -> None:
        self._sock, self._input, self._environ = sock, environ.get("wsgi.input"), environ
        self._response = find_owner(start_response, "force_close", "resp", "sock", sock)
        # gunicorn's function writes a 103 on this socket; after the 101 that would be bytes between frames.
        environ.pop("wsgi.early_hints", None)
        watch_socket(sock)

    @property
    def taken(self) -> bool:  # type: ignore[override]
        return self._sock is not None and is_used(self._sock)

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        response = self._response
        if response is None:
            raise NoSocketError(START_RESPONSE_HIDDEN)
        start_response(SWITCHING, headers)
        if response.status != SWITCHING:
            raise NoSocketError(START_RESPONSE_DELAYED)
        early = self._end_stream() or b""
        if not early:
            check_peer(self._sock)  # a view must not be given the connection of a peer that has disconnected
        response.force_close()
        self._send_head(response)
        channel = channel_of(self._sock)
        self._sock = self._input = None
        _share_errors(self._environ)
        request = getattr(response, "req", None)
        headers = share(self._environ, getattr(request, "headers", ()))
        if request is not None:
            request.headers = headers
        return channel, early

    def _send_head(self, response: Any) -> None:
        """Send what gunicorn would send, without Server and Date. A 101 needs neither (RFC 9110 6.6.1), and gunicorn
        formats the date for each response, which costs as much as the rest of this method.
        """
        response.headers_sent = True  # or gunicorn sends its own head when it closes the response
        response.chunked = False  # or gunicorn before 26.1 sends the last chunk of a 101 when it closes the response
        fields = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        head = f"HTTP/1.1 {response.status}\r\nConnection: Upgrade\r\n{fields}\r\n".encode("latin-1")
        sock = self._sock
        if not isinstance(sock, gevent.ssl.SSLSocket):
            try:
                # Nearly always the kernel takes all of it. gevent's sendall() would double the cost of this method.
                head = head[sock._sock.send(head) :]
            except BlockingIOError:
                pass
        if head:
            with write_deadline(self.send_timeout):
                sock.sendall(head)

    def refuse_more(self, write: Write) -> None:
        # should_close() of gunicorn's Response is False for a status below 200, and gunicorn strips an application's
        # "Connection: close": only force_close() ends the keep-alive loop.
        if self._response is not None:
            self._response.force_close()
        elif self._end_stream() is None:
            self.closes_by_exception = True

    def _unreader(self) -> Any:
        """What gunicorn's parser reads from: an attribute of the Request, which also ``wsgi.input`` leads to."""
        request = getattr(self._response, "req", None)
        return getattr(request or getattr(self._input, "reader", None), "unreader", None)

    def _end_stream(self) -> bytes | None:
        """Take what gunicorn's parser has read after the head of the request, and let the parser find the end of the
        stream from now on. ``force_close()`` alone is not enough: a wrapper may hide the Response, and gunicorn 22 asks
        the parser for the next request before it checks the Response, when an exception has ended the view.

        Returns:
            The bytes, which waited in the unreader; None where the unreader cannot be reached.

        """
        unreader = self._unreader()
        if unreader is None:
            return None
        unreader.chunk = _end_of_stream
        if hasattr(unreader, "take_buffered"):
            early: bytes = unreader.take_buffered()
            return early
        early = unreader.buf.getvalue()  # gunicorn before 27
        unreader.buf.seek(0)
        unreader.buf.truncate()
        return early

    def leave(self, sent: int) -> None:
        if self._response is not None:
            self._response.sent = sent

    def log_later(self) -> LogLine | None:
        worker, response = find_worker(), self._response
        logger = getattr(worker, "log", None)
        if response is None or logger is None or not logs_requests(logger):
            return None
        access = _patch_access(logger)
        response.gws_middleware_later = True
        request = response.req
        if _is_gunicorns(access) and _is_gunicorns(getattr(logger, "atoms", access)):
            # gunicorn's own access log reads a few attributes: the rest of the request need not be kept.
            request, response = _Logged(request.headers), _Logged(response.headers, response.status)
        else:  # a logger class of the project's gets gunicorn's objects, without socket and buffers
            response.sock = request.unreader = request.body = None

        def log_line(environ: Environ, seconds: float, sent: int) -> None:
            response.sent = sent
            try:
                access(response, request, environ, timedelta(seconds=seconds))
            except Exception:
                log.exception(ACCESS_LOG_RAISED, ascii(environ.get("PATH_INFO", "")))

        return log_line


class _Logged:
    """What gunicorn's own access log reads of a request or a response."""

    __slots__ = ("headers", "sent", "status")

    def __init__(self, headers: Headers, status: str = "") -> None:
        self.headers, self.status, self.sent = headers, status, 0


def _is_gunicorns(method: Any) -> bool:
    return str(method.__module__).partition(".")[0] == "gunicorn"


def _patch_access(logger: Any) -> Any:
    """Replace ``access`` of this logger object, once: it skips responses whose line is written later. gunicorn calls it
    for each request when the view has returned, and has no setting against it.

    Returns:
        The original method.

    """
    patched = getattr(logger.access, "gws_middleware_original", None)
    if patched is not None:
        return patched
    original = logger.access

    def access(response: Any, *arguments: Any) -> None:
        if not hasattr(response, "gws_middleware_later"):
            original(response, *arguments)

    access.gws_middleware_original = original  # type: ignore[attr-defined]
    logger.access = access
    return original


def _end_of_stream(*size: int) -> bytes:
    """The ``chunk`` of an unreader whose stream has ended."""
    return b""
