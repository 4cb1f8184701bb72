"""``registry``: who is here, and how everybody is sent home."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import gevent
import pytest

from gws_middleware import registry as module
from gws_middleware.codes import CloseCode
from gws_middleware.config import Config
from gws_middleware.registry import Registry, current

from .inprocess import connected, hub_errors, package_path, until

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
    """Each hears the code once; the default is 1001."""
    registry = Registry()
    visitors = [Visitor(registry, after) for after in (0, 0.01, 0.02)]
    registry.drain(timeout=60)
    assert [visitor.heard for visitor in visitors] == [[1001]] * 3
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


def test_other_process_begins_with_an_empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is known by its id."""
    monkeypatch.setattr(module, "_registry", Registry())
    monkeypatch.setattr(module, "_pid", os.getpid())
    before = current()
    monkeypatch.setattr(module, "_pid", -1)
    after = current()
    assert after is not before
    assert current() is after


FORK = """
import os
from gws_middleware.config import Config
from gws_middleware.registry import current
registry = current()
registry.add("a connection of the parent", Config())
child = os.fork()
if not child:
    os._exit(len(current()) + (current() is registry))
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), len(current()))
"""


def test_fork_inherits_no_connection() -> None:
    """Gunicorn's ``--preload`` forks a process that has imported, and perhaps used, everything."""
    answer = subprocess.run(
        [sys.executable, "-c", FORK], env=package_path(), capture_output=True, text=True, timeout=30, check=True
    )
    assert answer.stdout == "0 1\n"
