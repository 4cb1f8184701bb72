"""How much a peer may send in a time: a token bucket for its bytes and one for its messages.

The engine of a connection that has a rate counts before it gives anything out. Other connections have the plain engine,
and pay nothing for it.
"""

from __future__ import annotations

import time

from ..codes import CloseCode
from ..config import Config
from ..protocol.connection import Connection
from ..protocol.deflate import Deflate

__all__ = ["Bucket", "MeteredConnection", "engine_for"]


class Bucket:
    """Holds ``rate * burst`` tokens at the most and gets ``rate`` of them a second."""

    __slots__ = ("_most", "_rate", "_since", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._most = self._tokens = max(rate * burst, 1.0)  # one at least, or nothing could ever pass
        self._since = now

    def take(self, count: int, now: float) -> int:
        """Take so many tokens; returns how many there were, up to ``count``."""
        self._tokens = min(self._most, self._tokens + (now - self._since) * self._rate)
        self._since = now
        taken = min(count, int(self._tokens))
        self._tokens -= taken
        return taken


class MeteredConnection(Connection):
    """An engine that gives out only what the rates allow, and then ends the connection with 1008."""

    __slots__ = ("_byte_rate", "_bytes", "_message_rate", "_messages")

    def __init__(self, config: Config, deflate: Deflate | None) -> None:
        super().__init__(max_message_size=config.max_message_size, max_fragments=config.max_fragments, deflate=deflate)
        now, burst = time.monotonic(), config.rate_burst
        self._byte_rate, self._message_rate = config.byte_rate, config.message_rate
        self._bytes = None if config.byte_rate is None else Bucket(config.byte_rate, burst, now)
        self._messages = None if config.message_rate is None else Bucket(config.message_rate, burst, now)

    def feed(self, data: bytes | bytearray, end: int | None = None, /) -> list[str | bytes]:
        """What ``data[:end]`` completes, as far as the rates allow."""
        size = len(data) if end is None else end
        now = time.monotonic()
        allowed = size if self._bytes is None else self._bytes.take(size, now)
        messages = super().feed(data, allowed)
        if self._messages is not None and messages:
            count = self._messages.take(len(messages), now)
            if count < len(messages):
                del messages[count:]
                self._exceeded(f"{self._message_rate:g} messages")
        if allowed < size:
            self._exceeded(f"{self._byte_rate:g} bytes")
        return messages

    def _exceeded(self, rate: str) -> None:
        if not self.over:
            self.fail(CloseCode.POLICY_VIOLATION, f"more than {rate} a second")
            self.eventful = True


def engine_for(config: Config, deflate: Deflate | None = None) -> Connection:
    """The engine of a connection with these settings."""
    if config.byte_rate is None and config.message_rate is None:
        size, fragments = config.max_message_size, config.max_fragments
        return Connection(max_message_size=size, max_fragments=fragments, deflate=deflate)
    return MeteredConnection(config, deflate)
