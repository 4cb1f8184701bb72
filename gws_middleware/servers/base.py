"""What every server has in common: how it gives its connection away, and how its own objects are found.

A server is asked for two things. ``switch()`` sends the 101 through the server's own ``start_response``, so that its
access log and hooks see a real response, and hands over the connection with the bytes that the server had read already.
``refuse_more()`` makes the server close the connection after an ordinary response: a refused upgrade must not leave a
connection on which a second, smuggled request is served.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import gevent.socket
import gevent.ssl
from gevent import get_hub, getcurrent

from ..connection.channel import Channel, plain_channel, tls_channel
from ..typing import Environ, Headers, StartResponse, Write

__all__ = [
    "HIDDEN",
    "LOG_RAISED",
    "NOT_PASSED_ON",
    "SERVER_KEY",
    "SWITCHING",
    "LogLine",
    "NoSocketError",
    "Server",
    "channel_of",
    "is_listened_to",
    "is_on_gevent",
    "is_used",
    "owner_of",
    "watch_socket",
]

SERVER_KEY = "gws_middleware.server"
"""Where a server of a kind of its own (the one of ``testing``) leaves a ``Server`` in environ."""

SWITCHING = "101 Switching Protocols"
LOG_RAISED = "WebSocket %s: the access log raised"
HIDDEN = (
    "a WSGI wrapper calls WebSocketMiddleware in a greenlet of its own and hides the server's start_response: put "
    "WebSocketMiddleware outside of it"
)
NOT_PASSED_ON = (
    "a WSGI wrapper around WebSocketMiddleware does not call the server's start_response at once: put "
    "WebSocketMiddleware outside of it"
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


def owner_of(start_response: StartResponse, sign: str, variable: str, its_socket: str, sock: Any) -> Any:
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


def is_on_gevent(sock: Any) -> bool:
    """Whether the connection is a greenlet's own. gunicorn's other workers leave a socket in environ too; in theirs
    a view that waits would hold up a thread or the whole worker.
    """
    return isinstance(sock, gevent.socket.socket) and getcurrent().parent is get_hub()


def channel_of(sock: Any) -> Channel:
    """The connection of a gevent socket, moved to an object of ours."""
    return tls_channel(sock) if isinstance(sock, gevent.ssl.SSLSocket) else plain_channel(sock)


_FIRST_USES = ("dup", "makefile", "recv", "recv_into", "recvmsg", "send", "sendall", "sendmsg", "shutdown")


def watch_socket(sock: Any) -> None:
    """From now on ``is_used(sock)`` is true once anything was read, sent or copied. The object gets a subclass of its
    class until then: servers and applications hold it in places of their own, so it cannot be replaced.
    """
    if is_used(sock):
        kind: Any = type(sock)
        sock.__class__ = _watched(kind)


def is_used(sock: Any) -> bool:
    """Whether anything was read, sent or copied since ``watch_socket()``."""
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


def is_listened_to(log: Any) -> bool:
    """Whether anybody hears of a request from this logger of gunicorn's: its statsd does without an access log, too."""
    return bool(getattr(log, "access_log_enabled", True)) or hasattr(log, "increment")
