"""Logouts and withdrawn logins under several workers: they apply in all of them, with no setting."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gws_middleware.groups.backends.directory import automatic

from ..support.programs import run_python
from ..support.rawclient import CLOSE, TEXT, Frame, RawClient
from ..support.servers import Server, launch
from ..support.waiting import eventually

APP = "tests.fixtureapps.accounts:app"
WORKERS = 4
TABS = 24
"""So many that hardly a worker has none of them."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Four workers; they are added one by one, because each migrates the database."""
    directory = tmp_path_factory.mktemp("accounts")
    with launch("worker", directory, APP, env={"DATABASE_FILE": str(directory / "db.sqlite3")}) as server:
        for number in range(2, WORKERS + 1):
            server.kill(signal.SIGTTIN)
            eventually(lambda number=number: len(pids(server, 8 * number)) == number, f"{number} workers", timeout=60)
        yield server


@pytest.fixture
def site(running: Server) -> Iterator[Server]:
    yield running
    running.log.check()


def pids(server: Server, requests: int) -> set[int]:
    """The processes that answer."""
    return {int(server.get("/process/", ("Connection", "close")).body) for _ in range(requests)}


def log_in(site: Server, name: str) -> str:
    """A session of its own; its cookie."""
    cookie = site.get(f"/log-in/{name}/").headers["set-cookie"]
    return "sessionid=" + cookie.partition("sessionid=")[2].partition(";")[0]


def tabs(stack: ExitStack, site: Server, name: str, cookie: str, count: int = TABS) -> list[RawClient]:
    """WebSockets of a session."""
    found = []
    for number in range(count):
        client = stack.enter_context(site.connect())
        client.upgrade("/private/" if number % 2 else "/who/", ("Cookie", cookie))
        assert client.read_frame() == Frame(TEXT, name.encode())
        found.append(client)
    return found


def is_closed(client: RawClient) -> bool:
    """The next frame is a close frame with 4401."""
    frame = client.read_frame()
    return (frame.opcode, frame.code) == (CLOSE, 4401)


def is_open(client: RawClient, name: str) -> bool:
    client.text("who")
    return client.read_frame() == Frame(TEXT, name.encode())


def test_logout_closes_the_sockets_of_the_session_in_all_workers(site: Server, token: str) -> None:
    """And no other ones, of the same user's other session too."""
    eve = f"eve-{token}"
    with ExitStack() as stack:
        cookie = log_in(site, eve)
        closing = tabs(stack, site, eve, cookie)
        other = tabs(stack, site, eve, log_in(site, eve), 8)
        site.get("/log-out/", ("Cookie", cookie))
        assert [is_closed(client) for client in closing] == [True] * TABS
        assert [is_open(client, eve) for client in other] == [True] * 8


@pytest.mark.parametrize("path", ["withdraw", "withdraw-key", "deactivate", "delete"])
def test_withdrawn_user_has_no_socket_in_any_worker(site: Server, token: str, path: str) -> None:
    """Whatever worker it was done in; other users keep theirs."""
    eve, ada = f"eve-{token}", f"ada-{token}"
    with ExitStack() as stack:
        closing = tabs(stack, site, eve, log_in(site, eve))
        other = tabs(stack, site, ada, log_in(site, ada), 8)
        assert site.get(f"/{path}/{eve}/").status == 200
        assert [is_closed(client) for client in closing] == [True] * TABS
        assert [is_open(client, ada) for client in other] == [True] * 8


def test_login_as_another_user_closes_in_all_workers(site: Server, token: str) -> None:
    """In the same browser, so with the same session."""
    eve, ada = f"eve-{token}", f"ada-{token}"
    with ExitStack() as stack:
        cookie = log_in(site, eve)
        closing = tabs(stack, site, eve, cookie)
        site.get(f"/log-in/{ada}/", ("Cookie", cookie))
        assert [is_closed(client) for client in closing] == [True] * TABS


def test_command_closes_in_all_workers(site: Server, token: str) -> None:
    """A process that is no worker, and that nothing has patched."""
    eve = f"eve-{token}"
    with ExitStack() as stack:
        closing = tabs(stack, site, eve, log_in(site, eve))
        script = (
            "import os, sys; from tests.fixtureapps import accounts; from django.contrib.auth.models import User\n"
            "from gws_middleware.django.users import close_user_sockets\n"
            "print(close_user_sockets(User.objects.get(username=sys.argv[1])))"
        )
        directory = site.access_path.parent
        env = {"DATABASE_FILE": str(directory / "db.sqlite3")}
        ended = run_python("-c", script, eve, folder=directory, env=env)
        assert (ended.returncode, ended.stdout.strip()) == (0, "0"), ended.stderr
        assert [is_closed(client) for client in closing] == [True] * TABS


def test_workers_that_have_missed_logouts_check_their_users(site: Server, token: str) -> None:
    """The log of the groups was removed, and a session has ended meanwhile."""
    eve, ada = f"eve-{token}", f"ada-{token}"
    with ExitStack() as stack:
        cookie = log_in(site, eve)
        closing = tabs(stack, site, eve, cookie)
        other = tabs(stack, site, ada, log_in(site, ada), 8)
        key = cookie.partition("=")[2]
        assert site.get(f"/forget/?key={key}", ("Cookie", cookie)).status == 200  # no signal is sent
        shutil.rmtree(automatic(site.access_path.parent))
        assert [is_closed(client) for client in closing] == [True] * TABS
        assert [is_open(client, ada) for client in other] == [True] * 8
        site.log.expect("the log has begun anew", WORKERS)
        site.log.expect("group gws.orders: messages are missing", WORKERS)
        site.log.expect("logouts of other workers may have been missed", WORKERS)
