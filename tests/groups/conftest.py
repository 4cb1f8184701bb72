"""What the tests of groups share: a hub with a backend that fails on demand, and members without a socket."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from gws_middleware import hooks
from gws_middleware.connection import control
from gws_middleware.connection.states import CLOSED, OPEN
from gws_middleware.connection.websocket import WebSocket
from gws_middleware.groups import History, Position, hub, records
from gws_middleware.groups.backends.base import TIMEOUT, Confirmed, Event, Feed, Lost, Publish, Record, Want
from gws_middleware.groups.backends.memory import MemoryBackend
from gws_middleware.groups.hub import Hub, Joined
from gws_middleware.groups.members import Delivery
from gws_middleware.groups.message import CONTROL, Envelope, Publication, encode
from gws_middleware.groups.position import Entry, Page
from gws_middleware.process.counters import Counters

from ..support.brokers import REDIS, broker
from ..support.inprocess import until

KEPT = History(size=100, age=60.0)
"""Of the groups of these tests whose names begin with ``kept``; all others have none."""


def history_of(name: str) -> History | None:
    return KEPT if name.startswith("kept") else None


class Double:
    """The memory backend, with faults on demand: the real thing cannot be made to fail at a chosen moment."""

    def __init__(self) -> None:
        self.memory = MemoryBackend()
        self.feeds: list[DoubleFeed] = []
        self.confirms = True
        """Whether a subscription holds at once; if not, ``confirm()`` is what confirms it."""
        self.drops: Callable[[Entry], bool] = lambda entry: False
        """Which entries no feed brings."""
        self.on_read: Callable[[], object] = lambda: None
        """Runs before a reading; may wait, or raise."""
        self.after_read: Callable[[], object] = lambda: None
        """Runs when a reading was made and is not returned yet."""
        self.changes: Callable[[Page], Page] = lambda page: page
        """What a reading returns instead of a page."""
        self.on_feed: Callable[[], object] = lambda: None
        self.on_put: Callable[[Mapping[str, bytes | None]], object] = lambda values: None
        self.reads: list[list[str]] = []
        """The groups of each reading."""

    def publish(self, batch: Sequence[Publish], timeout: float = TIMEOUT) -> list[Position | None]:
        return self.memory.publish(batch)

    def read(self, wants: Sequence[Want]) -> list[Page]:
        self.reads.append([want.group for want in wants])
        self.on_read()
        pages = [self.changes(page) for page in self.memory.read(wants)]
        self.after_read()
        return pages

    def feed(self, until: float = math.inf) -> DoubleFeed:
        self.on_feed()
        feed = DoubleFeed(self, self.memory.feed())
        self.feeds.append(feed)
        return feed

    def put(self, table: str, values: Mapping[str, bytes | None], timeout: float = TIMEOUT) -> None:
        self.on_put(values)
        self.memory.put(table, values)

    def get(self, table: str, field: str, timeout: float = TIMEOUT) -> list[bytes]:
        return self.memory.get(table, field)

    def exchange(self, table: str, field: str, value: bytes | None) -> list[bytes]:
        return self.memory.exchange(table, field, value)

    def records(self, table: str, limit: int, timeout: float = TIMEOUT) -> list[Record]:
        return self.memory.records(table, limit)

    def count(self, table: str) -> int:
        return self.memory.count(table)

    def bury(self) -> list[Record]:
        return self.memory.bury()

    def close(self) -> None:
        self.memory.close()

    def bring(self, *events: Event) -> None:
        """Let the feed bring these events next."""
        self.feeds[-1].events += events
        self.feeds[-1].wake()

    def lose(self) -> None:
        """Let the feed report a loss."""
        self.bring(Lost("the test has lost something"))

    def confirm(self, *names: str) -> None:
        """Let the feed confirm subscriptions."""
        self.bring(Confirmed(frozenset(names)))


class DoubleFeed:
    """A feed of the double."""

    def __init__(self, double: Double, feed: Feed) -> None:
        self.double, self.feed = double, feed
        self.events: list[Event] = []
        self.subscribed: set[str] = set()
        self.closed = False

    def subscribe(self, groups: Iterable[str]) -> bool:
        groups = set(groups)
        self.subscribed |= groups
        return self.feed.subscribe(groups) and self.double.confirms

    def unsubscribe(self, groups: Iterable[str]) -> None:
        self.subscribed.difference_update(groups)
        self.feed.unsubscribe(groups)

    def wait(self, timeout: float | None) -> Sequence[Event]:
        came = [] if self.events else self.feed.wait(timeout)
        events, self.events = self.events, []
        return events + [one for one in came if not (isinstance(one, Entry) and self.double.drops(one))]

    def wake(self) -> None:
        self.feed.wake()

    def close(self) -> None:
        self.closed = True
        self.feed.close()


class Site:
    """A hub, its double, and what ``Groups`` does with them."""

    def __init__(self) -> None:
        self.backend = Double()
        self.counters = Counters()
        self.hub = Hub(self.backend, history_of, self.counters)

    def send(self, name: str, message: Any, exclude: WebSocket | None = None) -> Position | None:
        """Publish a message."""
        sender = "" if exclude is None else control.id_of(exclude)
        envelope = Envelope(*encode(message), sender)
        return self.backend.publish([Publish(name, envelope.pack(), history_of(name))])[0]

    def send_control(self, name: str, message: Any) -> None:
        """Publish what is for workers."""
        envelope = Envelope(CONTROL, json.dumps(message).encode())
        self.backend.publish([Publish(name, envelope.pack(), None)])

    def join(self, name: str, ws: Any, since: Position | None = None, greet: Any = None, **delivery: Any) -> Joined:
        """Let it be a member."""
        return self.hub.join(name, ws, Delivery(**delivery), since, greet)

    def entry(self, name: str, message: str, epoch: str = "", offset: int = 0) -> Entry:
        """An entry as no backend has published it."""
        return Entry(name, epoch, offset, Envelope(*encode(message)).pack())

    def flows(self) -> None:
        """Wait until the hub has taken all that was published before."""
        ws = Fake()
        self.join("flows", ws)
        self.send("flows", "!")
        until(lambda: ws.texts == ["!"], "the hub has taken what was published")
        self.hub.leave("flows", ws)  # type: ignore[arg-type]


class Turn:
    """For a connection without a socket."""

    def refuse_foreign(self) -> None:
        """This test has one thread."""

    def is_foreign(self) -> bool:
        return False

    def is_over(self) -> bool:
        return False


class Bare:
    """What can join, and no more: for the memory of a membership."""

    __slots__ = ("__weakref__", "_observers")

    _turn: Any = Turn()
    _adapter = hooks.Adapter()
    path = "/fake"
    _state = OPEN

    def __init__(self) -> None:
        self._observers: Any = None


class Fake(Bare):
    """A member without a socket, that keeps what it gets."""

    def __init__(self, on_offer: Callable[[str], object] = lambda text: None) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.frames: list[Any] = []
        self.closes: list[tuple[int, str]] = []
        self._on_offer = on_offer

    def offer(self, message: Any) -> bool:
        self.frames.append(message)
        self.send(message)
        return True

    def send(self, message: Any) -> None:
        text = message if isinstance(message, str) else text_of(message.frame)
        self._on_offer(text)
        self.texts.append(text)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.closes.append((code, reason))

    def forked(self) -> None:
        """It is the parent's: closed, and its end is not reported."""
        self._state = CLOSED


def text_of(frame: bytes) -> str:
    """The text of an unmasked frame of less than 64 KB."""
    return frame[4 if frame[1] == 126 else 2 :].decode()


class Gate:
    """Holds the greenlets that come to it, until it is opened."""

    def __init__(self) -> None:
        self.signal, self.waiting = Signal(), 0

    def __call__(self, *arguments: object) -> None:
        if not self.signal.is_set():
            self.waiting += 1
            self.signal.wait(10)

    def reached(self, times: int = 1) -> None:
        """Wait until so many greenlets wait here."""
        until(lambda: self.waiting >= times, "a greenlet waits at the gate")

    def open(self) -> None:
        self.signal.set()


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that were left leave nothing on the loop for long."""
    monkeypatch.setattr(hub, "LINGER", 0.02)
    monkeypatch.setattr(records, "COUNT_AFTER", 0.01)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    until(lambda: made.hub.sizes() == {}, "no member is left")


def texts(publications: Iterable[Publication]) -> list[Any]:
    """What was sent, of each."""
    return [one.data for one in publications]


class Attempt:
    """A call in a greenlet of its own, which may raise."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self._error: BaseException | None = None
        self._greenlet = gevent.spawn(self._call, partial(function, *arguments, **keywords))

    def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            self._error = error

    def get(self, timeout: float = 5) -> Any:
        """What it returns, or raises."""
        value = self._greenlet.get(timeout=timeout)
        if self._error is not None:
            raise self._error
        return value

    @property
    def ready(self) -> bool:
        """Whether it has ended."""
        return bool(self._greenlet.ready())


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that runs until the session ends."""
    with broker(tmp_path_factory.mktemp("valkey")) as running:
        yield running.url


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same of Debian's Redis."""
    assert REDIS is not None
    with broker(tmp_path_factory.mktemp("redis"), program=REDIS) as running:
        yield running.url
