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
from ..process.counters import Counters
from ..protocol.connection import PreparedMessage, prepare
from ..typing import Sendable
from .message import Publication
from .position import History, Position, Tracker, floor_after_gap, is_above
from .presence import Events, Presence

__all__ = ["Close", "Collector", "Delivery", "Gap", "Group", "Mailbox"]

log = logging.getLogger("gws_middleware.groups")

SLICE = 500
"""Members that entries are offered to before another group has its turn, about."""
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
    """Whether the group has one."""
    epoch: str
    """In which it goes on; empty without history."""


class Close(NamedTuple):
    """All members are closed."""

    code: int
    reason: str


Item = Publication | Gap | Close


class _Report(NamedTuple):
    """Of a gap, between publications."""

    call: Callable[[WebSocket], object]


class Mailbox:
    """What waits for the ``handler`` of one member. A greenlet exists while there is something."""

    __slots__ = ("_handler", "_limit", "_queue", "_runs", "_ws")

    def __init__(self, ws: WebSocket, handler: Callable[[WebSocket, Publication], object]) -> None:
        self._ws, self._handler = ws, handler
        self._queue: deque[Publication | _Report] = deque()
        self._limit = MAX_WAITING
        self._runs = False

    def fill(self, publications: list[Publication]) -> None:
        """What it has missed comes first. The limit is for what comes after that."""
        self._limit += len(publications)
        self._queue.extend(publications)
        self._start()

    def put(self, publication: Publication) -> bool:
        """False where too many wait."""
        if len(self._queue) >= self._limit:
            return False
        self._queue.append(publication)
        self._start()
        return True

    def put_gap(self, report: Callable[[WebSocket], object]) -> None:
        """Call this after what waits now, which came before the gap."""
        self._queue.append(_Report(report))
        self._start()

    def clear(self) -> None:
        """It is no member any more."""
        self._queue.clear()

    def _start(self) -> None:
        if self._queue and not self._runs:
            self._runs = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        ws = self._ws
        try:
            while self._queue and not control.is_closed(ws):
                item = self._queue.popleft()
                if isinstance(item, _Report):
                    item.call(ws)
                else:
                    self._handler(ws, item)
        except BaseException as error:
            if control.is_from_end(ws, error):
                return  # the handler has used a connection that has ended
            if control.ends_greenlet(error):
                ws.close(control.shutdown_code_of(ws))
                raise
            log.error("WebSocket %s: %r raised; closed with 1011", ascii(ws.path), self._handler, exc_info=error)
            ws.close(CloseCode.INTERNAL_ERROR)
        finally:
            self._runs = False
            control.greenlet_ends(ws)


class Collector:
    """What the reader brings for a connection that has not become a member yet, or for an iteration.

    Args:
        info: What is visible of the connection once it is a member of a group with presence, as JSON.

    """

    def __init__(self, info: bytes = b"null") -> None:
        self.info = info
        self.items: deque[Item] = deque()
        self.is_full = False
        """More came than can wait: nothing follows what waits."""
        self.has_items = Signal()

    def put(self, item: Item) -> None:
        """In order."""
        if self.is_full or len(self.items) >= MAX_WAITING:
            self.is_full = True
        else:
            self.items.append(item)
        self.has_items.set()

    def drop_entries(self) -> None:
        """They are read in another way."""
        self.items = deque(item for item in self.items if isinstance(item, Close))
        self.is_full = False


class Group:
    """One group: its members in this process, and what is on the way to them.

    Args:
        name: Its name.
        history: What it keeps; None for nothing.
        changed: Is called when a member has ended.
        counters: Where it counts.
        presence: What is visible of its members; None for nothing.
        events: Makes the events of another group, of which this one is the group of events; None for any other group.

    """

    def __init__(
        self,
        name: str,
        history: History | None,
        changed: Callable[[Group, WebSocket], None],
        counters: Counters,
        presence: Presence | None = None,
        events: Events | None = None,
    ) -> None:
        self.name, self.history, self.presence, self.events = name, history, presence, events
        self.makes_events = False
        """A greenlet makes them."""
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
        self._members: dict[Delivery, dict[WebSocket, Mailbox | None]] = {}
        self._recipients: Recipients | None = None
        self._floors: dict[WebSocket, Position] = {}
        """Of members that have read more than the feed has brought: the entries up to here are no longer for them."""
        self._removed: set[WebSocket] | None = None
        """Connections that were removed since the courier began the entry that it offers; None while it has none."""

    def __contains__(self, ws: object) -> bool:
        return ws in self.collectors or any(ws in members for members in self._members.values())

    @property
    def size(self) -> int:
        """How many members it has."""
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
        if self._removed is not None:
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
        self._changed(self, ws)

    def clear(self) -> None:
        """Nothing is a member any more, and iterations end."""
        for members in self._members.values():
            for ws, mailbox in members.items():
                control.unwatch_end(ws, self)
                if mailbox is not None:
                    mailbox.clear()
        for collector in self.collectors.values():
            collector.put(Close(CloseCode.NORMAL, ""))
        self._members, self._recipients, self._removed = {}, None, None
        self.collectors.clear()
        self._floors.clear()
        self.items.clear()
        self.confirmed.set()

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
        below = set()
        for ws, floor in list(self._floors.items()):
            if isinstance(item, Publication):
                if is_above(item.epoch, item.offset, floor):
                    del self._floors[ws]
                else:
                    below.add(ws)
            elif isinstance(item, Gap) and floor_after_gap(floor, item.epoch) is None:
                del self._floors[ws]
        return _without(below, recipients) if below else recipients

    # --- what the courier does ---------------------------------------------------------------------------------------

    def fan_out(self, is_over: Callable[[], bool]) -> Iterator[None]:
        """Offer what waits. Others may run at each step of the iterator, which comes where the turn of the event loop
        is over, and between slices: a message for one member costs no step.
        """
        left = SLICE
        while self.items:
            item, recipients = self.items.popleft()
            removed: set[WebSocket] = set()
            self._removed = removed
            sender = control.find(item.sender) if isinstance(item, Publication) and item.sender else None
            frames: dict[Any, PreparedMessage | None] = {}
            for delivery, members in recipients:
                deliver = self._step(item, delivery, frames)
                if deliver is None:
                    continue
                for start in range(0, len(members), SLICE):
                    if left <= 0:
                        yield
                        left = SLICE
                    some = members[start : start + SLICE]
                    left -= len(some)
                    for ws in some:
                        if is_over():
                            yield  # here, because offer() would wait after it was checked that this is a member
                        if ws is not sender and ws not in removed:
                            try:
                                deliver(ws)
                            except Exception:  # a mistake of ours: the other members get it
                                sentence = "WebSocket %s: a message of group %s was not delivered"
                                log.exception(sentence, ascii(ws.path), self.name)
        self._removed = None

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
            return lambda ws: self.post(ws, mailboxes.get(ws), item)
        if delivery.wrap not in frames:
            frames[delivery.wrap] = self.frame(item, delivery)
        frame = frames[delivery.wrap]
        if frame is None:
            return None
        if delivery.skips:
            return lambda ws: self._offer_or_skip(ws, frame)
        return lambda ws: ws.offer(frame)

    def frame(self, publication: Publication, delivery: Delivery) -> PreparedMessage | None:
        """What members get; None for nothing, and where ``wrap`` raises, which is logged."""
        try:
            message = delivery.message(publication)
            return None if message is None else prepare(message)
        except BaseException as error:
            if control.ends_greenlet(error):
                raise
            sentence = "group %s: %r raised: its members do not get this message"
            log.error(sentence, self.name, delivery.wrap, exc_info=error)
            return None

    def _gap_step(self, delivery: Delivery, gap: Gap) -> Callable[[WebSocket], object] | None:
        if delivery.on_gap is not None:
            mailboxes = self._members.get(delivery, {})
            return lambda ws: self.tell(ws, delivery, mailboxes.get(ws))
        if gap.history:
            return lambda ws: ws.close(CloseCode.TRY_AGAIN_LATER, "messages were missed")
        return None

    def tell(self, ws: WebSocket, delivery: Delivery, mailbox: Mailbox | None = None) -> None:
        """Call ``on_gap``: where there is a mailbox, after what waits in it."""
        if mailbox is not None:
            mailbox.put_gap(lambda ws: self.tell(ws, delivery))
            return
        assert delivery.on_gap is not None
        if control.is_closed(ws):
            return
        try:
            delivery.on_gap(ws, self.name)
        except BaseException as error:
            if control.ends_greenlet(error):
                raise
            log.error("WebSocket %s: %r raised; closed with 1011", ascii(ws.path), delivery.on_gap, exc_info=error)
            ws.close(CloseCode.INTERNAL_ERROR)

    def post(self, ws: WebSocket, mailbox: Mailbox | None, publication: Publication) -> None:
        """Let its ``handler`` be called."""
        if mailbox is not None and not mailbox.put(publication):
            self._counters.dropped += 1
            ws.close(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _offer_or_skip(self, ws: WebSocket, frame: PreparedMessage) -> None:
        if control.has_room(ws, len(frame.frame)):
            ws.offer(frame)
        else:
            self._counters.group_skipped += 1


def _without(some: set[WebSocket], recipients: Recipients) -> Recipients:
    return [(delivery, tuple(ws for ws in members if ws not in some)) for delivery, members in recipients]
