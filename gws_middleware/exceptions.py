"""What application code may have to catch.

::

    OSError
    └── geventwebsocket.exceptions.WebSocketError
        └── WebSocketError
            └── ConnectionClosed     the connection has ended: code and reason of both sides
    Exception
    └── HandshakeRefused             (testing) the server answered with HTTP instead of a 101
    ValueError
    └── ConfigError                  a wrong or misspelt setting

An error is data: facts are attributes, the sentence is ``str(error)``. The peer's fault is never raised in application
code except as the end of the connection; the caller's own (``ws.send(3.5)``) is a TypeError or ValueError at the call.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from geventwebsocket.exceptions import WebSocketError as _GeventWebSocketError

from .codes import CloseCode

__all__ = ["ConfigError", "ConnectionClosed", "HandshakeRefused", "WebSocketError"]


class WebSocketError(_GeventWebSocketError):  # type: ignore[misc]
    """Root of the errors of a connection; an ``except`` clause written for gevent-websocket catches it too."""


class ConnectionClosed(WebSocketError):  # noqa: N818 - the end of a connection is no error
    """The connection has ended, so nothing can be sent or received on it.

    ``received`` and ``sent`` are the ``(code, reason)`` of each side's close frame, None for the side that sent none.
    ``code`` and ``reason`` are those of whichever came first; 1006 and "" when there was none (RFC 6455 7.1.5).
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
        """Pickled and copied by its facts, not by its sentence."""
        return partial(type(self), received=self.received, sent=self.sent), (self.code, self.reason)

    def __str__(self) -> str:
        if self.received is None and self.sent is None:
            return "the connection was lost without a close frame (1006)"
        parts = []
        for who, frame in (("the peer", self.received), ("we", self.sent)):
            if frame is not None:
                parts.append(f"{who} sent {frame[0]}" + (f" {frame[1]!r}" if frame[1] else ""))
        return "the connection has been closed: " + ", ".join(parts)


class HandshakeRefused(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """The server answered the handshake with an HTTP response; the response rides along."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by its facts, not by its sentence."""
        return type(self), (self.status, self.headers, self.body)

    @property
    def status_code(self) -> int:
        """The status as a number, e.g. 403."""
        return int(self.status[:3])

    def __str__(self) -> str:
        return f"the handshake was answered with {self.status}: {self.body[:200].decode('utf-8', 'replace')}"


class ConfigError(ValueError):
    """A setting is wrong: the sentence says which, what was found and what was wanted."""
