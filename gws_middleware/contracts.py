"""The method names of older libraries, on top of ``WebSocket``'s own, so that code written for them moves over
unchanged: django-websocket's and dwebsocket's (``wait``, ``read``, ``has_messages``, ``count_messages``,
``is_closed``) and eventlet's (``wait``). gevent-websocket's are ``WebSocket``'s own.
"""

from __future__ import annotations

from typing import Any

from .exceptions import ConnectionClosed
from .typing import Message

__all__ = ["OlderNames"]


class OlderNames:
    """A base class of ``WebSocket``."""

    __slots__ = ()

    def receive(self, timeout: float | None = None) -> Message | None:
        """See ``WebSocket``."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """See ``WebSocket``."""
        raise NotImplementedError

    def count_messages(self) -> int:
        """See ``WebSocket``."""
        raise NotImplementedError

    def wait(self) -> Message | None:
        """The next message, or None when the connection has ended, however often it is called."""
        try:
            return self.receive()
        except ConnectionClosed:
            return None

    def read(self, fallback: Any = None) -> Any:
        """The next message if one is there, else ``fallback``; never waits for one."""
        return self.receive() if self.has_messages() else fallback

    def has_messages(self) -> bool:
        """Whether ``receive`` would return a message at once."""
        return self.count_messages() > 0

    def is_closed(self) -> bool:
        """The same as ``closed``."""
        return self.closed
