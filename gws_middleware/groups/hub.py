"""The groups of this process, on one event loop: what a feed brings goes to the members of each.

Rule: nothing here waits for a peer, except ``join()`` for the peer that joins.

Two greenlets, each of which exists while there is work: the **reader** waits for the feed, checks the order and finds
which members are to get an entry; the **courier** offers it, to some members of a group at a time, then to some of the
next group.

A connection that joins::

    watch its end, subscribe (if it is the first member), wait until that is confirmed
    read the group: the top, and with ``since`` what came after it
    send: what was missed, then what the reader has brought meanwhile   (a ``Collector`` has it)
    become a member, in the same turn in which nothing more is collected

What ``Groups.listen()`` iterates over is a ``Collector``, too.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import gevent
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.lock import BoundedSemaphore

from ..codes import CloseCode
from ..connection import control
from ..connection.websocket import WebSocket
from ..typing import Sendable
from .backends.base import TIMEOUT, Backend, Confirmed, Event, Feed, Lost, Want
from .errors import GroupsError, GroupsUnavailable
from .members import Close, Collector, Counters, Delivery, Gap, Group, Mailbox, is_above
from .message import CONTROL, Envelope, Publication
from .position import Entry, History, Position, missed

__all__ = ["CONTROL_GROUP", "COUNTS", "Greet", "Hub", "Joined", "hub_if_any", "hub_of"]

log = logging.getLogger("gws_middleware.groups")

LINGER = 10.0
"""Seconds that the feed stays open without a member."""
RETRY = (0.1, 2.0)
"""Seconds until a reading that failed is tried again: the first time, and at most."""
COUNT_AFTER = 0.1
"""Seconds after which other processes see how many members there are here."""
CONTROL_GROUP = "gws.control"
"""The group of what is for workers, not for members."""
COUNTS = "members"
"""The table of the members of each group, by process."""


class Joined(NamedTuple):
    """What ``join()`` has found."""

    position: Position | None
    """From here on the connection gets what is published; None in a group without history."""
    recovered: bool
    """Whether all that came after ``since`` was sent. False without ``since``, and where some of it was no longer kept:
    then none of it was sent.
    """


Greet = Callable[[Joined, Sequence[Publication]], Sequence[Sendable]]
"""Makes the first messages of a connection that joins, instead of the publications that it has missed."""


class Hub:
    """The members of this process on one event loop, for one backend.

    Args:
        backend: Where messages come from.
        history_of: What a group keeps, by its name.

    """

    def __init__(self, backend: Backend, history_of: Callable[[str], History | None]) -> None:
        self._backend, self._history_of = backend, history_of
        self._loop = get_hub().loop
        self._pid = os.getpid()
        self._groups: dict[str, Group] = {}
        self._excluded: dict[str, WebSocket] = {}
        """Connections that are to get no copy of what they have sent, by the id that messages have."""
        self._feed: Feed | None = None
        self._making_feed = BoundedSemaphore()
        self._unhealed: set[Group] = set()
        self._ready: deque[tuple[Group, Iterator[None]]] = deque()
        self._busy: set[Group] = set()
        """Groups that are in ``_ready``."""
        self._courier_runs = False
        self._counts: dict[str, int | None] = {}
        """Members whose number other processes do not have yet."""
        self.counters = Counters()

    @property
    def is_inherited(self) -> bool:
        """Whether this is a copy in a process that was forked."""
        return self._pid != os.getpid()

    def sizes(self) -> dict[str, int]:
        """Members by group, in this process."""
        return {name: len(group) for name, group in self._groups.items() if len(group)}

    # --- joining and leaving -----------------------------------------------------------------------------------------

    def join(
        self, name: str, ws: WebSocket, delivery: Delivery, since: Position | None = None, greet: Greet | None = None
    ) -> Joined:
        """Make a connection a member.

        Args:
            name: The group.
            ws: Must be open.
            delivery: How it gets what is published.
            since: What it has; what came after that is sent first.
            greet: Makes the first messages, instead of those.

        Raises:
            ValueError: It is a member.
            GroupsUnavailable: The backend cannot be used now; it is no member.
            ConnectionClosed: It has ended.

        """
        group = self._groups.get(name)
        if group is not None and ws in group:
            raise ValueError(f"this WebSocket is a member of {name!r} already")
        group = self._group(name)
        control.watch_end(ws, group)
        try:
            collector = Collector()
            joined, publications = self._collect(group, ws, collector, since)
            self._send_first(group, ws, collector, delivery, joined, publications, greet)
        except BaseException:
            self.leave(name, ws)
            raise
        return joined

    def collect(self, name: str, collector: Collector, since: Position | None) -> tuple[Joined, list[Publication]]:
        """Let a collector have what is published, until ``forget()``.

        Returns:
            Where that begins, and what came after ``since``.

        Raises:
            GroupsUnavailable: The backend cannot be used now.

        """
        group = self._group(name)
        try:
            return self._collect(group, collector, collector, since)
        except BaseException:
            self.forget(name, collector)
            raise

    def forget(self, name: str, collector: Collector) -> None:
        """Let it have no more; a second call does nothing."""
        group = self._groups.get(name)
        if group is not None and group.collectors.pop(collector, None) is not None:
            self.changed(group)

    def _collect(
        self, group: Group, key: object, collector: Collector, since: Position | None
    ) -> tuple[Joined, list[Publication]]:
        group.collectors[key] = collector
        self._subscribe(group)
        if not group.confirmed.wait(TIMEOUT):
            raise GroupsUnavailable(f"the subscription of {group.name!r} was not confirmed within {TIMEOUT:g} s")
        return self._read(group, since)

    def _read(self, group: Group, since: Position | None) -> tuple[Joined, list[Publication]]:
        history, tracker = group.history, group.tracker
        if history is None or tracker is None:
            return Joined(None, recovered=False), []
        want = Want(group.name, history, 0 if since is None else since.offset, 0 if since is None else history.size)
        [page] = self._backend.read([want])
        if tracker.position is None:  # the first reading of this group
            for entry in tracker.heal(page).entries:
                self._give(group, entry)
            if tracker.holding:
                self._unhealed.add(group)
                assert self._feed is not None
                self._feed.wake()
        found = None if since is None else missed(since, page)
        publications = [found_one for entry in found or () if (found_one := _publication(entry)) is not None]
        return Joined(Position(page.epoch, page.top), recovered=found is not None), publications

    def _send_first(
        self,
        group: Group,
        ws: WebSocket,
        collector: Collector,
        delivery: Delivery,
        joined: Joined,
        publications: list[Publication],
        greet: Greet | None,
    ) -> None:
        """Send what a connection has missed, which may wait, until it can be a member."""
        if greet is not None:
            for message in greet(joined, publications):
                ws.send(message)
            publications = []
        mailbox = None if delivery.handler is None else Mailbox(ws, delivery.handler)
        for publication in publications:
            self._send_one(ws, delivery, mailbox, publication)
        floor = joined.position
        while collector.items:
            item = collector.items.popleft()
            if isinstance(item, Close):
                ws.close(item.code, item.reason)
            elif isinstance(item, Gap):
                floor = None
                if delivery.on_gap is not None:
                    group.tell(ws, delivery)
                elif item.history:
                    ws.close(CloseCode.TRY_AGAIN_LATER, "messages were missed")
            elif floor is None or is_above(item, floor):
                self._send_one(ws, delivery, mailbox, item)
        if collector.is_full:
            self.counters.slow += 1
            ws.close(CloseCode.TRY_AGAIN_LATER, "too slow")
        control.open_now(ws)  # it may have ended meanwhile
        if group.collectors.pop(ws, None) is collector:  # else it was made to leave meanwhile
            group.add(ws, delivery, mailbox, floor)
            self.changed(group)

    def _send_one(self, ws: WebSocket, delivery: Delivery, mailbox: Mailbox | None, publication: Publication) -> None:
        if mailbox is not None:
            mailbox.put(publication)
        elif (message := delivery.message(publication)) is not None:
            ws.send(message)

    def leave(self, name: str, ws: WebSocket) -> bool:
        """Let it be no member. Whether it was one."""
        group = self._groups.get(name)
        if group is None or ws not in group:
            return False
        control.unwatch_end(ws, group)
        group.leave(ws)
        self.changed(group)
        return True

    def changed(self, group: Group) -> None:
        """The members of a group are others."""
        if group.is_empty and self._groups.get(group.name) is group:
            del self._groups[group.name]
            self._unhealed.discard(group)
            if self._feed is not None:
                self._feed.unsubscribe([group.name])
        if not self._counts:
            gevent.spawn_later(COUNT_AFTER, self._flush_counts_or_log)
        self._counts[group.name] = len(group) or None

    def flush_counts(self) -> None:
        """Let other processes see how many members there are here.

        Raises:
            GroupsUnavailable: They do not see it.

        """
        counts, self._counts = self._counts, {}
        try:
            if counts:
                self._backend.put(COUNTS, counts)
        except GroupsUnavailable:
            self._counts = counts | self._counts
            raise

    def _flush_counts_or_log(self) -> None:
        if self.is_inherited:
            return
        try:
            self.flush_counts()
        except GroupsUnavailable as error:
            log.warning("the number of members is not visible to other processes: %s", error)
            gevent.spawn_later(RETRY[1], self._flush_counts_or_log)

    def exclude(self, ws: WebSocket) -> str:
        """What a message has that is not for this connection."""
        number = control.id_of(ws)
        if number not in self._excluded and not control.is_closed(ws):
            self._excluded[number] = ws
            control.watch_end(ws, self)
        return number

    def ended(self, ws: WebSocket) -> None:
        """A connection that has sent has ended. What it has sent may still come, and finds no member."""
        self._excluded.pop(control.id_of(ws), None)

    # --- the reader --------------------------------------------------------------------------------------------------

    def _group(self, name: str) -> Group:
        """The group of this name, at once: another join finds the same one meanwhile."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name, self._history_of(name), self.changed, self.counters)
        return group

    def _subscribe(self, group: Group) -> None:
        """Let the feed have the entries of a group. Making the feed may wait."""
        with self._making_feed:
            if self._feed is None:
                self._feed = self._backend.feed()
                self._feed.subscribe([CONTROL_GROUP])
                gevent.spawn(self._run_reader, self._feed)
            if not group.is_subscribed:
                group.is_subscribed = True
                if self._feed.subscribe([group.name]):
                    group.confirmed.set()

    def _run_reader(self, feed: Feed) -> None:
        """Runs in a greenlet of its own while there are groups."""
        try:
            while not self.is_inherited and (self._read_once(feed) or self._groups):
                pass
        finally:
            if not self.is_inherited:
                self._feed = None
                feed.close()

    def _read_once(self, feed: Feed) -> bool:
        """Wait for events. Whether there was anything to do."""
        try:
            events = feed.wait(min((group.retry_after for group in self._unhealed), default=LINGER))
            if self.is_inherited:
                return False
            for event in events:
                self._take(event)
            for group in list(self._unhealed):
                self._heal(group)
            return bool(events)
        except Exception:  # a mistake of ours or of a backend: members are not left without messages for it
            log.exception("groups: the reader failed and goes on")
            gevent.sleep(RETRY[1])
            self._take(Lost("the reader has failed"))
            return True

    def _take(self, event: Event) -> None:
        """One event of the feed."""
        if type(event) is Entry:
            group = self._groups.get(event.group)
            if group is None:
                if event.group == CONTROL_GROUP:
                    self._obey(event)
            elif group.tracker is None or group.tracker.take(event):
                self._give(group, event)
            elif group.tracker.holding and group.tracker.position is not None:
                self._unhealed.add(group)
        elif isinstance(event, Confirmed):
            for name in event.groups & self._groups.keys():
                self._groups[name].confirmed.set()
        elif isinstance(event, Lost):
            log.warning("messages may be missing: %s", event.reason)
            for group in list(self._groups.values()):
                if group.tracker is None:
                    self._lose(group)
                elif group.tracker.position is not None:
                    group.tracker.hold()
                    self._unhealed.add(group)

    def _give(self, group: Group, entry: Entry) -> None:
        """An entry is next in its group."""
        publication = _publication(entry)
        if publication is not None:
            group.put(publication)
            self._start_courier(group)

    def _lose(self, group: Group) -> None:
        """Entries of a group are missing."""
        self.counters.gaps += 1
        group.put(Gap(history=group.history is not None))
        self._start_courier(group)

    def _heal(self, group: Group) -> None:
        """Read what may be missing."""
        tracker, history = group.tracker, group.history
        assert tracker is not None and history is not None and tracker.position is not None
        try:
            [page] = self._backend.read([Want(group.name, history, tracker.position.offset, history.size)])
        except GroupsUnavailable:  # the backend has logged it
            group.retry_after = min(max(RETRY[0], 2 * group.retry_after), RETRY[1])
            return
        healed = tracker.heal(page)
        if healed.lost:
            log.warning("group %s: messages are missing, and the history does not have them", group.name)
            self._lose(group)
        for entry in healed.entries:
            self._give(group, entry)
        group.retry_after = 0.0
        if not tracker.holding:
            self._unhealed.discard(group)

    def _obey(self, entry: Entry) -> None:
        """What is for workers."""
        publication = _publication(entry, control_too=True)
        order = None if publication is None else publication.data
        if isinstance(order, dict) and order.get("do") == "close":
            group = self._groups.get(order["group"])
            if group is not None:
                group.put(Close(order["code"], order["reason"]))
                self._start_courier(group)

    # --- the courier -------------------------------------------------------------------------------------------------

    def _start_courier(self, group: Group) -> None:
        if group.items and group not in self._busy:
            self._busy.add(group)
            self._ready.append((group, group.fan_out(self._excluded)))
            if not self._courier_runs:
                self._courier_runs = True
                gevent.spawn(self._run_courier)

    def _run_courier(self) -> None:
        """Runs in a greenlet of its own while something waits."""
        try:
            while self._ready:
                group, steps = self._ready.popleft()
                try:
                    next(steps)
                except StopIteration:
                    self._busy.discard(group)
                    self._start_courier(group)  # something has come in the last moment
                else:
                    self._ready.append((group, steps))
        finally:
            self._courier_runs = False


def _publication(entry: Entry, *, control_too: bool = False) -> Publication | None:
    """What an entry has for members; None where it is for workers, or was not written by this version."""
    try:
        envelope = Envelope.unpack(entry.payload)
    except GroupsError as error:
        log.error("group %s: %s", entry.group, error)
        return None
    if envelope.kind == CONTROL and not control_too:
        return None
    return Publication(entry, envelope)


_ATTRIBUTE = "_gws_middleware_groups"
"""Of a hub of gevent. A table of those would keep each from being freed, because its values refer to it."""


def hub_if_any(owner: Any) -> Hub | None:
    """The members of ``owner`` on the event loop of this thread; None where there are none."""
    hubs = getattr(get_hub_if_exists(), _ATTRIBUTE, None)
    hub: Hub | None = None if hubs is None else hubs.get(owner)
    return None if hub is None or hub.is_inherited else hub


def hub_of(owner: Any, backend: Backend, history_of: Callable[[str], History | None]) -> Hub:
    """The members of ``owner``, a ``Groups``, on the event loop of this thread."""
    gevent_hub = get_hub()
    hubs: WeakKeyDictionary[Any, Hub] | None = getattr(gevent_hub, _ATTRIBUTE, None)
    if hubs is None:
        hubs = WeakKeyDictionary()
        setattr(gevent_hub, _ATTRIBUTE, hubs)
    hub = hubs.get(owner)
    if hub is None or hub.is_inherited:
        hub = hubs[owner] = Hub(backend, history_of)
    return hub
