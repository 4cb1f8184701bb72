"""WebSockets with about thirty third-party middlewares and all of Django's, under a real gunicorn.

The middlewares are written for short requests with a response. They have to work although the request of a WebSocket
lasts long and its response is not sent. The extra ``thirdparty`` in ``pyproject.toml`` has their packages.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.rawclient import CLOSE, Frame, RawClient, close_frame, upgrade_request
from tests.support.servers import Server, launch
from tests.support.waiting import eventually

PROJECT = "tests.django.thirdparty.wsgi:application"
VARIANTS = ("usual", "reversed", "debug")
"""``debug``: with DEBUG and the toolbar. ``reversed``: in reverse order where that is possible, with sessions that are
saved at every request, and the middleware class of this package.
"""
PATHS = ("/echo/", "/class/", "/meta/", "/both/", "/detached/")


@pytest.fixture(scope="module", params=VARIANTS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The project's server."""
    directory = tmp_path_factory.mktemp(request.param)
    with launch("worker", directory, PROJECT, env={"VARIANT": request.param}) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The same, with a check of its log after each test."""
    yield running
    running.log.check()


def records(server: Server, token: str, until: str = "silk") -> list[str]:
    """The records for ``?id=<token>``, when one of them starts with ``until``."""

    def recorded() -> list[str]:
        found: list[str] = json.loads(server.get(f"/records/?of={token}").body)["records"]
        return found if any(one.startswith(until) for one in found) else []

    return eventually(recorded, f"{until!r} among the records")


def login(server: Server, user: str) -> tuple[str, str]:
    """The header with the cookie of a new session."""
    cookies = server.get(f"/login/?user={user}").headers["set-cookie"]
    [pair] = [part for part in cookies.replace(",", ";").split(";") if part.strip().startswith("sessionid=")]
    return "Cookie", pair.strip()


def token_of(server: Server, user: str) -> str:
    """A token for this user."""
    return server.get(f"/token/?user={user}").body.decode()


def ask(client: RawClient, message: str = "x") -> str:
    """The answer to a message."""
    client.text(message)
    return client.read_frame().payload.decode()


def test_all_middlewares_are_installed(server: Server) -> None:
    """An ordinary page has the headers that they set."""
    headers = server.get("/", ("Origin", "http://other")).headers
    assert {
        "access-control-allow-origin",
        "content-length",
        "content-security-policy",
        "correlation-id",
        "permissions-policy",
        "vary",
        "x-content-type-options",
        "x-frame-options",
    } <= set(headers)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("end", ["peer", "view", "reset"])
def test_websocket_opens_echoes_and_closes(server: Server, token: str, path: str, end: str) -> None:
    """With the correct code, one line in the access log and one end of the request. After the 101 only frames are sent,
    and sentry has no event.
    """
    with server.connect() as client:
        client.upgrade(f"{path}?id={token}")
        assert ask(client) == "x"
        if end == "peer":
            code = 3000
            assert client.close_handshake(3000) == [Frame(CLOSE, (3000).to_bytes(2, "big"))]
        elif end == "view":
            code = 4000
            client.text("leave")
            assert client.read_frame() == Frame(CLOSE, (4000).to_bytes(2, "big"))
            assert client.close_handshake(4000) == []
        else:
            code = 1006
            client.reset()
    found = records(server, token, f"closed with {code}" if path == "/detached/" else "silk")
    [status] = [one.removeprefix("span: ") for one in found if one.startswith("span: ")]
    assert status == "101"
    expected = [f"response {status} for AnonymousUser", f"span: {status}", "finished", f"silk: {status}"]
    if path == "/detached/":
        expected.append(f"closed with {code}")
    assert sorted(found) == sorted(expected)
    assert server.await_access(f"id={token}").status == 101


def test_exception_of_a_view_is_reported_once(server: Server, token: str) -> None:
    """By the log, structlog and sentry. The socket closes with 1011."""
    with server.connect() as client:
        client.upgrade(f"/raises/?id={token}")
        assert client.read_frame() == Frame(CLOSE, (1011).to_bytes(2, "big"))
        assert client.close_handshake(1011) == []
    found = records(server, token)
    server.log.expect(r"django.request: Internal Server Error: /raises/\n.*LookupError: after the 101")
    server.log.expect("event='request_failed'")
    server.log.expect(r"django.request: (\{'Host'|b'')", count=2)  # django-request-logging: the request
    reported = ["sentry: LookupError: after the 101"]
    expected = [*reported, "response 500 for AnonymousUser", "span: 500", "finished", "silk: 500"]
    assert sorted(found) == sorted(expected)
    assert server.await_access(f"id={token}").status == 101


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/refuses/denied/", 403),
        ("/refuses/missing/", 404),
        ("/refuses/closed/", 403),
        ("/nowhere/", 404),
        ("/private/", 302),
        ("/decorated/", 302),
        ("/echo", 301),
        ("/private/?token=forged", 401),
    ],
)
def test_refusal_is_an_ordinary_answer(server: Server, token: str, path: str, status: int) -> None:
    """After it the connection ends."""
    with server.connect() as client:
        query = f"{'&' if '?' in path else '?'}id={token}"
        client.send(upgrade_request(path + query, ("Referer", "http://other/"), ("User-Agent", "a browser")))
        assert client.read_response().status == status
        assert client.read_until_eof() == b""
    if status > 400:
        server.log.expect(r"\[WARNING\] django.request: (Forbidden|Not Found|Unauthorized)")
    if path == "/refuses/denied/":
        server.log.expect("exceptions.PermissionDenied$")  # Django logs its traceback
    found = [one for one in records(server, token, "finished") if not one.startswith(("response", "silk"))]
    assert found == [f"span: {status}", "finished"]
    assert server.await_access(f"id={token}").status == status


@pytest.mark.parametrize("path", ["/private/", "/decorated/"])
def test_user_comes_by_session_or_by_token(server: Server, token: str, path: str) -> None:
    """``refresh_user``, and a middleware after the view, find the same user."""
    by_cookie, by_token = login(server, "ada"), token_of(server, "ada")
    ways = [("", by_cookie), ("", ("Authorization", f"Bearer {by_token}")), (f"&token={by_token}", ("X-No", "header"))]
    for number, (query, header) in enumerate(ways):
        with server.connect() as client:
            client.upgrade(f"{path}?id={token}{number}{query}", header)
            assert ask(client) == "ada ada"
            assert client.close_handshake() == [Frame(CLOSE, (1000).to_bytes(2, "big"))]
        assert "response 101 for ada" in records(server, f"{token}{number}")


def test_token_has_precedence_over_the_session(server: Server, token: str) -> None:
    """Also for ``refresh_user``."""
    with server.connect() as client:
        client.upgrade(f"/private/?id={token}&token={token_of(server, 'bob')}", login(server, "ada"))
        assert ask(client) == "bob bob"


def test_session_is_saved_at_the_handshake_alone(server: Server, token: str) -> None:
    """A value that another request stores meanwhile is kept. Later changes in this request are not stored."""
    cookie = login(server, "ada")
    with server.connect() as client:
        client.upgrade(f"/session/?id={token}", cookie)
        assert ask(client) == "x"
        server.get("/login/?later=later", cookie)
        client.close_handshake()
    records(server, token)
    stored = json.loads(server.get("/login/", cookie).body)
    assert stored == {"early": "early", "late": None, "later": "later"}


def test_cached_page_leaves_its_websocket_alone(server: Server, token: str) -> None:
    """A page and a WebSocket at one address: the page is cached for plain HTTP only."""
    path = f"/both/?id={token}"
    for _ in range(2):
        assert server.get(path).body == b"a page"
        with server.connect() as client:
            client.upgrade(path)
            assert ask(client) == "x"
            client.close_handshake()
        records(server, token)


def test_requests_at_once_keep_apart(server: Server, token: str) -> None:
    """Data that a middleware stores for a greenlet is available to it as long as the WebSocket lasts."""
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(4)]
        for number, client in enumerate(clients):
            client.upgrade(f"/context/?id={token}{number}")
        for _ in range(2):
            for number, client in enumerate(clients):
                assert ask(client) == f"{token}{number} {token}{number}"
        for client in clients:
            client.close_handshake()


def test_stop_ends_websockets(tmp_path: Path) -> None:
    """With 1012, and without an error in the log."""
    with launch("worker", tmp_path, PROJECT) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in PATHS]
        for path, client in zip(PATHS, clients, strict=True):
            client.upgrade(path)
            assert ask(client) == "x"
        server.kill(signal.SIGTERM)
        for client in clients:
            last = client.read_frame()
            assert (last.opcode, last.code) == (CLOSE, 1012)
            client.send(close_frame(1012))
            assert client.read_until_eof() == b""
