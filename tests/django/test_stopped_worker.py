"""A worker that is stopped for so long that the others take it for dead, and goes on: with Django and Redis."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ..support.brokers import Broker, broker
from ..support.programs import run_python
from ..support.rawclient import CLOSE, TEXT, RawClient, upgrade_request
from ..support.servers import Server, launch
from ..support.waiting import eventually

APP = "tests.fixtureapps.accounts:app"
LIMIT = 4
"""WebSockets of a user, over all workers."""
pytestmark = [pytest.mark.database, pytest.mark.slow]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Broker]:
    with broker(tmp_path / "valkey") as running:
        yield running


@pytest.fixture
def site(own: Broker, tmp_path: Path) -> Iterator[Server]:
    """Two workers. gunicorn lets a worker be silent for longer than these tests take."""
    gws = {
        "groups": {"url": own.url, "presence": {"room": {"events": True}}},
        "site_limits": True,
        "max_connections_per_user": LIMIT,
    }
    env = {"DATABASE_FILE": str(tmp_path / "db.sqlite3"), "GWS": json.dumps(gws)}
    made = run_python("-c", "import tests.fixtureapps.accounts", env=env)  # the database, by one process
    assert made.returncode == 0, made.stderr
    with launch("worker", tmp_path, APP, options=["--workers", "2", "--timeout", "200"], env=env) as server:
        yield server


class Tabs:
    """WebSockets of a user, who is a member of a room with each."""

    def __init__(self, stack: ExitStack, site: Server, user: str) -> None:
        self._stack, self._site, self.user = stack, site, user
        cookie = site.get(f"/log-in/{user}/").headers["set-cookie"]
        self.cookie = "Cookie", "sessionid=" + cookie.partition("sessionid=")[2].partition(";")[0]
        self.open_ones: dict[RawClient, int] = {}
        """Each with its worker."""

    def open(self) -> bool:
        """One more, if the limit allows it."""
        client: RawClient = self._stack.enter_context(self._site.connect(timeout=30))
        client.send(upgrade_request("/room/", self.cookie))
        assert client.read_response().status == 101
        client.text("x")
        frame = client.read_frame()
        if frame.opcode == CLOSE:
            assert frame.code == 1008
            return False
        self.open_ones[client] = int(frame.payload)
        return True

    def open_in_both(self) -> None:
        """One in each worker."""
        while len(set(self.open_ones.values())) < 2:
            assert self.open()
            *others, last = self.open_ones
            if any(self.open_ones[other] == self.open_ones[last] for other in others):
                del self.open_ones[last]
                last.close_handshake(1000)

    def of(self, worker: int) -> RawClient:
        """The one in this worker."""
        [found] = [client for client, of in self.open_ones.items() if of == worker]
        return found


def read_text(client: RawClient) -> str:
    """The next message."""
    frame = client.read_frame()
    assert frame.opcode == TEXT, frame
    return frame.payload.decode()


def test_worker_that_was_taken_for_dead_is_of_the_site_again(own: Broker, site: Server) -> None:
    """Its members are visible and get what was sent, its connections count for limits, and orders are carried out."""
    with ExitStack() as stack:
        ada, eve = Tabs(stack, site, "ada"), Tabs(stack, site, "eve")
        ada.open_in_both()
        eve.open_in_both()
        stopped, going = set(ada.open_ones.values())

        def count() -> int:
            return int(site.get("/groups/room.ada/count/").body)

        eventually(lambda: count() == 2, "both members")
        os.kill(stopped, signal.SIGSTOP)
        try:
            eventually(lambda: count() == 1, "the worker to be no longer visible", timeout=40, interval=0.5)
            eventually(lambda: own.ask("ZCARD", "gws:p") == b":1\r\n", "its burial", timeout=60, interval=0.5)
            while len(ada.open_ones) < LIMIT + 1:  # those of the stopped worker do not count
                eventually(ada.open, "a slot of the stopped worker", interval=0.5)
            assert not ada.open()
            site.get("/groups/room.ada/send/?text=meanwhile")
            site.get("/log-out/", eve.cookie)
            assert eve.of(going).read_frame().code == 4401
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert eve.of(stopped).read_frame().code == 4401
        assert [read_text(client) for client in ada.open_ones] == ["meanwhile"] * (LIMIT + 1)
        eventually(lambda: count() == LIMIT + 1, "all members again")
        first = next(client for client, of in ada.open_ones.items() if of == going)
        del ada.open_ones[first]
        first.close_handshake(1000)
        eventually(lambda: count() == LIMIT, "one less")
        assert not ada.open()
        site.get("/groups/room.ada/send/?text=later")
        assert [read_text(client) for client in ada.open_ones] == ["later"] * LIMIT
        site.log.expect("the members of this process are visible again")
