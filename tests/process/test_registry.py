"""``registry``: who is here, and how everybody is sent home."""

from __future__ import annotations

import subprocess
import sys
import time

import gevent
import pytest

from gws_middleware.codes import CloseCode
from gws_middleware.config import Config
from gws_middleware.process import registry as module
from gws_middleware.process.registry import PACE, Registry, current

from ..support.inprocess import Peer, connected, hub_errors, package_path, plain_channel, tcp_pair, unaccepted, until

__all__ = ["hub_errors"]


class Visitor:
    """A member that leaves ``after`` seconds after its goodbye; never, if None."""

    def __init__(self, registry: Registry, after: float | None = None) -> None:
        self.registry, self.after = registry, after
        self.heard: list[int | str] = []
        registry.add(self, Config())

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.heard.append(code)
        if self.after == 0:
            self.registry.remove(self)
        elif self.after is not None:
            gevent.spawn_later(self.after, self.registry.remove, self)

    def abort(self) -> None:
        self.heard.append("abort")
        self.registry.remove(self)


def test_registry_counts_who_is_here_and_who_came() -> None:
    """``accepted`` only grows; removing twice does no harm."""
    registry = Registry()
    one, two = Visitor(registry), Visitor(registry)
    registry.remove(one)
    registry.remove(one)
    found = len(registry), list(registry), registry.counters.accepted
    registry.remove(two)
    assert found == (1, [two], 2)


def test_members_may_leave_while_they_are_looked_at() -> None:
    """A broadcast over the members meets those that end in the middle of it."""
    registry = Registry()
    visitors = {Visitor(registry) for _ in range(5)}
    seen = set()
    for member in registry:
        registry.remove(member)
        seen.add(member)
    assert (seen, len(registry)) == (visitors, 0)


def test_drain_of_nobody_returns_at_once() -> None:
    """A worker without connections stops without delay."""
    begin = time.monotonic()
    Registry().drain(timeout=60)
    assert time.monotonic() - begin < 1


def test_drain_says_goodbye_and_waits_until_all_have_left() -> None:
    """Each hears the code once; the default is the setting of each."""
    registry = Registry()
    visitors = [Visitor(registry, after) for after in (0, 0.01, 0.02)]
    registry.drain(timeout=60)
    assert [visitor.heard for visitor in visitors] == [[1012]] * 3
    assert len(registry) == 0


def test_drain_cuts_who_stays_beyond_the_timeout() -> None:
    """And nobody else."""
    registry = Registry()
    leaving, staying = Visitor(registry, 0.01), Visitor(registry)
    registry.drain(CloseCode.SERVICE_RESTART, timeout=0.1)
    assert (leaving.heard, staying.heard) == ([1012], [1012, "abort"])
    assert len(registry) == 0


def test_drain_twice_at_once_is_harmless() -> None:
    """SIGTERM may come twice, and ``run`` drains behind it."""
    registry = Registry()
    visitor = Visitor(registry, 0.02)
    drains = [gevent.spawn(registry.drain, 1001, 5.0) for _ in range(2)]
    gevent.joinall(drains, timeout=5, raise_error=True)
    assert "abort" not in visitor.heard


class Silent:
    """A member that leaves with its goodbye, and notes whose turn it was."""

    def __init__(self, registry: Registry, order: list[Silent], view: bool = False) -> None:
        self.registry, self.order, self.codes = registry, order, []
        registry.add(self, Config())
        registry._running.update({self: None} if view else {})

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.codes.append(int(code))
        self.order.append(self)
        self.registry.remove(self)

    def abort(self) -> None:
        self.codes.append(1006)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still but for the sleeps, which are noted and take no time."""
    noted: list[float] = []
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(noted))
    monkeypatch.setattr(module.gevent, "sleep", noted.append)
    return noted


def test_goodbyes_to_many_are_spread(pauses: list[float]) -> None:
    """At most PACE in a second, and a few at a time: each brings a client back at once."""
    registry, order = Registry(), []
    members = [Silent(registry, order) for _ in range(2000)]
    registry.drain(CloseCode.SERVICE_RESTART, timeout=60)
    assert sorted(map(id, order)) == sorted(map(id, members))
    assert {tuple(member.codes) for member in members} == {(1012,)}
    assert 2000 / PACE - 0.2 < sum(pauses) <= 2000 / PACE
    assert max(pauses) < 0.1


def test_goodbyes_to_very_many_take_no_longer_than_the_timeout(pauses: list[float]) -> None:
    """The worker has no more time than that."""
    registry, order = Registry(), []
    for _ in range(2000):
        Silent(registry, order)
    registry.drain(timeout=1.0)
    assert len(order) == 2000
    assert 0.9 < sum(pauses) <= 1.0


def test_goodbyes_to_few_are_not_held_back(pauses: list[float]) -> None:
    """Nobody has to wait for a stop of a small worker."""
    registry, order = Registry(), []
    for _ in range(20):
        Silent(registry, order)
    registry.drain(timeout=60)
    assert (len(order), sum(pauses)) == (20, 0)


def test_newcomer_of_a_draining_worker_is_sent_home_too() -> None:
    """It came behind the goodbye to the others, and hears the same code; nothing of its accept() is disturbed."""
    registry = Registry()
    registry.drain(CloseCode.SERVICE_RESTART, timeout=0.01)
    newcomer = Visitor(registry, 0)
    at_once = list(newcomer.heard)
    until(lambda: newcomer.heard)
    assert (at_once, newcomer.heard, registry.draining) == ([], [1012], True)


def test_newcomer_with_a_real_connection_is_sent_home() -> None:
    """With its 101 before and its close frame behind."""
    with connected() as (ws, peer):
        registry = ws._registry
        draining = gevent.spawn(registry.drain, CloseCode.SERVICE_RESTART, 5.0)
        assert peer.close_frame() == (1012, "")
        ours, theirs = tcp_pair()
        late = unaccepted(lambda headers: (plain_channel(ours), b""), registry)
        late.accept()
        other = Peer(theirs)
        assert other.close_frame() == (1012, "")
        for one in (peer, other):
            one.answer()
        draining.get(timeout=5)
        theirs.close()
        assert late.close_code == 1012


def test_drain_waits_for_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sockets are gone before them; their ``finally`` is not to be cut off."""
    registry, order = Registry(), []
    member = Silent(registry, order, view=True)
    gevent.spawn_later(0.05, lambda: (order.append("view"), registry.ended(member)))
    registry.drain(timeout=60)
    assert order == [member, "view"]


def test_drain_waits_for_views_no_longer_than_the_timeout() -> None:
    """One that never ends does not keep the worker."""
    registry = Registry()
    Silent(registry, [], view=True)
    begin = time.monotonic()
    registry.drain(timeout=0.1)
    assert 0.1 <= time.monotonic() - begin < 3


def test_drain_of_some_leaves_others_alone() -> None:
    """They hear nothing, nor do those who come later; nobody waits for them."""
    registry = Registry()
    leaving, staying = Visitor(registry, 0.01), Visitor(registry)
    registry.drain(timeout=60, members=[leaving])
    newcomer = Visitor(registry)
    gevent.sleep(0.01)
    found = leaving.heard, staying.heard, newcomer.heard, registry.draining
    for each in (staying, newcomer):
        registry.remove(each)
    assert found == ([1012], [], [], False)


def test_drain_of_some_cuts_nobody_else() -> None:
    """Though all are sent home meanwhile, and have more time for it."""
    registry = Registry()
    one, two = Visitor(registry), Visitor(registry, 0.3)
    some = gevent.spawn(registry.drain, 1001, 0.05, [one])
    everybody = gevent.spawn(registry.drain, 1012, 5.0)
    some.get(timeout=5)
    found = list(two.heard)
    everybody.get(timeout=5)
    assert found == [1012]


def test_drain_of_some_waits_for_their_views_alone() -> None:
    """Another one's view may go on for hours."""
    registry, order = Registry(), []
    mine, other = (Silent(registry, order, view=True) for _ in range(2))
    gevent.spawn_later(0.05, registry.ended, mine)
    registry.drain(timeout=60, members=[mine])
    registry.remove(other)
    assert list(registry._running) == [other]


def test_kill_ends_the_views_that_are_still_there() -> None:
    """By GreenletExit, so that their ``finally`` runs. One that has ended, or has left its connection, is no view."""
    registry, ended = Registry(), []
    members = [object() for _ in range(3)]

    def view(number: int) -> None:
        registry.began(members[number], gevent.getcurrent())  # type: ignore[arg-type]
        try:
            gevent.sleep(60)
        except gevent.GreenletExit:
            ended.append(number)
            raise
        finally:
            registry.ended(members[number])  # type: ignore[arg-type]

    views = [gevent.spawn(view, number) for number in range(3)]
    until(lambda: len(registry._running) == 3)
    views[0].kill()
    ended.clear()
    registry.left(members[1])  # type: ignore[arg-type]
    registry.kill_views()
    views[2].join(5)
    found = list(ended), views[1].dead
    views[1].kill()
    assert found == ([2], False)


def test_kill_does_not_wait() -> None:
    """A view that goes on in its ``finally`` is the arbiter's to end."""
    registry, member, steps = Registry(), object(), []

    def view() -> None:
        registry.began(member, gevent.getcurrent())  # type: ignore[arg-type]
        try:
            gevent.sleep(60)
        finally:
            steps.append("finally")
            gevent.sleep(0.02)
            steps.append("done")

    viewing = gevent.spawn(view)
    until(lambda: registry._running)
    registry.kill_views()
    before = list(steps)
    viewing.join(5)
    assert (before, steps) == ([], ["finally", "done"])


def test_slots_are_as_many_as_the_limit() -> None:
    """Each key has its own; a slot that is released can be reserved again, and a key without any is forgotten."""
    registry = Registry()
    reserved = [registry.reserve(holder, "a", 2) for holder in (1, 2, 3)] + [registry.reserve(1, "b", 1)]
    registry.release(2)
    registry.release(2)
    reserved.append(registry.reserve(3, "a", 2))
    counts = registry.reserved
    for holder in (1, 2, 3):
        registry.release(holder)
    assert reserved == [True, True, False, True, True]
    assert counts == {"a": 2, "b": 1}
    assert not registry._slots
    assert not registry._keys


def test_connection_is_a_member_from_the_accept_to_the_end_of_its_socket() -> None:
    """Not until its close is asked for: the peer may still be reading."""
    with connected() as (ws, peer):
        registry = ws._registry
        counts = [len(registry)]
        ws.close()
        counts.append(len(registry))
        peer.close_frame()
        peer.answer()
        until(lambda: not len(registry))
        assert (counts, registry.counters.accepted) == ([1, 1], 1)


@pytest.mark.parametrize("answers", [True, False])
def test_drain_sends_real_connections_home(answers: bool) -> None:
    """A peer that answers leaves at once, one that does not is cut at the timeout."""
    with connected() as (ws, peer):
        draining = gevent.spawn(ws._registry.drain, 1012, 5.0 if answers else 0.1)
        assert peer.close_frame() == (1012, "")
        if answers:
            peer.answer()
        draining.get(timeout=2)
        assert len(ws._registry) == 0


def test_drain_returns_when_what_it_cut_is_counted() -> None:
    """Whoever tells the last numbers behind it, e.g. a process that ends, tells all of them."""
    with connected() as (ws, peer):
        registry = ws._registry
        registry.drain(1001, timeout=0.1)
        assert (len(registry), dict(registry.counters.closed)) == (0, {1001: 1})
        assert peer.close_frame() == (1001, "")


def test_current_is_one_for_the_process() -> None:
    """Hooks, limits and drain all ask the same one."""
    assert current() is current()


FORK = """
import os
from gws_middleware.config import Config
from gws_middleware.process.registry import current
registry = current()
class Connection:
    def _forked(self):
        forked.append(os.getpid())
forked = []
registry.add(Connection(), Config())
child = os.fork()
if not child:
    os._exit(len(current()) + (current() is registry) + (forked != [os.getpid()]))
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), len(current()), forked)
"""


def test_fork_inherits_no_connection() -> None:
    """Gunicorn's ``--preload`` forks a process that has imported, and perhaps used, everything."""
    answer = subprocess.run(
        [sys.executable, "-c", FORK], env=package_path(), capture_output=True, text=True, timeout=30, check=True
    )
    assert answer.stdout == "0 1 []\n"
