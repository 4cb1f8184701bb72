"""The errors that application code may have to catch.

::

    OSError
    └── geventwebsocket.exceptions.WebSocketError
        └── WebSocketError
            └── ConnectionClosed     the connection has ended: code and reason of both sides
    Exception
    └── HandshakeRefused             in tests: the handshake was answered with an HTTP response instead of a 101
    ValueError
    └── ConfigError                  a wrong or misspelt setting

Rule: the facts of an error are attributes, and its text is ``str(error)``. A fault of the peer is raised in application
code only as the end of the connection. A fault of the caller (``ws.send(None)``) is a TypeError or ValueError at the
call, and the connection stays open.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from geventwebsocket.exceptions import WebSocketError as _GeventWebSocketError

from .codes import CloseCode

__all__ = ["ConfigError", "ConnectionClosed", "HandshakeRefused", "WebSocketError"]


class WebSocketError(_GeventWebSocketError):  # type: ignore[misc]
    """The base class of the errors of a connection; ``except`` clauses written for gevent-websocket catch it too."""


class ConnectionClosed(WebSocketError):  # noqa: N818 - the end of a connection is no error
    """The connection has ended, so nothing can be sent or received on it.

    The arguments are attributes of the error.

    Args:
        code: The close code of the close frame that was first, the peer's or ours; 1006 if there was none (RFC 6455
            7.1.5).
        reason: Its reason, "" by default.
        received: Code and reason of the peer's close frame; None if none came.
        sent: Code and reason of our close frame; None if none was sent.
    """

    def __init__(
        self,
        code: int = CloseCode.ABNORMAL,
        reason: str = "",
        *,
        received: tuple[int, str] | None = None,
        sent: tuple[int, str] | None = None,
    ) -> None:
        self.code, self.reason = int(code), reason
        self.received, self.sent = received, sent
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by its attributes: the one argument of the base class is the text."""
        return partial(type(self), received=self.received, sent=self.sent), (self.code, self.reason)

    def __str__(self) -> str:
        if self.received is None and self.sent is None:
            return "the connection was lost without a close frame (1006)"
        parts = []
        for side, frame in (("the peer", self.received), ("we", self.sent)):
            if frame is not None:
                parts.append(f"{side} sent {frame[0]}" + (f" {frame[1]!r}" if frame[1] else ""))
        return "the connection has been closed: " + ", ".join(parts)


class HandshakeRefused(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """The handshake was answered with an HTTP response instead of a 101. ``gws_middleware.testing`` raises it.

    The arguments are attributes of the error.

    Args:
        status: The status line without the version, e.g. "403 Forbidden".
        headers: Names and values, in the order of the response.
        body: The whole body.
    """

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by its attributes: the one argument of the base class is the text."""
        return type(self), (self.status, self.headers, self.body)

    @property
    def status_code(self) -> int:
        """The status as a number, e.g. 403."""
        return int(self.status[:3])

    def __str__(self) -> str:
        return f"the handshake was answered with {self.status}: {self.body[:200].decode('utf-8', 'replace')}"


class ConfigError(ValueError):
    """A setting is wrong. The text names the setting, the value, and what is wanted instead."""
