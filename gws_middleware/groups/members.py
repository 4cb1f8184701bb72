"""The members of one group in one process, and what is on the way to them.

Rule 1: nothing here waits. Rule 2: what one member or its code does wrong ends or skips that member alone. Rule 3: the
entries of a group reach each member in the order of the group.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent
from gevent.event import Event as Signal

from ..codes import CloseCode
from ..connection import control
from ..connection.websocket import WebSocket
from ..protocol.connection import PreparedMessage, prepare
from ..typing import Sendable
from .message import Publication
from .position import History, Position, Tracker

__all__ = ["Close", "Collector", "Counters", "Delivery", "Gap", "Group", "Mailbox", "is_above"]

log = logging.getLogger("gws_middleware.groups")

SLICE = 500
"""Members that an entry is offered to before another group has its turn."""
MAX_WAITING = 1000
"""Entries that wait for one ``handler``, or for one connection that joins, before it is closed with 1013."""


class Delivery(NamedTuple):
    """How members get what is published. Members with equal ones share the encoded frame."""

    wrap: Callable[[Publication], Sendable | PreparedMessage | None] | None = None
    """Makes the message of a publication; None for what was sent. It returns None to send nothing."""
    handler: Callable[[WebSocket, Publication], object] | None = None
    """Is called instead, for each member, in a greenlet."""
    on_gap: Callable[[WebSocket, str], object] | None = None
    """Is called between two messages where some are missing; it must not wait."""
    skips: bool = False
    """Whether a slow member gets no message, instead of being closed with 1013."""

    def message(self, publication: Publication) -> Sendable | PreparedMessage | None:
        """What members get; None for nothing."""
        return publication.message if self.wrap is None else self.wrap(publication)


Recipients = list[tuple[Delivery, tuple[WebSocket, ...]]]


class Gap(NamedTuple):
    """Stands among the entries of a group where some are missing."""

    history: bool


class Close(NamedTuple):
    """All members are closed."""

    code: int
    reason: str


Item = Publication | Gap | Close


class Mailbox:
    """What waits for the ``handler`` of one member. A greenlet exists while there is something."""

    __slots__ = ("_handler", "_queue", "_runs", "_ws")

    def __init__(self, ws: WebSocket, handler: Callable[[WebSocket, Publication], object]) -> None:
        self._ws, self._handler = ws, handler
        self._queue: deque[Publication] = deque()
        self._runs = False

    def put(self, publication: Publication) -> bool:
        """False where too many wait."""
        if len(self._queue) >= MAX_WAITING:
            return False
        self._queue.append(publication)
        if not self._runs:
            self._runs = True
            gevent.spawn(self._run)
        return True

    def clear(self) -> None:
        """It is no member any more."""
        self._queue.clear()

    def _run(self) -> None:
        ws = self._ws
        try:
            while self._queue:
                self._handler(ws, self._queue.popleft())
        except Exception:
            self._queue.clear()
            if not control.is_closed(ws):
                log.exception("WebSocket %s: %r raised; closed with 1011", ascii(ws.path), self._handler)
                ws.close(CloseCode.INTERNAL_ERROR)
        finally:
            self._runs = False
            control.greenlet_ends(ws)


class Collector:
    """What the reader brings for a connection that has not become a member yet, or for an iteration."""

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.is_full = False
        """More came than can wait."""
        self.has_items = Signal()

    def put(self, item: Item) -> None:
        """In order."""
        if len(self.items) >= MAX_WAITING:
            self.is_full = True
        else:
            self.items.append(item)
        self.has_items.set()


class Counters:
    """Numbers that only grow, of one process."""

    def __init__(self) -> None:
        self.slow = 0
        """Members that were closed because their ``handler``, or their joining, was too slow."""
        self.skipped = 0
        """Messages that slow members did not get."""
        self.gaps = 0
        """How often a group has missed messages."""


class Group:
    """One group: its members in this process, and what is on the way to them.

    Args:
        name: Its name.
        history: What it keeps; None for nothing.
        changed: Is called when a member has ended.
        counters: Where it counts.

    """

    def __init__(
        self, name: str, history: History | None, changed: Callable[[Group], None], counters: Counters
    ) -> None:
        self.name, self.history = name, history
        self._changed, self._counters = changed, counters
        self.is_subscribed = False
        """The feed was asked for it."""
        self.confirmed = Signal()
        """The feed has what is published."""
        self.tracker = None if history is None else Tracker()
        self.collectors: dict[object, Collector] = {}
        """Of connections that join, by connection, and of iterations."""
        self.items: deque[tuple[Item, Recipients]] = deque()
        """What the courier has not begun yet, each with the members at the time it came."""
        self.retry_after = 0.0
        """Seconds until what is missing is read again."""
        self._members: dict[Delivery, dict[WebSocket, Mailbox | None]] = {}
        self._recipients: Recipients | None = None
        self._floors: dict[WebSocket, Position] = {}
        """Of members that have read more than the feed has brought: the entries up to here are no longer for them."""
        self._removed: set[WebSocket] = set()
        """Connections that were removed since the courier began the entry that it offers."""

    def __contains__(self, ws: object) -> bool:
        return ws in self.collectors or any(ws in members for members in self._members.values())

    def __len__(self) -> int:
        return sum(map(len, self._members.values()))

    @property
    def is_empty(self) -> bool:
        """Whether nothing in this process wants its entries."""
        return not (self._members or self.collectors)

    # --- members ---------------------------------------------------------------------------------------------------

    def add(self, ws: WebSocket, delivery: Delivery, mailbox: Mailbox | None, floor: Position | None) -> None:
        """It is a member from now on; ``floor``: it has all up to there."""
        self._members.setdefault(delivery, {})[ws] = mailbox
        self._recipients = None
        if floor is not None and not self._has_brought(floor):
            self._floors[ws] = floor

    def _has_brought(self, floor: Position) -> bool:
        """Whether the reader has brought all up to there."""
        position = None if self.tracker is None else self.tracker.position
        return position is not None and position.epoch == floor.epoch and position.offset >= floor.offset

    def leave(self, ws: WebSocket) -> None:
        """It is no member any more, and gets nothing of what is on the way."""
        self._remove(ws)
        self._removed.add(ws)
        self.items = deque((item, _without({ws}, recipients)) for item, recipients in self.items)

    def _remove(self, ws: WebSocket) -> None:
        self.collectors.pop(ws, None)
        for delivery, members in list(self._members.items()):
            if ws in members:
                mailbox = members.pop(ws)
                if mailbox is not None:
                    mailbox.clear()
                if not members:
                    del self._members[delivery]
                self._recipients = None
        self._floors.pop(ws, None)

    def ended(self, ws: WebSocket) -> None:
        """The connection has ended: what is on the way finds it closed."""
        self._remove(ws)
        self._changed(self)

    # --- what the reader does ----------------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Something is for all members."""
        recipients = self._recipients
        if recipients is None:
            recipients = self._recipients = [(delivery, tuple(m)) for delivery, m in self._members.items()]
        if self._floors:
            recipients = self._above_floors(item, recipients)
        for collector in self.collectors.values():
            collector.put(item)
        if recipients:
            self.items.append((item, recipients))

    def _above_floors(self, item: Item, recipients: Recipients) -> Recipients:
        """Without the members that have this entry already."""
        if not isinstance(item, Publication):
            self._floors.clear()
            return recipients
        below = set()
        for ws, floor in list(self._floors.items()):
            if is_above(item, floor):
                del self._floors[ws]
            else:
                below.add(ws)
        return _without(below, recipients)

    # --- what the courier does ---------------------------------------------------------------------------------------

    def fan_out(self, excluded: dict[str, WebSocket]) -> Iterator[None]:
        """Offer what waits; each step of the iterator is a slice."""
        while self.items:
            item, recipients = self.items.popleft()
            self._removed.clear()
            sender = excluded.get(item.sender) if isinstance(item, Publication) else None
            frames: dict[Any, PreparedMessage | None] = {}
            for delivery, members in recipients:
                deliver = self._step(item, delivery, frames)
                if deliver is None:
                    continue
                for start in range(0, len(members), SLICE):
                    for ws in members[start : start + SLICE]:
                        if ws is not sender and ws not in self._removed:
                            deliver(ws)
                    yield

    def _step(
        self, item: Item, delivery: Delivery, frames: dict[Any, PreparedMessage | None]
    ) -> Callable[[WebSocket], object] | None:
        """What is done for each of the members; None for nothing."""
        if isinstance(item, Close):
            return lambda ws: ws.close(item.code, item.reason)
        if isinstance(item, Gap):
            return self._gap_step(delivery, item)
        if delivery.handler is not None:
            mailboxes = self._members.get(delivery, {})
            return lambda ws: self._post(ws, mailboxes.get(ws), item)
        if delivery.wrap not in frames:
            frames[delivery.wrap] = self._frame(item, delivery)
        frame = frames[delivery.wrap]
        if frame is None:
            return None
        if delivery.skips:
            return lambda ws: self._offer_or_skip(ws, frame)
        return lambda ws: ws.offer(frame)

    def _frame(self, publication: Publication, delivery: Delivery) -> PreparedMessage | None:
        try:
            message = delivery.message(publication)
            return message if message is None or isinstance(message, PreparedMessage) else prepare(message)
        except Exception:
            log.exception("group %s: %r raised: its members do not get this message", self.name, delivery.wrap)
            return None

    def _gap_step(self, delivery: Delivery, gap: Gap) -> Callable[[WebSocket], object] | None:
        if delivery.on_gap is not None:
            return lambda ws: self.tell(ws, delivery)
        if gap.history:
            return lambda ws: ws.close(CloseCode.TRY_AGAIN_LATER, "messages were missed")
        return None

    def tell(self, ws: WebSocket, delivery: Delivery) -> None:
        """Call ``on_gap``."""
        assert delivery.on_gap is not None
        try:
            delivery.on_gap(ws, self.name)
        except Exception:
            log.exception("WebSocket %s: %r raised; closed with 1011", ascii(ws.path), delivery.on_gap)
            ws.close(CloseCode.INTERNAL_ERROR)

    def _post(self, ws: WebSocket, mailbox: Mailbox | None, publication: Publication) -> None:
        if mailbox is not None and not mailbox.put(publication):
            self._counters.slow += 1
            ws.close(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _offer_or_skip(self, ws: WebSocket, frame: PreparedMessage) -> None:
        if control.has_room(ws):
            ws.offer(frame)
        else:
            self._counters.skipped += 1


def _without(some: set[WebSocket], recipients: Recipients) -> Recipients:
    return [(delivery, tuple(ws for ws in members if ws not in some)) for delivery, members in recipients]


def is_above(publication: Publication, floor: Position) -> bool:
    """Whether an entry comes after a position of the same epoch."""
    return publication.epoch == floor.epoch and publication.offset > floor.offset
