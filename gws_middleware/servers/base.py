"""What all servers have in common: the contract ``Server``, and how a server's own objects and its socket are found.

A server has two tasks. ``switch()`` sends the 101 through the server's own ``start_response``, so that its
access log and hooks see a real response, and hands over the connection with the bytes that the server has already read.
``refuse_more()`` makes the server close the connection after an ordinary response: after a refused upgrade no second,
smuggled request may be served on the same connection.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import gevent.socket
import gevent.ssl
from gevent import Timeout, get_hub, getcurrent

from ..connection.channel import Channel, plain_channel, tls_channel
from ..typing import Environ, Headers, StartResponse, Write

__all__ = [
    "ACCESS_LOG_RAISED",
    "SERVER_KEY",
    "START_RESPONSE_DELAYED",
    "START_RESPONSE_HIDDEN",
    "SWITCHING",
    "LogLine",
    "NoSocketError",
    "Server",
    "channel_of",
    "find_owner",
    "is_on_gevent",
    "is_used",
    "logs_requests",
    "watch_socket",
    "write_deadline",
]

SERVER_KEY = "gws_middleware.server"
"""The environ key in which a server that is none of the real ones (that of ``testing``) puts its ``Server``."""

SWITCHING = "101 Switching Protocols"
ACCESS_LOG_RAISED = "WebSocket %s: the access log raised"
START_RESPONSE_HIDDEN = (
    "a WSGI wrapper calls WebSocketMiddleware in a greenlet of its own and hides the server's start_response: put "
    "WebSocketMiddleware outside of it"
)
START_RESPONSE_DELAYED = (
    "a WSGI wrapper around WebSocketMiddleware does not call the server's start_response at once: put "
    "WebSocketMiddleware outside of it"
)

LogLine = Callable[[Environ, float, int], None]
"""Writes the line of a request in the access log; its arguments are the environ, the duration (s) and the bytes that
were sent. It raises nothing: an error of the project's own logger is logged.
"""


class NoSocketError(RuntimeError):
    """The connection cannot be taken from this server."""


class Server:
    """How one kind of server gives its connection away."""

    close_headers: tuple[tuple[str, str], ...] = ()
    """Headers that make this server close the connection after an ordinary response."""
    subprotocol: str | None = None
    """The subprotocol of a 101 that the server has sent itself."""
    switched = False
    """Whether the server has sent a 101 of its own before the application was called."""
    taken = False
    """Whether the application has used the server's socket itself before anything was answered, as simple-websocket and
    flask-sock do: the connection belongs to it then.
    """
    send_timeout: float
    """Seconds that writing the 101 may wait for the peer. The middleware sets it before ``switch()``."""
    closes_by_exception = False
    """Whether only an exception can end the server's keep-alive loop, because none of its objects can be reached."""

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        """Send the 101 and take the connection. A write that may wait for the peer is bounded by ``write_deadline()``.

        Args:
            start_response: The server's, or that of a wrapper outside of the middleware.
            headers: Of the 101.

        Returns:
            The channel of the connection, and the bytes that the server has read after the request.

        Raises:
            OSError: The peer has disconnected.
            NoSocketError: A wrapper hides what is needed.

        """
        raise NotImplementedError

    def refuse_more(self, write: Write) -> None:
        """An ordinary response with this ``write`` was started: close the connection after it."""

    def opened(self, ws: Any) -> None:
        """The connection belongs to this WebSocket now."""

    def leave(self, sent: int) -> None:
        """The application has returned; ``sent`` bytes of frames were written, for the access log."""

    def log_later(self) -> LogLine | None:
        """The view has returned and the connection stays open: no line in the access log before it ends.

        Returns:
            What writes the line; None where this server cannot wait with it, or has no access log.

        """
        return None


def find_owner(start_response: StartResponse, sign: str, variable: str, its_socket: str, sock: Any) -> Any:
    """The object of the server's that ``start_response`` is a method of.

    Where a wrapper hides it: the server has called the wrapper (PEP 3333), so a frame of the server is on this stack,
    with the object in a local variable.

    Args:
        start_response: What the middleware was called with.
        sign: An attribute that only this object has.
        variable: The name of the local variable.
        its_socket: The object's attribute for the request's socket. The stack may have other requests.
        sock: The request's socket.

    Returns:
        The object, or None.

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


def write_deadline(seconds: float) -> Timeout:
    """Ends one write to a peer that reads nothing: for the server that is a peer that has disconnected."""
    return Timeout(seconds, BrokenPipeError(errno.EPIPE, f"the peer has read nothing for {seconds:g} seconds"))


def is_on_gevent(sock: Any) -> bool:
    """Whether this is a gevent socket, in a greenlet of its own. gunicorn's other workers leave a socket in environ,
    too; there a view that waits would block a thread or the whole worker.
    """
    return isinstance(sock, gevent.socket.socket) and getcurrent().parent is get_hub()


def channel_of(sock: Any) -> Channel:
    """The channel of a gevent socket, which is empty or unused from now on."""
    return tls_channel(sock) if isinstance(sock, gevent.ssl.SSLSocket) else plain_channel(sock)


_FIRST_USES = ("dup", "makefile", "recv", "recv_into", "recvmsg", "send", "sendall", "sendmsg", "shutdown")


def watch_socket(sock: Any) -> None:
    """From now on ``is_used(sock)`` is true once the socket was read, written or copied.

    The object gets a subclass of its class until then. It cannot be replaced, because servers and applications keep
    references to it.
    """
    if is_used(sock):
        kind: Any = type(sock)
        sock.__class__ = _unused(kind)


def is_used(sock: Any) -> bool:
    """Whether the socket was read, written or copied since ``watch_socket()``."""
    return not hasattr(type(sock), "_gws_middleware_unused")


@lru_cache
def _unused(kind: Any) -> Any:
    """A subclass for sockets of this class that were not used yet: the first use sets the class back."""

    def first(name: str) -> Callable[..., Any]:
        def use(self: Any, *arguments: Any, **options: Any) -> Any:
            self.__class__ = kind
            return getattr(self, name)(*arguments, **options)

        return use

    methods = {name: first(name) for name in _FIRST_USES if hasattr(kind, name)}
    return type(kind.__name__, (kind,), {**methods, "__slots__": (), "_gws_middleware_unused": True})


def logs_requests(logger: Any) -> bool:
    """Whether a logger of gunicorn's does something with a request: its statsd logger counts without an access log."""
    return bool(getattr(logger, "access_log_enabled", True)) or hasattr(logger, "increment")
