"""``Groups``: what an application calls, in any process.

Rule: a process that only publishes starts no event loop and no thread, and nothing is opened before it is used.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..codes import CloseCode, may_travel
from ..connection import control, jsontext
from ..connection.websocket import WebSocket
from ..protocol.connection import PreparedMessage
from ..typing import Sendable
from .backends.base import TIMEOUT, Backend, Publish, Want
from .backends.memory import MemoryBackend
from .backends.redis import RedisBackend
from .backends.sqlite import SqliteBackend
from .facts import find
from .hub import CONTROL_GROUP, Greet, Hub, Joined, hub_if_any, hub_of
from .listening import Listener
from .members import Delivery
from .message import BINARY, CONTROL, JSON, RESERVED, Envelope, Publication, check_name, encode, prefix_of
from .orders import KEPT, ORDERS, Orders
from .position import Entry, History, Position
from .presence import Change, Member, Presence, encode_info, group_of_events, with_those
from .records import COUNTS, table_of
from .survey import ConnectionInfo, Found, Question, Survey, WorkerInfo, answer, ask, register, summary, withdraw

__all__ = ["Groups"]

RESERVED_PREFIX = prefix_of(RESERVED)
AT_ONCE = 200
"""Connections that one order closes."""
NUMBERS = "slots"
"""The table of numbers that processes add up."""

T = TypeVar("T")


class Groups:
    """Named groups of WebSockets, in all processes that have the same backend.

    Args:
        url: The backend. ``"auto"``: a file on this host, shared by all processes of this user that work in the same
            directory. ``"sqlite:///path"``: a directory of one's choice. ``"memory://"``: this process alone.
            ``"redis://…"``, ``"rediss://…"``, ``"redis+sentinel://…"``, ``"unix://…"``: a Redis or Valkey server.
        history: What groups keep for members that come later, by the part of their names before the first dot: for
            ``"room.7"`` that is ``"room"``. Groups that are not named keep nothing.
        presence: What is visible of the members of groups, in the same way. Members of other groups are counted only.
        project: The directory for which ``"auto"`` has a file. Default: the working directory.
        prefix: What all keys on a Redis server begin with; sites with different ones share a server.

    Raises:
        ValueError: The URL is none of these or is wrong, or the history or the presence has a wrong name.
        ImportError: The URL is one of Redis, and redis-py or hiredis is not installed.

    """

    def __init__(
        self,
        url: str = "auto",
        *,
        history: Mapping[str, History] | None = None,
        presence: Mapping[str, Presence] | None = None,
        project: str | Path | None = None,
        prefix: str = "gws",
    ) -> None:
        self.url = url
        self._history = _by_prefix("history", history, History)
        self._presence = _by_prefix("presence", presence, Presence)
        self._backend = _backend(url, project, prefix)
        self._is_alone = isinstance(self._backend, MemoryBackend)
        self.orders = Orders(
            self._publish_order,
            lambda group: Listener(self._hub(), group, None, None),
            partial(register, self._backend),
            partial(withdraw, self._backend),
            self._carry_out,
        )
        """What all workers are asked to do; for packages of this one."""

    def __repr__(self) -> str:
        return f"Groups({self.url!r})"

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, name: str, message: Any, *, exclude: WebSocket | None = None, info: Any = None) -> Position | None:
        """Send a message to all members of a group, in all processes.

        May be called anywhere: in a view, a thread, a task, a command, before and after a fork.

        Args:
            name: The group: 1 to 200 of the characters ``A-Z a-z 0-9 _ . : @ -``.
            message: ``str`` is sent as text, bytes are sent as binary, anything else as JSON.
            exclude: A connection that gets no copy.
            info: Facts about the sender, which become JSON: ``Publication.info``.

        Returns:
            The position after the message; None in a group without history.

        Raises:
            GroupsUnavailable: It was not sent.
            UnknownOutcome: It was sent or not, which is not known.
            TypeError: The message has no JSON, or the name is not a ``str``.
            ValueError: The name, or the message, cannot be sent.

        """
        return self.publish([self.prepare(name, message, exclude=exclude, info=info)])[0]

    def send_many(self, messages: Iterable[tuple[str, Any]]) -> list[Position | None]:
        """Send several messages at once, all of them or none.

        Args:
            messages: Names of groups and messages.

        Returns:
            The position of each, as ``send()`` returns it.

        Raises:
            GroupsUnavailable: None was sent. The others as in ``send()``.

        """
        return self.publish([self.prepare(name, message) for name, message in messages])

    async def asend(
        self, name: str, message: Any, *, exclude: WebSocket | None = None, info: Any = None
    ) -> Position | None:
        """Send as ``send()`` does, from a coroutine.

        The backend is called in a thread of asyncio's default executor, and the event loop goes on meanwhile.
        """
        batch = [self.prepare(name, message, exclude=exclude, info=info)]
        [position] = await asyncio.get_running_loop().run_in_executor(None, self.publish, batch)
        return position

    def prepare(self, name: str, message: Any, *, exclude: WebSocket | None = None, info: Any = None) -> Publish:
        """Encode what ``publish()`` is to send later, e.g. after a commit. What is changed meanwhile has no effect.

        Raises:
            TypeError, ValueError: As in ``send()``.

        """
        check_name(name)
        kind, data = encode(message)
        sender = "" if exclude is None else control.id_of(exclude)
        facts = b"" if info is None else jsontext.dumps(info).encode()
        return Publish(name, Envelope(kind, data, sender, facts).pack(), self.history_of(name))

    def publish(self, batch: Sequence[Publish]) -> list[Position | None]:
        """Send what was prepared, all of it or nothing.

        Raises:
            GroupsUnavailable, UnknownOutcome: As in ``send()``.

        """
        return self._backend.publish(batch)

    # --- members -----------------------------------------------------------------------------------------------------

    def join(
        self,
        name: str,
        ws: WebSocket,
        *,
        since: Position | str | None = None,
        wrap: Callable[[Publication], Sendable | PreparedMessage | None] | None = None,
        handler: Callable[[WebSocket, Publication], object] | None = None,
        on_gap: Callable[[WebSocket, str], object] | None = None,
        slow: str = "close",
        info: Any = None,
    ) -> Joined:
        """Make a connection a member of a group, until it ends or ``leave()`` is called. Accepts the handshake.

        A member gets messages also while its view waits or does something else, and after ``detach()``.

        Args:
            name: The group, or the group of its join and leave events (``presence_group()``).
            ws: The connection.
            since: The position that the peer has, or its text: what came after it is sent first.
            wrap: Makes what members get of a publication, once for all that have the same function; where it returns
                None they get nothing. Default: what was sent.
            handler: Is called with the connection and the publication instead, in a greenlet, one at a time for this
                connection. An exception is logged once and closes with 1011.
            on_gap: Is called with the connection and the name where messages were missed that cannot be had. It must
                not wait. Default: in a group with history the connection is closed with 1013, else nothing happens.
            slow: What happens to a peer that does not read: ``"close"`` closes with 1013; ``"skip"`` drops messages,
                in groups without history alone.
            info: What ``members()`` and the events show of it, in a group with presence: any JSON of 1,024 bytes at
                most. Members that are the same for others, e.g. two pages of a user, have the same.

        Returns:
            The position, and whether all since ``since`` was sent.

        Raises:
            GroupsUnavailable: The backend cannot be used now; the connection is no member.
            ConnectionClosed: The connection has ended.
            ValueError: It is a member already, or an argument is wrong.
            RuntimeError: The connection belongs to another thread of the operating system.

        """
        self._check_joinable(name)
        since = _position(since)
        if slow not in ("close", "skip"):
            raise ValueError(f"slow is {slow!r}: wanted is 'close' or 'skip'")
        if slow == "skip" and (self.history_of(name) is not None or handler is not None):
            raise ValueError("slow='skip' is for groups without history, and without a handler: nothing may be missing")
        if wrap is not None and handler is not None:
            raise ValueError("a member has either wrap or handler")
        if info is not None:
            self._check_presence(name)
        return self.attach(name, ws, Delivery(wrap, handler, on_gap, slow == "skip"), since, info=info)

    def attach(
        self,
        name: str,
        ws: WebSocket,
        delivery: Delivery,
        since: Position | None = None,
        greet: Greet | None = None,
        info: Any = None,
    ) -> Joined:
        """Make a connection a member, for protocols that are built upon groups (``centrifuge``); see ``Hub.join``."""
        encoded = encode_info(info)
        control.open_now(ws)
        joined = self._hub().join(name, ws, delivery, since, greet, encoded)
        self.follow()
        return joined

    def leave(self, name: str, ws: WebSocket) -> bool:
        """Let a connection be no member any more. Whether it was one.

        Raises:
            RuntimeError: The connection belongs to another thread of the operating system.

        """
        self._check_joinable(name)
        control.refuse_foreign(ws)
        return self._hub().leave(name, ws)

    def close(self, name: str, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connections of all members, in all processes, after what was sent to them before.

        Args:
            name: The group.
            code: The close code.
            reason: At most 123 bytes as UTF-8.

        Raises:
            GroupsUnavailable: None was closed.
            ValueError: A wrong name, a code that may not be sent, or a reason that is too long.

        """
        check_name(name)
        _check_close(code, reason)
        order = jsontext.dumps({"do": "close", "group": name, "code": int(code), "reason": reason}).encode()
        self._backend.publish([Publish(CONTROL_GROUP, Envelope(CONTROL, order).pack(), None)])

    def count(self, name: str) -> int:
        """How many members a group has, in all processes.

        Raises:
            GroupsUnavailable: It cannot be read now.

        """
        self._check_joinable(name)
        deadline = self._flush()
        return sum(map(int, self._backend.get(COUNTS, name, deadline - time.monotonic())))

    def members(self, name: str, limit: int = 1000) -> list[Member]:
        """The members of a group with presence, in all processes, in no order.

        Where the events of the group come to this process, because a connection has joined them here or something
        listens to them, who was not reported as left is still a member. So a page that gets the events first, and
        then the members, misses none: one that loads again meanwhile is no event.

        Args:
            name: The group.
            limit: How many at most; 1 or more. ``count()`` says how many there are.

        Raises:
            GroupsUnavailable: They cannot be read now.
            ValueError: The group has no presence, or an argument is wrong.

        """
        check_name(name)
        self._check_presence(name)
        if limit < 1:
            raise ValueError(f"the limit is a number above 0, not {limit!r}")
        deadline = self._flush()
        found = self._backend.records(table_of(name), limit, deadline - time.monotonic())
        members = [Change(record.field, record.value.decode()) for record in found]
        hub = hub_if_any(self)
        if hub is not None:
            members = with_those(members, hub.present(name))[:limit]
        return [Member(change.connection, jsontext.loads(change.info)) for change in members]

    def _flush(self) -> float:
        """Let the backend have what this process knows of its members. Until when the caller may use the backend."""
        deadline = time.monotonic() + TIMEOUT
        hub = hub_if_any(self)
        if hub is not None:
            hub.records.flush(deadline)
        return deadline

    def _check_joinable(self, name: str) -> None:
        """A name that can be joined: of a group, or of the events of one."""
        watched = group_of_events(name)
        check_name(name if watched is None else watched)
        if watched is not None:
            presence = self.presence_of(watched)
            if presence is None or not presence.events:
                raise ValueError(
                    f"group {watched!r} has no events of its members: wanted is "
                    f"Groups(presence={{{prefix_of(watched)!r}: Presence(events=True)}})"
                )

    def _check_presence(self, name: str) -> None:
        if self.presence_of(name) is None:
            raise ValueError(
                f"group {name!r} has no presence: wanted is Groups(presence={{{prefix_of(name)!r}: Presence()}})"
            )

    # --- what was sent -----------------------------------------------------------------------------------------------

    def history(self, name: str, *, since: Position | str | None = None, limit: int = 100) -> list[Publication]:
        """What a group keeps, the oldest first.

        Args:
            name: The group.
            since: The first ones after this position; if None, the latest ones.
            limit: How many at most; 1 or more.

        Returns:
            Publications; none in a group without history.

        Raises:
            LookupError: What came after ``since`` is no longer kept.
            GroupsUnavailable: It cannot be read now.
            ValueError: A wrong argument.

        """
        check_name(name)
        if limit < 1:
            raise ValueError(f"the limit is a number above 0, not {limit!r}")
        since = _position(since)
        kept = self.history_of(name)
        if kept is None:
            return []
        [page] = self._backend.read([Want(name, kept, None if since is None else since.offset, limit)])
        entries: list[Entry] = list(page.entries)
        if since is not None:
            first = entries[0].offset if entries else page.top + 1
            if since.epoch != page.epoch or since.offset > page.top or first != since.offset + 1:
                raise LookupError(f"group {name!r} no longer keeps what came after {since}")
        return [Publication(entry, Envelope.unpack(entry.payload)) for entry in entries]

    def position(self, name: str) -> Position | None:
        """The position after the latest message; None in a group without history.

        Raises:
            GroupsUnavailable: It cannot be read now.

        """
        check_name(name)
        kept = self.history_of(name)
        if kept is None:
            return None
        [page] = self._backend.read([Want(name, kept, None, 0)])
        return Position(page.epoch, page.top)

    def listen(
        self, name: str, *, since: Position | str | None = None, timeout: float | None = None
    ) -> Iterator[Publication]:
        """Iterate over what is published, without a WebSocket: for server-sent events, commands and tests.

        The subscription is there when this returns. What follows waits, with gevent where that runs in this thread.

        Args:
            name: The group, or the group of its join and leave events (``presence_group()``).
            since: Begin after this position.
            timeout: Seconds without a message after which the iteration ends; None for no limit.

        Raises:
            LookupError: Messages were missed, and are no longer kept; at the call for ``since``, else in the iteration.
            GroupsUnavailable: The backend cannot be used now.

        """
        self._check_joinable(name)
        since = _position(since)
        return Listener(self._hub(), name, since, timeout)

    def history_of(self, name: str) -> History | None:
        """What a group keeps; None for nothing."""
        return _kept(self._history, name)

    def presence_of(self, name: str) -> Presence | None:
        """What is visible of the members of a group; None for nothing but their number."""
        return self._presence.get(prefix_of(name))

    # --- all workers -------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Let the connections of this process be seen and closed by others: it becomes a worker of the site. The first
        ``join()`` does this, and in Django the first WebSocket.
        """
        if not self._is_alone:
            self.orders.follow()

    def survey(
        self,
        *,
        user: str | None = None,
        path: str | None = None,
        worker: str | None = None,
        group: str | None = None,
        limit: int = 1000,
        timeout: float = 1.0,
    ) -> Survey:
        """Ask all workers for their connections. Works in any process.

        A process is a worker from its first ``join()`` on, in Django from its first WebSocket on.

        Args:
            user: Those of this user alone: the primary key as text.
            path: Those whose path begins with this.
            worker: Those of the worker with this name, ``"host:pid"``.
            group: The members of this group.
            limit: How many at most, the ones that were opened first; 0 for the workers alone.
            timeout: Seconds that this takes at most, whatever the backend does.

        Returns:
            What the workers have answered in time, and which have not.

        Raises:
            GroupsUnavailable: They cannot be asked now, or not in this time.
            ValueError: The limit is negative, or the time is not above 0.

        """
        if limit < 0 or timeout <= 0:
            raise ValueError(f"limit is {limit!r} and timeout is {timeout!r}: wanted are 0 or more, and above 0")
        question = Question.new(user, path, worker, group, limit=limit, seconds=timeout)
        if self._is_alone:
            return summary(self._find(question), limit)

        def give(seconds: float) -> None:
            self.orders.publish({"do": "survey", "question": question}, live=True, timeout=seconds)

        return ask(self._backend, question, give, lambda: self._find(question), self.orders.worker.id)

    def connections(
        self,
        *,
        user: str | None = None,
        path: str | None = None,
        worker: str | None = None,
        group: str | None = None,
        limit: int = 1000,
        timeout: float = 1.0,
    ) -> list[ConnectionInfo]:
        """The connections of all workers that have answered in time: those of ``survey()``, with its arguments.

        Raises:
            GroupsUnavailable, ValueError: As in ``survey()``.

        """
        found = self.survey(user=user, path=path, worker=worker, group=group, limit=limit, timeout=timeout)
        return found.connections

    def workers(self, timeout: float = 1.0) -> list[WorkerInfo]:
        """The workers that have answered in time.

        Args:
            timeout: Seconds to wait for the answers.

        Raises:
            GroupsUnavailable, ValueError: As in ``survey()``.

        """
        return self.survey(limit=0, timeout=timeout).workers

    def close_connection(self, id: str, code: int = CloseCode.POLICY_VIOLATION, reason: str = "") -> None:  # noqa: A002
        """Close a connection, in whichever worker it is. One that does not exist any more makes no difference.

        Args:
            id: Its ``ConnectionInfo.id``.
            code: The close code.
            reason: At most 123 bytes as UTF-8.

        Raises:
            GroupsUnavailable: It was not closed.
            UnknownOutcome: It is closed or not, which is not known.
            ValueError: A code that may not be sent, or a reason that is too long.

        """
        self.close_connections([id], code, reason)

    def close_connections(self, ids: Collection[str], code: int = CloseCode.POLICY_VIOLATION, reason: str = "") -> None:
        """Close several connections, with few orders; see ``close_connection()``."""
        _check_close(code, reason)
        others = [each for each in ids if not _close_here(each, code, reason)]
        for start in range(0, 0 if self._is_alone else len(others), AT_ONCE):
            some = others[start : start + AT_ONCE]
            self.orders.publish({"do": "close", "ids": some, "code": int(code), "reason": reason})

    def send_to(self, id: str, message: Any) -> None:  # noqa: A002
        """Send a message to one connection, in whichever worker it is; at most once, and for tests rather than for what
        matters. Whether it exists is not known.

        Args:
            id: Its ``ConnectionInfo.id``.
            message: As for ``send()``. It is sent as it is, whatever protocol the peer speaks.

        Raises:
            GroupsUnavailable: It was not sent.
            UnknownOutcome: It was sent or not, which is not known.
            TypeError: The message has no JSON.
            ValueError: It cannot be sent.

        """
        kind, data = encode(message)
        order = {"do": "send", "id": id, "kind": kind, "data": data.decode("latin-1")}
        if not _send_here(order) and not self._is_alone:
            self.orders.publish(order, live=True)

    def _find(self, question: Question) -> Iterable[Found]:
        """What a survey is to have of this process: nothing where it is no worker."""
        worker = self.orders.worker
        if not (self._is_alone or self.orders.are_followed):
            return ()
        hub = hub_if_any(self)
        if hub is None:
            return find(worker, question, lambda ws: (), 0)
        return find(worker, question, hub.groups_of, len(hub.sizes()))

    def _publish_order(self, group: str, order: dict[str, Any], timeout: float) -> None:
        envelope = Envelope(JSON, jsontext.dumps(order).encode())
        self._backend.publish([Publish(group, envelope.pack(), self.history_of(group))], timeout)

    def _carry_out(self, order: dict[str, Any]) -> bool:
        """What another process has ordered. Whether it is one of these. Runs in a greenlet."""
        match order:
            case {"do": "survey", "question": [*fields]}:
                question = Question(*fields)
                answer(self._backend, self.orders.worker, question, self._find(question))
            case {"do": "close", "ids": [*ids], "code": code, "reason": reason}:
                for number in ids:
                    _close_here(number, code, reason)
            case {"do": "send"}:
                _send_here(order)
            case _:
                return False
        return True

    # --- numbers that processes add up, for the setting ``site_limits`` -----------------------------------------------

    def exchange_number(self, name: str, number: int) -> int:
        """Set a number of this process, and add up those of all processes, in one step.

        Raises:
            GroupsUnavailable: It was not set, or that is not known.

        """
        return sum(map(int, self._backend.exchange(NUMBERS, name, _digits(number))))

    def put_numbers(self, numbers: Mapping[str, int]) -> None:
        """Set numbers of this process, by name. They end with the process.

        Raises:
            GroupsUnavailable: They were not set, or that is not known.

        """
        self._backend.put(NUMBERS, {name: _digits(number) for name, number in numbers.items()})

    # --- the rest ----------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Release files and sockets of this process. What is called later opens them again.

        Connections are members no more, and iterations end.
        """
        self.orders.release()
        hub = hub_if_any(self)
        if hub is not None:
            hub.release()
        self._backend.close()

    def _hub(self) -> Hub:
        history, presence = self._history, self._presence  # and not self, which the table of hubs does not keep
        return hub_of(
            self, self._backend, lambda name: _kept(history, name), lambda name: presence.get(prefix_of(name))
        )


def _by_prefix(what: str, given: Mapping[str, T] | None, kind: type[T]) -> dict[str, T]:
    """What an argument says of the groups of each prefix.

    Raises:
        TypeError, ValueError: It has something else, or a wrong name.

    """
    found = dict(given or {})
    for key, value in found.items():
        check_name(key)
        if "." in key or not isinstance(value, kind):
            raise ValueError(
                f"{what} has {key!r}: {value!r}; wanted is what precedes the first dot of names, and a {kind.__name__}"
            )
        if key == RESERVED_PREFIX:
            raise ValueError(f"{what} has {key!r}, which begins the names of this package")
    return found


def _kept(history: Mapping[str, History], name: str) -> History | None:
    """What a group keeps."""
    return KEPT if name == ORDERS else history.get(prefix_of(name))


def _check_close(code: int, reason: str) -> None:
    if not may_travel(code):
        raise ValueError(f"{code} is no close code that may be sent")
    if len(reason.encode()) > 123:
        raise ValueError(f"the reason has {len(reason.encode())} bytes, and 123 is the most")


def _close_here(number: str, code: int, reason: str) -> bool:
    """Close a connection, if it is one of this process. Whether it is."""
    ws = control.find(number)
    if ws is not None:
        ws.close(code, reason)
    return ws is not None


def _send_here(order: Mapping[str, Any]) -> bool:
    """Send a message to a connection, if it is one of this process. Whether it is."""
    ws = control.find(order["id"])
    if ws is not None:
        data = order["data"].encode("latin-1")
        ws.offer(data if order["kind"] == BINARY else data.decode())
    return ws is not None


def _digits(number: int) -> bytes | None:
    """The value of a number in a table; none for 0, so that the table has no more than there is."""
    return b"%d" % number if number else None


def _position(since: Position | str | None) -> Position | None:
    """The argument ``since`` of several methods."""
    if since is None or isinstance(since, Position):
        return since
    return Position.parse(since)


def _backend(url: str, project: str | Path | None, prefix: str) -> Backend:
    """The backend of a URL."""
    scheme, _, path = url.partition("://")
    if url == "auto" or scheme == "sqlite":
        return SqliteBackend(path or None, project=Path(project or os.getcwd()))
    if url == "memory://":
        return MemoryBackend()
    if scheme in ("redis", "rediss", "redis+sentinel", "valkey", "valkeys", "unix"):
        return RedisBackend(url, prefix=prefix)
    raise ValueError(
        f"{url!r} is no backend of groups: wanted is 'auto', 'sqlite:///directory', 'memory://', or a URL of Redis"
    )
