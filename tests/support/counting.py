"""A raw client that counts what goes over the wire, as a second opinion on the server's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .rawclient import TEXT, RawClient, frame
from .servers import Server

__all__ = ["Counting", "Traffic", "counting", "total"]


class Traffic(NamedTuple):
    """What a server must have counted: messages, and the bytes of frames."""

    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0


class Counting(RawClient):
    """Counts from the 101 on."""

    sent = received = messages_out = messages_in = 0

    def send(self, data: bytes) -> None:
        super().send(data)
        self.sent += len(data)

    def _more(self) -> bool:
        before = len(self.buffer)
        more = super()._more()
        self.received += len(self.buffer) - before
        return more

    def open(self, path: str, *headers: tuple[str, str]) -> None:
        """The handshake, which is not counted."""
        self.upgrade(path, *headers)
        self.sent, self.received = 0, len(self.buffer)

    def echo(self, size: int) -> None:
        """Send a text message of so many bytes, and read what comes back."""
        self.send(frame(TEXT, b"x" * size))
        self.messages_out += 1
        self.receive()

    def receive(self) -> bytes:
        """Read a message."""
        found = self.read_frame()
        assert found.opcode == TEXT, found
        self.messages_in += 1
        return found.payload

    @property
    def traffic(self) -> Traffic:
        """As the server sees it."""
        return Traffic(self.messages_out, self.messages_in, self.sent, self.received)


def counting(server: Server) -> Counting:
    """A new connection."""
    return Counting(server.address, tls=server.tls)


def total(clients: Sequence[Counting]) -> Traffic:
    """Of all of them."""
    return Traffic(*map(sum, zip(*(client.traffic for client in clients), strict=True)))
