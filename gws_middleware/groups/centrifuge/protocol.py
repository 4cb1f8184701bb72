"""Centrifuge's JSON protocol, the server's half of one connection (github.com/centrifugal/protocol, client.proto).

Rule 1: nothing here waits or does I/O: no socket, clock, greenlet or environ. Rule 2: nothing that a peer sends raises.
It is a command for the caller, or an error reply, or a close. Rule 3: a command is answered before the next one is
read, so commands take effect in their order, and replies have it, too.

::

    session.receive(frame)
    while (command := session.next_command()) is not None:
        session.reply(command, result) or session.refuse(command, code)
    send(session.take()), and then close(*session.closing) unless that is None

What a command does, and ``tick()``, which the caller calls every ``ping`` seconds:

=========  =======  =======  =========  =========  ======  =======
state      connect  command  pong       malformed  quiet   busy
=========  =======  =======  =========  =========  ======  =======
NEW        taken    3501     3501       3501       3502    NEW
CONNECTED  3501     taken    3501       3501       PINGED  PINGED
PINGED     3501     taken    CONNECTED  3501       3012    PINGED
REFUSED    3501     3501     3501       3501       3502    REFUSED
CLOSED     CLOSED   CLOSED   CLOSED     CLOSED     CLOSED  CLOSED
=========  =======  =======  =========  =========  ======  =======

"command": any other than connect. "pong": ``{}``. "malformed": what is no command. "quiet": a tick, and nothing was
received since the last one; "busy": a tick after a message, or while a command has no answer. "taken": the caller gets
it; ``reply()`` to connect leads to CONNECTED, ``refuse()`` to REFUSED. A number: CLOSED with this code. A state: that
state, and nothing else, but for the ping ``{}`` that a tick sends on the way to PINGED. Where the tick was busy the
next ping is sent before the pong to the last one was read; PINGED ends with the last of the pongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from ...connection import jsontext
from ...typing import Message
from ..message import Publication, check_name
from ..position import Position
from ..presence import Member

__all__ = [
    "CLOSED",
    "CONNECTED",
    "ERRORS",
    "INSUFFICIENT_STATE",
    "MAX_CHANNELS",
    "MAX_COMMANDS",
    "MAX_DEPTH",
    "MAX_OFFSET",
    "NAMES",
    "NEW",
    "PING",
    "PINGED",
    "PING_INTERVAL",
    "REFUSED",
    "SERVER",
    "Close",
    "Command",
    "Connect",
    "History",
    "Presence",
    "PresenceStats",
    "Publish",
    "Rpc",
    "Session",
    "Subscribe",
    "Unsubscribe",
    "events_push",
    "history_result",
    "method_of",
    "presence_result",
    "presence_stats_result",
    "publication_push",
    "rpc_result",
    "subscribe_result",
]

NEW, CONNECTED, PINGED, REFUSED, CLOSED = range(5)
NAMES = ("NEW", "CONNECTED", "PINGED", "REFUSED", "CLOSED")

SERVER = "gws_middleware"
"""What the server calls itself in the reply to connect."""
PING_INTERVAL = 25
"""Seconds between two pings: what Centrifuge has."""
PING = "{}"
"""A ping is an empty reply, and a pong an empty command."""
MAX_CHANNELS = 128
"""Channels of one connection: what Centrifugo has."""
MAX_COMMANDS = 512
"""Commands in one frame. A client that has connected again sends all its subscriptions in one."""
MAX_OFFSET = 2**63 - 1
"""No backend counts further; the protocol could have twice as much."""
MAX_DEPTH = 100
"""Objects and arrays in each other. What is published is encoded again, in a deeper stack than that of the decoder."""

ERRORS = {
    100: "internal server error",
    101: "unauthorized",
    102: "unknown channel",
    103: "permission denied",
    104: "method not found",
    105: "already subscribed",
    106: "limit exceeded",
    107: "bad request",
    108: "not available",
    109: "token expired",
    111: "too many requests",
    112: "unrecoverable position",
}
"""The codes of error replies, and their texts. 400 to 1999 are for applications."""
_TEMPORARY = frozenset({100, 111})
"""Errors after which clients try again."""

BAD_REQUEST, STALE, NOT_AVAILABLE, NO_PONG = 3501, 3502, 3508, 3012
"""Close codes. Clients do not connect again after 3500 to 3999 and 4500 to 4999; after the others they do."""
INSUFFICIENT_STATE = 2500
"""The code of an unsubscribe push after which clients subscribe again, with their position."""

_UNSUPPORTED = ("ping", "refresh", "sub_refresh")
"""The commands that are not served."""
_REJECT_UNRECOVERED = 2
"""The flag of a subscription that is to fail with error 112 where it is not recovered."""


class Close(NamedTuple):
    """Why the connection is closed: code and reason of the close frame."""

    code: int
    reason: str


class Connect(NamedTuple):
    """The first command."""

    id: int


class Subscribe(NamedTuple):
    """Join a channel."""

    id: int
    channel: str
    since: Position | None
    """What the client has, and wants what follows it; None where it wants to recover nothing."""
    reject_unrecovered: bool
    """Whether error 112 is wanted where the subscription is not recovered."""
    join_leave: bool = False
    """Whether pushes of clients that join and leave are wanted."""


class Unsubscribe(NamedTuple):
    """Leave a channel, in which the client is."""

    id: int
    channel: str


class Publish(NamedTuple):
    """Send to a channel."""

    id: int
    channel: str
    data: Any
    """The value of any JSON."""


class History(NamedTuple):
    """Read the history of a channel, in which the client is."""

    id: int
    channel: str
    limit: int
    """Publications at most; 0 for the position alone, below 0 for all."""
    since: Position | None
    """The publications after it, or before it where ``reverse`` is set; None for all."""
    reverse: bool
    """Whether the latest comes first."""


class Presence(NamedTuple):
    """Read the clients of a channel, in which the client is."""

    id: int
    channel: str


class PresenceStats(NamedTuple):
    """Count them, and their users."""

    id: int
    channel: str


class Rpc(NamedTuple):
    """Call a method of the application."""

    id: int
    method: str
    data: Any
    """The value of any JSON; None where there was none."""


Command: TypeAlias = Connect | Subscribe | Unsubscribe | Publish | History | Presence | PresenceStats | Rpc
"""What the caller answers."""


def method_of(command: Command) -> str:
    """What the protocol calls a command, e.g. ``presence_stats``."""
    return re.sub("(?<!^)(?=[A-Z])", "_", type(command).__name__).lower()


class _ViolationError(Exception):
    """The peer does not follow the protocol. Closes the connection."""


class _RefusalError(Exception):
    """A command is answered with an error."""

    def __init__(self, code: int, message: str = "") -> None:
        self.code, self.message = code, message


class Session:
    """The state of one connection; the table is at the top of this module.

    Args:
        client: The identity of the connection. The client gets it in the reply to connect.
        ping: Seconds between two calls of ``tick()``, 1 or more. Default: 25.
        max_channels: Channels that the client may be in at the same time. Default: 128.

    """

    __slots__ = (
        "_lines",
        "_max_channels",
        "_out",
        "_ping",
        "_pings",
        "channels",
        "client",
        "closing",
        "pending",
        "state",
    )

    def __init__(self, client: str, *, ping: int = PING_INTERVAL, max_channels: int = MAX_CHANNELS) -> None:
        self.client = client
        self.state = NEW
        self.closing: Close | None = None
        """How the caller closes the connection; None while it stays open."""
        self.channels: set[str] = set()
        """The channels that the client is in."""
        self._ping, self._max_channels = ping, max_channels
        self._lines: list[str] = []
        """The next one is the last item."""
        self._out: list[str] = []
        self.pending: Command | None = None
        """The command that has no answer yet."""
        self._pings = 0

    # --- what the peer sends -----------------------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """A message of the peer: commands, separated by newlines."""
        if self.state == CLOSED:
            return
        if not isinstance(message, str):
            self._close(BAD_REQUEST, "bad request: a binary message, and this protocol is JSON")
            return
        lines = message.removesuffix("\n").split("\n")
        if len(lines) > MAX_COMMANDS:
            self._close(BAD_REQUEST, f"bad request: more than {MAX_COMMANDS} commands in a message")
            return
        self._lines = lines[::-1] + self._lines

    def next_command(self) -> Command | None:
        """The next command that the caller is to answer, or None where there is none.

        Raises:
            RuntimeError: The last command has no answer yet.

        """
        if self.pending is not None:
            raise RuntimeError(f"{self.pending!r} has no answer yet")
        while self._lines and self.state != CLOSED:
            self.pending = self._read(self._lines.pop())
            if self.pending is not None:
                return self.pending
        return None

    def tick(self, received: bool) -> str:
        """``ping`` seconds have passed since the last call, or since the connection was opened.

        Args:
            received: Whether the peer has sent anything meanwhile, which may not have been read yet.

        Returns:
            What is sent now; empty for nothing.

        """
        quiet = not received and self.pending is None
        if self.state in (NEW, REFUSED):
            if quiet:
                self._close(STALE, "stale")
        elif self.state == PINGED and quiet:
            self._close(NO_PONG, "no pong")
        elif self.state != CLOSED:
            self.state = PINGED
            self._pings += 1
            return PING
        return ""

    # --- what the caller answers -------------------------------------------------------------------------------------

    def reply(self, command: Command, result: str = "{}") -> None:
        """Answer a command.

        Args:
            command: The one of ``next_command()``.
            result: JSON; not used for connect.

        Raises:
            RuntimeError: It was answered already, or it is another one.

        """
        self._answered(command)
        if isinstance(command, Connect):
            self.state = CONNECTED
            result = _dumps({"client": self.client, "version": SERVER, "ping": self._ping, "pong": True})
        elif isinstance(command, Subscribe):
            self.channels.add(command.channel)
        elif isinstance(command, Unsubscribe):
            self.channels.discard(command.channel)
        self._reply(command.id, method_of(command), result)

    def refuse(self, command: Command, code: int, message: str = "") -> None:
        """Answer a command with an error.

        Args:
            command: The one of ``next_command()``.
            code: One of ``ERRORS``, or 400 to 1999.
            message: For the log of the client. Default: the text of ``ERRORS``.

        Raises:
            RuntimeError: It was answered already, or it is another one.

        """
        self._answered(command)
        if isinstance(command, Connect):
            self.state = REFUSED
        self._refuse(command.id, code, message)

    def unsubscribe(self, channel: str, code: int = INSUFFICIENT_STATE, reason: str = "insufficient state") -> str:
        """The client is in a channel no longer.

        Args:
            channel: The channel.
            code: 2000 to 2499, or 2500 to 2999, after which the client subscribes again. Default: 2500.
            reason: For the log of the client.

        Returns:
            The push that says so; empty where the client was not in the channel.

        """
        if channel not in self.channels:
            return ""
        self.channels.remove(channel)
        return _dumps({"push": {"channel": channel, "unsubscribe": {"code": code, "reason": reason}}})

    def take(self) -> str:
        """The replies since the last call, as one message; empty where there are none."""
        out, self._out = self._out, []
        return "\n".join(out)

    # --- one command -------------------------------------------------------------------------------------------------

    def _read(self, line: str) -> Command | None:
        """A command for the caller, or None where it was answered here."""
        try:
            value = _decode(line)
            number = _integer(value, "id", 0, 2**32 - 1)
            method = next((name for name in _METHODS if value.get(name) is not None), "")
            self._check_order(method)
            if not number:
                self._without_id(value)
                return None
            return self._parse(number, method, value)
        except _ViolationError as violation:
            self._close(BAD_REQUEST, f"bad request: {violation}")
        except _RefusalError as refusal:
            self._refuse(number, refusal.code, refusal.message)
        return None

    def _check_order(self, method: str) -> None:
        if self.state == REFUSED:
            raise _ViolationError("a command after connect was refused")
        if self.state == NEW and method != "connect":
            raise _ViolationError("a command before connect")
        if self.state != NEW and method == "connect":
            raise _ViolationError("connect a second time")

    def _without_id(self, value: dict[str, Any]) -> None:
        """A pong, or a message of the application, which has no reply and so cannot be refused with an error."""
        if value.get("send") is not None:
            self._close(NOT_AVAILABLE, "not available: send")
        elif any(field is not None for name, field in value.items() if name != "id"):
            raise _ViolationError("a command without id")
        elif not self._pings:
            raise _ViolationError("a pong without a ping")
        else:
            self._pings -= 1
            if not self._pings:
                self.state = CONNECTED

    def _parse(self, number: int, method: str, value: dict[str, Any]) -> Command | None:
        if method not in _PARSERS:
            raise _RefusalError(104)
        command = _PARSERS[method](number, _object(value, method))
        if isinstance(command, Subscribe):
            if command.channel in self.channels:
                raise _RefusalError(105)
            if len(self.channels) >= self._max_channels:
                raise _RefusalError(106, f"limit exceeded: a connection may be in {self._max_channels} channels")
        elif isinstance(command, Unsubscribe) and command.channel not in self.channels:
            self._reply(number, method, "{}")
            return None
        elif isinstance(command, History | Presence | PresenceStats) and command.channel not in self.channels:
            raise _RefusalError(103, f"permission denied: {method} needs a subscription")
        return command

    def _answered(self, command: Command) -> None:
        if command is not self.pending:
            raise RuntimeError(f"{command!r} waits for no answer; {self.pending!r} does")
        self.pending = None

    def _reply(self, number: int, method: str, result: str) -> None:
        self._out.append(f'{{"id":{number},"{method}":{result}}}')

    def _refuse(self, number: int, code: int, message: str) -> None:
        error: dict[str, Any] = {"code": code, "message": message or ERRORS.get(code, "")}
        if code in _TEMPORARY:
            error["temporary"] = True
        self._reply(number, "error", _dumps(error))

    def _close(self, code: int, reason: str) -> None:
        self.state, self.closing = CLOSED, Close(code, reason)


# --- reading ---------------------------------------------------------------------------------------------------------


def _decode(line: str) -> dict[str, Any]:
    try:
        value = jsontext.loads(line)
    except (ValueError, RecursionError):
        raise _ViolationError("a command that is not JSON") from None
    if type(value) is not dict:
        raise _ViolationError("a command that is no object")
    if line.count("[") + line.count("{") > MAX_DEPTH and _is_deep(value):
        raise _ViolationError(f"more than {MAX_DEPTH} objects and arrays in each other")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        items = (item for outer in level for item in (outer.values() if type(outer) is dict else outer))
        level = [item for item in items if type(item) in (dict, list)]
        if not level:
            return False
    return True


def _field(fields: dict[str, Any], name: str, default: Any) -> Any:
    """A field of the default's type. As in proto3, null is the default."""
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not type(default):
        raise _ViolationError(f"{name} of a wrong type")
    return value


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value: dict[str, Any] = _field(fields, name, {})
    return value


def _integer(fields: dict[str, Any], name: str, lowest: int, highest: int) -> int:
    value: int = _field(fields, name, 0)
    if not lowest <= value <= highest:
        raise _ViolationError(f"{name} out of range")
    return value


def _channel(fields: dict[str, Any]) -> str:
    channel: str = _field(fields, "channel", "")
    if not channel:
        raise _ViolationError("a command without channel")
    try:
        check_name(channel)
    except ValueError as error:
        raise _RefusalError(107, f"bad request: {error}") from None
    return channel


def _position(fields: dict[str, Any]) -> Position:
    return Position(_field(fields, "epoch", ""), _integer(fields, "offset", 0, MAX_OFFSET))


def _subscribe(number: int, fields: dict[str, Any]) -> Subscribe:
    channel, since = _channel(fields), _position(fields)
    kind, flags = _integer(fields, "type", -(2**31), 2**31 - 1), _integer(fields, "flag", -(2**63), 2**63 - 1)
    if kind:
        raise _RefusalError(108, f"not available: a subscription of type {kind}")
    if _object(fields, "tf"):
        raise _RefusalError(108, "not available: a filter by tags")
    recover, join_leave = _field(fields, "recover", False), _field(fields, "join_leave", False)
    return Subscribe(number, channel, since if recover else None, bool(flags & _REJECT_UNRECOVERED), join_leave)


def _publish(number: int, fields: dict[str, Any]) -> Publish:
    channel, kind = _channel(fields), _integer(fields, "type", -(2**31), 2**31 - 1)
    if kind:
        raise _RefusalError(108, f"not available: a publication of type {kind}")
    if "data" not in fields:
        raise _RefusalError(107, "bad request: a publication without data")
    return Publish(number, channel, fields["data"])


def _history(number: int, fields: dict[str, Any]) -> History:
    since = _object(fields, "since")
    return History(
        number,
        _channel(fields),
        _integer(fields, "limit", -(2**31), 2**31 - 1),
        _position(since) if fields.get("since") is not None else None,
        _field(fields, "reverse", False),
    )


_PARSERS: dict[str, Callable[[int, dict[str, Any]], Command]] = {
    "connect": lambda number, fields: Connect(number),
    "subscribe": _subscribe,
    "unsubscribe": lambda number, fields: Unsubscribe(number, _channel(fields)),
    "publish": _publish,
    "history": _history,
    "presence": lambda number, fields: Presence(number, _channel(fields)),
    "presence_stats": lambda number, fields: PresenceStats(number, _channel(fields)),
    "rpc": lambda number, fields: Rpc(number, _field(fields, "method", ""), fields.get("data")),
}
_METHODS = (*_PARSERS, *_UNSUPPORTED)
"""The first of them that a command has is served."""


# --- writing ---------------------------------------------------------------------------------------------------------

_dumps = jsontext.dumps


def _publication(publication: Publication) -> str | None:
    """A publication as JSON, its own JSON copied; None for a binary one, which JSON cannot carry."""
    if publication.kind == "binary":
        return None
    data = str(publication.message)
    fields = [f'"data":{data if publication.kind == "json" else _dumps(data)}']
    if publication.offset:
        fields.append(f'"offset":{publication.offset}')
    info = publication.info
    # Facts about other publishers than clients of this protocol have a form of their own.
    if type(info) is dict and type(info.get("client")) is type(info.get("user")) is str:
        fields.append(f'"info":{_dumps(info)}')
    return f"{{{','.join(fields)}}}"


def _publications(publications: Iterable[Publication]) -> str:
    return ",".join(text for text in map(_publication, publications) if text is not None)


def publication_push(publication: Publication) -> str | None:
    """What all clients in a channel get of a publication; None for a binary one, which this protocol cannot carry."""
    text = _publication(publication)
    return None if text is None else f'{{"push":{{"channel":"{publication.group}","pub":{text}}}}}'


def subscribe_result(
    command: Subscribe, position: Position | None, recovered: bool, publications: Iterable[Publication]
) -> str:
    """The result of a subscription.

    Args:
        command: What is answered.
        position: Of the latest publication; None in a group without history.
        recovered: Whether ``publications`` is all that follows ``command.since``.
        publications: What is recovered, in order.

    """
    result: dict[str, Any] = {}
    if command.since is not None:
        result.update(was_recovering=True, recovered=recovered)
    if position is not None:
        # A client that recovers goes on from its own position, through the publications.
        offset = command.since.offset if command.since is not None and recovered else position.offset
        result.update(recoverable=True, positioned=True, epoch=position.epoch, offset=offset)
    return _with_publications(result, publications)


def history_result(position: Position, publications: Iterable[Publication]) -> str:
    """The result of a history command: the position of the latest publication, and those that were asked for."""
    return _with_publications({"epoch": position.epoch, "offset": position.offset}, publications)


def _with_publications(result: dict[str, Any], publications: Iterable[Publication]) -> str:
    text = _dumps(result)
    found = _publications(publications)
    return f'{text[:-1]}{"," if result else ""}"publications":[{found}]}}' if found else text


def presence_result(members: Iterable[Member]) -> str:
    """The result of a presence command."""
    return _dumps({"presence": {member.connection: _client_info(*member) for member in members}})


def presence_stats_result(count: int, members: Iterable[Member]) -> str:
    """The result of a presence_stats command: how many clients there are, and of how many users the members are."""
    users = {_client_info(*member)["user"] for member in members}
    return _dumps({"num_clients": count, "num_users": len(users)})


def events_push(channel: str, events: Any) -> str:
    """What all clients in a channel that want it get of the events of its members: a push of each, as one message."""
    changes = [("leave", change) for change in events["left"]] + [("join", change) for change in events["joined"]]
    pushes = [
        {"channel": channel, method: {"info": _client_info(change["connection"], change["info"])}}
        for method, change in changes
    ]
    return "\n".join(_dumps({"push": push}) for push in pushes)


def _client_info(connection: str, info: Any) -> dict[str, Any]:
    """A member as this protocol has it. Of one that is not its client, all that is visible is ``conn_info``."""
    if type(info) is dict and type(info.get("user")) is str and info.keys() <= {"user", "conn_info"}:
        return {"client": connection, **info}
    return {"client": connection, "user": "", **({} if info is None else {"conn_info": info})}


def rpc_result(data: Any) -> str:
    """The result of a method of the application.

    Raises:
        TypeError: It has no JSON.
        ValueError: It is, or has in it, NaN or an infinity.

    """
    return _dumps({"data": data})
