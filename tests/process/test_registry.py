"""``registry``: open connections, views that have not returned, and totals. The drain is in ``test_shutdown``."""

from __future__ import annotations

import subprocess
import sys

import gevent

from gws_middleware.process.counters import Traffic
from gws_middleware.process.registry import Registry, current

from ..support.inprocess import connected, hub_errors, package_path, until
from ..support.seam import registry_of
from .members import OpenConnection

__all__ = ["hub_errors"]


# --- connections ---------------------------------------------------------------------------------------------------


def test_registry_counts_open_and_accepted_connections() -> None:
    """``accepted`` only grows; a second removal does nothing."""
    registry = Registry()
    one, two = OpenConnection(registry), OpenConnection(registry)
    registry.remove(one)
    registry.remove(one)
    found = len(registry), list(registry), one in registry, two in registry, registry.counters.accepted
    registry.remove(two)
    assert found == (1, [two], False, True, 2)


def test_members_may_be_removed_during_a_loop() -> None:
    """A broadcast over the members meets connections that end in the middle of it."""
    registry = Registry()
    members = {OpenConnection(registry) for _ in range(5)}
    seen = set()
    for connection in registry:
        registry.remove(connection)
        seen.add(connection)
    assert (seen, len(registry)) == (members, 0)


def test_connection_is_a_member_from_the_accept_until_its_socket_is_closed() -> None:
    """Not until ``close()`` is called: the peer may still be reading."""
    with connected() as (ws, peer):
        registry = registry_of(ws)
        counts = [len(registry)]
        ws.close()
        counts.append(len(registry))
        peer.close_frame()
        peer.answer()
        until(lambda: not len(registry))
        assert (counts, registry.counters.accepted) == ([1, 1], 1)


# --- views ---------------------------------------------------------------------------------------------------------


def test_connection_is_unfinished_until_its_callbacks_have_returned() -> None:
    """Also after its view has returned, and after its socket was closed. Only the view has a greenlet to kill."""
    registry, view = Registry(), gevent.getcurrent()
    connection = OpenConnection(registry)
    steps = []
    for step in (
        lambda: registry.view_started(connection, view),
        lambda: registry.view_returned(connection),
        lambda: registry.remove(connection),
        lambda: registry.finished(connection),
        lambda: registry.finished(connection),
    ):
        step()
        steps.append((registry.unfinished == [connection], registry.views == [view], registry.is_finished()))
    assert steps == [
        (True, True, False),
        (True, False, False),
        (True, False, False),
        (False, False, True),
        (False, False, True),
    ]


def test_some_connections_may_be_finished_while_others_are_not() -> None:
    """One of two servers in a process stops."""
    registry = Registry()
    mine, other = OpenConnection(registry), OpenConnection(registry)
    before = registry.is_finished([mine])
    registry.remove(mine)
    found = before, registry.is_finished([mine]), registry.is_finished([mine, other]), registry.is_finished()
    registry.remove(other)
    assert found == (False, True, False, False)


# --- totals --------------------------------------------------------------------------------------------------------


def test_traffic_is_that_of_open_and_of_ended_connections() -> None:
    """What an open connection has counted so far is added."""
    registry = Registry()
    registry.counters.traffic = Traffic(messages_received=40, bytes_sent=1)
    members = [OpenConnection(registry), OpenConnection(registry)]
    for connection in members:
        connection.stats = (1, 2, 3, 4)
    found = registry.traffic()
    for connection in members:
        registry.remove(connection)
    assert found == Traffic(42, 4, 6, 9)
    assert registry.traffic() == registry.counters.traffic == Traffic(40, 0, 0, 1)


def test_outbox_is_the_sum_and_the_longest_wait() -> None:
    """One peer that reads nothing is seen among many that do."""
    registry = Registry()
    outboxes: list[tuple[int, float | None]] = [(0, None), (5, 999.0), (7, 990.0), (3, None)]
    members = [OpenConnection(registry, outbox=outbox) for outbox in outboxes]
    found = registry.outbox()
    for connection in members:
        registry.remove(connection)
    assert (found, registry.outbox()) == ((15, 990.0), (0, None))


# --- one for each process ------------------------------------------------------------------------------------------


def test_current_is_one_for_the_process() -> None:
    """Middleware, metrics and drain all ask the same one."""
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
