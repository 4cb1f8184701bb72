"""The survey: the connections of all workers of a site, as they were a moment ago.

The asker sends a question to all workers, and each sends what it finds to a group without history that the asker alone
listens to::

    asker                                    each worker that follows orders
    read the table of workers                has a record of itself in it
    open a feed, subscribe to the answers
    ask  ───────── live order ─────────▶     go over the connections, some at a time
    wait for the answers of all, or until    send each part when it is full
    the time is over   ◀──── parts ─────     send the last one, with the facts about the worker

Rule: a survey can have less than there is, and says so: workers that have not answered in time, and connections above
the limit.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from typing import NamedTuple

from ..connection import jsontext
from .backends.base import Backend, Confirmed, Feed, Publish
from .errors import GroupsError, UnknownOutcome
from .message import BINARY, Envelope
from .position import Entry

__all__ = [
    "SLICE",
    "ConnectionInfo",
    "Found",
    "Question",
    "Survey",
    "Worker",
    "WorkerInfo",
    "answer",
    "ask",
    "register",
    "summary",
    "withdraw",
]

WORKERS = "workers"
"""The table of workers: in each record a ``Worker`` as JSON, by its id."""
ANSWERS = "gws.answers."
"""What the name of an asker's group begins with."""
SLICE = 200
"""Connections of one part of an answer."""
MAX_WORKERS = 10_000
"""Workers that are waited for."""


class ConnectionInfo(NamedTuple):
    """One connection of the site."""

    id: str
    """No other connection of the site has it."""
    worker: str
    """The name of its worker: ``"host:pid"``."""
    user: str | None
    """The primary key of the user as text; None for an anonymous one, where it has not been read, and without Django.
    """
    user_name: str | None
    """The name of the user, where it has been read."""
    address: str
    """Of the client."""
    path: str
    """Of its URL."""
    since: float
    """When it was opened, in seconds since 1970."""
    last_activity: float
    """When the peer last sent anything, in seconds since 1970."""
    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    outbox: int
    """Bytes that wait for the peer."""
    latency: float | None
    """Seconds between the last ping and its pong; None before the first one."""
    groups: tuple[str, ...]
    """The groups of which it is a member."""


class WorkerInfo(NamedTuple):
    """One worker of the site."""

    name: str
    """``"host:pid"``."""
    host: str
    pid: int
    since: float
    """When it began to follow orders, in seconds since 1970."""
    connections: int
    """How many are open."""
    groups: int
    """How many groups have members here."""
    lag: float
    """Seconds by which its event loop was late when it answered."""
    version: str
    """Of this package."""


class Survey(NamedTuple):
    """What ``Groups.survey()`` has found."""

    connections: list[ConnectionInfo]
    workers: list[WorkerInfo]
    """Those that have answered."""
    missing: list[str]
    """The names of workers that have not answered in time."""
    more: bool
    """There are more connections than were asked for."""


class Worker(NamedTuple):
    """This process as a worker of the site."""

    id: str
    """No other process of the site has ever had it."""
    name: str
    host: str
    pid: int
    since: float
    version: str

    @classmethod
    def here(cls) -> Worker:
        """Of this process, with a new id."""
        host, pid = os.uname().nodename, os.getpid()
        version = str(sys.modules[__name__.partition(".")[0]].__version__)  # of the package, which imports nothing
        return cls(secrets.token_hex(8), f"{host}:{pid}", host, pid, round(time.time(), 3), version)


class Question(NamedTuple):
    """What an asker wants to know."""

    to: str
    """The group for the answers."""
    user: str | None
    """Connections of this user alone; None for all."""
    path: str | None
    """Connections whose path begins with this alone; None for all."""
    worker: str | None
    """The worker with this name alone; None for all."""
    group: str | None
    """Members of this group alone; None for all."""
    limit: int
    """How many connections of each worker at most, those that were opened first."""
    seconds: float
    """After which an answer is of no use."""

    @classmethod
    def new(
        cls,
        user: str | None = None,
        path: str | None = None,
        worker: str | None = None,
        group: str | None = None,
        *,
        limit: int,
        seconds: float,
    ) -> Question:
        """A question with a group of its own."""
        return cls(ANSWERS + secrets.token_hex(8), user, path, worker, group, limit, seconds)


class Found(NamedTuple):
    """What a worker has found, or a part of it."""

    connections: list[ConnectionInfo]
    worker: WorkerInfo | None
    """In the last part."""
    more: bool = False
    """There are more connections than were asked for."""


# --- in a worker ------------------------------------------------------------------------------------------------------


def register(backend: Backend, worker: Worker) -> None:
    """Let askers wait for the answers of this process.

    Raises:
        GroupsUnavailable: They do not.

    """
    backend.put(WORKERS, {worker.id: jsontext.dumps(worker).encode()})


def withdraw(backend: Backend, worker: Worker) -> None:
    """Let askers wait no more, because the process ends. Where the backend cannot be used, it finds out by itself."""
    if worker.pid == os.getpid():  # else this is a child of the worker
        with suppress(GroupsError):
            backend.put(WORKERS, {worker.id: None})


def answer(backend: Backend, worker: Worker, question: Question, parts: Iterable[Found]) -> None:
    """Send what a worker has found. It is of no use after the time of the question, and where the backend fails.

    Args:
        backend: Takes the answer.
        worker: This one.
        question: What was asked.
        parts: What was found; the last one has the facts about the worker.

    """
    deadline = time.monotonic() + question.seconds
    for part in parts:
        if time.monotonic() >= deadline:
            return
        try:
            backend.publish([Publish(question.to, Envelope(BINARY, _pack(worker.id, part)).pack(), None)])
        except GroupsError:
            return  # the backend has logged it


def _pack(worker: str, part: Found) -> bytes:
    # Compressed, because a log on this host keeps rows for a minute: paths and names repeat themselves.
    return zlib.compress(jsontext.dumps([worker, *part]).encode(), 1)


def _unpack(data: bytes) -> tuple[str, Found]:
    """The worker, and what it has found. ValueError, TypeError or zlib.error where these are not such bytes."""
    worker, connections, facts, more = jsontext.loads(zlib.decompress(data))
    infos = [ConnectionInfo(*fields)._replace(groups=tuple(fields[-1])) for fields in connections]
    return str(worker), Found(infos, None if facts is None else WorkerInfo(*facts), bool(more))


# --- the asker --------------------------------------------------------------------------------------------------------


def ask(
    backend: Backend,
    question: Question,
    give: Callable[[float], object],
    own: Callable[[], Iterable[Found]],
    own_id: str,
) -> Survey:
    """Ask all workers, and wait for their answers until the time of the question is over.

    A feed of its own is opened for that, so this works in any process and any thread, and leaves nothing open.

    Args:
        backend: Moves the question and the answers.
        question: What is asked.
        give: Gives the question to all other workers, in so many seconds.
        own: What this process finds itself.
        own_id: Of this process, if it is a worker.

    Raises:
        GroupsUnavailable: They cannot be asked.

    """
    deadline = time.monotonic() + question.seconds
    workers = [
        Worker(*jsontext.loads(record.value)) for record in backend.records(WORKERS, MAX_WORKERS, question.seconds)
    ]
    names = {one.id: one.name for one in workers if one.id != own_id and question.worker in (None, one.name)}
    if not names:
        return summary(own(), question.limit)
    with closing(backend.feed(deadline)) as feed:
        is_subscribed = _subscribe(feed, question.to, deadline)
        if is_subscribed:
            with suppress(UnknownOutcome):  # those that have got it answer
                give(deadline - time.monotonic())
        found = list(own())
        if is_subscribed:
            found += _answers(feed, question.to, deadline, names)
    return summary(found, question.limit, names.values())


def _subscribe(feed: Feed, group: str, deadline: float) -> bool:
    """Whether the feed has what is published, in time."""
    confirmed = feed.subscribe([group])
    while not confirmed and (left := deadline - time.monotonic()) > 0:
        confirmed = any(isinstance(event, Confirmed) and group in event.groups for event in feed.wait(left))
    return confirmed


def _answers(feed: Feed, group: str, deadline: float, missing: dict[str, str]) -> Iterator[Found]:
    """The parts of answers, until those of all workers in ``missing`` have come, which are taken out of it."""
    while missing and (left := deadline - time.monotonic()) > 0:
        for event in feed.wait(left):
            if isinstance(event, Entry) and event.group == group:
                try:
                    worker, part = _unpack(Envelope.unpack(event.payload).data)
                except (ValueError, TypeError, zlib.error, GroupsError):
                    continue  # of a worker with another version, which is missing then
                if part.worker is not None:
                    missing.pop(worker, None)
                yield part


def summary(parts: Iterable[Found], limit: int, missing: Iterable[str] = ()) -> Survey:
    """What these parts say together; of the connections those that were opened first."""
    found = list(parts)
    # Those of one worker that were opened at the same time stay in its order.
    connections = sorted((each for part in found for each in part.connections), key=lambda each: each.since)
    workers = sorted((part.worker for part in found if part.worker is not None), key=lambda worker: worker.name)
    more = len(connections) > limit or any(part.more for part in found)
    return Survey(connections[:limit], workers, sorted(missing), more)
