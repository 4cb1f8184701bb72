"""Sockets of people who may not have them any more (row 25): a session that ended, a login or an account withdrawn.

``tests/django/test_users.py`` has all of it in one process; here it is a gunicorn, and what is on the wire.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from ..support.rawclient import CLOSE, TEXT, Frame, RawClient, close_frame, upgrade_request
from ..support.servers import Server, launch
from ..support.waiting import eventually

VIEWS = ["/private/", "/who/"]
"""Attached and detached."""


def accounts(directory: Path, kind: str = "worker", app: str = "app", **env: str) -> Iterator[Server]:
    """The project, with an empty database."""
    env = {"DATABASE_FILE": str(directory / "accounts.sqlite3"), **env}
    with launch(kind, directory, f"tests.fixtureapps.accounts:{app}", env=env) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the settings as they are."""
    yield from accounts(tmp_path_factory.mktemp("accounts"))


@pytest.fixture
def site(running: Server) -> Iterator[Server]:
    """The same; its log is checked after each test."""
    yield running
    running.log.check()


class Browser:
    """The session of a user."""

    def __init__(self, site: Server, name: str) -> None:
        self.site, self.name = site, name
        cookie = site.get(f"/log-in/{name}/").headers["set-cookie"]
        self.cookie = cookie.partition("sessionid=")[2].partition(";")[0]

    def get(self, path: str) -> None:
        """A page."""
        assert self.site.get(path, ("Cookie", f"sessionid={self.cookie}")).status == 200

    def opened(self, stack: ExitStack, path: str) -> RawClient:
        """A WebSocket, when it has received the name of its user."""
        client = stack.enter_context(self.site.connect())
        client.upgrade(path, ("Cookie", f"sessionid={self.cookie}"))
        assert client.read_frame() == Frame(TEXT, self.name.encode())
        return client

    def held(self, stack: ExitStack, point: str) -> Held:
        """A handshake that waits at this point, at which it has read its user."""
        handshake = Held(self.site, stack.enter_context(self.site.connect(timeout=30.0)))
        handshake.client.send(
            upgrade_request(f"/held/{point}/{handshake.token}/", ("Cookie", f"sessionid={self.cookie}"))
        )
        wait_until_held(self.site, handshake.token)
        return handshake


def wait_until_held(site: Server, token: str) -> None:
    """A request with this token has come to the point where it waits."""
    eventually(lambda: site.get(f"/is-held/{token}/").body == b"True", f"{token} to be held", timeout=30.0)


class Held:
    """A handshake that is under way."""

    def __init__(self, site: Server, client: RawClient) -> None:
        self.site, self.client, self.token = site, client, uuid.uuid4().hex[:12]

    def first_frame(self) -> Frame:
        """Let it go on: what comes first after the 101."""
        assert self.site.get(f"/release/{self.token}/").status == 200
        assert self.client.read_response().status == 101
        return self.client.read_frame()


def closed(client: RawClient) -> tuple[int | None, bytes]:
    """The code of the server's close frame, which comes next, and what is after it."""
    close = client.read_frame()
    client.send(close_frame(close.code))
    return close.code, client.read_until_eof()


def is_open(client: RawClient, name: str) -> bool:
    """Whether it is still answered, and as whose."""
    client.text("who")
    return client.read_frame() == Frame(TEXT, name.encode())


@pytest.mark.parametrize("path", VIEWS)
def test_one_call_closes_the_sockets_of_a_user(site: Server, token: str, path: str) -> None:
    """``close_user_sockets``: 4401 in every session of that user; the others' are answered as before."""
    eve = f"eve-{token}"
    with ExitStack() as stack:
        hers = [Browser(site, eve).opened(stack, path) for _ in range(3)]
        ada = Browser(site, f"ada-{token}").opened(stack, path)
        assert site.get(f"/withdraw/{eve}/").body == b"3"
        assert [closed(one) for one in hers] == [(4401, b"")] * 3
        assert is_open(ada, f"ada-{token}")
    assert site.get(f"/withdraw/{eve}/").body == b"0"


@pytest.mark.parametrize("path", VIEWS)
def test_logout_closes_the_sockets_of_its_session(site: Server, token: str, path: str) -> None:
    """And no others of the same user; with the session's cookie there is no new one either."""
    with ExitStack() as stack:
        desk, phone = Browser(site, token), Browser(site, token)
        here, there = desk.opened(stack, path), phone.opened(stack, path)
        desk.get("/log-out/")
        assert closed(here) == (4401, b"")
        assert is_open(there, token)
        with site.connect() as client:
            client.send(upgrade_request("/private/", ("Cookie", f"sessionid={desk.cookie}")))
            assert client.read_response().status == 302


@pytest.mark.parametrize("path", VIEWS)
@pytest.mark.parametrize("how", ["deactivate", "delete"])
def test_withdrawn_account_closes_its_sockets(site: Server, token: str, path: str, how: str) -> None:
    """By Django's own means, e.g. in its admin."""
    with ExitStack() as stack:
        sockets = [Browser(site, token).opened(stack, path) for _ in range(2)]
        site.get(f"/{how}/{token}/")
        codes = [closed(one) for one in sockets]
    assert codes == [(4401, b"")] * 2


# --- handshakes that are under way ---------------------------------------------------------------------------------

POINTS = ["middleware", "query", "view", "accept", "late"]
"""A middleware reads the user; the view does, and its row has come; ``request.user`` is there; ``accept()`` has been
called; the user is read after it.
"""


def log_out(browser: Browser) -> None:
    browser.get("/log-out/")


def log_in_as_another(browser: Browser) -> None:
    browser.get(f"/log-in/other-than-{browser.name}/")


def log_in_again(browser: Browser) -> None:
    browser.get(f"/log-in/{browser.name}/")


def deactivate(browser: Browser) -> None:
    browser.site.get(f"/deactivate/{browser.name}/")


def delete(browser: Browser) -> None:
    browser.site.get(f"/delete/{browser.name}/")


def close_sockets(browser: Browser) -> None:
    browser.site.get(f"/withdraw/{browser.name}/")


def close_sockets_of_a_key(browser: Browser) -> None:
    browser.site.get(f"/withdraw-key/{browser.name}/")


Withdraw = Callable[[Browser], None]
WITHDRAWN: list[Withdraw] = [log_out, log_in_as_another, deactivate, delete, close_sockets, close_sockets_of_a_key]


@pytest.mark.parametrize("withdraw", WITHDRAWN)
@pytest.mark.parametrize("point", POINTS)
def test_login_withdrawn_during_the_handshake_closes(site: Server, token: str, point: str, withdraw: Withdraw) -> None:
    """Wherever between reading the user and ``accept()`` the view is; handshakes of other users open."""
    with ExitStack() as stack:
        mine, other = Browser(site, token), Browser(site, f"eve-{token}")
        handshake, spared = mine.held(stack, point), other.held(stack, point)
        withdraw(mine)
        assert handshake.first_frame().code == 4401
        assert spared.first_frame() == Frame(TEXT, other.name.encode())


@pytest.fixture(scope="module")
def switched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that sends the 101 before Django has seen the request."""
    yield from accounts(tmp_path_factory.mktemp("switched"), "geventwebsocket-worker", "wrapped")


@pytest.mark.parametrize("withdraw", WITHDRAWN)
@pytest.mark.parametrize("point", ["middleware", "query", "view"])
def test_login_withdrawn_after_the_server_s_101_closes(
    switched: Server, token: str, point: str, withdraw: Withdraw
) -> None:
    """The same where the WebSocket is open before its user has been read."""
    with ExitStack() as stack:
        browser = Browser(switched, token)
        handshake = browser.held(stack, point)
        withdraw(browser)
        assert handshake.first_frame().code == 4401


@pytest.mark.parametrize("point", POINTS)
def test_login_of_the_same_user_closes_no_handshake(site: Server, token: str, point: str) -> None:
    """It keeps the session."""
    with ExitStack() as stack:
        browser = Browser(site, token)
        handshake = browser.held(stack, point)
        log_in_again(browser)
        assert handshake.first_frame() == Frame(TEXT, token.encode())


def test_handshake_after_the_call_opens(site: Server, token: str) -> None:
    """``close_user_sockets`` ends what there is, and does not keep users from coming back."""
    with ExitStack() as stack:
        browser = Browser(site, token)
        handshake = browser.held(stack, "view")
        close_sockets(browser)
        browser.opened(stack, "/private/")
        assert handshake.first_frame().code == 4401


@pytest.mark.parametrize("how", ["log-out-slowly", "log-in-slowly/{other}"])
def test_handshake_before_the_end_of_a_session_is_visible_closes(site: Server, token: str, how: str) -> None:
    """Django sends the signal of a logout before it deletes the session, and in a transaction nothing is visible before
    it is committed: a handshake that begins in between still finds its user.
    """
    with ExitStack() as stack:
        browser, other = Browser(site, token), Browser(site, f"eve-{token}")
        page = Thread(target=browser.get, args=(f"/{how.format(other=other.name)}/{token}/",))
        page.start()
        stack.callback(page.join)
        wait_until_held(site, token)
        client = stack.enter_context(site.connect())
        client.upgrade("/private/", ("Cookie", f"sessionid={browser.cookie}"))
        frame = client.read_frame()
        site.get(f"/release/{token}/")
    assert frame.code == 4401


@pytest.mark.parametrize("path", VIEWS)
def test_view_may_ask_whether_the_session_is_still_there(site: Server, token: str, path: str) -> None:
    """One that has ended unnoticed, e.g. in another process: ``refresh_user`` finds no user."""
    with ExitStack() as stack:
        browser = Browser(site, token)
        client = browser.opened(stack, path)
        site.get(f"/forget/?key={browser.cookie}")
        assert is_open(client, "AnonymousUser")


def test_peer_that_ignores_it_is_not_read_any_more(site: Server, token: str) -> None:
    """What it sends after our close frame reaches no view."""
    with ExitStack() as stack:
        client = Browser(site, token).opened(stack, "/private/")
        assert site.get(f"/withdraw/{token}/").body == b"1"
        client.text("who")
        close = client.read_frame()
        client.text("who")
        rest = client.close_handshake()
    assert (close.opcode, close.code, rest) == (CLOSE, 4401, [])


def test_setting_leaves_them_open(tmp_path: Path, token: str) -> None:
    """``close_on_logout``: False; the one call still closes."""
    for site in accounts(tmp_path, GWS='{"close_on_logout": false}'):
        with ExitStack() as stack:
            browser = Browser(site, token)
            client = browser.opened(stack, "/private/")
            browser.get("/log-out/")
            assert is_open(client, "AnonymousUser")
            assert site.get(f"/withdraw/{token}/").body == b"1"
            assert closed(client) == (4401, b"")
