"""``Groups``: what an application calls, in any process."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest

from gws_middleware.codes import CloseCode
from gws_middleware.exceptions import ConnectionClosed, HandshakeRefused
from gws_middleware.groups import Groups, History, Position
from gws_middleware.groups.backends import redis
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import connected, hub_errors, in_a_thread, package_path, ticks, until  # noqa: F401

NAMES = "wanted are 1 to 200 of the characters A-Z a-z 0-9 _ . : @ -"
HISTORY = {"kept": History(size=5000, age=60.0)}


@pytest.fixture
def groups() -> Iterator[Groups]:
    made = Groups("memory://", history=HISTORY)
    yield made
    made.release()


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.database)])
def every(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Groups]:
    """Groups with each backend."""
    if request.param == "redis":
        made = Groups(request.getfixturevalue("valkey"), history=HISTORY, prefix=f"test-{uuid.uuid4().hex}")
    else:
        made = Groups("memory://" if request.param == "memory" else f"sqlite://{tmp_path / 'log'}", history=HISTORY)
    yield made
    made.release()


def room(groups: Groups, name: str = "room", **options: Any) -> Callable[[Environ, StartResponse], list[bytes]]:
    """An application whose connections join a group and publish what they receive."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        groups.join(name, ws, **options)
        for text in ws:
            groups.send(name, text)
        return []

    return app


def run(script: str, *arguments: str) -> Any:
    """What a fresh interpreter prints as JSON."""
    made = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=package_path(), capture_output=True, text=True, timeout=30
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A.b_c-d:e@f.9", "x" * 200, "gws", "gwsx.y"])
def test_name_of_a_group(groups: Groups, name: str) -> None:
    """1 to 200 characters."""
    assert groups.send(name, "x") is None


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("", ValueError, f"'' cannot be the name of a group: {NAMES}"),
        ("a b", ValueError, f"'a b' cannot be the name of a group: {NAMES}"),
        ("a\n", ValueError, f"'a\\n' cannot be the name of a group: {NAMES}"),
        ("é", ValueError, f"'é' cannot be the name of a group: {NAMES}"),
        ("x" * 201, ValueError, f"{'x' * 50!r} cannot be the name of a group: {NAMES}"),
        ("gws.x", ValueError, "'gws.x' cannot be the name of a group: 'gws.' begins the names of this package"),
        (b"a", TypeError, "the name of a group is a str, not bytes"),
        (None, TypeError, "the name of a group is a str, not NoneType"),
    ],
)
@pytest.mark.parametrize(
    "call",
    ["send", "send_many", "asend", "join", "leave", "close", "count", "members", "history", "position", "listen"],
)
def test_wrong_name_of_a_group(groups: Groups, call: str, name: Any, kind: type[Exception], sentence: str) -> None:
    """Each method refuses it with the same sentence."""
    with connected() as (ws, _peer):
        arguments: dict[str, tuple[Any, ...]] = {"send": (name, ""), "asend": (name, ""), "send_many": ([(name, "")],)}
        arguments |= {"join": (name, ws), "leave": (name, ws)}
        method = partial(getattr(groups, call), *arguments.get(call, (name,)))
        with pytest.raises(kind) as raised:
            asyncio.run(method()) if call == "asend" else method()
    assert str(raised.value) == sentence


def with_ws(groups: Groups, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    with connected() as (ws, _peer):
        return function(groups, *[ws if one == "ws" else one for one in arguments], **keywords)


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (
            partial(with_ws, function=Groups.join, slow="drop"),
            ValueError,
            "slow is 'drop': wanted is 'close' or 'skip'",
        ),
        (
            partial(with_ws, function=Groups.join, slow="skip", handler=print),
            ValueError,
            "slow='skip' is for groups without history, and without a handler: nothing may be missing",
        ),
        (
            partial(with_ws, function=Groups.join, wrap=str, handler=print),
            ValueError,
            "a member has either wrap or handler",
        ),
        (
            partial(with_ws, function=Groups.join, since="nonsense"),
            ValueError,
            "'nonsense' is not a position: wanted is what str(position) gives, e.g. 'x7f3.12'",
        ),
        (
            partial(with_ws, function=Groups.join, since=("a", 1)),
            TypeError,
            "a position is parsed from a str, not tuple",
        ),
    ],
)
def test_wrong_argument_of_join(groups: Groups, call: Any, kind: type[Exception], sentence: str) -> None:
    """The connection stays open, and is no member."""
    function = call.keywords.pop("function")
    with pytest.raises(kind) as raised:
        with_ws(groups, function, "room", "ws", **call.keywords)
    assert str(raised.value) == sentence
    assert groups.count("room") == 0


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda groups: groups.send("a", {1, 2}), TypeError, "Object of type set is not JSON serializable"),
        (lambda groups: groups.send("a", float("nan")), ValueError, "Out of range float values are not JSON compliant"),
        (
            lambda groups: groups.send("a", "x" * (2**24 + 1)),
            ValueError,
            "the message has 16,777,217 bytes, and a group takes 16,777,216 at most",
        ),
        (lambda groups: groups.close("a", 1005), ValueError, "1005 is no close code that may be sent"),
        (lambda groups: groups.close("a", 999), ValueError, "999 is no close code that may be sent"),
        (
            lambda groups: groups.close("a", 1000, "é" * 62),
            ValueError,
            "the reason has 124 bytes, and 123 is the most",
        ),
        (lambda groups: groups.history("kept", limit=0), ValueError, "the limit is a number above 0, not 0"),
        (lambda groups: groups.listen("kept", since=3), TypeError, "a position is parsed from a str, not int"),
        (
            lambda groups: groups.history("kept", since="other.3"),
            LookupError,
            "group 'kept' no longer keeps what came after other.3",
        ),
        (
            lambda groups: groups.listen("kept", since="other.3"),
            LookupError,
            "messages of group 'kept' were missed, and are no longer kept",
        ),
        (
            lambda groups: Groups("ftp://"),
            ValueError,
            "'ftp://' is no backend of groups: wanted is 'auto', 'sqlite:///directory', 'memory://', or a URL of Redis",
        ),
        (
            lambda groups: Groups("memory://", history={"a": 100}),  # type: ignore[dict-item]
            ValueError,
            "history has 'a': 100; wanted is what precedes the first dot of names, and a History",
        ),
        (
            lambda groups: Groups("memory://", history={"a.b": History()}),
            ValueError,
            f"history has 'a.b': {History()!r}; wanted is what precedes the first dot of names, and a History",
        ),
    ],
)
def test_wrong_argument(groups: Groups, call: Callable[[Groups], Any], kind: type[Exception], sentence: str) -> None:
    """The sentence has what was found and what is wanted; nothing was published."""
    with pytest.raises(kind) as raised:
        call(groups)
    assert str(raised.value).startswith(sentence)
    assert groups.history("kept") == []


# --- sending ----------------------------------------------------------------------------------------------------------


def test_view_that_joins_and_publishes(every: Groups) -> None:
    """Each member gets what each of them sends, its own messages too."""
    app = room(every)
    with connect(app) as first, connect(app) as second:
        until(lambda: every.count("room") == 2)
        first.send("1")
        assert [first.receive(), second.receive()] == ["1", "1"]
        second.send("2")
        assert [first.receive(), second.receive()] == ["2", "2"]
    until(lambda: every.count("room") == 0)


def test_send_many_is_in_order(every: Groups) -> None:
    """Positions are those of ``send()``."""
    positions = every.send_many([("kept", 1), ("room", 2), ("kept", 3)])
    first, none, second = positions
    assert first is not None
    assert (none, second) == (None, Position(first.epoch, first.offset + 1))
    assert [one.data for one in every.history("kept")] == [1, 3]


def test_history_and_position(every: Groups) -> None:
    """The latest ones, or those after a position."""
    assert every.position("room") is None
    assert every.history("room") == []
    start = every.position("kept")
    assert start is not None
    assert start.offset == 0
    sent = [every.send("kept", number, info={"by": number}) for number in range(5)]
    assert every.position("kept") == sent[-1]
    assert [one.data for one in every.history("kept")] == list(range(5))
    assert [one.data for one in every.history("kept", limit=2)] == [3, 4]
    assert [one.data for one in every.history("kept", since=sent[1], limit=2)] == [2, 3]
    assert [one.data for one in every.history("kept", since=str(start))] == list(range(5))
    assert every.history("kept", since=sent[-1]) == []
    one = every.history("kept", limit=1)[0]
    assert (one.group, one.position, one.kind, one.info, one.message) == ("kept", sent[-1], "json", {"by": 4}, "4")


def test_exclude_from_a_thread(groups: Groups) -> None:
    """A connection is found in whatever thread the message is sent."""
    with connected() as (ws, peer), connected() as (other, other_peer):
        groups.join("room", ws)
        groups.join("room", other)
        in_a_thread(lambda: groups.send("room", "own", exclude=ws))
        in_a_thread(lambda: groups.send("room", "all"))
        assert [peer.receive(), other_peer.receive(), other_peer.receive()] == ["all", "own", "all"]


def test_excluded_connection_that_is_refused_is_not_kept(groups: Groups) -> None:
    """A view may publish, and then refuse the handshake."""
    references = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        references.append(weakref.ref(ws))
        groups.send("room", "x", exclude=ws)
        start_response("403 Forbidden", [])
        return [b""]

    with pytest.raises(HandshakeRefused), connect(app):
        pass
    gc.collect()
    until(lambda: references[0]() is None)


@pytest.mark.parametrize("way", ["view", "on_message", "thread", "asyncio"])
def test_thousand_messages_arrive_in_order(every: Groups, way: str) -> None:
    """From each kind of publisher, while another one publishes."""
    count = 1000
    listener = every.listen("kept.in", timeout=10)
    publish = partial(every.send, "kept.in")

    def publish_all(*_: object) -> None:
        for number in range(count):
            publish({"from": way, "n": number})

    async def publish_all_async() -> None:
        for number in range(count):
            await every.asend("kept.in", {"from": way, "n": number})

    def view(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.websocket"].receive()
        publish_all()
        return []

    def detached(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.websocket"].detach(publish_all)
        return []

    def read() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(found) < 2 * count:
            found.append(next(listener).data)
        return found

    reader = gevent.spawn(read)
    other = gevent.spawn(lambda: [(publish({"from": "other", "n": n}), gevent.sleep(0)) for n in range(count)])
    if way in ("view", "on_message"):
        with connect(view if way == "view" else detached, timeout=30) as client:
            client.send("go")
            other.join(timeout=30)
            found = reader.get(timeout=30)
    else:
        in_a_thread(publish_all if way == "thread" else lambda: asyncio.run(publish_all_async()))
        found = reader.get(timeout=30)
    other.get(timeout=30)
    listener.close()
    for source in (way, "other"):
        assert [one["n"] for one in found if one["from"] == source] == list(range(count))


# --- members ----------------------------------------------------------------------------------------------------------


def test_join_accepts_and_survives_detach(groups: Groups) -> None:
    """A member needs no view."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        groups.join("room", ws)
        ws.detach()
        return []

    with connect(app) as client:
        groups.send("room", "x")
        assert client.receive() == "x"


def test_join_in_on_close(groups: Groups) -> None:
    """The connection has ended: ConnectionClosed, and it is no member."""
    raised: list[BaseException] = []

    def on_close(ws: Any) -> None:
        try:
            groups.join("room", ws)
        except ConnectionClosed as error:
            raised.append(error)
        groups.send("room", "closed")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.websocket"].detach(on_close=on_close)
        return []

    with groups.listen("room", timeout=5) as listener, connect(app) as client:
        client.close()
        assert next(listener).data == "closed"
    assert len(raised) == 1
    assert groups.count("room") == 0


def test_join_from_a_thread(groups: Groups) -> None:
    """RuntimeError, as with the other methods that belong to the connection's loop."""
    with connected() as (ws, _peer):
        for call in (groups.join, groups.leave):
            with pytest.raises(RuntimeError, match="this is another thread"):
                in_a_thread(call, "room", ws)


def test_resume_from_a_text(every: Groups) -> None:
    """The position of a client comes from its URL."""
    start = every.send("kept", "0")
    every.send("kept", "1")
    with connected() as (ws, peer):
        joined = every.join("kept", ws, since=str(start))
        assert joined.recovered
        every.send("kept", "2")
        assert [peer.receive(), peer.receive()] == ["1", "2"]


@pytest.mark.parametrize("code", [CloseCode.NORMAL, CloseCode.POLICY_VIOLATION, 4001])
def test_close_comes_after_what_was_sent(every: Groups, code: int) -> None:
    """All members get the messages before it, then the close frame; other groups stay open."""
    with connected() as (ws, peer), connected() as (other, other_peer):
        every.join("room", ws)
        every.join("hall", other)
        for number in range(50):
            every.send("room", str(number))
        every.close("room", code, "the end")
        assert [peer.receive() for _ in range(50)] == [str(number) for number in range(50)]
        assert peer.close_frame() == (code, "the end")
        every.send("hall", "x")
        assert other_peer.receive() == "x"
        until(lambda: every.count("room") == 0)


def test_close_of_a_group_ends_iterations(groups: Groups) -> None:
    """And a connection that joins meanwhile is closed, too; the next one is not."""
    listener = groups.listen("room", timeout=5)
    groups.send("room", "last")
    groups.close("room")
    assert [one.data for one in listener] == ["last"]
    with connected() as (ws, peer):
        groups.join("room", ws)
        groups.send("room", "x")
        assert peer.receive() == "x"


def test_release_ends_memberships(every: Groups) -> None:
    """Connections stay open, iterations end, and what is called later works again."""
    with connected() as (ws, peer):
        every.join("room", ws)
        listener = every.listen("room")
        every.release()
        assert list(listener) == []
        assert not every.leave("room", ws)
        every.join("room", ws)
        every.send("room", "x")
        assert peer.receive() == "x"


def test_release_ends_what_signs(every: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that keeps numbers says at intervals that it lives. After the release nothing waits for that."""
    monkeypatch.setattr(redis, "PING", 3600.0)
    every.put_numbers({"site": 1})
    ticks()
    every.release()  # hub_errors waits for the loop to be empty


def test_numbers_are_set_and_added_up(every: Groups) -> None:
    """Those of one process here. 0 removes one, so that a table has no more than there is."""
    assert [every.exchange_number("site", number) for number in (3, 2)] == [3, 2]
    every.put_numbers({"site": 0, "user:1": 7})
    assert [every.exchange_number("site", number) for number in (4, 0)] == [4, 0]
    assert every.exchange_number("user:1", 0) == 0


def test_groups_that_are_not_used_any_more_are_freed() -> None:
    """With their hub, though the event loop goes on."""

    def use() -> weakref.ref[Groups]:
        groups = Groups("memory://")
        with connected() as (ws, peer):
            groups.join("room", ws)
            groups.send("room", "x")
            assert peer.receive() == "x"
        return weakref.ref(groups)

    reference = use()

    def is_freed() -> bool:
        gc.collect()
        return reference() is None

    until(is_freed)


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["gws_middleware", "gws_middleware.groups"])
def test_import_loads_neither_django_nor_gevent(module: str) -> None:
    """Importing has no effect."""
    loaded = run(f"import sys, json, {module}; print(json.dumps([m for m in sys.modules if '.' not in m]))")
    assert {"gevent", "django"} & set(loaded) == set()


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_process_that_publishes_starts_no_loop_and_no_thread(url: str, tmp_path: Path) -> None:
    """It sends, reads and counts in an interpreter that nothing has patched."""
    found = run(
        """
import json, sys, threading
from gws_middleware.groups import Groups, History
groups = Groups(sys.argv[1], history={"kept": History()})
groups.send("room", "x")
groups.send_many([("kept", 1), ("kept", 2)])
groups.close("room")
found = [[one.data for one in groups.history("kept")], groups.count("room"), groups.position("kept").offset]
groups.release()
from gevent._hub_local import get_hub_if_exists
print(json.dumps([*found, get_hub_if_exists() is None, threading.active_count(), "django" in sys.modules]))
""",
        url if url == "memory://" else f"sqlite://{tmp_path / 'log'}",
    )
    assert found == [[1, 2], 0, 2, True, 1, False]


def test_another_process_publishes(tmp_path: Path) -> None:
    """Members get it; its positions continue those of this process."""
    url = f"sqlite://{tmp_path / 'log'}"
    groups = Groups(url, history=HISTORY)
    with connected() as (ws, peer):
        groups.join("kept", ws)
        first = groups.send("kept", "here")
        script = """
import json, sys
from gws_middleware.groups import Groups, History
groups = Groups(sys.argv[1], history={"kept": History(5000, 60.0)})
print(json.dumps([groups.send("kept", "there"), groups.count("kept")]))
"""
        until(lambda: groups.count("kept") == 1)
        position, count = in_a_thread(run, script, url)
        assert [peer.receive(), peer.receive()] == ["here", "there"]
        assert (first is not None and first.epoch, 2, 1) == (*position, count)
    groups.release()


def test_listening_in_a_process_without_a_loop(tmp_path: Path) -> None:
    """An iteration needs no server and no patched interpreter; a thread publishes."""
    found = run(
        """
import json, sys, threading
from gws_middleware.groups import Groups
groups = Groups("memory://")
listener = groups.listen("room", timeout=10)
def publish():
    for number in range(100):
        groups.send("room", number)
threading.Thread(target=publish).start()
print(json.dumps([next(listener).data for _ in range(100)]))
"""
    )
    assert found == list(range(100))


def test_forked_child_has_no_members() -> None:
    """It begins without members and messages, and may use all of it; the parent's member gets the parent's messages."""
    found = run(
        """
import json, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from gws_middleware.groups import Groups, History
from gws_middleware.testing import connect
groups = Groups("memory://", history={"kept": History()})
found = []

def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    groups.join("kept", ws, handler=lambda ws, publication: ws.send(f"{os.getpid()} {publication.data}"))
    groups.send("kept", "before")
    for text in ws:
        reading, writing = os.pipe()
        groups.send("kept", "pending")
        pid = os.fork()
        if pid == 0:
            try:
                listener = groups.listen("kept", timeout=1)
                groups.send("kept", "child")
                child = [groups.count("kept"), [one.data for one in groups.history("kept")], next(listener).data]
                child += [one.data for one in listener]
                os.write(writing, json.dumps([*child, ws.closed]).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        found.append(json.loads(os.read(reading, 10000)))
        groups.send("kept", "after")
    return []

with connect(app, timeout=20) as client:
    texts = [client.receive()]
    client.send("fork")
    texts += [client.receive(), client.receive()]
print(json.dumps([found, [text.split() for text in texts], os.getpid()]))
"""
    )
    child, texts, pid = found
    assert child == [[0, ["child"], "child", True]]
    assert texts == [[str(pid), text] for text in ("before", "pending", "after")]


def test_thread_with_a_loop_of_its_own(groups: Groups) -> None:
    """An iteration in another thread gets the same messages."""
    found: list[Any] = []
    ready = threading.Event()

    def iterate() -> None:
        with groups.listen("room", timeout=10) as listener:
            ready.set()
            found.extend(next(listener).data for _ in range(100))
        gevent.wait(timeout=10)  # the feed of this loop is closed
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=iterate)
    thread.start()
    assert ready.wait(5)
    with connected() as (ws, peer):
        groups.join("room", ws)
        for number in range(100):
            groups.send("room", str(number))
        assert [peer.receive() for _ in range(100)] == [str(number) for number in range(100)]
    in_a_thread(thread.join, 10)
    assert found == [str(number) for number in range(100)]
