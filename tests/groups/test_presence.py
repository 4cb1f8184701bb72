"""Presence: which connections are in a group, over all processes, and the events of those that join and leave."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from gws_middleware.exceptions import ConnectionClosed
from gws_middleware.groups import Groups, GroupsUnavailable, Member, Presence, hub, presence_group, records
from gws_middleware.groups.backends.base import Buried, Record
from gws_middleware.groups.listening import Listener
from gws_middleware.groups.members import Delivery
from gws_middleware.groups.presence import MAX_CHANGES, Change, Changes, Events, unpack

from ..support.brokers import needs_redis
from ..support.inprocess import connected, hub_errors, until  # noqa: F401
from ..support.seam import live_shortly
from ..support.servers import ROOT
from .conftest import Attempt, Fake, Gate, Site

PRESENCE = {"room": Presence(events=True, leave_delay=0.3), "quiet": Presence()}
ROOM, QUIET = "room.1", "quiet.1"

Make = Callable[[], Groups]
"""Makes groups as another process has them."""
Start = Callable[[str, int], "subprocess.Popen[str]"]
"""Starts a process with members of a group: so many."""


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("valkey", marks=pytest.mark.database),
        pytest.param("redis", marks=[pytest.mark.database, needs_redis]),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param in ("memory", "sqlite"):
        return "memory://" if request.param == "memory" else f"sqlite://{tmp_path}/log"
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def prefix() -> str:
    """Of this test's own, on a server of all tests."""
    return f"test-{time.monotonic_ns()}"


@pytest.fixture
def make(url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(hub, "EVENTS_EVERY", 0.05)
    made: list[Groups] = []

    def groups() -> Groups:
        made.append(Groups(url, presence=PRESENCE, prefix=prefix))
        return made[-1]

    yield groups
    for each in made:
        each.release()


@pytest.fixture
def groups(make: Make) -> Groups:
    return make()


@pytest.fixture
def several(make: Make, url: str) -> list[Groups]:
    """Those of three processes."""
    if url == "memory://":
        pytest.skip("memory:// is of one process")
    return [make() for _ in range(3)]


def join(groups: Groups, name: str, info: Any = None) -> Fake:
    ws = Fake()
    groups.join(name, ws, info=info)  # type: ignore[arg-type]
    return ws


def leave(groups: Groups, name: str, *members: Fake) -> None:
    for ws in members:
        assert groups.leave(name, ws)  # type: ignore[arg-type]


def infos(groups: Groups, name: str) -> list[Any]:
    return sorted((member.info for member in groups.members(name)), key=str)


def listen(groups: Groups, timeout: float = 5) -> Listener:
    found = groups.listen(presence_group(ROOM), timeout=timeout)
    assert isinstance(found, Listener)
    return found


def changes(events: Listener, count: int) -> list[tuple[str, Any]]:
    """The next events: what, and the info; no more and no fewer."""
    found: list[tuple[str, Any]] = []
    while len(found) < count:
        data = next(events).data
        found += [(what, change["info"]) for what in ("left", "joined") for change in data[what]]
    assert len(found) == count
    return found


# --- members ----------------------------------------------------------------------------------------------------------


def test_members_are_seen_with_their_info(groups: Groups) -> None:
    """Any JSON, or nothing; with the identity of the connection."""
    ada, bob = join(groups, QUIET, {"user": 1, "name": "Ä"}), join(groups, QUIET)
    found = groups.members(QUIET)
    assert infos(groups, QUIET) == [None, {"user": 1, "name": "Ä"}]
    assert len({member.connection for member in found}) == 2
    assert all(type(member) is Member for member in found)
    leave(groups, QUIET, ada)
    assert (infos(groups, QUIET), groups.count(QUIET)) == ([None], 1)
    leave(groups, QUIET, bob)
    assert (groups.members(QUIET), groups.count(QUIET)) == ([], 0)


def test_members_of_all_processes(several: list[Groups]) -> None:
    """A process without members, and one that has never joined any, see them, too."""
    here, there, other = several
    one, two = join(here, QUIET, "one"), join(there, QUIET, "two")
    for groups in several:
        until(lambda groups=groups: infos(groups, QUIET) == ["one", "two"], "the members of both")  # type: ignore[misc]
    there.release()
    until(lambda: infos(other, QUIET) == ["one"], "those of the released process are none")
    leave(here, QUIET, one)
    assert not two.closes


def test_member_ends_with_its_connection(groups: Groups) -> None:
    """However that ends."""
    with connected() as (ws, peer):
        groups.join(QUIET, ws, info="ada")
        assert infos(groups, QUIET) == ["ada"]
        peer.reset()
        until(lambda: groups.members(QUIET) == [])


def test_connection_that_ends_while_it_joins_is_never_seen(site: Site) -> None:
    """Nor has it left."""
    put: list[Any] = []
    presence = hub.Hub(site.backend, lambda name: None, site.counters, PRESENCE.get)
    site.backend.on_put, site.backend.confirms = put.append, False
    with connected() as (ws, peer):
        attempt = Attempt(presence.join, "room", ws, Delivery())
        until(lambda: bool(site.backend.feeds))
        peer.reset()
        with pytest.raises(ConnectionClosed):
            attempt.get()
    presence.records.flush()
    assert all(value is None for values in put for value in values.values())
    presence.release()


def test_limit_of_members(groups: Groups) -> None:
    """Some of them, where there are more."""
    members = [join(groups, QUIET, number) for number in range(5)]
    assert len(groups.members(QUIET, limit=3)) == 3
    assert len({member.info for member in groups.members(QUIET, 1000)}) == 5
    with pytest.raises(ValueError, match=r"^the limit is a number above 0, not 0$"):
        groups.members(QUIET, limit=0)
    leave(groups, QUIET, *members)


@pytest.mark.parametrize(
    ("info", "error", "sentence"),
    [
        ("x" * 1023, ValueError, "the info of a member has 1,025 bytes as JSON, and 1,024 is the most"),
        ("é" * 512, ValueError, "the info of a member has 1,026 bytes as JSON, and 1,024 is the most"),
        (b"", TypeError, "not JSON serializable"),
        (float("nan"), ValueError, "not JSON compliant"),
    ],
)
def test_info_that_cannot_be_seen_is_refused(info: Any, error: type[Exception], sentence: str) -> None:
    """The connection is no member then."""
    groups = Groups("memory://", presence=PRESENCE)
    with pytest.raises(error, match=sentence):
        join(groups, QUIET, info)
    assert groups.count(QUIET) == 0
    leave(groups, QUIET, join(groups, QUIET, "x" * 1022))


def test_group_without_presence() -> None:
    """Its members are counted only; the error says what to set."""
    groups = Groups("memory://", presence=PRESENCE)
    sentence = r"^group 'hall.1' has no presence: wanted is Groups\(presence={'hall': Presence\(\)}\)$"
    with pytest.raises(ValueError, match=sentence):
        groups.members("hall.1")
    with pytest.raises(ValueError, match=sentence):
        join(groups, "hall.1", "ada")
    ws = join(groups, "hall.1")
    assert groups.count("hall.1") == 1
    leave(groups, "hall.1", ws)


def test_one_write_for_each_group(site: Site) -> None:
    """However many members have come; those that left before it are not written."""
    put: list[dict[str, bytes | None]] = []
    site.backend.on_put = lambda values: put.append(dict(values))
    presence = hub.Hub(site.backend, lambda name: None, site.counters, lambda name: Presence())
    members: list[Any] = [Fake() for _ in range(50)]
    for ws in members:
        presence.join("one", ws, Delivery(), info=b"1")
        presence.join("two", ws, Delivery(), info=b"2")
    presence.records.flush()
    *both, counts = put
    assert counts == {"one": b"50", "two": b"50"}
    assert [set(values.values()) for values in both] == [{b"1"}, {b"2"}]
    assert [len(values) for values in both] == [50, 50]
    presence.records.flush()
    assert len(put) == 3
    presence.release()


@pytest.mark.parametrize("written", [2, 3], ids=["in the middle of the members", "before the counts"])
def test_release_ends_a_write(site: Site, written: int) -> None:
    """What it has not written yet would open the backend again."""
    put: list[dict[str, bytes | None]] = []
    presence = hub.Hub(site.backend, lambda name: None, site.counters, lambda name: Presence())

    def release(values: Any) -> None:
        put.append(values)
        if len(put) == written:
            presence.release()

    site.backend.on_put = release
    for name in ("one", "two", "three"):
        presence.join(name, Fake(), Delivery())  # type: ignore[arg-type]
    presence.records.flush()
    assert [list(values.values()) for values in put] == [[b"null"]] * written


def test_release_ends_a_burial(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published of it would open the backend again."""
    presence = hub.Hub(site.backend, lambda name: None, site.counters, lambda name: Presence(events=True))
    published = site.backend.memory.feed()
    published.subscribe([presence_group("room")])
    asked: list[int] = []

    def bury() -> list[Record]:
        asked.append(1)
        presence.release()
        return [Record("dead", "members:room", "c1", b"1")]

    monkeypatch.setattr(site.backend, "bury", bury)
    presence.records.bury()
    assert (published.wait(0.2), asked) == ([], [1])
    published.close()


def test_write_that_failed_is_made_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what has changed meanwhile, and the changes are published once."""
    monkeypatch.setattr(records, "RETRY", 0.01)
    gate, failures = Gate(), [GroupsUnavailable("no"), GroupsUnavailable("no")]

    def fail(values: Any) -> None:
        gate()
        if failures:
            raise failures.pop()

    site.backend.on_put = fail
    presence = hub.Hub(site.backend, lambda name: None, site.counters, PRESENCE.get)
    published = site.backend.memory.feed()
    published.subscribe([presence_group("room")])
    first: Any = Fake()
    second: Any = Fake()
    presence.join("room", first, Delivery(), info=b'"first"')
    gate.reached()
    presence.join("room", second, Delivery(), info=b'"second"')
    presence.leave("room", first)
    gate.open()
    until(lambda: [one.value for one in site.backend.records("members:room", 9)] == [b'"second"'])
    [entry] = published.wait(5)
    left, joined = unpack(json.loads(entry.payload[8:]))  # type: ignore[union-attr]
    assert (left, [change.info for change in joined]) == ([], ['"second"'])
    assert published.wait(0.1) == []
    presence.release()
    published.close()


def test_member_is_counted_after_it_can_be_read(site: Site) -> None:
    """A process that has seen the count, and reads the members then, has them all."""
    written: list[list[bytes | None]] = []
    site.backend.on_put = lambda values: written.append(list(values.values()))
    presence = hub.Hub(site.backend, lambda name: None, site.counters, PRESENCE.get)
    for info in (b'"first"', b'"second"'):
        ws: Any = Fake()
        presence.join("room", ws, Delivery(), info=info)
    until(lambda: len(written) == 2)
    assert written == [[b'"first"', b'"second"'], [b"2"]]
    presence.release()


# --- events -----------------------------------------------------------------------------------------------------------


def test_joins_and_leaves_are_events(groups: Groups) -> None:
    """With the same connection as in ``members()``; the leave comes after its delay."""
    events = listen(groups)
    ws = join(groups, ROOM, {"user": 1})
    [member] = groups.members(ROOM)
    event = next(events)
    assert event.data == {"left": [], "joined": [{"connection": member.connection, "info": {"user": 1}}]}
    leave(groups, ROOM, ws)
    began = time.monotonic()
    assert next(events).data == {"left": [{"connection": member.connection, "info": {"user": 1}}], "joined": []}
    assert time.monotonic() - began >= 0.25
    events.close()


def test_members_of_the_group_of_events_get_frames(groups: Groups) -> None:
    """As of any other group; those of the group itself get none."""
    watching = join(groups, presence_group(ROOM))
    ws = join(groups, ROOM, "ada")
    until(lambda: len(watching.texts) == 1)
    assert json.loads(watching.texts[0])["joined"][0]["info"] == "ada"
    assert groups.count(presence_group(ROOM)) == 1
    leave(groups, ROOM, ws)
    leave(groups, presence_group(ROOM), watching)
    assert ws.texts == []


def test_events_reach_all_processes(several: list[Groups]) -> None:
    """Those of members of any of them."""
    here, there, _ = several
    lists = [listen(groups) for groups in several]
    one, two = join(here, ROOM, "one"), join(there, ROOM, "two")
    for events in lists:
        assert sorted(changes(events, 2)) == [("joined", "one"), ("joined", "two")]
    leave(here, ROOM, one)
    leave(there, ROOM, two)
    for events in lists:
        assert sorted(changes(events, 2)) == [("left", "one"), ("left", "two")]
        events.close()


def test_page_that_loads_again_is_no_event(groups: Groups) -> None:
    """A connection leaves, and another one with the same info joins before the delay has passed."""
    events = listen(groups)
    ws = join(groups, ROOM, "ada")
    assert changes(events, 1) == [("joined", "ada")]
    leave(groups, ROOM, ws)
    again = join(groups, ROOM, "ada")
    gevent.sleep(0.6)
    marker = join(groups, ROOM, "marker")
    assert changes(events, 1) == [("joined", "marker")]
    leave(groups, ROOM, again, marker)
    assert sorted(changes(events, 2)) == [("left", "ada"), ("left", "marker")]
    events.close()


def test_page_that_loads_again_in_another_process_is_no_event(several: list[Groups]) -> None:
    """Neither there nor in the first one."""
    here, there, _ = several
    lists = [listen(groups) for groups in several]
    ws = join(here, ROOM, "ada")
    assert [changes(events, 1) for events in lists] == [[("joined", "ada")]] * 3
    leave(here, ROOM, ws)
    here.count(ROOM)  # it is written, and so comes before the join
    again = join(there, ROOM, "ada")
    gevent.sleep(0.6)
    marker = join(here, ROOM, "marker")
    assert [changes(events, 1) for events in lists] == [[("joined", "marker")]] * 3
    leave(there, ROOM, again)
    leave(here, ROOM, marker)
    for events in lists:
        events.close()


def test_page_that_loads_again_is_missed_by_no_other_page(several: list[Groups]) -> None:
    """One that gets the events first, and the members while the leave waits: no event brings the user back later."""
    here, there, _ = several
    events = listen(here)
    ws = join(there, ROOM, "ada")
    assert changes(events, 1) == [("joined", "ada")]
    leave(there, ROOM, ws)
    there.count(ROOM)
    until(lambda: there.members(ROOM) == [])
    assert infos(here, ROOM) == ["ada"]
    again = join(there, ROOM, "ada")
    assert infos(here, ROOM) == ["ada"]
    leave(there, ROOM, again)
    assert changes(events, 1) == [("left", "ada")]
    assert infos(here, ROOM) == []
    events.close()


def test_frames_are_apart(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes between two of them is in the second one, however many changes that are."""
    monkeypatch.setattr(hub, "EVENTS_EVERY", 2.0)
    events = listen(groups)
    members = [join(groups, ROOM, 0)]
    assert changes(events, 1) == [("joined", 0)]
    for number in range(1, 6):
        members.append(join(groups, ROOM, number))
        groups.count(ROOM)  # so each is published for itself
        gevent.sleep(0.05)
    assert [change["info"] for change in next(events).data["joined"]] == [1, 2, 3, 4, 5]
    leave(groups, ROOM, *members)
    events.close()


def test_group_without_events() -> None:
    """It has presence, or not even that."""
    groups = Groups("memory://", presence=PRESENCE)
    for name, prefix in ((QUIET, "quiet"), ("hall.1", "hall")):
        sentence = (
            rf"^group '{name}' has no events of its members: "
            rf"wanted is Groups\(presence={{'{prefix}': Presence\(events=True\)}}\)$"
        )
        for call in (groups.listen, groups.count, lambda name: join(groups, name)):
            with pytest.raises(ValueError, match=sentence):
                call(presence_group(name))
    published = []
    groups.publish = published.append  # type: ignore[method-assign,assignment]
    leave(groups, QUIET, join(groups, QUIET))
    assert published == []


def test_application_sends_no_events() -> None:
    """Their group is this package's."""
    groups = Groups("memory://", presence=PRESENCE)
    calls: list[Callable[[str], object]] = [
        lambda name: groups.send(name, "x"),
        groups.close,
        groups.members,
        groups.history,
        groups.position,
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"'gws\.' begins the names of this package"):
            call(presence_group(ROOM))
    for name in ("", "a b", presence_group(ROOM)):
        with pytest.raises(ValueError, match="cannot be the name of a group"):
            presence_group(name)
    assert len(presence_group("a" * 200)) > 200


def test_message_that_is_not_of_members_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """And events go on. Another version may have written it."""
    presence = hub.Hub(
        site.backend, lambda name: None, site.counters, lambda name: Presence(events=True, leave_delay=0)
    )
    watching: Any = Fake()
    presence.join(presence_group("room"), watching, Delivery())
    for message in ([1, 2], {}, [[], [["c1", '"ada"']]]):
        site.send_control(presence_group("room"), message)
    until(lambda: len(watching.texts) == 1)
    assert json.loads(watching.texts[0]) == {"left": [], "joined": [{"connection": "c1", "info": "ada"}]}
    assert [record.getMessage()[:27] for record in caplog.records] == ["group gws.presence.room: <P"] * 2
    presence.release()


# --- dead processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def dying(url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a process with members. Redis takes one for dead after a second, and others look for it all the time."""
    if url == "memory://":
        pytest.skip("memory:// is of one process")
    monkeypatch.setattr(hub, "SETTLE", 0.1)
    monkeypatch.setattr(hub, "CHECK_EVERY", 0.1)
    live_shortly(monkeypatch.setattr)
    started: list[subprocess.Popen[str]] = []

    def start(name: str, count: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.groups.present", url, prefix, name, str(count)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_members_of_a_killed_process_are_none(several: list[Groups], dying: Start, url: str) -> None:
    """At once where the kernel tells; with Redis after it has given no sign for some time."""
    here, there, other = several
    mine = join(here, ROOM, "mine")
    process = dying(ROOM, 20)
    assert [groups.count(ROOM) for groups in (here, other)] == [21, 21]
    process.kill()
    process.wait()
    if url.startswith("sqlite"):
        assert (infos(here, ROOM), infos(other, ROOM), there.count(ROOM)) == (["mine"], ["mine"], 1)
    until(lambda: infos(other, ROOM) == ["mine"] and there.count(ROOM) == 1)
    leave(here, ROOM, mine)


def test_members_of_a_killed_process_are_some_until_their_leaves_are_events(
    several: list[Groups], dying: Start
) -> None:
    """Where the events come to; without them they are none sooner."""
    here, _, other = several
    events = listen(here)
    process = dying(ROOM, 3)
    changes(events, 3)
    process.kill()
    process.wait()
    until(lambda: other.members(ROOM) == [])
    assert infos(here, ROOM) == [{"user": n} for n in range(3)]
    changes(events, 3)
    assert infos(here, ROOM) == []
    events.close()


def test_leaves_of_a_killed_process_are_events_once(several: list[Groups], dying: Start) -> None:
    """Though several processes look for it; and a page that has connected to another one has not left."""
    here, there, other = several
    lists = [listen(groups) for groups in several]
    process = dying(ROOM, 20)
    for events in lists:
        assert sorted(changes(events, 20), key=str) == sorted((("joined", {"user": n}) for n in range(20)), key=str)
    process.kill()
    process.wait()
    until(lambda: here.count(ROOM) == 0)
    again = join(there, ROOM, {"user": 7})
    marker = {"user": "marker"}
    left = sorted((("left", {"user": n}) for n in range(20) if n != 7), key=str)
    for events in lists:
        assert sorted(changes(events, 19), key=str) == left
    last = join(other, ROOM, marker)
    for events in lists:
        assert changes(events, 1) == [("joined", marker)]
        events.close()
    leave(there, ROOM, again)
    leave(other, ROOM, last)


def test_process_that_was_taken_for_dead_brings_its_members_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process publishes their leaves; before the delay has passed they are joins again."""
    monkeypatch.setattr(hub, "EVENTS_EVERY", 0.05)
    presence = hub.Hub(site.backend, lambda name: None, site.counters, lambda name: PRESENCE["room"])
    watching: Any = Fake()
    ada: Any = Fake()
    presence.join(presence_group("room"), watching, Delivery())
    presence.join("room", ada, Delivery(), info=b'"ada"')
    until(lambda: len(watching.texts) == 1)
    connection = json.loads(watching.texts[0])["joined"][0]["connection"]
    site.send_control(presence_group("room"), [[[connection, '"ada"']], []])
    site.backend.bring(Buried("it was stopped"))
    gevent.sleep(0.6)
    assert len(watching.texts) == 1
    presence.release()


def test_changes_that_were_missed_are_events(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members are read after a loss, as soon as that is possible."""
    monkeypatch.setattr(hub, "EVENTS_EVERY", 0.05)
    presence = hub.Hub(site.backend, lambda name: None, site.counters, lambda name: PRESENCE["room"])
    watching: Any = Fake()
    ada: Any = Fake()
    presence.join(presence_group("room"), watching, Delivery())
    site.backend.drops = lambda entry: entry.group == presence_group("room")
    presence.join("room", ada, Delivery(), info=b'"ada"')
    presence.records.flush()
    gevent.sleep(0.1)
    assert watching.texts == []
    records_of, failures = site.backend.records, [GroupsUnavailable("no"), GroupsUnavailable("no")]

    def read(table: str, limit: int) -> list[Any]:
        if failures:
            raise failures.pop()
        return records_of(table, limit)

    monkeypatch.setattr(site.backend, "records", read)
    site.backend.lose()
    until(lambda: len(watching.texts) == 1)
    assert json.loads(watching.texts[0])["joined"][0]["info"] == "ada"
    assert failures == []
    presence.release()


def test_process_that_has_just_begun_buries_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may have had an outage, of which it does not know."""
    buried: list[int] = []
    monkeypatch.setattr(hub, "CHECK_EVERY", 0.02)
    monkeypatch.setattr(site.backend, "bury", lambda: buried.append(1))
    ws = Fake()
    site.join("room", ws)
    gevent.sleep(0.2)
    assert buried == []
    site.hub.leave("room", ws)  # type: ignore[arg-type]


def test_release_ends_the_checks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is due before the reader has ended: it would open the backend again."""
    buried: list[int] = []
    reader = Signal()
    monkeypatch.setattr(hub, "CHECK_EVERY", 0.02)
    monkeypatch.setattr(hub, "SETTLE", 0.0)
    monkeypatch.setattr(site.backend, "bury", lambda: buried.append(1))
    site.join("room", Fake())
    feed = site.backend.feeds[-1]
    monkeypatch.setattr(feed, "wait", lambda timeout: reader.wait() and [])
    feed.wake()
    until(lambda: buried)
    site.hub.release()
    buried.clear()
    gevent.sleep(0.1)  # five checks
    assert buried == []
    reader.set()


def test_loss_is_no_death(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage of all processes each of them gets time to show that it is living."""
    buried: list[int] = []

    def bury() -> list[Any]:
        buried.append(1)
        return []

    monkeypatch.setattr(hub, "CHECK_EVERY", 0.02)
    monkeypatch.setattr(hub, "SETTLE", 0.0)
    monkeypatch.setattr(site.backend, "bury", bury)
    ws = Fake()
    site.join("room", ws)
    until(lambda: bool(buried))
    monkeypatch.setattr(hub, "SETTLE", 60.0)
    site.backend.lose()
    site.flows()
    buried.clear()
    gevent.sleep(0.2)
    assert buried == []
    site.hub.leave("room", ws)  # type: ignore[arg-type]


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"events": 1}, "^the events of presence are True or False, not 1$"),
        ({"leave_delay": -1}, "^the leave_delay of presence is 0 to 3,600 seconds, not -1$"),
        ({"leave_delay": 3601}, "not 3601$"),
        ({"leave_delay": True}, "not True$"),
        ({"leave_delay": float("nan")}, "not nan$"),
        ({"leave_delay": "10"}, "not '10'$"),
    ],
)
def test_presence_that_is_wrong_is_refused(fields: Any, sentence: str) -> None:
    """With what was found."""
    with pytest.raises(ValueError, match=sentence):
        Presence(**fields)


@pytest.mark.parametrize(
    ("presence", "sentence"),
    [
        ({"room.1": Presence()}, "wanted is what precedes the first dot of names, and a Presence$"),
        ({"room": True}, "^presence has 'room': True; wanted is .* a Presence$"),
        ({"gws": Presence()}, "^presence has 'gws', which begins the names of this package$"),
    ],
)
def test_presence_of_wrong_groups_is_refused(presence: Any, sentence: str) -> None:
    """When the groups are made."""
    with pytest.raises(ValueError, match=sentence):
        Groups("memory://", presence=presence)


def packed(*changes: tuple[str, str]) -> list[tuple[list[Change], list[Change]]]:
    """What is published after these calls."""
    made = Changes()
    for method, connection in changes:
        getattr(made, method)(connection, b"1")
    return [unpack(json.loads(message)) for message in made.messages()]


class TestChanges:
    def test_difference_is_published(self) -> None:
        """A connection that has joined and left, or left and joined, is none of it."""
        a = Change("a", "1")
        assert packed(("join", "a")) == [([], [a])]
        assert packed(("leave", "a")) == [([a], [])]
        assert packed(("join", "a"), ("leave", "a")) == packed(("leave", "a"), ("join", "a")) == packed() == []
        assert packed(("leave", "a"), ("join", "a"), ("leave", "a")) == [([a], [])]

    def test_other_info_is_a_leave_and_a_join(self) -> None:
        """Of the same connection."""
        made = Changes()
        made.leave("a", b"1")
        made.join("a", b"2")
        assert [unpack(json.loads(one)) for one in made.messages()] == [([Change("a", "1")], [Change("a", "2")])]

    def test_many_are_several_messages(self) -> None:
        """Each of a bounded size."""
        calls = [("leave", f"l{number}") for number in range(1500)] + [("join", f"j{number}") for number in range(700)]
        assert [(len(left), len(joined)) for left, joined in packed(*calls)] == [(1000, 0), (500, 500), (0, 200)]

    def test_later_ones_are_added(self) -> None:
        """As if they had come here."""
        earlier, later = Changes(), Changes()
        earlier.join("a", b"1")
        earlier.leave("b", b"2")
        later.leave("a", b"1")
        later.join("b", b"2")
        later.join("c", b"3")
        earlier.add(later)
        assert [unpack(json.loads(one)) for one in earlier.messages()] == [([], [Change("c", "3")])]


def frame(events: Events, now: float) -> tuple[list[str], list[str]] | None:
    """Connections of the next frame."""
    made = events.frame(now)
    if made is None:
        return None
    data = json.loads(made)
    return [one["connection"] for one in data["left"]], [one["connection"] for one in data["joined"]]


def of(info: Any, *connections: str) -> list[Change]:
    return [Change(one, json.dumps(info)) for one in connections]


def loaded(delay: float, *members: Change) -> Events:
    """Those of a group with these members."""
    events = Events(delay)
    events.load(members, 0)
    return events


class TestEvents:
    def test_leave_waits(self) -> None:
        """For its delay; a join does not."""
        events = loaded(10, *of("ada", "a"))
        events.take(of("ada", "a"), of("bob", "b"), 0)
        assert frame(events, 0) == ([], ["b"])
        assert frame(events, 9.9) is None
        assert not events.is_empty
        assert frame(events, 10) == (["a"], [])
        assert events.is_empty

    def test_other_connection_of_the_same_info_is_no_event(self) -> None:
        """Neither its join nor its leave: the first one has joined, and the last one leaves."""
        events = loaded(10)
        events.take([], of("ada", "a"), 0)
        assert frame(events, 0) == ([], ["a"])
        events.take([], of("ada", "b"), 1)
        events.take(of("ada", "a"), [], 2)
        assert events.is_empty
        events.take(of("ada", "b"), [], 3)
        assert frame(events, 13) == (["b"], [])

    def test_join_ends_the_leave_of_the_same_info(self) -> None:
        """Whether it comes before or after it; after its delay it is a join."""
        events = loaded(10, *of("ada", "a"), *of("bob", "b"))
        events.take(of("ada", "a"), [], 0)
        events.take([], of("ada", "c"), 9)
        events.take([], of("bob", "d"), 9)  # its process was killed: the leave comes later
        events.take(of("bob", "b"), [], 15)
        assert events.is_empty
        events.take(of("bob", "d"), [], 20)
        assert frame(events, 30) == (["d"], [])
        events.take([], of("bob", "e"), 30)
        assert frame(events, 30) == ([], ["e"])

    def test_connections_without_info_are_distinct(self) -> None:
        """Each of them joins and leaves."""
        events = loaded(0)
        events.take([], of(None, "a", "b"), 0)
        assert frame(events, 0) == ([], ["a", "b"])
        events.take(of(None, "a"), [], 1)
        assert frame(events, 1) == (["a"], [])

    def test_changes_that_come_twice_are_one_event(self) -> None:
        """And a leave of what is no member is none."""
        events = loaded(0)
        for _ in range(2):
            events.take(of("eve", "x"), of("ada", "a"), 0)
        assert frame(events, 0) == ([], ["a"])
        for _ in range(2):
            events.take(of("ada", "a"), [], 1)
        assert frame(events, 1) == (["a"], [])
        assert events.is_empty

    def test_connection_that_leaves_before_its_frame_is_no_event(self) -> None:
        """It has joined since the last one."""
        events = loaded(0)
        events.take([], of("ada", "a"), 0)
        events.take(of("ada", "a"), [], 0)
        assert events.is_empty

    def test_changes_before_the_members_were_read(self) -> None:
        """The reading may have them already, or not yet."""
        events = Events(0)
        events.take([], of("ada", "a"), 0)
        events.take(of("bob", "b"), of("eve", "e"), 0)
        assert (frame(events, 0), events.is_empty) == (None, False)
        events.load([*of("ada", "a"), *of("bob", "b")], 0)
        assert frame(events, 0) == (["b"], ["e"])

    def test_missed_changes_are_events(self) -> None:
        """The members are read again: what differs has changed."""
        events = loaded(10, *of("ada", "a"), *of("bob", "b"))
        events.lose()
        assert not events.is_empty
        events.take([], of("fay", "f"), 4)
        events.load([*of("bob", "c"), *of("eve", "e"), *of("fay", "f")], 5)
        assert sorted((frame(events, 5) or ([], []))[1]) == ["e", "f"]
        assert frame(events, 15) == (["a"], [])
        events.take(of("bob", "c"), [], 20)
        assert frame(events, 30) == (["c"], [])

    def test_frame_has_a_limit(self) -> None:
        """The rest is in the next one; what joins again meanwhile has not left."""
        many = [change for number in range(MAX_CHANGES + 5) for change in of(number, str(number))]
        events = loaded(0)
        events.take([], many, 0)
        sizes = [len(found[1]) for found in (frame(events, 0), frame(events, 1)) if found is not None]
        assert sizes == [MAX_CHANGES, 5]
        events.take(many, [], 2)
        assert len((frame(events, 2) or ([], []))[0]) == MAX_CHANGES
        events.take([], many[-1:], 2)
        assert frame(events, 3) == ([str(number) for number in range(MAX_CHANGES, MAX_CHANGES + 4)], [])
