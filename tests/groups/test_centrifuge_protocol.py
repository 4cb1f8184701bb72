"""``groups.centrifuge.protocol``: commands in, replies and pushes out, without a socket."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gws_middleware.groups.centrifuge import protocol
from gws_middleware.groups.centrifuge.protocol import (
    ERRORS,
    MAX_CHANNELS,
    MAX_COMMANDS,
    MAX_DEPTH,
    NAMES,
    PING,
    Close,
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
from gws_middleware.groups.message import Envelope, Publication, encode
from gws_middleware.groups.position import Entry, Position
from gws_middleware.groups.presence import Member


def connected(**options: Any) -> Session:
    """A session whose client has connected and is in the channel ``here``."""
    session = Session("c1", **options)
    session.receive('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"here"}}')
    for _ in range(2):
        command = session.next_command()
        assert command is not None
        session.reply(command)
    assert session.next_command() is None
    session.take()
    return session


def refused() -> Session:
    """A session whose connect was refused."""
    session = Session("c1")
    session.receive('{"id":1,"connect":{}}')
    command = session.next_command()
    assert command is not None
    session.refuse(command, 101)
    session.take()
    return session


def commands(session: Session, *frames: str) -> list[Command]:
    """The commands of frames; each is answered with an empty result."""
    found = []
    for frame in frames:
        session.receive(frame)
        while (command := session.next_command()) is not None:
            found.append(command)
            session.reply(command)
    return found


def sent(session: Session) -> list[Any]:
    """The replies that a session sends."""
    text = session.take()
    return [json.loads(line) for line in text.split("\n")] if text else []


def publication(message: Any, offset: int = 0, info: Any = None) -> Publication:
    """A publication in the group ``room.1``."""
    kind, data = encode(message)
    entry = Entry("room.1", "e1" if offset else "", offset, b"")
    return Publication(entry, Envelope(kind, data, info=b"" if info is None else json.dumps(info).encode()))


# --- the table -------------------------------------------------------------------------------------------------------

EVENTS = ("connect", "command", "pong", "malformed", "quiet", "busy")
FRAMES = {
    "connect": '{"id":7,"connect":{}}',
    "command": '{"id":7,"rpc":{"method":"x"}}',
    "pong": "{}",
    "malformed": "{]",
}


def table() -> dict[str, dict[str, str]]:
    """The table of the module's docstring."""
    text = (protocol.__doc__ or "").partition("calls every ``ping`` seconds:")[2]
    header, *rows = [line.split() for line in text.splitlines() if line and not line.startswith("=")][: len(NAMES) + 1]
    assert tuple(header[1:]) == EVENTS
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def in_state(name: str, *, waits: bool = False) -> Session:
    """A session in a state; ``waits``: one where a command has no answer, in the states in which that can be."""
    session = Session("c1") if name == "NEW" else refused() if name == "REFUSED" else connected()
    if name == "PINGED":
        session.tick(received=False)
    elif name == "CLOSED":
        commands(session, FRAMES["malformed"])
    if waits:
        session.receive(FRAMES["connect" if name == "NEW" else "command"])
        session.next_command()
    assert NAMES[session.state] == name
    return session


def outcome(session: Session, event: str) -> str:
    """What an event does, in the words of the table."""
    before = session.closing
    if event in FRAMES:
        session.receive(FRAMES[event])
        if session.next_command() is not None:
            return "taken"
    else:
        session.tick(received=event == "busy")
    if session.closing is before:
        return NAMES[session.state]
    assert NAMES[session.state] == "CLOSED"
    assert session.closing is not None
    return str(session.closing.code)


CELLS = [(name, event) for name in NAMES for event in EVENTS]


class TestTable:
    @pytest.mark.parametrize(("name", "event"), CELLS)
    def test_event_does_what_the_table_has(self, name: str, event: str) -> None:
        """Every event in every state."""
        assert outcome(in_state(name), event) == table()[name][event]

    @pytest.mark.parametrize("name", ["NEW", "CONNECTED", "PINGED"])
    def test_tick_while_a_command_has_no_answer_is_busy(self, name: str) -> None:
        """The pong waits until the command before it was answered."""
        assert outcome(in_state(name, waits=True), "quiet") == table()[name]["busy"]

    def test_table_has_every_state(self) -> None:
        """In their order, which is that of the numbers."""
        assert tuple(table()) == NAMES
        assert [getattr(protocol, name) for name in NAMES] == list(range(len(NAMES)))

    def test_connect_is_answered_with_either_state(self) -> None:
        """CONNECTED by a reply, REFUSED by an error."""
        assert NAMES[connected().state] == "CONNECTED"
        assert NAMES[refused().state] == "REFUSED"

    def test_refused_client_is_closed_by_the_next_command(self) -> None:
        """Clients close by themselves after error 101."""
        session = refused()
        assert commands(session, FRAMES["connect"]) == []
        assert session.closing == Close(3501, "bad request: a command after connect was refused")


class TestPings:
    def test_tick_sends_a_ping(self) -> None:
        """An empty reply."""
        assert connected().tick(received=True) == PING == "{}"

    def test_peer_that_is_busy_gets_pings_and_keeps_its_connection(self) -> None:
        """Clients close where no ping comes; a command that takes minutes must not look like that."""
        session = connected()
        session.receive(FRAMES["command"])
        command = session.next_command()
        assert command is not None
        assert [session.tick(received=False) for _ in range(4)] == [PING] * 4
        session.receive("\n".join(["{}"] * 4))  # they were read when the command was answered
        session.reply(command)
        assert session.next_command() is None
        assert NAMES[session.state] == "CONNECTED"

    def test_pong_that_is_missing_closes(self) -> None:
        """3012: the client connects again."""
        session = connected()
        assert [session.tick(received=True), session.tick(received=False)] == [PING, ""]
        assert session.closing == Close(3012, "no pong")

    def test_pongs_are_counted(self) -> None:
        """One for each ping."""
        session = connected()
        session.tick(received=True)
        commands(session, "{}", "{}")
        assert session.closing == Close(3501, "bad request: a pong without a ping")

    def test_connection_without_connect_is_closed(self) -> None:
        """After one interval."""
        session = Session("c1")
        assert session.tick(received=False) == ""
        assert session.closing == Close(3502, "stale")


# --- commands --------------------------------------------------------------------------------------------------------

EXAMPLES: list[tuple[str, Command]] = [
    ('{"id":3,"subscribe":{"channel":"a.1"}}', Subscribe(3, "a.1", None, False)),
    ('{"id":4,"unsubscribe":{"channel":"a.1"}}', Unsubscribe(4, "a.1")),
    (
        '{"id":5,"subscribe":{"channel":"b","recover":true,"epoch":"x","offset":9,"flag":3,"token":"t"}}',
        Subscribe(5, "b", Position("x", 9), True),
    ),
    ('{"id":5,"subscribe":{"channel":"d","flag":1}}', Subscribe(5, "d", None, False)),
    ('{"id":5,"subscribe":{"channel":"c","flag":2}}', Subscribe(5, "c", None, True)),
    ('{"id":5,"subscribe":{"channel":"e","join_leave":true}}', Subscribe(5, "e", None, False, True)),
    ('{"id":5,"presence":{"channel":"e"}}', Presence(5, "e")),
    ('{"id":5,"presence_stats":{"channel":"e"}}', PresenceStats(5, "e")),
    ('{"id":6,"publish":{"channel":"b","data":{"text":"a\\nb"}}}', Publish(6, "b", {"text": "a\nb"})),
    ('{"id":7,"publish":{"channel":"b","data":null}}', Publish(7, "b", None)),
    ('{"id":8,"history":{"channel":"b","limit":-1}}', History(8, "b", -1, None, False)),
    (
        '{"id":9,"history":{"channel":"b","limit":5,"since":{"offset":2,"epoch":"x"},"reverse":true}}',
        History(9, "b", 5, Position("x", 2), True),
    ),
    ('{"id":10,"rpc":{"method":"m","data":[1]}}', Rpc(10, "m", [1])),
    ('{"id":4294967295,"rpc":{}}', Rpc(2**32 - 1, "", None)),
]
LINES = [line for line, _ in EXAMPLES]
WANTED = [command for _, command in EXAMPLES]


class TestParsing:
    """Each frame is read whole, cut into commands, and with something after it."""

    def test_commands_in_one_frame(self) -> None:
        """Separated by newlines; JSON has none of its own."""
        session = connected()
        assert commands(session, "\n".join(LINES)) == WANTED
        assert [reply["id"] for reply in sent(session)] == [command.id for command in WANTED]

    @pytest.mark.parametrize("size", range(1, len(LINES)))
    def test_commands_in_several_frames(self, size: int) -> None:
        """Any cut between two commands."""
        frames = ["\n".join(LINES[at : at + size]) for at in range(0, len(LINES), size)]
        assert commands(connected(), *frames) == WANTED

    @pytest.mark.parametrize(
        ("tail", "closing"),
        [
            ("\n", None),
            ("\n\n", Close(3501, "bad request: a command that is not JSON")),
            ("\n{", Close(3501, "bad request: a command that is not JSON")),
            ("{}", Close(3501, "bad request: a command that is not JSON")),
            (" ", None),
        ],
    )
    def test_commands_with_a_tail(self, tail: str, closing: Close | None) -> None:
        """What precedes it is answered."""
        session = connected()
        found = commands(session, "\n".join(LINES) + tail)
        assert (found, session.closing) == (WANTED if tail != "{}" else WANTED[:-1], closing)
        assert len(sent(session)) == len(found)

    def test_connect_and_commands_in_one_frame(self) -> None:
        """Each command is checked after the one before it was answered."""
        frame = '{"id":1,"connect":{"name":"js","subs":{}}}\n{"id":2,"subscribe":{"channel":"a"}}'
        session = Session("c1")
        assert commands(session, frame) == [Connect(1), Subscribe(2, "a", None, False)]
        assert session.channels == {"a"}

    def test_commands_after_connect_that_is_refused(self) -> None:
        """They close the connection, after the error was sent."""
        session = Session("c1")
        session.receive('{"id":1,"connect":{}}\n{"id":2,"rpc":{}}')
        command = session.next_command()
        assert command is not None
        session.refuse(command, 101)
        assert session.next_command() is None
        assert sent(session) == [{"id": 1, "error": {"code": 101, "message": "unauthorized"}}]
        assert session.closing == Close(3501, "bad request: a command after connect was refused")

    def test_null_is_a_field_that_is_absent(self) -> None:
        """As in proto3."""
        line = '{"id":3,"connect":null,"subscribe":{"channel":"a","recover":null,"epoch":null,"offset":null,"tf":null}}'
        assert commands(connected(), line) == [Subscribe(3, "a", None, False)]

    def test_first_request_of_a_command_counts(self) -> None:
        """As client.proto has it."""
        line = '{"id":3,"rpc":{"method":"m"},"publish":{"channel":"a","data":1}}'
        assert commands(connected(), line) == [Publish(3, "a", 1)]

    def test_recovery_without_a_position_is_one_from_none(self) -> None:
        """The epoch is empty, which no history has."""
        line = '{"id":3,"subscribe":{"channel":"a","recover":true}}'
        assert commands(connected(), line) == [Subscribe(3, "a", Position("", 0), False)]


VIOLATIONS: list[tuple[str | bytes, str]] = [
    ("", "a command that is not JSON"),
    ("nonsense", "a command that is not JSON"),
    ('{"id":3,"rpc":{"data":NaN}}', "a command that is not JSON"),
    ('{"id":3,"rpc":{"data":1e999}}', "a command that is not JSON"),
    ("[" * 100_000, "a command that is not JSON"),
    ("[]", "a command that is no object"),
    ("7", "a command that is no object"),
    ("null", "a command that is no object"),
    (b"{}", "a binary message, and this protocol is JSON"),
    ('{"id":"3","rpc":{}}', "id of a wrong type"),
    ('{"id":true,"rpc":{}}', "id of a wrong type"),
    ('{"id":3.0,"rpc":{}}', "id of a wrong type"),
    ('{"id":-1,"rpc":{}}', "id out of range"),
    ('{"id":4294967296,"rpc":{}}', "id out of range"),
    ('{"rpc":{}}', "a command without id"),
    ('{"id":0,"rpc":{}}', "a command without id"),
    ('{"unknown":1}', "a command without id"),
    ('{"id":3,"rpc":[]}', "rpc of a wrong type"),
    ('{"id":3,"rpc":{"method":7}}', "method of a wrong type"),
    ('{"id":3,"subscribe":{}}', "a command without channel"),
    ('{"id":3,"subscribe":{"channel":""}}', "a command without channel"),
    ('{"id":3,"subscribe":{"channel":7}}', "channel of a wrong type"),
    ('{"id":3,"subscribe":{"channel":"a","recover":1}}', "recover of a wrong type"),
    ('{"id":3,"subscribe":{"channel":"a","join_leave":1}}', "join_leave of a wrong type"),
    ('{"id":3,"subscribe":{"channel":"a","offset":-1}}', "offset out of range"),
    ('{"id":3,"subscribe":{"channel":"a","offset":9223372036854775808}}', "offset out of range"),
    ('{"id":3,"subscribe":{"channel":"a","offset":"1"}}', "offset of a wrong type"),
    ('{"id":3,"subscribe":{"channel":"a","epoch":1}}', "epoch of a wrong type"),
    ('{"id":3,"publish":{"data":1}}', "a command without channel"),
    ('{"id":3,"history":{"channel":"here","limit":1.5}}', "limit of a wrong type"),
    ('{"id":3,"history":{"channel":"here","limit":2147483648}}', "limit out of range"),
    ('{"id":3,"history":{"channel":"here","since":[]}}', "since of a wrong type"),
    ('{"id":3,"history":{"channel":"here","since":{"offset":true}}}', "offset of a wrong type"),
    ("\n".join(["{}"] * (MAX_COMMANDS + 1)), f"more than {MAX_COMMANDS} commands in a message"),
    (
        f'{{"id":3,"rpc":{{"data":{"[" * (MAX_DEPTH - 1)}{"]" * (MAX_DEPTH - 1)}}}}}',
        f"more than {MAX_DEPTH} objects and arrays in each other",
    ),
]


REFUSALS: list[tuple[str, int, str]] = [
    ('{"id":3}', 104, "method not found"),
    ('{"id":3,"unknown":{}}', 104, "method not found"),
    ('{"id":3,"ping":{}}', 104, "method not found"),
    ('{"id":3,"refresh":{"token":"t"}}', 104, "method not found"),
    ('{"id":3,"sub_refresh":{"channel":"here"}}', 104, "method not found"),
    ('{"id":3,"subscribe":{"channel":"here"}}', 105, "already subscribed"),
    ('{"id":3,"subscribe":{"channel":"a","type":1}}', 108, "not available: a subscription of type 1"),
    ('{"id":3,"subscribe":{"channel":"a","tf":{"op":"and"}}}', 108, "not available: a filter by tags"),
    ('{"id":3,"publish":{"channel":"a","type":1,"data":1}}', 108, "not available: a publication of type 1"),
    ('{"id":3,"publish":{"channel":"a"}}', 107, "bad request: a publication without data"),
    ('{"id":3,"history":{"channel":"a"}}', 103, "permission denied: history needs a subscription"),
    ('{"id":3,"presence":{"channel":"a"}}', 103, "permission denied: presence needs a subscription"),
    ('{"id":3,"presence_stats":{"channel":"a"}}', 103, "permission denied: presence_stats needs a subscription"),
    (
        '{"id":3,"subscribe":{"channel":"gws.presence.here"}}',
        107,
        "bad request: 'gws.presence.here' cannot be the name of a group: 'gws.' begins the names of this package",
    ),
    (
        '{"id":3,"subscribe":{"channel":"a b"}}',
        107,
        "bad request: 'a b' cannot be the name of a group: wanted are 1 to 200 of the characters A-Z a-z 0-9 _ . : @ -",
    ),
    (
        '{"id":3,"publish":{"channel":"gws.control","data":1}}',
        107,
        "bad request: 'gws.control' cannot be the name of a group: 'gws.' begins the names of this package",
    ),
]


class TestRefusing:
    @pytest.mark.parametrize(("frame", "reason"), VIOLATIONS, ids=[str(reason) for _, reason in VIOLATIONS])
    def test_violation_closes(self, frame: str | bytes, reason: str) -> None:
        """With 3501, after which clients do not connect again. A close reason has 123 bytes at most (RFC 6455 5.5)."""
        session = connected()
        session.receive(frame)
        assert session.next_command() is None
        assert session.closing == Close(3501, f"bad request: {reason}")
        assert len(session.closing.reason.encode()) <= 123
        assert session.take() == ""

    @pytest.mark.parametrize(("line", "code", "message"), REFUSALS)
    def test_command_is_refused(self, line: str, code: int, message: str) -> None:
        """With an error; the connection stays, and the next command is served."""
        session = connected()
        assert commands(session, f'{line}\n{{"id":4,"rpc":{{}}}}') == [Rpc(4, "", None)]
        assert sent(session) == [{"id": 3, "error": {"code": code, "message": message}}, {"id": 4, "rpc": {}}]
        assert session.closing is None

    def test_message_without_reply_closes(self) -> None:
        """``send`` has no id, so nothing else could say that it is not served; as in Centrifuge."""
        session = connected()
        assert commands(session, '{"send":{"data":1}}') == []
        assert session.closing == Close(3508, "not available: send")

    def test_depth_up_to_the_limit(self) -> None:
        """Brackets in strings do not count."""
        text = "[" * (MAX_DEPTH + 1)
        inner = "[" * (MAX_DEPTH - 3) + "]" * (MAX_DEPTH - 3)
        found = commands(connected(), f'{{"id":3,"rpc":{{"data":["{text}",{inner}]}}}}')
        assert len(found) == 1

    def test_channels_of_a_connection(self) -> None:
        """The one after the last is refused, until another one was left."""
        session = connected(max_channels=2)
        subscribe = '{"id":%d,"subscribe":{"channel":"c%d"}}'
        commands(session, subscribe % (3, 1), subscribe % (4, 2), '{"id":5,"unsubscribe":{"channel":"here"}}')
        commands(session, subscribe % (6, 2))
        message = "limit exceeded: a connection may be in 2 channels"
        assert [reply.get("error") for reply in sent(session)] == [None, {"code": 106, "message": message}, None, None]
        assert session.channels == {"c1", "c2"}

    def test_limits(self) -> None:
        """What the documentation has."""
        assert (MAX_CHANNELS, MAX_COMMANDS, MAX_DEPTH) == (128, 512, 100)
        session = connected()
        commands(session, *(f'{{"id":3,"subscribe":{{"channel":"c{number}"}}}}' for number in range(200)))
        assert len(session.channels) == 128

    def test_commands_of_a_frame(self) -> None:
        """As many as there may be."""
        assert len(commands(connected(), "\n".join([FRAMES["command"]] * MAX_COMMANDS))) == MAX_COMMANDS

    def test_nothing_is_read_after_the_end(self) -> None:
        """What was answered before is sent."""
        session = connected()
        assert len(commands(session, FRAMES["command"] + "\n{]\n" + FRAMES["command"], FRAMES["command"])) == 1
        assert sent(session) == [{"id": 7, "rpc": {}}]

    def test_unsubscribe_from_a_channel_that_the_client_is_not_in(self) -> None:
        """A push may have ended the subscription at the same time."""
        session = connected()
        assert commands(session, '{"id":3,"unsubscribe":{"channel":"other"}}') == []
        assert sent(session) == [{"id": 3, "unsubscribe": {}}]


# --- answers ---------------------------------------------------------------------------------------------------------


class TestAnswering:
    @pytest.mark.parametrize(("options", "ping"), [({}, 25), ({"ping": 9}, 9)])
    def test_connect(self, options: Any, ping: int) -> None:
        """The client learns who it is, and how often a ping comes."""
        session = Session("c7", **options)
        commands(session, '{"id":1,"connect":{}}')
        result = {"client": "c7", "version": "gws_middleware", "ping": ping, "pong": True}
        assert sent(session) == [{"id": 1, "connect": result}]

    def test_command_that_was_not_asked(self) -> None:
        """An error of the caller."""
        session = connected()
        session.receive(FRAMES["command"])
        command = session.next_command()
        assert command is not None
        with pytest.raises(RuntimeError, match=r"^Rpc\(id=7.*\) has no answer yet$"):
            session.next_command()
        session.reply(command)
        for answer in (lambda: session.reply(command), lambda: session.refuse(command, 100)):
            with pytest.raises(RuntimeError, match=r"^Rpc\(id=7.*\) waits for no answer; None does$"):
                answer()

    @pytest.mark.parametrize("code", ERRORS)
    def test_error(self, code: int) -> None:
        """With the text of the protocol. After a temporary one the client tries again."""
        session = connected()
        session.receive(FRAMES["command"])
        command = session.next_command()
        assert command is not None
        session.refuse(command, code)
        error: dict[str, Any] = {"code": code, "message": ERRORS[code]}
        if code in (100, 111):
            error["temporary"] = True
        assert sent(session) == [{"id": 7, "error": error}]

    def test_errors_are_those_of_the_protocol(self) -> None:
        """Of Centrifuge's, 110 and 113 are about what is not served."""
        assert list(ERRORS) == [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 111, 112]

    def test_error_of_the_application(self) -> None:
        """Its own code and text."""
        session = connected()
        session.receive(FRAMES["command"])
        command = session.next_command()
        assert command is not None
        session.refuse(command, 400, "sold out")
        assert sent(session) == [{"id": 7, "error": {"code": 400, "message": "sold out"}}]

    def test_refused_subscription_is_none(self) -> None:
        """The client may try again."""
        session = connected()
        session.receive('{"id":3,"subscribe":{"channel":"a"}}')
        command = session.next_command()
        assert command is not None
        session.refuse(command, 103)
        assert session.channels == {"here"}

    def test_unsubscribe_push(self) -> None:
        """Sent once; the client subscribes again."""
        session = connected()
        push = {"channel": "here", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
        assert json.loads(session.unsubscribe("here")) == {"push": push}
        assert session.unsubscribe("here") == ""
        assert session.channels == set()

    def test_rpc(self) -> None:
        """Any value that has JSON."""
        assert json.loads(rpc_result({"a": [1]})) == {"data": {"a": [1]}}
        with pytest.raises(TypeError):
            rpc_result(object())


class TestPublications:
    def test_json_is_copied(self) -> None:
        """Not decoded: its text stays as the publisher's."""
        entry = Entry("room.1", "e1", 5, b"")
        pub = Publication(entry, Envelope(0, b'{"n":1.50,"a":[1]}'))
        assert publication_push(pub) == '{"push":{"channel":"room.1","pub":{"data":{"n":1.50,"a":[1]},"offset":5}}}'

    def test_text_is_a_string(self) -> None:
        """On one line, whatever it has."""
        text = publication_push(publication('line\n"quoted"'))
        assert text is not None
        assert "\n" not in text
        assert json.loads(text) == {"push": {"channel": "room.1", "pub": {"data": 'line\n"quoted"'}}}

    def test_binary_has_no_json(self) -> None:
        """It is not sent."""
        assert publication_push(publication(b"\0")) is None

    @pytest.mark.parametrize(
        ("info", "sent_info"),
        [
            ({"client": "c1", "user": "7"}, {"client": "c1", "user": "7"}),
            ({"client": "c1", "user": "", "conn_info": {"a": 1}}, {"client": "c1", "user": "", "conn_info": {"a": 1}}),
            ({"client": "c1"}, None),
            ({"client": 1, "user": 2}, None),
            (7, None),
            (None, None),
        ],
    )
    def test_publisher(self, info: Any, sent_info: Any) -> None:
        """A client of this protocol; what others say of themselves would be no ClientInfo."""
        text = publication_push(publication(1, info=info))
        assert text is not None
        assert json.loads(text)["push"]["pub"].get("info") == sent_info


PUBS = [publication({"n": n}, offset=n) for n in (4, 5)]


class TestResults:
    @pytest.mark.parametrize(
        ("since", "position", "recovered", "publications", "result"),
        [
            (None, None, False, [], {}),
            (None, ("e1", 5), False, [], {"recoverable": True, "positioned": True, "epoch": "e1", "offset": 5}),
            (
                ("e1", 3),
                ("e1", 5),
                True,
                PUBS,
                {
                    "was_recovering": True,
                    "recovered": True,
                    "recoverable": True,
                    "positioned": True,
                    "epoch": "e1",
                    "offset": 3,
                    "publications": [{"data": {"n": 4}, "offset": 4}, {"data": {"n": 5}, "offset": 5}],
                },
            ),
            (
                ("e0", 3),
                ("e1", 5),
                False,
                [],
                {
                    "was_recovering": True,
                    "recovered": False,
                    "recoverable": True,
                    "positioned": True,
                    "epoch": "e1",
                    "offset": 5,
                },
            ),
            (("e0", 3), None, False, [], {"was_recovering": True, "recovered": False}),
        ],
    )
    def test_subscribe(self, since: Any, position: Any, recovered: bool, publications: Any, result: Any) -> None:
        """The client counts on from its own position through what it gets, or from that of the group."""
        command = Subscribe(3, "room.1", None if since is None else Position(*since), False)
        text = subscribe_result(command, position and Position(*position), recovered, publications)
        assert json.loads(text) == result

    def test_history(self) -> None:
        """What was asked for, and the position of the group."""
        assert json.loads(history_result(Position("e1", 9), PUBS)) == {
            "epoch": "e1",
            "offset": 9,
            "publications": [{"data": {"n": 4}, "offset": 4}, {"data": {"n": 5}, "offset": 5}],
        }
        assert json.loads(history_result(Position("e1", 9), [])) == {"epoch": "e1", "offset": 9}

    def test_binary_publications_are_left_out(self) -> None:
        """Of a recovery and of a history."""
        pubs = [publication(b"x", 4), publication("y", 5)]
        assert json.loads(history_result(Position("e1", 5), pubs))["publications"] == [{"data": "y", "offset": 5}]


MEMBERS = [
    Member("c1", {"user": "7"}),
    Member("c2", {"user": "7", "conn_info": {"tab": 2}}),
    Member("c3", {"user": 8}),
    Member("c4", None),
]
INFOS = [
    {"client": "c1", "user": "7"},
    {"client": "c2", "user": "7", "conn_info": {"tab": 2}},
    {"client": "c3", "user": "", "conn_info": {"user": 8}},
    {"client": "c4", "user": ""},
]


class TestPresence:
    def test_clients_of_a_channel(self) -> None:
        """By identity. A member that is no client of this protocol has its info as ``conn_info``."""
        assert json.loads(presence_result(MEMBERS)) == {"presence": {info["client"]: info for info in INFOS}}
        assert json.loads(presence_result([])) == {"presence": {}}

    def test_statistics(self) -> None:
        """Clients, and the users of those that were read."""
        assert json.loads(presence_stats_result(9, MEMBERS)) == {"num_clients": 9, "num_users": 2}
        assert json.loads(presence_stats_result(0, [])) == {"num_clients": 0, "num_users": 0}

    def test_events(self) -> None:
        """A push of each, leaves first; one message, a line for each."""
        changes = [{"connection": member.connection, "info": member.info} for member in MEMBERS]
        lines = events_push("room.1", {"left": changes[:1], "joined": changes[1:]}).split("\n")
        assert [json.loads(line)["push"] for line in lines] == [
            {"channel": "room.1", "leave": {"info": INFOS[0]}},
            *({"channel": "room.1", "join": {"info": info}} for info in INFOS[1:]),
        ]

    def test_names_of_commands(self) -> None:
        """As replies have them."""
        session = connected()
        commands(session, '{"id":3,"presence":{"channel":"here"}}', '{"id":4,"presence_stats":{"channel":"here"}}')
        assert sent(session) == [{"id": 3, "presence": {}}, {"id": 4, "presence_stats": {}}]
        assert [method_of(command) for command in (Connect(1), PresenceStats(1, "a"))] == ["connect", "presence_stats"]


# --- anything --------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["here", "a.b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["channel", "data", "recover", "epoch", "offset", "flag", "type", "tf", "limit", "since", "reverse", "method"]
FIELDS += ["join_leave"]
CHANNELS = st.sampled_from(["here", "a.b", "", "gws.x", "\ud800"])
REQUESTS = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, VALUES) | {"channel": CHANNELS | VALUES})
OTHERS = ["presence_stats", "refresh", "other"]
NAMES_OF_REQUESTS = st.sampled_from(
    ["connect", "subscribe", "unsubscribe", "publish", "history", "rpc", "ping", "send", "presence", *OTHERS]
)
COMMANDS = st.dictionaries(NAMES_OF_REQUESTS, REQUESTS | VALUES, max_size=2).flatmap(
    lambda requests: (
        st.just(requests) | st.builds(lambda number: {"id": number, **requests}, st.integers(0, 9) | VALUES)
    )
)
FRAMES_OF_ANYTHING = st.lists((COMMANDS | VALUES).map(json.dumps) | st.text(max_size=9), max_size=4).map("\n".join)


def check_anything(session: Session, frame: str | bytes, answers: Iterator[bool]) -> None:
    """A frame ends as commands, replies or a close; each command has one reply, in order, and all of it is JSON."""
    asked, was = [], session.state
    session.receive(frame)
    while (command := session.next_command()) is not None:
        asked.append(command.id)
        if next(answers, True):
            session.reply(command)
        else:
            session.refuse(command, 100)
    replies = [reply["id"] for reply in sent(session)]
    assert [number for number in replies if number in asked] == [number for number in asked if number in replies]
    assert set(asked) <= set(replies)
    assert (session.closing is not None) == (NAMES[session.state] == "CLOSED")
    assert was != protocol.CLOSED or not replies


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(
    frames=st.lists(FRAMES_OF_ANYTHING | st.binary(max_size=5), max_size=4),
    is_connected=st.booleans(),
    answers=st.lists(st.booleans(), max_size=4),
    ticks=st.lists(st.booleans(), max_size=3),
)
@example(
    frames=['{"id":1,"connect":{}}', '{"id":2,"subscribe":{"channel":"\\ud800"}}'],
    is_connected=False,
    answers=[],
    ticks=[],
)
def test_anything_ends_as_a_command_a_reply_or_a_close(
    frames: list[str | bytes], is_connected: bool, answers: list[bool], ticks: list[bool]
) -> None:
    """And never as an exception."""
    session = connected() if is_connected else Session("c1")
    given_answers = iter(answers)
    for frame in frames:
        check_anything(session, frame, given_answers)
    for received in ticks:
        assert session.tick(received) in ("", PING)


def test_module_loads_no_io() -> None:
    """Rule 1: neither gevent nor a socket."""
    code = (
        "import sys, gws_middleware.groups.centrifuge.protocol\n"
        "print([name for name in ('gevent', 'socket', 'django') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
