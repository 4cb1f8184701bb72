"""The handshake while it waits for the application, and the headers of the 101 (RFC 6455 4.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..protocol.handshake import Handshake, accept_headers
from ..protocol.headers import check_field, check_token
from ..typing import Headers
from .channel import Channel

__all__ = ["Close", "Pending", "Switch"]

Switch = Callable[[Headers], "tuple[Channel, bytes]"]
"""Sends the 101 with these headers and gives the connection away, with the bytes that were read after the request."""


class Close(NamedTuple):
    """A call of ``close()``, or of ``abort()`` where the code is None, while the 101 is being written."""

    code: int | None
    reason: str


class Pending:
    """What a WebSocket has until it is accepted or refused."""

    __slots__ = ("close", "handshake", "switch", "switched")

    def __init__(self, handshake: Handshake, switch: Switch) -> None:
        self.handshake, self.switch = handshake, switch
        self.switched = False
        """The server has sent a 101 of its own; the application may still call ``accept()``, once."""
        self.close: Close | None = None

    def headers(self, subprotocol: str | None, headers: Iterable[tuple[str, str]]) -> Headers:
        """The headers of the 101.

        Raises:
            ValueError: The client does not offer the subprotocol, or a header may not be sent or is the handshake's.

        """
        offered = self.handshake.subprotocols
        if subprotocol is not None and check_token(subprotocol, "the subprotocol") not in offered:
            offers = ", ".join(offered) or "none"
            raise ValueError(f"the subprotocol {subprotocol!r} was not offered by the client, which offers: {offers}")
        return accept_headers(self.handshake, subprotocol) + _checked(headers)


def _checked(headers: Iterable[tuple[str, str]]) -> Headers:
    """Headers of the application for the 101; ValueError for those that are the handshake's own."""
    checked = []
    for name, value in headers:
        check_field(name, value)
        if name.lower().startswith("sec-websocket-") or name.lower() in (
            "upgrade",
            "connection",
            "content-length",
            "transfer-encoding",  # RFC 9112 6.1: never in a 1xx; a proxy would take frames for chunks
        ):
            raise ValueError(f"the header {name} belongs to the handshake: it is set for you")
        checked.append((name, value))
    return checked
