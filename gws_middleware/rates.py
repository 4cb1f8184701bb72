"""How much a peer may send in a time: a token bucket for its bytes and one for its messages.

A meter stands between a transport and its owner, on connections that have a rate alone: others pay nothing for it.
"""

from __future__ import annotations

import time
from typing import Any

from gevent import get_hub

from .codes import CloseCode
from .config import Config
from .transport import Owner

__all__ = ["Bucket", "metered"]


class Bucket:
    """Holds ``rate * burst`` tokens at the most and gets ``rate`` of them a second."""

    __slots__ = ("_most", "_rate", "_since", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._most = self._tokens = max(rate * burst, 1.0)  # one at least, or nothing could ever pass
        self._since = now

    def take(self, count: int, now: float) -> bool:
        """Take so many; False when there were fewer, and then none are left."""
        self._tokens = min(self._most, self._tokens + (now - self._since) * self._rate) - count
        self._since = now
        return self._tokens >= 0


class _Meter:
    """Counts what comes before it hands it on."""

    __slots__ = ("_bytes", "_config", "_counted", "_messages", "_ws")

    def __init__(self, ws: Any, config: Config) -> None:
        self._ws, self._config = ws, config
        now = time.monotonic()
        self._bytes = None if config.byte_rate is None else Bucket(config.byte_rate, config.rate_burst, now)
        self._messages = None if config.message_rate is None else Bucket(config.message_rate, config.rate_burst, now)
        self._counted = 0

    def data_received(self, buffer: bytearray, size: int) -> None:
        """Runs in the hub."""
        ws = self._ws
        if self._bytes is not None and not self._bytes.take(size, time.monotonic()):
            ws.fail(CloseCode.POLICY_VIOLATION, f"more than {self._config.byte_rate:g} bytes a second")
            return
        if self._messages is not None:
            # How many are in it shows when they have been taken; handing them on may run the view, so nothing follows.
            get_hub().loop.run_callback(self._count)
        ws.data_received(buffer, size)

    def _count(self) -> None:
        """Runs in the hub."""
        received = self._ws.stats.messages_received
        new, self._counted = received - self._counted, received
        if new and self._messages is not None and not self._messages.take(new, time.monotonic()):
            self._ws.fail(CloseCode.POLICY_VIOLATION, f"more than {self._config.message_rate:g} messages a second")

    def connection_lost(self) -> None:
        """Runs in the hub."""
        self._ws.connection_lost()

    def writable(self) -> None:
        """The outbox is empty again."""
        self._ws.writable()


def metered(ws: Any, config: Config) -> Owner:
    """Who serves the connection of ``ws``: itself, or a meter before it."""
    if config.byte_rate is None and config.message_rate is None:
        owner: Owner = ws
        return owner
    return _Meter(ws, config)
