"""``Groups.listen()``: an iterator over what is published, without a WebSocket."""

from __future__ import annotations

from types import TracebackType

from .hub import Hub
from .members import Close, Collector, Gap
from .message import Publication
from .position import Position, floor_after_gap, is_above

__all__ = ["Listener"]


class Listener:
    """Iterates over the publications of a group; see ``Groups.listen``.

    It ends with its last reference, or ``close()``, and belongs to the thread that has made it.
    """

    def __init__(self, hub: Hub, name: str, since: Position | None, timeout: float | None) -> None:
        self._hub, self._name, self._timeout = hub, name, timeout
        self._is_closed = False
        self._collector = Collector()
        joined, self._missed = hub.collect(name, self._collector, since)
        self._missed.reverse()
        self._floor = joined.position
        self.position = joined.position if since is None else since
        """After the last publication that was given out, which ``listen(since=…)`` takes; None without history."""
        if since is not None and not joined.recovered:
            self.close()
            raise self._missed_error()

    def __iter__(self) -> Listener:
        return self

    def __next__(self) -> Publication:
        if self._is_closed:
            raise StopIteration
        publication = self._missed.pop() if self._missed else self._wait()
        if publication is None:
            self.close()
            raise StopIteration
        self.position = publication.position
        return publication

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_collector"):
            self.close()

    def close(self) -> None:
        """End the iteration; a second call does nothing."""
        self._is_closed = True
        self._hub.forget(self._name, self._collector)

    def _wait(self) -> Publication | None:
        """The next publication; None at the end."""
        collector = self._collector
        while True:
            while not collector.items:
                if collector.is_full:
                    self.close()
                    raise self._missed_error()
                collector.has_items.clear()
                if not collector.has_items.wait(self._timeout):
                    return None
            item = collector.items.popleft()
            if isinstance(item, Close):
                return None
            if isinstance(item, Gap):
                self._floor = floor_after_gap(self._floor, item.epoch)
                if item.history:
                    self.close()
                    raise self._missed_error()
            elif is_above(item.epoch, item.offset, self._floor):
                return item

    def _missed_error(self) -> LookupError:
        return LookupError(f"messages of group {self._name!r} were missed, and are no longer kept")
