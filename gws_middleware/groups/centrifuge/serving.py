"""Serves a client of Centrifuge's protocol: carries its commands out with groups.

Rule 1: a connection that waits holds no greenlet. One exists while commands are carried out, in their order.
Rule 2: the reply to subscribe leaves before any publication of its channel, and has in it what was recovered.
Rule 3: what a policy raises is an error reply; it does not end the connection.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gevent
from gevent import get_hub

from ...connection import control, jsontext
from ...connection.websocket import WebSocket
from ...exceptions import ConnectionClosed
from ...typing import Message
from ..client import Groups
from ..errors import GroupsError
from ..hub import Joined
from ..members import Delivery
from ..message import Publication
from ..position import Position
from ..presence import group_of_events, presence_group
from .protocol import (
    ERRORS,
    MAX_CHANNELS,
    PING_INTERVAL,
    Command,
    Connect,
    History,
    Presence,
    PresenceStats,
    Publish,
    Rpc,
    Session,
    Subscribe,
    Unsubscribe,
    events_push,
    history_result,
    method_of,
    presence_result,
    presence_stats_result,
    publication_push,
    rpc_result,
    subscribe_result,
)

__all__ = ["CentrifugeError", "Policy", "serve"]

log = logging.getLogger("gws_middleware.groups")

MAX_HISTORY = 300
"""Publications in one reply: what Centrifugo has. A client asks for more with ``since``."""
MAX_PRESENCE = 1000
"""Clients in one reply to presence."""
MAX_COUNTED = 10_000
"""Clients that are read to count their users."""
_ATTRIBUTE = "_centrifuge"
"""Of a WebSocket: its ``_Connection``."""


class CentrifugeError(Exception):
    """Raised in a method of a policy: the command is answered with this error.

    Args:
        code: 400 to 1999, or one of the protocol: 100 (internal server error; the client tries again), 101
            (unauthorized), 102 (unknown channel), 103 (permission denied), 104 (method not found), 106 (limit
            exceeded), 107 (bad request), 108 (not available), 111 (too many requests; the client tries again).
        message: For the log of the client. Default: the protocol's text.

    Raises:
        ValueError: Another code.

    """

    def __init__(self, code: int, message: str = "") -> None:
        if type(code) is not int or (code not in ERRORS and not 400 <= code <= 1999):
            raise ValueError(f"an error of the application has a code of 400 to 1999, and {code!r} is none")
        self.code, self.message = code, message or ERRORS.get(code, "")

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Policy:
    """What clients may do. A subclass allows what it wants; one object may serve all connections.

    A method may close the connection. After 3500 to 3999 or 4500 to 4999, with a reason that is not empty, the client
    does not connect again; after other codes it does.

    The methods are ordinary code, which may wait. They run one at a time for each connection, in the order of its
    commands. Each of them may raise ``CentrifugeError``. Any other exception is logged and answered with error 100.
    """

    def connected(self, ws: WebSocket) -> None:
        """A client wants to connect. Called before the handshake is answered.

        Raises:
            CentrifugeError: The handshake is accepted, and the client gets this error, after which it does not connect
                again; after a refused handshake it would try for ever.

        """

    def disconnected(self, ws: WebSocket) -> None:
        """The connection has ended. Called once for each that ``connected()`` has allowed."""

    def info(self, ws: WebSocket) -> Mapping[str, Any]:
        """Facts about the client, which others get with what it publishes. Called once, after ``connected()``.

        Returns:
            ``"user"``, a ``str``, and if wanted ``"conn_info"``, which is any JSON. Default: an empty user. In a group
            with presence it has 1,024 bytes at most.

        """
        return {"user": ""}

    def may_join(self, ws: WebSocket, name: str) -> bool:
        """Whether the client may subscribe to a channel, and read its history. Default: no."""
        return False

    def may_publish(self, ws: WebSocket, name: str, data: Any) -> bool:
        """Whether the client may publish this in a channel, in which it need not be. Default: no.

        Args:
            ws: The connection.
            name: The channel, which is the group.
            data: The value of any JSON.

        """
        return False

    def may_see_members(self, ws: WebSocket, name: str) -> bool:
        """Whether the client may read which clients are in a channel that it is in, and get an event when one joins or
        leaves. The group must have presence. Default: no.
        """
        return False

    def rpc(self, ws: WebSocket, method: str, data: Any) -> Any:
        """Call a method of the application. Default: error 104.

        Args:
            ws: The connection.
            method: Its name, as the client has it.
            data: The value of any JSON; None for none.

        Returns:
            What the client gets; it must have JSON.

        """
        raise CentrifugeError(104)


def serve(
    ws: WebSocket, groups: Groups, policy: Policy, *, ping: int = PING_INTERVAL, max_channels: int = MAX_CHANNELS
) -> None:
    """Serve a client of Centrifuge's protocol, until its connection ends. Accepts the handshake and returns at once.

    A channel of the protocol is a group of the same name.

    Args:
        ws: The connection. It is detached; nothing else may be sent on it.
        groups: What its channels belong to.
        policy: What the client may do.
        ping: Seconds between two pings, 1 or more. A client that does not answer one is closed with 3012. Default: 25.
        max_channels: Channels that the client may be in at the same time. Default: 128.

    Raises:
        ConnectionClosed: The peer has disconnected already.

    """
    connection = _Connection(ws, groups, policy, Session(control.id_of(ws), ping=ping, max_channels=max_channels))
    connection.start(ping)


def _missed(ws: WebSocket, name: str) -> None:
    """Publications were missed, and cannot be had. Without history the client could do nothing about it."""
    connection: _Connection | None = ws.__dict__.get(_ATTRIBUTE)
    if connection is not None:
        connection.missed(name)


def _wrap(publication: Publication) -> str | None:
    push = publication_push(publication)
    if push is None:
        _warn_binary(publication.group)
    return push


@lru_cache(maxsize=1000)
def _warn_binary(name: str) -> None:
    """Logged once for each group."""
    log.warning("group %s has binary messages: clients of Centrifuge's JSON protocol do not get them", name)


def _wrap_events(publication: Publication) -> str:
    return events_push(str(group_of_events(publication.group)), publication.data)


_DELIVERY = Delivery(wrap=_wrap, on_gap=_missed)
"""One for all connections, so that they share the encoded frame of a publication."""
_DELIVERY_OF_EVENTS = Delivery(wrap=_wrap_events)


class _Connection:
    """One client: its session, and what it is in the application."""

    __slots__ = ("_groups", "_info", "_policy", "_received", "_refusal", "_session", "_timer", "_ws")

    def __init__(self, ws: WebSocket, groups: Groups, policy: Policy, session: Session) -> None:
        self._ws, self._groups, self._policy, self._session = ws, groups, policy, session
        self._info: dict[str, Any] = {}
        self._refusal: tuple[int, str] | None = None
        """Code and message; an exception would keep the frames in which it was raised."""
        self._timer: Any = None
        self._received = 0

    def start(self, ping: int) -> None:
        """Ask the policy, and serve."""
        ws = self._ws
        try:
            self._policy.connected(ws)
        except CentrifugeError as refusal:
            self._refusal = refusal.code, refusal.message
        try:
            if self._refusal is None:
                self._info = _checked_info(self._policy.info(ws), self._session.client)
            ws.__dict__[_ATTRIBUTE] = self
            ws.detach(self._message, self._ended)
        except BaseException:
            self._ended(ws)
            raise
        self._timer = get_hub().loop.timer(ping, ping)
        self._timer.start(self._ring)

    # --- the callbacks of the connection -----------------------------------------------------------------------------

    def _message(self, ws: WebSocket, message: Message) -> None:
        session = self._session
        session.receive(message)
        while (command := session.next_command()) is not None:
            self._answer(command)
        if text := session.take():
            ws.send(text)
        if session.closing is not None:
            ws.close(*session.closing)

    def _ended(self, ws: WebSocket) -> None:
        if self._timer is not None:
            self._timer.close()
        ws.__dict__.pop(_ATTRIBUTE, None)
        if self._refusal is None:
            self._policy.disconnected(ws)

    def _ring(self) -> None:
        """Runs in the hub."""
        # Not at once: the loop calls timers before it reads what came while it was busy.
        get_hub().loop.run_callback(self._tick)

    def _tick(self) -> None:
        """Runs in the hub."""
        ws, session = self._ws, self._session
        received = ws.stats.messages_received
        text = session.tick(received=received != self._received)
        self._received = received
        if text:
            ws.offer(text)
        if session.closing is not None:
            ws.close(*session.closing)

    def missed(self, name: str) -> None:
        """Let the client subscribe again, with its position: then it learns what cannot be recovered."""
        if self._groups.history_of(name) is not None:
            self._end_subscription(name)

    def _end_subscription(self, name: str) -> None:
        """The client subscribes again."""
        if push := self._session.unsubscribe(name):
            self._leave(name)
            self._ws.offer(push)

    def _leave(self, name: str) -> None:
        self._groups.leave(name, self._ws)
        if self._has_events(name):
            self._groups.leave(presence_group(name), self._ws)

    def _has_events(self, name: str) -> bool:
        presence = self._groups.presence_of(name)
        return presence is not None and presence.events

    # --- commands ----------------------------------------------------------------------------------------------------

    def _answer(self, command: Command) -> None:
        """Carry a command out. Whatever the policy raises is an error for the client."""
        session = self._session
        try:
            result = self._carry_out(command)
        except CentrifugeError as error:
            session.refuse(command, error.code, error.message)
        except (Exception, gevent.Timeout) as error:
            if session.pending is not command or (isinstance(error, ConnectionClosed) and control.is_closed(self._ws)):
                raise
            what = method_of(command)
            if isinstance(error, GroupsError):
                log.warning("WebSocket %s: %s failed: %s", ascii(self._ws.path), what, error)
            else:
                log.error("WebSocket %s: %s failed; error 100 is sent", ascii(self._ws.path), what, exc_info=error)
            session.refuse(command, 100)
        else:
            if result is not None:
                session.reply(command, result)

    def _carry_out(self, command: Command) -> str | None:
        """The result of a command; None where it was sent."""
        ws, policy = self._ws, self._policy
        match command:
            case Connect():
                if self._refusal is not None:
                    raise CentrifugeError(*self._refusal)
            case Subscribe():
                self._subscribe(command)
                return None
            case Unsubscribe():
                self._leave(command.channel)
            case Publish():
                if not policy.may_publish(ws, command.channel, command.data):
                    raise CentrifugeError(103)
                try:
                    self._groups.send(command.channel, command.data, info=self._info)
                except ValueError as error:  # half of a surrogate pair, or too large
                    raise CentrifugeError(107, f"bad request: {error}") from None
            case History():
                return self._history(command)
            case Presence() | PresenceStats():
                return self._presence(command)
            case Rpc():
                return rpc_result(policy.rpc(ws, command.method, command.data))
        return "{}"

    def _subscribe(self, command: Subscribe) -> None:
        session, groups, ws, name = self._session, self._groups, self._ws, command.channel

        def greet(joined: Joined, publications: Sequence[Publication]) -> list[str]:
            if command.reject_unrecovered and command.since is not None and not joined.recovered:
                raise CentrifugeError(112)
            for publication in publications:
                if publication.kind == "binary":
                    _warn_binary(publication.group)
            session.reply(command, subscribe_result(command, joined.position, joined.recovered, publications))
            return [session.take()]

        if not self._policy.may_join(ws, name):
            raise CentrifugeError(103)
        if command.join_leave:
            if not self._policy.may_see_members(ws, name):
                raise CentrifugeError(103, "permission denied: join and leave")
            if not self._has_events(name):
                raise CentrifugeError(108, "not available: join and leave")
        groups.attach(name, ws, _DELIVERY, command.since, greet=greet, info=self._visible(name))
        if command.join_leave and name in session.channels:  # else publications were missed, and it has ended
            try:
                groups.attach(presence_group(name), ws, _DELIVERY_OF_EVENTS)
            except GroupsError as error:
                log.warning("WebSocket %s: subscribe failed: %s", ascii(ws.path), error)
                self._end_subscription(name)

    def _visible(self, name: str) -> Any:
        """What members of a group see of the client: the same for all pages of a user."""
        info = {key: value for key, value in self._info.items() if key != "client"}
        is_visible = self._groups.presence_of(name) is not None and info != {"user": ""}
        return info if is_visible else None

    def _presence(self, command: Presence | PresenceStats) -> str:
        groups, name = self._groups, command.channel
        if not self._policy.may_see_members(self._ws, name):
            raise CentrifugeError(103)
        if groups.presence_of(name) is None:
            raise CentrifugeError(108)
        if isinstance(command, Presence):
            return presence_result(groups.members(name, MAX_PRESENCE))
        members = groups.members(name, MAX_COUNTED)
        return presence_stats_result(groups.count(name) if len(members) == MAX_COUNTED else len(members), members)

    def _history(self, command: History) -> str:
        groups, name, since, limit = self._groups, command.channel, command.since, command.limit
        kept, position = groups.history_of(name), groups.position(name)
        if kept is None or position is None:
            raise CentrifugeError(108)
        if since is not None and since.epoch != position.epoch:
            raise CentrifugeError(112)
        if not 0 <= limit <= MAX_HISTORY:
            limit = MAX_HISTORY
        end = position.offset
        if command.reverse:
            if since is not None:
                end = min(end, since.offset - 1)
            begin = self._kept_from(name, position.epoch, max(0, end - limit), end)
            limit = end - begin
        elif since is not None:
            begin = since.offset
        else:
            begin = self._kept_from(name, position.epoch, max(0, end - kept.size), end)
        publications: list[Publication] = []
        if limit > 0:
            try:
                publications = groups.history(name, since=Position(position.epoch, begin), limit=limit)
            except LookupError:
                raise CentrifugeError(112) from None
        if command.reverse:
            publications.reverse()
        return history_result(position, publications)

    def _kept_from(self, name: str, epoch: str, low: int, high: int) -> int:
        """The first offset of ``low`` to ``high`` after which all is kept.

        By bisection, because a client must not make the server read a history of any size for one entry of it.
        """
        middle = low
        while low < high:
            try:
                self._groups.history(name, since=Position(epoch, middle), limit=1)
            except LookupError:
                low = middle + 1
            else:
                high = middle
            middle = (low + high) // 2
        return high


def _checked_info(info: Mapping[str, Any], client: str) -> dict[str, Any]:
    """What ``Policy.info()`` has returned, with the connection.

    Raises:
        TypeError: It is not what it is to be, or has no JSON.
        ValueError: It is, or has in it, NaN or an infinity.

    """
    if not isinstance(info, Mapping) or type(info.get("user")) is not str or not info.keys() <= {"user", "conn_info"}:
        raise TypeError(f"info() returned {info!r}: wanted is a mapping with 'user', a str, and 'conn_info', if any")
    jsontext.dumps(info.get("conn_info"))
    return {"client": client, **info}
