"""Pages of others that open a WebSocket with their user's cookies (row 1): 403 instead of the 101."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.rawclient import TEXT, Frame, request, upgrade_request
from ..support.servers import Server, launch

Headers = list[tuple[str, str]]
Case = tuple[str, str, Headers]
"""The list of origins, the request's Host, and its Origin headers."""


def cases(names: str, host: str, *origins: str | Headers) -> list[object]:
    """Parameters: each of these origins against each of these lists."""
    return [
        pytest.param((name, host, [("Origin", one)] if isinstance(one, str) else one), id=f"{name} {host}: {one}")
        for name in names.split()
        for one in origins
    ]


MALFORMED = (
    "",
    "example.com",
    "//example.com",
    "https:example.com",
    "https:/example.com",
    "https:///example.com",
    "https://",
    "https://:443",
    "https://example.com:",
    "https://example.com:x",
    "https://example.com:443:443",
    "https://example.com:000443",
    "https://*.example.com",
    "https://[2001:db8::1",
    "https://[::1]evil.test",
    "*",
    "same-origin",
    "undefined",
    "NULL",
    "javascript:alert(1)",
    "data:text/html,x",
    "file://",
    "https://" + "a." * 3000 + "test",
)
SEVERAL: tuple[str | Headers, ...] = (
    "https://example.com https://evil.test",
    "https://evil.test https://example.com",
    "https://example.com, https://evil.test",
    "https://example.com,https://example.com",
    "null https://example.com",
    [("Origin", "https://example.com"), ("Origin", "https://evil.test")],
    [("Origin", "https://evil.test"), ("Origin", "https://example.com")],
    [("Origin", "https://example.com"), ("Origin", "https://example.com")],
    [("Origin", ""), ("Origin", "https://example.com")],
)
LOOK_ALIKES = (
    "https://example.com.evil.test",
    "https://evil-example.com",
    "https://evilexample.com",
    "https://example.com@evil.test",
    "https://example.com:443@evil.test",
    "https://evil.test/https://example.com",
    "https://evil.test#example.com",
    "https://evil.test?example.com",
    "https://evil.test\\example.com",
    "https://evil.test%00.example.com/",
    "https://user@example.com",
    "https://user:pass@example.com",
    "https://example.com/",
    "https://example.com/path",
    "https://example.com?",
    "https://example.com#",
    "https://example.com.",
    "https://example.co",
    "https://xexample.com",
    "https://example.comx",
    "https://ex\xe4mple.com",
    "https://\xd0\xb5xample.com",  # a Cyrillic letter, as UTF-8
    "https://example%2ecom",
    "https://example.com:444",
    "https://example.com:80",
    "http://example.com:443",
    "http://example.com",
    "wss://example.com",
    "httpsx://example.com",
)
FOREIGN = [
    *cases("same exact wildcard pattern none", "test", "https://evil.test", "null", *MALFORMED, *SEVERAL),
    *cases("same", "example.com", *LOOK_ALIKES[:-3], *SEVERAL),  # of the same origin the scheme is not compared
    *cases("exact", "test", *LOOK_ALIKES, "https://a.example.com", "http://test"),
    *cases("exact", "test", "https://example.org", "https://example.org:443", "https://example.org:8444"),
    *cases("exact", "test", "http://[2001:db8::1]", "http://[2001:db8::2]:8080", "http://2001:db8::1:8080", "app://x"),
    *cases("wildcard", "test", *LOOK_ALIKES, "https://example.com", "https://.example.com.evil.test"),
    *cases("wildcard", "test", "https://a.example.com:444", "http://a.example.com", "https://a.example.com@evil.test"),
    *cases("pattern", "test", "https://team-1.example.com.evil.test", "https://evil.test/https://team-1.example.com"),
    *cases("pattern", "test", "https://team-1.example.com:444", "https://team-x.example.com", "https://example.com"),
    *cases("programs", "test", "file:///", "file:", "localhost", "localhost:80", "http://localhost:8025", "null", ""),
    *cases("programs", "test", "https://example.com", "https://example.com/project/", "https://example.com/projects"),
    *cases("null none", "test", "http://test", "https://example.com", "", "NULL", "nullx"),
    *cases("same", "test:8000", "http://test", "http://test:8001", "http://test:80", "http://test:80000"),
    *cases("same", "test", "http://test:8000", "http://test.evil.test", "http://a.test", "http://test@evil.test"),
    *cases("same", "test:443", "http://test"),
    *cases("same", "[::1]:8000", "http://[::1]", "http://[::2]:8000", "http://::1:8000", "http://[::1]:8001"),
    # A Host that no browser sends, so that it might be taken for the origin's.
    *cases("same", "evil.test@test", "http://test", "http://evil.test", "http://evil.test@test"),
    *cases("same", "test/evil.test", "http://test", "http://test/evil.test"),
    *cases("same", "*", "http://*", "http://test"),
]
OWN = [
    *cases("same exact wildcard pattern null none any", "test", []),  # no browser, so no page of others
    *cases("same", "test", "http://test", "https://test", "HTTP://TEST", "http://test:80", "https://test:443"),
    *cases("same", "TEST", "http://test"),
    *cases("same", "test:8000", "http://test:8000", "https://test:8000"),
    *cases("same", "test:80", "http://test"),
    *cases("same", "test:443", "https://test"),
    *cases("same", "[::1]:8000", "http://[::1]:8000"),
    *cases("same", "[::1]", "http://[::1]", "https://[::1]:443"),
    *cases("same", "[2001:DB8::1]", "http://[2001:db8::1]"),
    *cases("exact", "test", "https://example.com", "https://example.com:443", "HTTPS://Example.COM", "app://-"),
    *cases("exact", "test", "https://example.org:8443", "http://[2001:db8::1]:8080", "http://[2001:DB8::1]:8080"),
    *cases("wildcard", "test", "https://a.example.com", "https://a.b.example.com:443", "https://A.EXAMPLE.com"),
    *cases("pattern", "test", "https://team-7.example.com"),
    *cases("programs", "test", "file://", "localhost:8025", "https://example.com/project"),
    *cases("null", "test", "null"),
    *cases("any", "test", "https://evil.test", "null", "no origin at all"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The gevent worker of gunicorn with one wrapper for each list."""
    with launch("gevent", tmp_path_factory.mktemp("origins"), "tests.fixtureapps.origins") as server:
        yield server


@pytest.fixture
def origins(running: Server) -> Iterator[Server]:
    """The same; its log is checked after each test."""
    yield running
    running.log.check()


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_origin_is_refused_before_the_101(origins: Server, token: str, case: Case) -> None:
    """403 and the end: the view is not called, whatever is in the cookie, and nothing after the request is served."""
    name, host, headers = case
    cookie = ("Cookie", "sessionid=of-the-victim")
    with origins.connect() as client:
        sent = upgrade_request(f"/{name}/second?id={token}", ("Host", host), *headers, cookie)
        client.send(sent + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, rest, origins.events(token)) == (403, b"", [])


@pytest.mark.parametrize("case", OWN)
def test_own_origin_passes(origins: Server, case: Case) -> None:
    """The same origin, what is on the list by name, by wildcard or by pattern, and who has no Origin."""
    name, host, headers = case
    with origins.connect() as client:
        client.upgrade(f"/{name}/echo", ("Host", host), *headers)
        client.text("x")
        received = client.read_frame()
    assert received == Frame(TEXT, b"x")


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "", "http://test.evil.test", "http://test:8000"])
def test_worker_without_a_setting_takes_its_own_pages_alone(worker: Server, token: str, origin: str) -> None:
    """The default of the worker class is the same origin."""
    with worker.connect() as client:
        client.send(upgrade_request(f"/second?id={token}", ("Origin", origin)) + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    with worker.connect() as client:
        client.upgrade("/echo", ("Origin", "http://test"))
    assert (response.status, rest, worker.events(token)) == (403, b"", [])
