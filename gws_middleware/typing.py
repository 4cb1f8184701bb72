"""Types that more than one module uses. Rule: no module of this package is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

__all__ = ["Environ", "Headers", "Message", "Sendable", "Sink", "StartResponse", "WSGIApp", "Write"]

Message: TypeAlias = "str | bytes"
"""A whole message: text is ``str``, binary is ``bytes`` (RFC 6455 5.6)."""

Sendable: TypeAlias = "str | bytes | bytearray | memoryview | int | float"
"""What can be sent: text, binary, and numbers, which are sent as text."""

Headers: TypeAlias = "list[tuple[str, str]]"
Environ: TypeAlias = "dict[str, Any]"
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]
"""A WSGI application (PEP 3333)."""


class Sink(Protocol):
    """The part of a ``WebSocket`` that a group of connections needs of each member."""

    @property
    def environ(self) -> Mapping[str, Any]:
        """The WSGI environ of the handshake."""

    def offer(self, message: Any) -> bool:
        """Queue one message without waiting for the peer.

        Args:
            message: What ``prepare()`` returns, or any message.

        Returns:
            False when the connection has ended.
        """
