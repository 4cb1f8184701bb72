"""The groups of the project: the functions of ``gws_middleware.groups.Groups``, for the setting ``groups``.

::

    from gws_middleware.django import groups

    with transaction.atomic():
        order.ship()
        groups.send(f"order.{order.pk}", {"state": "shipped"})

Rule: a message is sent when the transactions that are open at the call have been committed, and never if one of them
is rolled back. It is checked and copied at the call, and the order of the calls is kept. Without a transaction it is
sent at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from hashlib import sha256
from typing import Any

from ..codes import CloseCode
from ..connection.websocket import WebSocket
from ..groups.hub import Joined
from ..groups.message import Publication, check_name
from ..groups.position import Position
from ..groups.presence import Member, presence_group
from ..groups.survey import ConnectionInfo, Survey, WorkerInfo
from ..protocol.connection import PreparedMessage
from ..typing import Sendable
from . import commits, users
from .instance import get_groups

__all__ = [
    "asend",
    "close",
    "close_connection",
    "close_connections",
    "connections",
    "count",
    "get_groups",
    "history",
    "join",
    "leave",
    "listen",
    "members",
    "position",
    "presence_group",
    "send",
    "send_many",
    "send_to",
    "survey",
    "user_group",
    "workers",
]

MAX_NAME = 200
"""Characters of the name of a group."""


# --- names ----------------------------------------------------------------------------------------------------------


def user_group(user: Any) -> str:
    """The name of the group of a user: ``user.`` and the primary key.

    Characters that a name cannot have become ``:`` and two hexadecimal digits for each byte of UTF-8, as ``%`` does in
    a URL. In place of a key that is too long stands its SHA-256. So each key has a name of its own.

    Args:
        user: A stored user, or a primary key, also as text.

    Returns:
        The name, e.g. ``"user.7"``.

    Raises:
        ValueError: The user is anonymous or not stored, or it is neither a user nor a primary key.

    """
    key = users.primary_key(user)
    if key is None:
        raise ValueError(f"{user!r} is anonymous, and has no group: wanted is a user that is stored, or a primary key")
    name = "user." + re.sub(r"[^A-Za-z0-9_.@-]", _escaped, str(key))
    return name if len(name) <= MAX_NAME else f"user.::{sha256(name.encode()).hexdigest()}"


def _escaped(match: re.Match[str]) -> str:
    return "".join(f":{byte:02x}" for byte in match[0].encode())


# --- sending ----------------------------------------------------------------------------------------------------------


def send(
    name: str,
    message: Any,
    *,
    exclude: WebSocket | None = None,
    info: Any = None,
    on_commit: bool = True,
    using: str | None = None,
) -> Position | None:
    """Send a message to all members of a group, in all processes, when the open transactions are committed.

    Args:
        name: The group: 1 to 200 of the characters ``A-Z a-z 0-9 _ . : @ -``.
        message: ``str`` is sent as text, bytes are sent as binary, anything else as JSON.
        exclude: A connection that gets no copy.
        info: Facts about the sender, which become JSON: ``Publication.info``.
        on_commit: Whether it waits for the commit, and is dropped by a rollback. False: it is sent now.
        using: The database whose transaction counts. Default: every database that is in a transaction at the call; the
            message is sent when the last of them is committed.

    Returns:
        The position after the message, if it was sent now and the group has a history; else None.

    Raises:
        GroupsUnavailable: It was not sent. After a commit this is logged, and not raised.
        UnknownOutcome: It was sent or not, which is not known. The same.
        TypeError: The message has no JSON, or the name is not a ``str``.
        ValueError: The name, or the message, cannot be sent.
        TransactionManagementError: Autocommit is off, so the commit cannot be known.

    """
    groups = get_groups()
    databases = commits.transactions(using) if on_commit else []
    batch = [groups.prepare(name, message, exclude=exclude, info=info)]
    if not databases:
        return groups.publish(batch)[0]
    commits.call_after(databases, partial(groups.publish, batch), f"a message for {name}")
    return None


def send_many(
    messages: Iterable[tuple[str, Any]], *, on_commit: bool = True, using: str | None = None
) -> list[Position | None]:
    """Send several messages at once, all of them or none.

    Args:
        messages: Names of groups and messages.
        on_commit: As for ``send()``.
        using: As for ``send()``.

    Returns:
        The position of each, as ``send()`` returns it.

    Raises:
        GroupsUnavailable: None was sent. The others as in ``send()``.

    """
    groups = get_groups()
    databases = commits.transactions(using) if on_commit else []
    batch = [groups.prepare(name, message) for name, message in messages]
    if not databases:
        return groups.publish(batch)
    names = ", ".join(dict.fromkeys(each.group for each in batch))
    commits.call_after(databases, partial(groups.publish, batch), f"messages for {names}")
    return [None] * len(batch)


async def asend(name: str, message: Any, *, exclude: WebSocket | None = None, info: Any = None) -> Position | None:
    """Send from a coroutine, at once.

    A coroutine is in no transaction: Django has transactions only in the threads of ``sync_to_async``. Call ``send()``
    there, beside the queries.

    Args:
        name: As for ``send()``.
        message: As for ``send()``.
        exclude: As for ``send()``.
        info: As for ``send()``.

    Returns:
        The position after the message; None in a group without history.

    Raises:
        GroupsUnavailable: It was not sent. The others as in ``send()``.

    """
    return await get_groups().asend(name, message, exclude=exclude, info=info)


def close(
    name: str,
    code: int = CloseCode.NORMAL,
    reason: str = "",
    *,
    on_commit: bool = True,
    using: str | None = None,
) -> None:
    """Close the connections of all members, in all processes, after what was sent to them before.

    Args:
        name: The group.
        code: The close code. Default: 1000.
        reason: At most 123 bytes as UTF-8.
        on_commit: As for ``send()``.
        using: As for ``send()``.

    Raises:
        GroupsUnavailable: None was closed. After a commit this is logged, and not raised.
        ValueError: A wrong name, a code that may not be sent, or a reason that is too long.
        TransactionManagementError: Autocommit is off, so the commit cannot be known.

    """
    groups = get_groups()
    databases = commits.transactions(using) if on_commit else []
    if not databases:
        groups.close(name, code, reason)
        return
    check_name(name)
    users.check_close(code, reason)
    commits.call_after(databases, partial(groups.close, name, code, reason), f"the order to close {name}")


# --- members ----------------------------------------------------------------------------------------------------------


def join(
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

    A member gets messages also while its view waits or does something else, and after ``detach()``. A ``handler`` may
    use the ORM; its database connections are closed after each run.

    Args:
        name: The group, or the group of its join and leave events (``presence_group()``).
        ws: The connection: ``request.websocket``.
        since: The position that the peer has, or its text: what came after it is sent first.
        wrap: Makes what members get of a publication, once for all that have the same function; where it returns None
            they get nothing. It must not query: its database connection would stay open. Default: what was sent.
        handler: Is called with the connection and the publication instead, in a greenlet, one at a time for this
            connection. An exception is logged once and closes with 1011.
        on_gap: Is called with the connection and the name where messages were missed that cannot be had. It must not
            wait. Default: in a group with history the connection is closed with 1013, else nothing happens.
        slow: What happens to a peer that does not read: ``"close"`` closes with 1013; ``"skip"`` drops messages, in
            groups without history alone.
        info: What ``members()`` and the events show of it, in a group with presence: any JSON of 1,024 bytes at most.
            Members that are the same for others, e.g. two pages of a user, have the same.

    Returns:
        The position, and whether all since ``since`` was sent.

    Raises:
        GroupsUnavailable: The backend cannot be used now; the connection is no member.
        ConnectionClosed: The connection has ended.
        ValueError: It is a member already, or an argument is wrong.
        RuntimeError: The connection belongs to another thread of the operating system.
        TransactionManagementError: The handshake cannot be accepted inside ``transaction.atomic()``.

    """
    return get_groups().join(name, ws, since=since, wrap=wrap, handler=handler, on_gap=on_gap, slow=slow, info=info)


def leave(name: str, ws: WebSocket) -> bool:
    """Let a connection be no member any more.

    Args:
        name: The group.
        ws: The connection.

    Returns:
        Whether it was one.

    """
    return get_groups().leave(name, ws)


def count(name: str) -> int:
    """How many members a group has, in all processes.

    Args:
        name: The group.

    Raises:
        GroupsUnavailable: It cannot be read now.

    """
    return get_groups().count(name)


def members(name: str, limit: int = 1000) -> list[Member]:
    """The members of a group with presence, in all processes, in no order.

    Args:
        name: The group.
        limit: How many at most; 1 or more. ``count()`` says how many there are.

    Raises:
        GroupsUnavailable: They cannot be read now.
        ValueError: The group has no presence, or an argument is wrong.

    """
    return get_groups().members(name, limit)


# --- what was sent ----------------------------------------------------------------------------------------------------


def history(name: str, *, since: Position | str | None = None, limit: int = 100) -> list[Publication]:
    """What a group keeps, the oldest first.

    Args:
        name: The group.
        since: The first ones after this position; if None, the latest ones.
        limit: How many at most.

    Returns:
        Publications; none in a group without history.

    Raises:
        LookupError: What came after ``since`` is no longer kept.
        GroupsUnavailable: It cannot be read now.

    """
    return get_groups().history(name, since=since, limit=limit)


def position(name: str) -> Position | None:
    """The position after the latest message.

    Args:
        name: The group.

    Returns:
        The position; None in a group without history.

    Raises:
        GroupsUnavailable: It cannot be read now.

    """
    return get_groups().position(name)


def listen(name: str, *, since: Position | str | None = None, timeout: float | None = None) -> Iterator[Publication]:
    """Iterate over what is published, without a WebSocket: for server-sent events, commands and tests.

    The subscription is there when this returns. What follows waits, with gevent where that runs in this thread.

    Args:
        name: The group, or the group of its join and leave events (``presence_group()``).
        since: Begin after this position.
        timeout: Seconds without a message after which the iteration ends; None for no limit.

    Returns:
        An iterator, which ends with its last reference.

    Raises:
        LookupError: Messages were missed, and are no longer kept; at the call for ``since``, else in the iteration.
        GroupsUnavailable: The backend cannot be used now.

    """
    return get_groups().listen(name, since=since, timeout=timeout)


# --- all workers ------------------------------------------------------------------------------------------------------


def survey(
    *,
    user: Any = None,
    path: str | None = None,
    worker: str | None = None,
    group: str | None = None,
    limit: int = 1000,
    timeout: float = 1.0,
) -> Survey:
    """Ask all workers for their connections. Works in any process, also in a command.

    A process is a worker from its first WebSocket on. A user is shown as far as a view, a decorator or a middleware has
    read ``request.user``, or the session; no worker makes a query for it.

    Args:
        user: Those of this user alone: a stored user, or a primary key, also as text.
        path: Those whose path begins with this.
        worker: Those of the worker with this name, ``"host:pid"``.
        group: The members of this group.
        limit: How many at most, the ones that were opened first; 0 for the workers alone.
        timeout: Seconds that this takes at most, whatever the backend does.

    Returns:
        What the workers have answered in time, and which have not.

    Raises:
        GroupsUnavailable: They cannot be asked now, or not in this time.
        ValueError: The user is anonymous, not stored, or neither a user nor a primary key; or a wrong number.

    """
    key = None if user is None else _key_of(user)
    return get_groups().survey(user=key, path=path, worker=worker, group=group, limit=limit, timeout=timeout)


def _key_of(user: Any) -> str:
    key = users.primary_key(user)
    if key is None:
        raise ValueError(f"{user!r} is anonymous: wanted is a user that is stored, or a primary key")
    return str(key)


def connections(
    *,
    user: Any = None,
    path: str | None = None,
    worker: str | None = None,
    group: str | None = None,
    limit: int = 1000,
    timeout: float = 1.0,
) -> list[ConnectionInfo]:
    """The connections of all workers that have answered in time: those of ``survey()``.

    Args:
        user: As for ``survey()``.
        path: As for ``survey()``.
        worker: As for ``survey()``.
        group: As for ``survey()``.
        limit: As for ``survey()``.
        timeout: As for ``survey()``.

    Raises:
        GroupsUnavailable, ValueError: As in ``survey()``.

    """
    found = survey(user=user, path=path, worker=worker, group=group, limit=limit, timeout=timeout)
    return found.connections


def workers(timeout: float = 1.0) -> list[WorkerInfo]:
    """The workers that have answered in time.

    Args:
        timeout: Seconds to wait for the answers.

    Raises:
        GroupsUnavailable, ValueError: As in ``survey()``.

    """
    return get_groups().workers(timeout)


def close_connection(id: str, code: int = CloseCode.POLICY_VIOLATION, reason: str = "") -> None:  # noqa: A002
    """Close a connection, in whichever worker it is, now: no commit is waited for. One that does not exist any more
    makes no difference.

    Args:
        id: Its ``ConnectionInfo.id``.
        code: The close code. Default: 1008.
        reason: At most 123 bytes as UTF-8.

    Raises:
        GroupsUnavailable: It was not closed.
        UnknownOutcome: It is closed or not, which is not known.
        ValueError: A code that may not be sent, or a reason that is too long.

    """
    get_groups().close_connection(id, code, reason)


def close_connections(ids: Collection[str], code: int = CloseCode.POLICY_VIOLATION, reason: str = "") -> None:
    """Close several connections, in whichever workers they are.

    Args:
        ids: Their ``ConnectionInfo.id``.
        code: As for ``close_connection()``.
        reason: As for ``close_connection()``.

    Raises:
        GroupsUnavailable, UnknownOutcome: Some of them are closed or not.
        ValueError: As in ``close_connection()``.

    """
    get_groups().close_connections(ids, code, reason)


def send_to(id: str, message: Any) -> None:  # noqa: A002
    """Send a message to one connection, in whichever worker it is, now; at most once. Whether it exists is not known.

    Args:
        id: Its ``ConnectionInfo.id``.
        message: As for ``send()``. It is sent as it is, whatever protocol the peer speaks.

    Raises:
        GroupsUnavailable: It was not sent.
        UnknownOutcome: It was sent or not, which is not known.
        TypeError: The message has no JSON.
        ValueError: It cannot be sent.

    """
    get_groups().send_to(id, message)
