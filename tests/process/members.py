"""Members of a registry without a socket."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from gws_middleware.codes import CloseCode
from gws_middleware.config import Config
from gws_middleware.process.registry import Registry

__all__ = ["OpenConnection"]


class OpenConnection:
    """A connection that notes what is called.

    Args:
        registry: Where it is added.
        after: Seconds from its close frame until it is removed; never, if None.
        has_view: Whether it has a view that does not return.
        on_close: Called at its close frame.
        outbox: Bytes that wait for its peer, and since when.

    """

    stats = (0, 0, 0, 0)

    def __init__(
        self,
        registry: Registry,
        after: float | None = None,
        *,
        has_view: bool = False,
        on_close: Callable[[OpenConnection], object] | None = None,
        outbox: tuple[int, float | None] = (0, None),
    ) -> None:
        self.registry, self.after, self.on_close = registry, after, on_close
        self._outbox_state = outbox
        self.calls: list[int | str] = []
        registry.add(self, Config())
        if has_view:
            registry.view_started(self, None)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.calls.append(int(code))
        if self.on_close is not None:
            self.on_close(self)
        if self.after == 0:
            self.registry.remove(self)
        elif self.after is not None:
            gevent.spawn_later(self.after, self.registry.remove, self)

    def abort(self) -> None:
        self.calls.append("abort")
        self.registry.remove(self)

    # What keepalive and a fork call.

    def _activity(self) -> int | None:
        return 0

    def _message_number(self) -> int | None:
        return None

    def _keepalive_ping(self) -> None:
        self.calls.append("ping")

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.calls.append("fail")

    def _forked(self) -> None:
        self.calls.append("forked")
