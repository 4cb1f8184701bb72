"""``groups.centrifuge.serving``: what commands do with groups, over a socket pair."""

from __future__ import annotations

import gc
import json
import logging
import re
import shutil
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gevent
import pytest

from gws_middleware import WebSocket, WebSocketMiddleware
from gws_middleware.connection import control
from gws_middleware.groups import (
    Groups,
    GroupsUnavailable,
    History,
    Joined,
    Presence,
    hub,
    presence_group,
)
from gws_middleware.groups.centrifuge import CentrifugeError, Policy, serve
from gws_middleware.testing import Client, connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import hub_errors
from ..support.waiting import eventually

__all__ = ["hub_errors"]


WRONG: dict[str, Any] = {
    "/number": {"user": 7},
    "/no-user": {},
    "/another": {"user": "ada", "name": "Ada"},
    "/no-mapping": "ada",
    "/object": {"user": "ada", "conn_info": b""},
}
"""What is no ``info()``, by the path of the connection."""


class Rooms(Policy):
    """Everything whose name begins with "room" or "live" is allowed."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.sockets: list[WebSocket] = []

    def connected(self, ws: WebSocket) -> None:
        self.calls.append("connected")
        self.sockets.append(ws)
        if ws.path == "/refused":
            raise CentrifugeError(101)
        if ws.path == "/broken":
            raise LookupError("no settings")

    def disconnected(self, ws: WebSocket) -> None:
        self.calls.append("disconnected")

    def info(self, ws: WebSocket) -> dict[str, Any]:
        if ws.path in WRONG:
            return WRONG[ws.path]
        if ws.path == "/bob":
            return {"user": "bob"}
        if ws.path == "/large":
            return {"user": "ada", "conn_info": "x" * 2000}
        return {"user": "ada", "conn_info": {"name": "Ada"}}

    def may_join(self, ws: WebSocket, name: str) -> bool:
        self.calls.append(("may_join", name))
        return name.startswith(("room", "live"))

    def may_publish(self, ws: WebSocket, name: str, data: Any) -> bool:
        return name.startswith(("room", "live")) and data != "no"

    def may_see_members(self, ws: WebSocket, name: str) -> bool:
        self.calls.append(("may_see_members", name))
        return name.endswith(".1")

    def rpc(self, ws: WebSocket, method: str, data: Any) -> Any:
        self.calls.append((method, data))
        result: Any = METHODS[method](data)
        return result


def _raise(error: BaseException) -> Any:
    raise error


METHODS: dict[str, Callable[[Any], Any]] = {
    "echo": lambda data: data,
    "object": lambda data: object(),
    "sold out": lambda data: _raise(CentrifugeError(400, "sold out")),
    "unknown": lambda data: _raise(CentrifugeError(104)),
    "fails": lambda data: _raise(LookupError("no row")),
    "times out": lambda data: _raise(gevent.Timeout(1)),
    "away": lambda data: _raise(GroupsUnavailable("the disk is full")),
    "sleeps": gevent.sleep,
}


class Site:
    """An application, its groups and its policy."""

    def __init__(
        self,
        url: str = "memory://",
        size: int = 60,
        presence: Mapping[str, Presence] | None = None,
        **options: Any,
    ) -> None:
        self.groups = Groups(url, history={"room": History(size=size)}, presence=presence)
        self.policy = Rooms()
        self.options = options
        self.app = WebSocketMiddleware(self._call)

    def _call(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        serve(environ["wsgi.websocket"], self.groups, self.policy, **self.options)
        return []

    def connect(self, path: str = "/") -> Client:
        """A connection, before connect."""
        return connect(self.app, path)

    def release(self) -> None:
        """Release the files of a backend that has some, after the last member has ended."""
        for name in ("room.1", "live.1"):
            self.groups.count(name)  # nothing waits to be written then
        self.groups.release()

    @property
    def ws(self) -> WebSocket:
        """The server's end of the latest connection."""
        return self.policy.sockets[-1]


@pytest.fixture(autouse=True)
def reader_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last member has ended."""
    monkeypatch.setattr(hub, "LINGER", 0.01)


@pytest.fixture
def site() -> Site:
    """One with default settings."""
    return Site()


def ask(client: Client, *commands: dict[str, Any]) -> list[Any]:
    """Send commands in one frame; the replies to them."""
    client.send("\n".join(map(json.dumps, commands)))
    replies: list[Any] = []
    while len(replies) < len(commands):
        replies += received(client)
    return replies


def received(client: Client) -> list[Any]:
    """What the next frame has."""
    message = client.receive()
    assert isinstance(message, str)
    return [json.loads(line) for line in message.split("\n")]


def opened(client: Client, *channels: str) -> list[Any]:
    """Connect and subscribe; the results of the subscriptions."""
    commands = [{"id": 100 + n, "subscribe": {"channel": name}} for n, name in enumerate(channels)]
    first, *rest = ask(client, {"id": 99, "connect": {}}, *commands)
    assert first["id"] == 99
    return [reply["subscribe"] for reply in rest]


def error(code: int, message: str) -> dict[str, Any]:
    """An error as a reply has it."""
    return {"code": code, "message": message} | ({"temporary": True} if code == 100 else {})


INTERNAL = error(100, "internal server error")


class TestConnecting:
    def test_client_is_named_by_its_connection(self, site: Site) -> None:
        """As elsewhere on the site; a ping comes every 25 seconds."""
        with site.connect() as client:
            [reply] = ask(client, {"id": 1, "connect": {}})
            wanted = {"client": control.id_of(site.ws), "version": "gws_middleware", "ping": 25, "pong": True}
            assert reply == {"id": 1, "connect": wanted}

    def test_policy_is_asked_before_the_handshake_is_answered(self, site: Site) -> None:
        """An exception is an ordinary HTTP error then."""
        with pytest.raises(LookupError), site.connect("/broken"):
            pass
        assert site.policy.calls == ["connected"]

    def test_refused_client_gets_an_error(self, site: Site) -> None:
        """After a handshake that is refused it would connect again for ever."""
        with site.connect("/refused") as client:
            assert ask(client, {"id": 1, "connect": {}}) == [{"id": 1, "error": error(101, "unauthorized")}]
        assert site.policy.calls == ["connected"]

    def test_end_of_the_connection(self, site: Site) -> None:
        """Is passed once, whether the client has sent connect or not."""
        with site.connect() as client:
            opened(client)
        with site.connect():
            pass
        assert site.policy.calls == ["connected", "disconnected"] * 2

    @pytest.mark.parametrize("path", ["/number", "/no-user", "/another", "/no-mapping"])
    def test_info_must_be_facts_about_a_user(self, site: Site, path: str) -> None:
        """Wrong ones are refused at once, not when the client publishes."""
        message = f"info() returned {WRONG[path]!r}: wanted is a mapping with 'user', a str, and 'conn_info', if any"
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"), site.connect(path):
            pass
        assert site.policy.calls == ["connected", "disconnected"]

    def test_info_must_have_json(self, site: Site) -> None:
        """Others get it."""
        with pytest.raises(TypeError, match="not JSON serializable"), site.connect("/object"):
            pass

    def test_idle_connection_has_no_greenlet(self, site: Site) -> None:
        """Nor a frame of the view."""
        with site.connect() as client:
            opened(client, "room.1")
            assert site.ws.detached


class TestViolations:
    def test_violation_closes(self, site: Site) -> None:
        """With the protocol's code, after what was answered before it."""
        with site.connect() as client:
            client.send('{"id":1,"connect":{}}\n{]')
            assert [reply["id"] for reply in received(client)] == [1]
            assert client.receive() is None
            assert (client.close_code, client.close_reason) == (3501, "bad request: a command that is not JSON")

    def test_binary_message_closes(self, site: Site) -> None:
        """It would be of the protocol with protobuf."""
        with site.connect() as client:
            client.send(b"\x00")
            assert client.receive() is None
            assert client.close_code == 3501


@pytest.mark.slow
class TestPings:
    def test_client_that_answers_stays(self) -> None:
        """However often."""
        with Site(ping=1).connect() as client:
            opened(client)
            for _ in range(2):
                assert client.receive() == "{}"
                client.send("{}")
            assert ask(client, {"id": 1, "rpc": {"method": "echo", "data": 1}})

    def test_client_that_does_not_answer_is_closed(self) -> None:
        """After the time of another ping."""
        with Site(ping=1).connect() as client:
            opened(client)
            assert [client.receive(), client.receive()] == ["{}", None]
            assert (client.close_code, client.close_reason) == (3012, "no pong")

    def test_client_that_sends_something_else_stays(self) -> None:
        """Its pong may wait for the worker to read it; any message shows that it is there."""
        with Site(ping=1).connect() as client:
            opened(client)
            for number in range(3):
                assert client.receive() == "{}"
                assert ask(client, {"id": number + 1, "rpc": {"method": "echo"}})[0]["rpc"] == {"data": None}

    def test_connection_that_does_not_connect_is_closed(self) -> None:
        """After one interval."""
        with Site(ping=1).connect() as client:
            assert client.receive() is None
            assert (client.close_code, client.close_reason) == (3502, "stale")

    def test_pings_go_on_while_a_command_runs(self) -> None:
        """Its reply comes later, and the pongs are read after it."""
        with Site(ping=1).connect() as client:
            opened(client)
            client.send(json.dumps({"id": 1, "rpc": {"method": "sleeps", "data": 3.2}}))
            for _ in range(3):
                assert client.receive() == "{}"
                client.send("{}")
            assert received(client) == [{"id": 1, "rpc": {"data": None}}]
            assert ask(client, {"id": 2, "rpc": {"method": "echo", "data": 1}}) == [{"id": 2, "rpc": {"data": 1}}]


class TestSubscribing:
    def test_channel_with_history(self, site: Site) -> None:
        """The client gets its position."""
        site.groups.send("room.1", "before")
        with site.connect() as client:
            [result] = opened(client, "room.1")
            position = site.groups.position("room.1")
            assert position is not None
            assert result == {"recoverable": True, "positioned": True, "epoch": position.epoch, "offset": 1}

    def test_channel_without_history(self, site: Site) -> None:
        """There is nothing to recover."""
        with site.connect() as client:
            assert opened(client, "live.1") == [{}]

    def test_publications_follow_the_reply(self, site: Site) -> None:
        """What the group gets from anywhere, also from a view that knows nothing of the protocol."""
        with site.connect() as client:
            opened(client, "room.1", "live")
            site.groups.send("room.1", {"n": 1})
            site.groups.send("live", "text")
            pushes = received(client) + received(client)
            assert pushes == [
                {"push": {"channel": "room.1", "pub": {"data": {"n": 1}, "offset": 1}}},
                {"push": {"channel": "live", "pub": {"data": "text"}}},
            ]

    def test_channel_that_may_not_be_joined(self, site: Site) -> None:
        """Every name is asked for; nothing is a member."""
        with site.connect() as client:
            opened(client)
            assert ask(client, {"id": 1, "subscribe": {"channel": "secret"}}) == [
                {"id": 1, "error": error(103, "permission denied")}
            ]
            assert site.policy.calls[-1] == ("may_join", "secret")
            assert site.groups.count("secret") == 0

    def test_backend_that_is_away(self, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
        """The client tries again; one line is logged, without a traceback."""
        with site.connect() as client:
            opened(client)
            monkeypatch.setattr(site.groups, "attach", lambda *_, **__: _raise(GroupsUnavailable("the disk is full")))
            assert ask(client, {"id": 1, "subscribe": {"channel": "room.1"}}) == [{"id": 1, "error": INTERNAL}]
        [record] = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert record.getMessage() == "WebSocket '/': subscribe failed: the disk is full"
        assert record.exc_info is None

    def test_mistake_after_the_reply(self, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
        """The client counts on its subscription: the connection is closed, and it tries again."""

        def attach(*arguments: Any, greet: Any, info: Any) -> None:
            greet(Joined(None, recovered=False), [])
            raise LookupError("a mistake")

        with site.connect() as client:
            opened(client)
            monkeypatch.setattr(site.groups, "attach", attach)
            client.send(json.dumps({"id": 1, "subscribe": {"channel": "live.1"}}))
            assert client.receive() is None
            assert client.close_code == 1011
        [record] = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert "closed with 1011" in record.getMessage()

    def test_unsubscribe(self, site: Site) -> None:
        """Nothing of the channel comes after the reply."""
        with site.connect() as client:
            opened(client, "room.1", "room.2")
            assert ask(client, {"id": 1, "unsubscribe": {"channel": "room.1"}}) == [{"id": 1, "unsubscribe": {}}]
            site.groups.send("room.1", "a")
            site.groups.send("room.2", "b")
            assert [push["push"]["channel"] for push in received(client)] == ["room.2"]
            assert site.groups.count("room.1") == 0

    def test_end_of_the_connection_leaves(self, site: Site) -> None:
        """All channels."""
        with site.connect() as client:
            opened(client, "room.1", "room.2")
            assert site.groups.count("room.1") == 1
        assert site.groups.count("room.1") == site.groups.count("room.2") == 0

    def test_members_share_one_frame(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """A publication is encoded once for all of them."""
        made = []
        prepare = __import__("gws_middleware.groups.members", fromlist=["prepare"]).prepare
        monkeypatch.setattr(
            "gws_middleware.groups.members.prepare", lambda message: made.append(message) or prepare(message)
        )
        with site.connect() as one, site.connect() as two:
            opened(one, "room.1")
            opened(two, "room.1")
            site.groups.send("room.1", {"n": 1})
            assert received(one) == received(two)
        assert len(made) == 1


class TestRecovering:
    def subscribe(self, position: Any, **fields: Any) -> dict[str, Any]:
        """A subscription that recovers."""
        since = {"epoch": position.epoch, "offset": position.offset}
        return {"id": 1, "subscribe": {"channel": "room.1", "recover": True, **since, **fields}}

    def test_missed_publications_are_in_the_reply(self, site: Site) -> None:
        """All of them, once, in order; then those that come."""
        position = site.groups.send("room.1", 0)
        for number in range(1, 51):
            site.groups.send("room.1", number)
        with site.connect() as client:
            opened(client)
            [reply] = ask(client, self.subscribe(position))
            site.groups.send("room.1", 51)
            result = reply["subscribe"]
            publications = result.pop("publications")
            assert [(one["data"], one["offset"]) for one in publications] == [(n, n + 1) for n in range(1, 51)]
            assert position is not None
            assert result == {
                "was_recovering": True,
                "recovered": True,
                "recoverable": True,
                "positioned": True,
                "epoch": position.epoch,
                "offset": 1,
            }
            assert received(client)[0]["push"]["pub"] == {"data": 51, "offset": 52}

    def test_clients_that_join_while_others_publish(self) -> None:
        """Each gets everything after its position once and in order, in the reply or after it."""
        site, clients, positions = Site(size=300), 20, []

        def publish() -> None:
            for number in range(300):
                positions.append(site.groups.send("room.1", number))
                gevent.sleep(0)

        def join(number: int) -> list[int]:
            while len(positions) < 10 * number + 5:
                gevent.sleep(0)
            since = positions[-1 if number % 2 else -5]
            with site.connect() as client:
                opened(client)
                [reply] = [one for one in ask(client, self.subscribe(since)) if one.get("id") == 1]
                assert reply["subscribe"]["recovered"]
                offsets = [since.offset]
                offsets += [one["offset"] for one in reply["subscribe"].get("publications", [])]
                while offsets[-1] < 300:
                    offsets += [push["push"]["pub"]["offset"] for push in received(client)]
                return offsets

        publisher = gevent.spawn(publish)
        joining = [gevent.spawn(join, number) for number in range(clients)]
        gevent.joinall([publisher, *joining], raise_error=True)
        for offsets in (one.value for one in joining):
            assert offsets == list(range(offsets[0], 301))

    @pytest.mark.parametrize("backend", ["memory", "sqlite"])
    @pytest.mark.parametrize("change", [{"epoch": "other"}, {"offset": 0}, {"offset": 999}, {"offset": 2**63 - 1}])
    def test_position_that_cannot_be_recovered(self, change: dict[str, Any], backend: str, tmp_path: Path) -> None:
        """Another epoch, one that is no longer kept, one that never was: nothing is sent of what was missed."""
        site = Site("memory://" if backend == "memory" else f"sqlite://{tmp_path / 'groups'}")
        for number in range(70):
            site.groups.send("room.1", number)
        position = site.groups.position("room.1")
        assert position is not None
        with site.connect() as client:
            opened(client)
            [reply] = ask(client, self.subscribe(position, **change))
            assert reply["subscribe"] == {
                "was_recovering": True,
                "recovered": False,
                "recoverable": True,
                "positioned": True,
                "epoch": position.epoch,
                "offset": 70,
            }
        site.release()

    def test_client_that_wants_all_or_nothing(self, site: Site) -> None:
        """Error 112 instead; it is no member."""
        position = site.groups.send("room.1", 0)
        with site.connect() as client:
            opened(client)
            [reply] = ask(client, self.subscribe(position, epoch="other", flag=2))
            assert reply == {"id": 1, "error": error(112, "unrecoverable position")}
            assert site.groups.count("room.1") == 0
            [reply] = ask(client, self.subscribe(position, flag=2))
            assert reply["subscribe"]["recovered"] is True

    def test_binary_messages_are_left_out(self, site: Site, caplog: Any) -> None:
        """Of what is recovered and of what comes; a line in the log says so once for each group."""
        position = site.groups.send("room.binary", 0)
        site.groups.send("room.binary", b"\0")
        assert position is not None
        with site.connect() as client:
            opened(client)
            [reply] = ask(client, self.subscribe(position, channel="room.binary"))
            assert "has binary messages" in caplog.text
            site.groups.send("room.binary", b"\1")
            site.groups.send("room.binary", "text")
            assert reply["subscribe"]["recovered"] is True
            assert "publications" not in reply["subscribe"]
            assert received(client)[0]["push"]["pub"] == {"data": "text", "offset": 4}
        lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert lines == ["group room.binary has binary messages: clients of Centrifuge's JSON protocol do not get them"]

    def test_binary_message_of_a_live_channel(self, site: Site, caplog: Any) -> None:
        """The same line."""
        with site.connect() as client:
            opened(client, "live.binary")
            for message in (b"1", b"2", "text"):
                site.groups.send("live.binary", message)
            assert received(client)[0]["push"]["pub"] == {"data": "text"}
        lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert lines == ["group live.binary has binary messages: clients of Centrifuge's JSON protocol do not get them"]

    def test_gap_that_cannot_be_healed(self, tmp_path: Path) -> None:
        """The client is to subscribe again: the push for it comes in place of what was missed. In a channel without
        history nothing could be recovered, and it stays.
        """
        site = Site(f"sqlite://{tmp_path / 'groups'}")
        with site.connect() as client:
            opened(client, "room.1", "live.1")
            shutil.rmtree(tmp_path / "groups")
            push = {"channel": "room.1", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
            assert received(client) == [{"push": push}]
            assert site.groups.count("room.1") == 0
            [reply] = ask(client, {"id": 1, "subscribe": {"channel": "room.1"}})
            assert "subscribe" in reply
            site.groups.send("live.1", 1)
            assert received(client)[0]["push"]["pub"] == {"data": 1}
        site.release()


class TestPublishing:
    def publish(self, name: str, data: Any) -> dict[str, Any]:
        """A command."""
        return {"id": 1, "publish": {"channel": name, "data": data}}

    @pytest.mark.parametrize("data", [{"a": [1, None]}, "text", 7, None, [], "", True])
    def test_publication_reaches_all_members(self, site: Site, data: Any) -> None:
        """The publisher too, as in Centrifugo, with what it is."""
        with site.connect() as one, site.connect() as two:
            opened(one, "room.1")
            opened(two, "room.1")
            one.send(json.dumps(self.publish("room.1", data)))
            got = received(one)
            if len(got) == 1:
                got += received(one)
            assert sorted(got, key=str)[0] == {"id": 1, "publish": {}}
            info = {"client": control.id_of(site.policy.sockets[0]), "user": "ada", "conn_info": {"name": "Ada"}}
            assert received(two) == [{"push": {"channel": "room.1", "pub": {"data": data, "offset": 1, "info": info}}}]

    def test_reply_means_that_it_was_sent(self, site: Site) -> None:
        """It is in the history then; the publisher need not be a member."""
        with site.connect() as client:
            opened(client)
            assert ask(client, self.publish("room.1", "kept")) == [{"id": 1, "publish": {}}]
            assert [one.data for one in site.groups.history("room.1")] == ["kept"]

    @pytest.mark.parametrize(("name", "data"), [("secret", "yes"), ("room.1", "no")])
    def test_publication_that_is_not_allowed(self, site: Site, name: str, data: str) -> None:
        """By the channel, or by what is published."""
        with site.connect() as client:
            opened(client)
            assert ask(client, self.publish(name, data)) == [{"id": 1, "error": error(103, "permission denied")}]
            assert site.groups.history("room.1") == []

    def test_text_that_cannot_be_encoded(self, site: Site, caplog: Any) -> None:
        """Half of a surrogate pair, which JSON can have: error 107 for text, and JSON carries it on."""
        with site.connect() as client:
            opened(client)
            [reply] = ask(client, self.publish("room.1", "\ud800"))
            assert reply["error"]["code"] == 107
            assert reply["error"]["message"].startswith("bad request: ")
            assert ask(client, self.publish("room.1", ["\ud800"])) == [{"id": 1, "publish": {}}]
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_backend_that_is_away(self, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
        """The client knows that it was not sent."""
        with site.connect() as client:
            opened(client)
            monkeypatch.setattr(site.groups, "send", lambda *_, **__: _raise(GroupsUnavailable("the disk is full")))
            assert ask(client, self.publish("room.1", 1)) == [{"id": 1, "error": INTERNAL}]
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
            "WebSocket '/': publish failed: the disk is full"
        ]


class TestHistory:
    @pytest.mark.parametrize(
        ("fields", "offsets"),
        [
            ({}, []),
            ({"limit": 0}, []),
            ({"limit": 3}, [1, 2, 3]),
            ({"limit": -1}, list(range(1, 11))),
            ({"limit": 3, "reverse": True}, [10, 9, 8]),
            ({"limit": 3, "since": 4}, [5, 6, 7]),
            ({"limit": 100, "since": 10}, []),
            ({"limit": 3, "since": 4, "reverse": True}, [3, 2, 1]),
            ({"limit": 2, "since": 9, "reverse": True}, [8, 7]),
        ],
    )
    def test_history(self, site: Site, fields: dict[str, Any], offsets: list[int]) -> None:
        """As Centrifuge reads it: from the beginning, from the end, after a position, before one."""
        for number in range(1, 11):
            site.groups.send("room.1", number)
        position = site.groups.position("room.1")
        assert position is not None
        if "since" in fields:
            fields = {**fields, "since": {"epoch": position.epoch, "offset": fields["since"]}}
        with site.connect() as client:
            opened(client, "room.1")
            [reply] = ask(client, {"id": 1, "history": {"channel": "room.1", **fields}})
            result = reply["history"]
            assert [one["offset"] for one in result.pop("publications", [])] == offsets
            assert result == {"epoch": position.epoch, "offset": 10}

    @pytest.mark.parametrize(
        ("fields", "offsets"),
        [
            ({"limit": 3}, [11, 12, 13]),
            ({"limit": 60, "reverse": True}, list(range(70, 10, -1))),
            ({"limit": 100, "reverse": True}, list(range(70, 10, -1))),
            ({"limit": 5, "since": 13, "reverse": True}, [12, 11]),
            ({"limit": 5, "since": 12, "reverse": True}, [11]),
            ({"limit": 5, "since": 11, "reverse": True}, []),
            ({"limit": 5, "since": 3, "reverse": True}, []),
            ({"limit": 5, "since": 0, "reverse": True}, []),
            ({"limit": 5, "since": 2**63 - 1, "reverse": True}, [70, 69, 68, 67, 66]),
            ({"limit": 5, "since": 10}, [11, 12, 13, 14, 15]),
        ],
    )
    def test_history_whose_beginning_is_no_longer_kept(
        self, site: Site, fields: dict[str, Any], offsets: list[int]
    ) -> None:
        """It begins with what is kept."""
        for number in range(1, 71):
            site.groups.send("room.1", number)
        position = site.groups.position("room.1")
        assert position is not None
        if "since" in fields:
            fields = {**fields, "since": {"epoch": position.epoch, "offset": fields["since"]}}
        with site.connect() as client:
            opened(client, "room.1")
            [reply] = ask(client, {"id": 1, "history": {"channel": "room.1", **fields}})
            assert [one["offset"] for one in reply["history"].get("publications", [])] == offsets

    def test_history_is_not_read_for_one_entry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However much of it is kept: a client could do so again and again."""
        site, read = Site(size=5000), []
        for number in range(5000):
            site.groups.send("room.1", number)
        history = site.groups.history

        def counted(name: str, **options: Any) -> Any:
            found = history(name, **options)
            read.append(len(found))
            return found

        monkeypatch.setattr(site.groups, "history", counted)
        with site.connect() as client:
            opened(client, "room.1")
            for fields in ({}, {"reverse": True}):
                [reply] = ask(client, {"id": 1, "history": {"channel": "room.1", "limit": 1, **fields}})
                assert len(reply["history"]["publications"]) == 1
        assert sum(read) <= 30

    @pytest.mark.parametrize("reverse", [False, True])
    def test_position_of_another_epoch(self, site: Site, reverse: bool) -> None:
        """Error 112."""
        site.groups.send("room.1", 1)
        since = {"epoch": "other", "offset": 1}
        with site.connect() as client:
            opened(client, "room.1")
            command = {"id": 1, "history": {"channel": "room.1", "limit": 5, "since": since, "reverse": reverse}}
            assert ask(client, command) == [{"id": 1, "error": error(112, "unrecoverable position")}]

    def test_position_that_is_no_longer_kept(self, site: Site) -> None:
        """The publications after it are not all there."""
        position = site.groups.send("room.1", 0)
        for number in range(61):
            site.groups.send("room.1", number)
        assert position is not None
        since = {"epoch": position.epoch, "offset": 1}
        with site.connect() as client:
            opened(client, "room.1")
            command = {"id": 1, "history": {"channel": "room.1", "limit": 5, "since": since}}
            assert ask(client, command) == [{"id": 1, "error": error(112, "unrecoverable position")}]

    def test_reply_is_bounded(self) -> None:
        """By 300, whatever the client asks for."""
        site = Site(size=1000)
        for number in range(400):
            site.groups.send("room.1", number)
        with site.connect() as client:
            opened(client, "room.1")
            for limit in (-1, 301):
                [reply] = ask(client, {"id": 1, "history": {"channel": "room.1", "limit": limit}})
                assert [one["data"] for one in reply["history"]["publications"]] == list(range(300))

    def test_channel_without_history(self, site: Site) -> None:
        """There is none."""
        with site.connect() as client:
            opened(client, "live.1")
            assert ask(client, {"id": 1, "history": {"channel": "live.1"}}) == [
                {"id": 1, "error": error(108, "not available")}
            ]


def refused(site: Site, **command: Any) -> Any:
    """The error of a command of a client in room.1, room.2 and live.1."""
    with site.connect() as client:
        opened(client, "room.1", "room.2", "live.1")
        [reply] = ask(client, {"id": 1, **command})
    return reply["error"]


class TestPresence:
    @pytest.fixture
    def site(self, monkeypatch: pytest.MonkeyPatch) -> Site:
        """One whose rooms have presence with events; "live" has none."""
        monkeypatch.setattr(hub, "EVENTS_EVERY", 0.02)
        return Site(presence={"room": Presence(events=True, leave_delay=0)})

    def test_clients_of_a_channel(self, site: Site) -> None:
        """The client itself, others with what ``info()`` has of them, and members that are no clients."""
        with site.connect() as one, site.connect("/bob") as two:
            opened(one, "room.1")
            opened(two, "room.1")
            first, second = map(control.id_of, site.policy.sockets)
            wanted = {
                "presence": {
                    first: {"client": first, "user": "ada", "conn_info": {"name": "Ada"}},
                    second: {"client": second, "user": "bob"},
                }
            }
            assert ask(one, {"id": 1, "presence": {"channel": "room.1"}}) == [{"id": 1, "presence": wanted}]
            [reply] = ask(one, {"id": 1, "presence_stats": {"channel": "room.1"}})
            assert reply["presence_stats"] == {"num_clients": 2, "num_users": 2}
            ask(two, {"id": 2, "unsubscribe": {"channel": "room.1"}})
            [reply] = ask(one, {"id": 1, "presence": {"channel": "room.1"}})
            assert list(reply["presence"]["presence"]) == [first]

    def test_events(self, site: Site) -> None:
        """For the client that wants them, after the reply; as long as it is in the channel."""
        with site.connect() as one, site.connect("/bob") as two:
            ask(one, {"id": 1, "connect": {}})
            first, second = map(control.id_of, site.policy.sockets)
            [reply] = ask(one, {"id": 2, "subscribe": {"channel": "room.1", "join_leave": True}})
            assert "subscribe" in reply
            [push] = received(one)
            assert (push["push"]["channel"], push["push"]["join"]["info"]["client"]) == ("room.1", first)
            opened(two, "room.1")
            [push] = received(one)
            assert push["push"]["join"]["info"] == {"client": second, "user": "bob"}
            two.close()
            [push] = received(one)
            assert push["push"]["leave"]["info"]["client"] == second
            assert site.groups.count(presence_group("room.1")) == 1
            ask(one, {"id": 3, "unsubscribe": {"channel": "room.1"}})
            assert site.groups.count(presence_group("room.1")) == 0

    def test_client_that_may_not_see_members(self, site: Site) -> None:
        """Error 103; the subscription without events is possible."""
        denied = error(103, "permission denied")
        assert refused(site, presence={"channel": "room.2"}) == denied
        assert refused(site, presence_stats={"channel": "room.2"}) == denied
        assert refused(site, subscribe={"channel": "room.3", "join_leave": True}) == error(
            103, "permission denied: join and leave"
        )
        assert site.groups.count("room.3") == 0

    def test_default_is_that_nothing_may_be_seen(self) -> None:
        """A policy has to allow it."""
        assert not Policy().may_see_members(object(), "room.1")  # type: ignore[arg-type]

    def test_channel_without_presence(self, site: Site) -> None:
        """Error 108."""
        assert refused(site, presence={"channel": "live.1"}) == error(108, "not available")
        assert refused(site, presence_stats={"channel": "live.1"}) == error(108, "not available")
        wanted = error(108, "not available: join and leave")
        with site.connect() as client:
            opened(client)
            [reply] = ask(client, {"id": 1, "subscribe": {"channel": "live.1", "join_leave": True}})
        assert reply["error"] == wanted

    def test_info_that_is_too_large(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        """Error 100, and the log says what is wrong; groups without presence can be joined."""
        with site.connect("/large") as client:
            opened(client, "live.1")
            [reply] = ask(client, {"id": 1, "subscribe": {"channel": "room.1"}})
        assert reply["error"] == INTERNAL
        assert "and 1,024 is the most" in caplog.text

    def test_events_that_cannot_be_had_end_the_subscription(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The client subscribes again."""
        attach = Groups.attach

        def fail(self: Groups, name: str, *arguments: Any, **keywords: Any) -> Any:
            if name.startswith("gws."):
                raise GroupsUnavailable("the disk is full")
            return attach(self, name, *arguments, **keywords)

        monkeypatch.setattr(Groups, "attach", fail)
        with site.connect() as client:
            opened(client)
            client.send(json.dumps({"id": 1, "subscribe": {"channel": "room.1", "join_leave": True}}))
            reply, push = [*received(client), *received(client)]
            assert "subscribe" in reply
            assert push["push"]["unsubscribe"]["code"] == 2500
            assert site.groups.count("room.1") == 0
        assert "subscribe failed: the disk is full" in caplog.text

    def test_subscription_that_ends_at_once_has_no_events(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """Publications were missed before the client could be a member of their group."""
        attach = Groups.attach

        def miss(self: Groups, name: str, ws: WebSocket, delivery: Any, *arguments: Any, **keywords: Any) -> Any:
            joined = attach(self, name, ws, delivery, *arguments, **keywords)
            if not name.startswith("gws."):
                delivery.on_gap(ws, name)
            return joined

        monkeypatch.setattr(Groups, "attach", miss)
        with site.connect() as client:
            opened(client)
            client.send(json.dumps({"id": 1, "subscribe": {"channel": "room.1", "join_leave": True}}))
            reply, push = [*received(client), *received(client)]
            assert ("subscribe" in reply, push["push"]["unsubscribe"]["code"]) == (True, 2500)
            ask(client, {"id": 2, "rpc": {"method": "echo"}})
            assert site.groups.count(presence_group("room.1")) == 0

    def test_missed_publications_end_the_events_too(self, tmp_path: Path) -> None:
        """With the subscription; the next one has them again."""
        site = Site(f"sqlite://{tmp_path / 'groups'}", presence={"room": Presence(events=True)})
        with site.connect() as client:
            opened(client)
            subscribe = {"channel": "room.1", "join_leave": True}
            ask(client, {"id": 1, "subscribe": subscribe})
            assert "join" in received(client)[0]["push"]
            shutil.rmtree(tmp_path / "groups")
            assert received(client)[0]["push"]["unsubscribe"]["code"] == 2500
            assert site.groups.count(presence_group("room.1")) == 0
            [reply] = ask(client, {"id": 2, "subscribe": subscribe})
            assert "subscribe" in reply
        site.release()


class TestRpc:
    @pytest.mark.parametrize("data", [None, 0, "x", {"a": 1}])
    def test_result(self, site: Site, data: Any) -> None:
        """What the method returns."""
        with site.connect() as client:
            opened(client)
            assert ask(client, {"id": 1, "rpc": {"method": "echo", "data": data}}) == [{"id": 1, "rpc": {"data": data}}]

    @pytest.mark.parametrize(
        ("method", "reply"),
        [("sold out", error(400, "sold out")), ("unknown", error(104, "method not found"))],
    )
    def test_error_of_the_application(self, site: Site, method: str, reply: Any, caplog: Any) -> None:
        """Its own code. Nothing is logged."""
        with site.connect() as client:
            opened(client)
            assert ask(client, {"id": 1, "rpc": {"method": method}}) == [{"id": 1, "error": reply}]
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    @pytest.mark.parametrize("method", ["fails", "times out", "object"])
    def test_mistake_of_the_application(self, site: Site, method: str, caplog: Any) -> None:
        """Logged once with its traceback; the client gets error 100, and the connection stays."""
        with site.connect() as client:
            opened(client)
            assert ask(client, {"id": 1, "rpc": {"method": method}}) == [{"id": 1, "error": INTERNAL}]
            assert ask(client, {"id": 2, "rpc": {"method": "echo"}}) == [{"id": 2, "rpc": {"data": None}}]
        [record] = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert record.getMessage() == "WebSocket '/': rpc failed; error 100 is sent"
        assert record.exc_info is not None

    def test_commands_run_in_their_order(self, site: Site) -> None:
        """One after the other, whatever frames they come in."""
        with site.connect() as client:
            opened(client)
            client.send(json.dumps({"id": 1, "rpc": {"method": "sleeps", "data": 0.05}}))
            assert [reply["id"] for reply in ask(client, {"id": 2, "rpc": {"method": "echo"}}) + received(client)] == [
                1,
                2,
            ]

    def test_connection_that_ends_during_a_command(self, site: Site, caplog: Any) -> None:
        """Is no mistake of the application."""
        with site.connect() as client:
            opened(client)
            client.send(json.dumps({"id": 1, "rpc": {"method": "sleeps", "data": 0.05}}))
        eventually(lambda: site.policy.calls[-1] == "disconnected", "the end", sleep=gevent.sleep)
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    def test_method_that_uses_a_connection_that_has_ended(self, site: Site, caplog: Any) -> None:
        """Nor is this."""
        with site.connect() as client:
            opened(client)
            METHODS["closes"] = lambda data: (site.ws.close(4500, "over"), site.ws.send("late"))
            client.send(json.dumps({"id": 1, "rpc": {"method": "closes"}}))
            assert client.receive() is None
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class TestErrors:
    @pytest.mark.parametrize("code", [0, 99, 105.5, 110, 399, 2000, "101"])
    def test_code_must_be_of_the_application(self, code: Any) -> None:
        """Clients connect again, or not, by the code."""
        message = f"an error of the application has a code of 400 to 1999, and {code!r} is none"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            CentrifugeError(code)

    @pytest.mark.parametrize("code", [100, 112, 400, 1999])
    def test_codes_of_the_application(self, code: int) -> None:
        """And of the protocol."""
        assert CentrifugeError(code).code == code

    def test_text(self) -> None:
        """Of the protocol, or one's own."""
        assert [str(CentrifugeError(103)), str(CentrifugeError(400, "no"))] == ["103: permission denied", "400: no"]

    def test_policy_allows_nothing_by_itself(self) -> None:
        """Every method has a default, which is the safe one."""
        site = Site()
        site.policy = Policy()  # type: ignore[assignment]
        with site.connect() as client:
            opened(client)
            commands = [
                {"id": 1, "subscribe": {"channel": "room.1"}},
                {"id": 2, "publish": {"channel": "room.1", "data": 1}},
                {"id": 3, "rpc": {"method": "echo"}},
            ]
            assert [reply["error"]["code"] for reply in ask(client, *commands)] == [103, 103, 104]


class TestReferences:
    def test_connection_is_freed_at_its_end(self) -> None:
        """Without the garbage collector: the session, its policy and the WebSocket refer to each other until then."""
        site, seen = Site(), []

        class Noting(Policy):
            def connected(self, ws: WebSocket) -> None:
                seen.append(weakref.ref(ws))

            def may_join(self, ws: WebSocket, name: str) -> bool:
                return True

        site.policy = Noting()  # type: ignore[assignment]
        gc.collect()
        gc.disable()
        try:
            with site.connect() as client:
                opened(client, "room.1")
                site.groups.send("room.1", 1)
                received(client)
            del client
            eventually(lambda: seen[0]() is None, "the end of the WebSocket", sleep=gevent.sleep)
        finally:
            gc.enable()
