"""The groups of this process, on one event loop: what a feed brings goes to the members of each.

Rule: nothing here waits for a peer, except ``join()`` for the peer that joins.

Two greenlets, each of which exists while there is work: the **reader** waits for the feed, checks the order and finds
which members are to get an entry; the **courier** offers it, to some members of a group at a time, then to some of the
next group. A third one exists with the feed: the **checker** compares what groups have come to with what they keep, and
removes the records of processes that live no more.

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
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import gevent
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore

from ..codes import CloseCode
from ..connection import control
from ..connection.turns import turns_of
from ..connection.websocket import WebSocket
from ..process import registry
from ..process.counters import Counters
from ..protocol.connection import PreparedMessage
from ..typing import Sendable
from .backends.base import TIMEOUT, Backend, Buried, Confirmed, Event, Feed, Lost, Want
from .errors import GroupsError, GroupsUnavailable
from .members import Close, Collector, Delivery, Gap, Group, Mailbox
from .message import CONTROL, JSON, Envelope, Publication
from .position import Entry, History, Page, Position, Tracker, floor_after_gap, is_above, missed
from .presence import MAX_LOADED, Change, Events, Presence, group_of_events, presence_group, unpack
from .records import MemberRecords, table_of

__all__ = ["CONTROL_GROUP", "Greet", "Hub", "Joined", "hub_if_any", "hub_of"]

log = logging.getLogger("gws_middleware.groups")

LINGER = 10.0
"""Seconds that the feed stays open without a member."""
RETRY = (0.1, 2.0)
"""Seconds until a reading that failed is tried again: the first time, and at most."""
NEW_EPOCH = 0.01
"""Seconds between two readings for a connection that joins while the group begins an epoch."""
HEAL_AT_ONCE = 500
"""Groups that are read in one call."""
CONTROL_GROUP = "gws.control"
"""The group of what is for workers, not for members."""
EVENTS_EVERY = 1.0
"""Seconds between two frames of the events of a group."""
CHECK_EVERY = 5.0
"""Seconds between two checks for processes that live no more, about: those of several processes spread in time."""
COMPARE_EVERY = 30.0
"""Seconds between two comparisons with what groups keep."""
SETTLE = 15.0
"""Seconds without a loss before this process takes another one for dead: an outage is one for all of them, and each
needs some time after it to show that it is living.
"""


class Joined(NamedTuple):
    """What ``join()`` has found."""

    position: Position | None
    """From here on the connection gets what is published; None in a group without history."""
    recovered: bool
    """Whether all that came after ``since`` was sent. False without ``since``, and where some of it was no longer kept:
    then none of it was sent.
    """


_END = object()
"""An iterator has ended."""

Greet = Callable[[Joined, Sequence[Publication]], Sequence[Sendable]]
"""Makes the first messages of a connection that joins, instead of the publications that it has missed."""


class Hub:
    """The members of this process on one event loop, for one backend.

    Args:
        backend: Where messages come from.
        history_of: What a group keeps, by its name.
        counters: Where it counts.
        presence_of: What is visible of the members of a group, by its name. Default: nothing.

    """

    def __init__(
        self,
        backend: Backend,
        history_of: Callable[[str], History | None],
        counters: Counters,
        presence_of: Callable[[str], Presence | None] = lambda name: None,
    ) -> None:
        self._backend, self._history_of, self._presence_of = backend, history_of, presence_of
        self._turns = turns_of(get_hub())
        self._pid = os.getpid()
        self._groups: dict[str, Group] = {}
        self._feed: Feed | None = None
        self._making_feed = BoundedSemaphore()
        self._unhealed: set[Group] = set()
        self._retry_after, self._retry_at = 0.0, 0.0
        """Seconds that were waited after a reading that failed, and when (``time.monotonic()``) they have passed."""
        self._ready: deque[tuple[Group, Iterator[None]]] = deque()
        self._busy: set[Group] = set()
        """Groups that are in ``_ready``, or of which the courier offers something."""
        self._courier_runs = False
        self._bury_at = self._compare_at = 0.0
        """When the checker may do these (``time.monotonic()``)."""
        self.records = MemberRecords(backend, presence_of)
        self._counters = counters

    @property
    def is_inherited(self) -> bool:
        """Whether this is a copy in a process that was forked."""
        return self._pid != os.getpid()

    def sizes(self) -> dict[str, int]:
        """Members by group, in this process."""
        return {name: group.size for name, group in self._groups.items() if group.size}

    def groups_of(self, ws: WebSocket) -> list[str]:
        """The groups of which a connection is a member, or joins."""
        observers = control.observers_of(ws)
        return [one.name for one in observers if isinstance(one, Group) and self._groups.get(one.name) is one]

    # --- joining and leaving -----------------------------------------------------------------------------------------

    def join(
        self,
        name: str,
        ws: WebSocket,
        delivery: Delivery,
        since: Position | None = None,
        greet: Greet | None = None,
        info: bytes = b"null",
    ) -> Joined:
        """Make a connection a member.

        Args:
            name: The group.
            ws: Must be open.
            delivery: How it gets what is published.
            since: What it has; what came after that is sent first.
            greet: Makes the first messages, instead of those.
            info: What is visible of it in a group with presence, as JSON.

        Raises:
            ValueError: It is a member.
            GroupsUnavailable: The backend cannot be used now; it is no member.
            ConnectionClosed: It has ended.

        """
        group = self._group(name)
        if ws in group:
            raise ValueError(f"this WebSocket is a member of {name!r} already")
        collector = Collector(info)
        control.watch_end(ws, group)
        try:
            joined, publications = self._collect(group, ws, collector, since)
            self._send_first(group, ws, collector, delivery, joined, publications, greet)
        except BaseException:
            if group.collectors.get(ws) is collector:  # else it was made to leave, and may have joined again
                self._leave(group, ws)
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
        group = None if self.is_inherited else self._groups.get(name)
        if group is not None and group.collectors.pop(collector, None) is not None:
            self.changed(group)

    def _collect(
        self, group: Group, key: object, collector: Collector, since: Position | None
    ) -> tuple[Joined, list[Publication]]:
        group.collectors[key] = collector
        self._subscribe(group)
        if not group.confirmed.wait(TIMEOUT):
            raise GroupsUnavailable(f"the subscription of {group.name!r} was not confirmed within {TIMEOUT:g} s")
        if group.collectors.get(key) is not collector:  # it has ended, or was made to leave
            return Joined(None, recovered=False), []
        return self._read(group, collector, since)

    def _read(self, group: Group, collector: Collector, since: Position | None) -> tuple[Joined, list[Publication]]:
        history, tracker = group.history, group.tracker
        if group.events is not None:
            self._load_members(group, group.events)
        if history is None or tracker is None:
            return Joined(None, recovered=False), []
        want = Want(group.name, history, 0 if since is None else since.offset, 0 if since is None else history.size)
        page = self._page_of_the_stream(group, tracker, collector, want)
        found = None if since is None else missed(since, page)
        publications = [found_one for entry in found or () if (found_one := _publication(entry)) is not None]
        return Joined(Position(page.epoch, page.top), recovered=found is not None), publications

    def _page_of_the_stream(self, group: Group, tracker: Tracker, collector: Collector, want: Want) -> Page:
        """A page after which all comes from the stream: of its epoch, and read after the stream has come to that."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            before = tracker.position and tracker.position.epoch
            [page] = self._backend.read([want])
            if tracker.position is None:  # the first reading of this group
                self._heal_with(group, page)
                return page
            now = tracker.position.epoch
            if before == now == page.epoch:
                return page
            if time.monotonic() > deadline:
                raise GroupsUnavailable(f"group {group.name!r} has begun one epoch after another for {TIMEOUT:g} s")
            if before == now:  # it has ended, and the stream has not shown that yet
                tracker.hold()
                self._must_heal(group)
                gevent.sleep(NEW_EPOCH)
            collector.drop_entries()  # the page that is read now has them

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
        mailbox = None if delivery.handler is None else Mailbox(ws, delivery.handler)
        is_member = False
        try:
            for message in self._first(group, ws, delivery, mailbox, joined, publications, greet):
                if not self._still_joins(group, ws, collector):
                    return
                ws.send(message)
            floor = joined.position
            while self._still_joins(group, ws, collector) and collector.items:
                item = collector.items.popleft()
                if isinstance(item, Close):
                    ws.close(item.code, item.reason)
                elif isinstance(item, Gap):
                    floor = floor_after_gap(floor, item.epoch)
                    if delivery.on_gap is not None:
                        group.tell(ws, delivery, mailbox)
                    elif item.history:
                        ws.close(CloseCode.TRY_AGAIN_LATER, "messages were missed")
                elif is_above(item.epoch, item.offset, floor) and not _is_from(item, ws):
                    if mailbox is not None:
                        group.post(ws, mailbox, item)
                    elif (frame := group.frame(item, delivery)) is not None:
                        ws.send(frame)
            if collector.is_full:
                self._counters.dropped += 1
                ws.close(CloseCode.TRY_AGAIN_LATER, "too slow")
            if self._still_joins(group, ws, collector):
                group.add(ws, delivery, mailbox, floor)
                del group.collectors[ws]
                is_member = True
                self.changed(group)
                if group.presence is not None:
                    self.records.joined(group.name, control.id_of(ws), collector.info)
        finally:
            if mailbox is not None and not is_member:
                mailbox.clear()

    def _first(
        self,
        group: Group,
        ws: WebSocket,
        delivery: Delivery,
        mailbox: Mailbox | None,
        joined: Joined,
        publications: list[Publication],
        greet: Greet | None,
    ) -> Iterator[Sendable | PreparedMessage]:
        """What is sent for that which it has missed."""
        publications = [one for one in publications if not _is_from(one, ws)]
        if greet is not None:
            yield from greet(joined, publications)
        elif mailbox is not None:
            mailbox.fill(publications)
        else:
            for publication in publications:
                frame = group.frame(publication, delivery)
                if frame is not None:
                    yield frame

    def _still_joins(self, group: Group, ws: WebSocket, collector: Collector) -> bool:
        """Whether it was not made to leave meanwhile; ConnectionClosed if it has ended."""
        control.open_now(ws)
        return group.collectors.get(ws) is collector

    def leave(self, name: str, ws: WebSocket) -> bool:
        """Let it be no member. Whether it was one."""
        group = self._groups.get(name)
        if group is None or ws not in group:
            return False
        self._leave(group, ws)
        return True

    def _leave(self, group: Group, ws: WebSocket) -> None:
        control.unwatch_end(ws, group)
        group.leave(ws)
        self.changed(group, ws)

    def changed(self, group: Group, left: WebSocket | None = None) -> None:
        """The members of a group are others; ``left``: this one is none any more."""
        if group.is_empty and self._groups.get(group.name) is group:
            del self._groups[group.name]
            self._unhealed.discard(group)
            group.confirmed.set()  # a connection that has ended while it joined waits no longer
            if self._feed is not None:
                self._feed.unsubscribe([group.name])
        current = self._groups.get(group.name)
        self.records.counted(group.name, 0 if current is None else current.size)
        if left is not None and group.presence is not None:
            self.records.left(group.name, control.id_of(left))

    def release(self) -> None:
        """Close the feed. Connections are members no more, and iterations end."""
        feed, self._feed = self._feed, None
        groups, self._groups = list(self._groups.values()), {}
        self._unhealed.clear()
        self.records.clear()
        for group in groups:
            group.clear()
        if feed is not None:
            feed.close()

    # --- the reader --------------------------------------------------------------------------------------------------

    def _group(self, name: str) -> Group:
        """The group of this name, at once: another join finds the same one meanwhile."""
        group = self._groups.get(name)
        if group is None:
            watched = group_of_events(name)
            presence = self._presence_of(name if watched is None else watched)
            events = None if watched is None or presence is None else Events(presence.leave_delay)
            kept = self._history_of(name)
            group = Group(name, kept, self.changed, self._counters, presence if watched is None else None, events)
            self._groups[name] = group
        return group

    def _subscribe(self, group: Group) -> None:
        """Let the feed have the entries of a group. Making the feed may wait."""
        with self._making_feed:
            if self._feed is None:
                self._feed = self._backend.feed()
                self._feed.subscribe([CONTROL_GROUP])
                ended = Signal()
                gevent.spawn(self._run_reader, self._feed, ended)
                gevent.spawn(self._run_checker, self._feed, ended)
            if not group.is_subscribed and self._groups.get(group.name) is group:
                group.is_subscribed = True
                if self._feed.subscribe([group.name]):
                    group.confirmed.set()

    def _run_reader(self, feed: Feed, ended: Signal) -> None:
        """Runs in a greenlet of its own while there are groups. ``ended`` is set when it ends."""
        try:
            while not self.is_inherited and self._feed is feed and (self._read_once(feed) or self._groups):
                if self._turns.is_over():
                    self._turns.give_way()
                else:
                    gevent.sleep(0)  # what takes the entries comes before more of them
        finally:
            if not self.is_inherited and self._feed is feed:
                self._feed = None
                feed.close()
            ended.set()

    def _read_once(self, feed: Feed) -> bool:
        """Wait for events. Whether there was anything to do."""
        try:
            events = feed.wait(max(0.0, self._retry_at - time.monotonic()) if self._unhealed else LINGER)
            if self.is_inherited or self._feed is not feed:
                return False
            for event in events:
                self._take(event)
            if self._unhealed and time.monotonic() >= self._retry_at:
                self._heal()
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
            elif group.tracker.holding:
                self._must_heal(group)
        elif isinstance(event, Confirmed):
            for name in event.groups & self._groups.keys():
                self._groups[name].confirmed.set()
        elif isinstance(event, Lost):
            log.warning("messages may be missing: %s", event.reason)
            self._bury_at = time.monotonic() + SETTLE
            for group in list(self._groups.values()):
                if group.events is not None:
                    group.events.lose()
                    self._make_events(group, group.events)
                elif group.tracker is None:
                    self._lose(group)
                else:
                    group.tracker.hold()
                    self._must_heal(group)
        elif isinstance(event, Buried):
            log.warning("the members of this process are visible again: %s", event.reason)
            self.records.return_all()

    def _give(self, group: Group, entry: Entry) -> None:
        """An entry is next in its group."""
        publication = _publication(entry, control_too=group.events is not None)
        if publication is not None and group.events is not None:
            self._take_changes(group, group.events, publication)
        elif publication is not None:
            group.put(publication)
            self._start_courier(group)

    def _lose(self, group: Group) -> None:
        """Entries of a group are missing."""
        self._counters.group_gaps += 1
        position = None if group.tracker is None else group.tracker.position
        group.put(Gap(group.history is not None, "" if position is None else position.epoch))
        self._start_courier(group)

    def _must_heal(self, group: Group) -> None:
        """Entries of a group may be missing. (Before the first page of a group, the connection that joins reads it.)"""
        if group.tracker is not None and group.tracker.position is not None and self._groups.get(group.name) is group:
            if not self._unhealed and self._feed is not None:
                self._feed.wake()
            self._unhealed.add(group)

    def _heal(self) -> None:
        """Read what may be missing."""
        wants: dict[Group, Want] = {}
        for group in list(self._unhealed)[:HEAL_AT_ONCE]:
            assert group.tracker is not None and group.history is not None and group.tracker.position is not None
            wants[group] = Want(group.name, group.history, group.tracker.position.offset, group.history.size)
        try:
            pages = self._backend.read(list(wants.values()))
        except GroupsUnavailable:  # the backend has logged it
            self._retry_after = min(max(RETRY[0], 2 * self._retry_after), RETRY[1])
            self._retry_at = time.monotonic() + self._retry_after
            return
        self._retry_after = 0.0
        for group, page in zip(wants, pages, strict=True):
            if group in self._unhealed:  # else it has no member any more
                self._heal_with(group, page)

    def _heal_with(self, group: Group, page: Page) -> None:
        assert group.tracker is not None
        healed = group.tracker.heal(page)
        if healed.lost:
            log.warning("group %s: messages are missing, and the history does not have them", group.name)
            self._lose(group)
        for entry in healed.entries:
            self._give(group, entry)
        self._unhealed.discard(group)
        if group.tracker.holding:
            self._must_heal(group)

    def _obey(self, entry: Entry) -> None:
        """What is for workers."""
        publication = _publication(entry, control_too=True)
        order = None if publication is None else publication.data
        if isinstance(order, dict) and order.get("do") == "close":
            group = self._groups.get(order["group"])
            if group is not None:
                group.put(Close(order["code"], order["reason"]))
                self._start_courier(group)

    # --- events of presence ------------------------------------------------------------------------------------------

    def _take_changes(self, group: Group, events: Events, publication: Publication) -> None:
        """What a process has published of the members of another group."""
        try:
            left, joined = unpack(publication.data)
        except (TypeError, ValueError):
            log.error("group %s: %r is not what is published of members", group.name, publication)
            return
        events.take(left, joined, time.monotonic())
        self._make_events(group, events)

    def _load_members(self, group: Group, events: Events) -> None:
        """Read the members of the group that the events are of, if that is necessary."""
        watched = group_of_events(group.name)
        if not events.is_loaded and watched is not None:
            found = self._backend.records(table_of(watched), MAX_LOADED)
            members = [Change(record.field, record.value.decode()) for record in found]
            events.load(members, time.monotonic())

    def present(self, name: str) -> list[Change]:
        """Of a group whose events come to this process: one connection of each info that was not reported as
        left.
        """
        group = self._groups.get(presence_group(name))
        return [] if group is None or group.events is None else list(group.events.present())

    def _make_events(self, group: Group, events: Events) -> None:
        if not group.makes_events:
            group.makes_events = True
            gevent.spawn(self._run_events, group, events)

    def _run_events(self, group: Group, events: Events) -> None:
        """Runs in a greenlet of its own while changes wait to become events."""
        try:
            while not events.is_empty and not self.is_inherited and self._groups.get(group.name) is group:
                try:
                    self._load_members(group, events)
                except GroupsUnavailable:
                    pass  # the backend has logged it, and it is done again
                frame = events.frame(time.monotonic())
                if frame is not None:
                    group.put(Publication(Entry(group.name, "", 0, frame), Envelope(JSON, frame)))
                    self._start_courier(group)
                gevent.sleep(EVENTS_EVERY)
        finally:
            group.makes_events = False

    # --- the checker -------------------------------------------------------------------------------------------------

    def _run_checker(self, feed: Feed, ended: Signal) -> None:
        """Runs in a greenlet of its own while there is a feed."""
        now = time.monotonic()
        self._bury_at, self._compare_at = now + SETTLE, now + COMPARE_EVERY
        while not ended.wait(CHECK_EVERY * random.uniform(0.8, 1.2)) and not self.is_inherited:
            if self._feed is not feed:  # released, and the reader has not ended yet
                return
            try:
                self._check()
            except GroupsUnavailable:
                pass  # the backend has logged it, and it is done again
            except Exception:  # a mistake of ours or of a backend
                log.exception("groups: a check failed")

    def _check(self) -> None:
        now = time.monotonic()
        if now >= self._bury_at:
            self.records.bury()
        if now >= self._compare_at:
            self._compare_at = now + COMPARE_EVERY
            self._compare()

    def _compare(self) -> None:
        """Read the tops of groups with history: where the last entry of a group was lost, no other one shows it."""
        groups = [group for group in self._groups.values() if group.tracker is not None and not group.tracker.holding]
        for start in range(0, len(groups), HEAL_AT_ONCE):
            part = groups[start : start + HEAL_AT_ONCE]
            pages = self._backend.read([Want(group.name, group.history, None, 0) for group in part if group.history])
            for group, page in zip(part, pages, strict=True):
                assert group.tracker is not None
                if not group.tracker.has(page):
                    group.tracker.hold()
                    self._must_heal(group)

    # --- the courier -------------------------------------------------------------------------------------------------

    def _start_courier(self, group: Group) -> None:
        if group.items and group not in self._busy:
            self._busy.add(group)
            self._ready.append((group, group.fan_out(self._turns.is_over)))
            if not self._courier_runs:
                self._courier_runs = True
                gevent.spawn(self._run_courier)

    def _run_courier(self) -> None:
        """Runs in a greenlet of its own while something waits."""
        try:
            while self._ready:
                group, steps = self._ready.popleft()
                is_left = False
                try:
                    is_left = next(steps, _END) is not _END
                finally:
                    if is_left:
                        self._ready.append((group, steps))
                    else:
                        self._busy.discard(group)
                        self._start_courier(group)  # where it was interrupted, something is left
                if self._turns.is_over():
                    self._turns.give_way()
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


def _is_from(publication: Publication, ws: WebSocket) -> bool:
    """Whether this connection gets no copy, because it has sent it."""
    return bool(publication.sender) and control.find(publication.sender) is ws


_ATTRIBUTE = "_gws_middleware_groups"
"""Of a hub of gevent. A table of those would keep each from being freed, because its values refer to it."""


def hub_if_any(owner: Any) -> Hub | None:
    """The members of ``owner`` on the event loop of this thread; None where there are none."""
    hubs = getattr(get_hub_if_exists(), _ATTRIBUTE, None)
    hub: Hub | None = None if hubs is None else hubs.get(owner)
    return None if hub is None or hub.is_inherited else hub


def hub_of(
    owner: Any,
    backend: Backend,
    history_of: Callable[[str], History | None],
    presence_of: Callable[[str], Presence | None],
) -> Hub:
    """The members of ``owner``, a ``Groups``, on the event loop of this thread."""
    gevent_hub = get_hub()
    hubs: WeakKeyDictionary[Any, Hub] | None = getattr(gevent_hub, _ATTRIBUTE, None)
    if hubs is None:
        hubs = WeakKeyDictionary()
        setattr(gevent_hub, _ATTRIBUTE, hubs)
    hub = hubs.get(owner)
    if hub is None or hub.is_inherited:
        hub = hubs[owner] = Hub(backend, history_of, registry.current().counters, presence_of)
    return hub
