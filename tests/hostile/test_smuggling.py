"""A second request hidden after a handshake that is refused (row 18), and what is no handshake at all (row 20).

A proxy that has passed on an upgrade may tunnel whatever comes after it, unread. So after each refusal, whichever part
refuses, the response goes out, the connection ends, and what came after it was not served.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from gunicorn import version_info as gunicorn_version

from ..support.rawclient import Response, frame, request, upgrade_request
from ..support.servers import Server, launch

Headers = list[tuple[str, str]]


def smuggled(token: str, host: str = "test") -> bytes:
    """The request that must not be served."""
    return request(f"/second?id={token}", host=host)


def chunked(body: bytes) -> bytes:
    """A body in one chunk, and its end."""
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


AFTER = {  # what comes after a refused handshake in the same segment, when {} is the smuggled request
    "a request": b"{}",
    "many requests": b"{}" * 20,
    "an empty line and a request": b"\r\n{}",
    "another handshake and a request": upgrade_request("/second?id=token") + b"{}",
    "frames and a request": frame(1, b"x") + b"{}",
    "a chunked body and a request": chunked(b"x") + b"{}",
    "a request in a chunk": b"chunk{}",
}


def after(what: str, token: str) -> bytes:
    """Those bytes."""
    hidden = smuggled(token)
    if AFTER[what].startswith(b"chunk{}"):
        return chunked(hidden) + hidden
    return AFTER[what].replace(b"{}", hidden).replace(b"id=token", b"id=" + token.encode())


def answered(server: Server, sent: bytes, later: bytes) -> tuple[Response, bytes]:
    """The response and what comes after it, twice: ``later`` is sent in the same segment, and when the answer came."""
    with server.connect() as client:
        client.send(sent + later)
        response = client.read_response()
        rest = client.read_until_eof()
    with server.connect() as client:
        client.send(sent)
        client.read_response()
        try:
            client.send(later)
        except OSError:
            pass  # the server was quicker
        rest += client.read_until_eof()
    return response, rest


# --- refused by a rule, or by the view (row 18) --------------------------------------------------------------------

BY_A_RULE = {
    "wrong version": (upgrade_request("/echo", ("Sec-WebSocket-Version", "12")), 426),
    "no version": (upgrade_request("/echo", without=["Sec-WebSocket-Version"]), 426),
    "no key": (upgrade_request("/echo", without=["Sec-WebSocket-Key"]), 400),
    "foreign origin": (upgrade_request("/echo", ("Origin", "https://evil.test")), 403),
    "no connection": (upgrade_request("/echo", ("Connection", "keep-alive")), 400),
    "subprotocol": (upgrade_request("/echo", ("Sec-WebSocket-Protocol", "a b")), 400),
    "post": (upgrade_request("/echo", method="POST"), 405),
}
BY_THE_VIEW = {
    **{
        f"/answer?status={quote(status)}": int(status[:3])
        for status in ("401 Unauthorized", "403 Forbidden", "404 Not Found", "302 Found", "200 OK")
    },
    "/no-such-path": 404,
    "/answer/generator": 403,
    "/answer/write": 403,
    "/answer/again": 403,
    "/answer/close": 403,
    "/answer/then-accept": 403,
}
ERRORS = {
    "/answer/raise": "Error handling request .*LookupError",
    "/answer/nothing": "neither accepted nor answered",
}


@pytest.mark.parametrize("what", AFTER)
@pytest.mark.parametrize("rule", BY_A_RULE)
def test_nothing_after_a_broken_rule_is_served(worker: Server, token: str, rule: str, what: str) -> None:
    """The refusal is the last byte on the connection."""
    sent, status = BY_A_RULE[rule]
    response, rest = answered(worker, sent, after(what, token))
    assert (response.status, response.headers["connection"].lower(), rest) == (status, "close", b"")
    assert worker.events(token) == []


@pytest.mark.parametrize("what", AFTER)
@pytest.mark.parametrize("path", BY_THE_VIEW)
def test_nothing_after_a_refusal_of_the_view_is_served(worker: Server, token: str, path: str, what: str) -> None:
    """The view's own answer, by whatever means of WSGI, is the last byte too."""
    response, rest = answered(worker, upgrade_request(path), after(what, token))
    assert (response.status, response.headers["connection"].lower(), rest) == (BY_THE_VIEW[path], "close", b"")
    assert worker.events(token) == []


@pytest.mark.parametrize("path", ERRORS)
def test_nothing_after_an_error_of_the_view_is_served(worker: Server, token: str, path: str) -> None:
    """The same for a view that fails before the 101."""
    response, rest = answered(worker, upgrade_request(path), smuggled(token))
    worker.log.expect(ERRORS[path], 2)
    assert (response.status, rest, worker.events(token)) == (500, b"", [])


@pytest.mark.parametrize("before", [1, 5])
def test_refusal_after_served_requests_is_the_end(worker: Server, token: str, before: int) -> None:
    """Requests before the handshake, on the same connection, are served as ever; none after it."""
    with worker.connect() as client:
        client.send(request("/") * before + upgrade_request("/no-such-path") + smuggled(token))
        statuses = [client.read_response().status for _ in range(before + 1)]
        rest = client.read_until_eof()
    assert (statuses, rest, worker.events(token)) == ([200] * before + [404], b"", [])


# --- refused by Django (row 18) ------------------------------------------------------------------------------------

BY_DJANGO = {  # the handshake, the status
    "/answers/forbidden/": 403,
    "/answers/denied/": 403,
    "/answers/missing/": 404,
    "/answers/closed/": 403,
    "/answers/cookie/": 403,
    "/private/": 302,
    "/permitted/": 403,
    "/tested/": 302,
    "/no-such-path/": 404,
    "/echo": 301,  # the slash that CommonMiddleware appends
    "/meta-user": 301,
    "/conversation/3/?what=refuse": 409,
    "/conversation/3/?what=close": 403,
    "/conversation/private/3/": 302,
}


@pytest.fixture(scope="module")
def running_django(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Django project, with all of ``startproject``'s middleware around its views."""
    with launch("worker", tmp_path_factory.mktemp("django"), "tests.django.project.wsgi:application") as server:
        yield server


@pytest.fixture
def django(running_django: Server) -> Iterator[Server]:
    """The same; after each test its log has no error, but what Django tells of an answer that is a refusal."""
    yield running_django
    found = running_django.log.problems()
    for one in found:
        running_django.log.expect(re.escape(one.text))
    assert [one for one in found if one.level == "ERROR"] == []


def served(server: Server, token: str) -> int:
    """How many requests with ``?id=<token>`` the access log has, once it has one that came later."""
    server.get(f"/?after-{token}")
    server.await_access(f"after-{token}")
    return len(server.access(f"id={token}"))


@pytest.mark.parametrize("path", BY_DJANGO)
def test_nothing_after_a_refusal_of_django_is_served(django: Server, token: str, path: str) -> None:
    """Whatever answers: the URLconf, a middleware, a decorator, a mixin, the view, or the exception that it raised."""
    response, rest = answered(django, upgrade_request(path), request(f"/?id={token}"))
    assert (response.status, response.headers["connection"].lower(), rest) == (BY_DJANGO[path], "close", b"")
    assert served(django, token) == 0


def test_nothing_after_a_host_that_django_refuses_is_served(django: Server, token: str) -> None:
    """ALLOWED_HOSTS answers with a 400."""
    handshake = upgrade_request("/both/", ("Host", "evil.test"))
    response, rest = answered(django, handshake, request(f"/?id={token}"))
    django.log.expect(r"\[ERROR\] django.security.DisallowedHost: Invalid HTTP_HOST header: 'evil.test'", 2)
    assert (response.status, rest, served(django, token)) == (400, b"", 0)


# --- no handshake (row 20) -----------------------------------------------------------------------------------------

BODY = b"x=1"
VERSION_1_0 = upgrade_request("/second?id={}").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
NO_HANDSHAKE = {  # the request, the status
    "two protocols": (upgrade_request("/second?id={}", ("Upgrade", "websocket, h2c")), 400),
    "two protocols, the other first": (upgrade_request("/second?id={}", ("Upgrade", "h2c, websocket")), 400),
    "two protocols on two lines": (
        upgrade_request("/second?id={}", ("Upgrade", "websocket"), ("Upgrade", "h2c")),
        400,
    ),
    "the protocol twice": (upgrade_request("/second?id={}", ("Upgrade", "websocket"), ("Upgrade", "websocket")), 400),
    "protocol with a version": (upgrade_request("/second?id={}", ("Upgrade", "websocket/13")), 400),
    "protocol in quotes": (upgrade_request("/second?id={}", ("Upgrade", '"websocket"')), 400),
    "h2c with its settings": (
        upgrade_request(
            "/second?id={}",
            ("Upgrade", "h2c, websocket"),
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ),
        400,
    ),
    "connection that keeps alive": (upgrade_request("/second?id={}", ("Connection", "keep-alive")), 400),
    "connection that closes": (upgrade_request("/second?id={}", ("Connection", "close")), 400),
    "connection with a word like it": (upgrade_request("/second?id={}", ("Connection", "upgraded")), 400),
    "no connection": (upgrade_request("/second?id={}", without=["Connection"]), 400),
    "body": (upgrade_request("/second?id={}", ("Content-Length", "3")) + BODY, 400),
    "body that never comes": (upgrade_request("/second?id={}", ("Content-Length", "1000000")), 400),
    "chunked body": (upgrade_request("/second?id={}", ("Transfer-Encoding", "chunked")) + chunked(BODY), 400),
    "chunked body without an end": (
        upgrade_request("/second?id={}", ("Transfer-Encoding", "chunked")) + b"5\r\nab",
        400,
    ),
    "post": (upgrade_request("/second?id={}", method="POST"), 405),
    "post with an empty body": (upgrade_request("/second?id={}", ("Content-Length", "0"), method="POST"), 405),
    "post with a body": (upgrade_request("/second?id={}", ("Content-Length", "3"), method="POST") + BODY, 405),
    "post with a chunked body": (
        upgrade_request("/second?id={}", ("Transfer-Encoding", "chunked"), method="POST") + chunked(BODY),
        405,
    ),
    **{
        method.lower(): (upgrade_request("/second?id={}", method=method), 405)
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "GETX")
    },
    "HTTP/1.0": (VERSION_1_0, 400),
    "HTTP/1.0 that keeps alive": (VERSION_1_0.replace(b": Upgrade", b": keep-alive, Upgrade"), 400),
    "no host": (upgrade_request("/second?id={}", without=["Host"]), 400),
    "empty host": (upgrade_request("/second?id={}", ("Host", "")), 400),
    "two hosts in one": (upgrade_request("/second?id={}", ("Host", "test, evil.test")), 400),
    "version": (upgrade_request("/second?id={}", ("Sec-WebSocket-Version", "14")), 426),
    "no version": (upgrade_request("/second?id={}", without=["Sec-WebSocket-Version"]), 426),
    "version of a draft": (upgrade_request("/second?id={}", ("Sec-WebSocket-Version", "8")), 426),
    "handshake of draft 76": (
        request(
            "/second?id={}",
            ("Upgrade", "WebSocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key1", "4 @1  46546xW%0l 1 5"),
            ("Sec-WebSocket-Key2", "12998 5 Y3 1  .P00"),
        )
        + b"^n:ds[4U",
        426,
    ),
}
BY_GUNICORN = {
    "two hosts": upgrade_request("/second?id={}", ("Host", "test"), ("Host", "evil.test")),
    "body of two lengths": upgrade_request("/second?id={}", ("Content-Length", "3"), ("Transfer-Encoding", "chunked")),
    "two lengths": upgrade_request("/second?id={}", ("Content-Length", "3"), ("Content-Length", "4")),
    "negative length": upgrade_request("/second?id={}", ("Content-Length", "-3")),
    "unknown coding": upgrade_request("/second?id={}", ("Transfer-Encoding", "gzipx")),
    "HTTP/3.0": upgrade_request("/second?id={}").replace(b"HTTP/1.1", b"HTTP/3.0", 1),
    "HTTP/0.9": b"GET /second?id={}\r\n\r\n",
    "folded header": upgrade_request("/second?id={}", ("X", "a\r\n b")),
    "header without a colon": upgrade_request("/second?id={}", ("X\r\nY", "a")),
}


@pytest.mark.parametrize("case", NO_HANDSHAKE)
def test_request_that_is_no_handshake_is_refused(worker: Server, token: str, case: str) -> None:
    """With the right status and the version that would be; the view is not asked, the connection ends."""
    sent, status = NO_HANDSHAKE[case]
    with worker.connect() as client:
        client.send(sent.replace(b"{}", token.encode()) + smuggled(token))
        response = client.read_response()
        rest = client.read_until_eof()
    found = response.status, response.headers["sec-websocket-version"], response.headers["connection"].lower(), rest
    assert found == (status, "13", "close", b"")
    assert (response.headers.get("allow"), response.headers.get("upgrade")) == (
        "GET" if status == 405 else None,
        "websocket" if status == 426 else None,
    )
    assert worker.events(token) == []


ERRORS_OF_22 = {"unknown coding", "HTTP/3.0"}
"""gunicorn 22 does not handle the first one's exception, and fails to put the second one's into words: it logs both."""
OURS_ON_22 = {"two hosts"}
"""gunicorn 22 joins both values, and the handshake is refused."""


@pytest.mark.parametrize("case", BY_GUNICORN)
def test_request_that_is_no_http_is_gunicorns(worker: Server, token: str, case: str) -> None:
    """It does not reach us: the same end, and a warning in gunicorn's log."""
    is_22 = gunicorn_version < (23,)
    if is_22 and case == "folded header":
        pytest.skip("gunicorn 22 accepts it")
    with worker.connect() as client:
        client.send(BY_GUNICORN[case].replace(b"{}", token.encode()) + smuggled(token))
        response = client.read_response()
        rest = client.read_until_eof()
    if is_22 and case in ERRORS_OF_22:
        worker.log.expect(r"\[ERROR\] Error handling request \(no URI read\)")
    elif not (is_22 and case in OURS_ON_22):
        worker.log.expect(r"\[WARNING\] Invalid request from ip=127.0.0.1")
    assert (response.status >= 400, rest, worker.events(token)) == (True, b"", [])


def test_head_is_refused_without_a_body(worker: Server, token: str) -> None:
    """A HEAD request has no body in its answer, which would be read as the next one."""
    with worker.connect() as client:
        client.send(upgrade_request("/echo", method="HEAD") + smuggled(token))
        raw = client.read_until_eof()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert (head.split(b" ")[1], body, worker.events(token)) == (b"405", b"", [])


@pytest.mark.parametrize(
    "headers",
    [
        [("Connection", "keep-alive, Upgrade")],
        [("Connection", "Upgrade"), ("Connection", "keep-alive")],
        [("Upgrade", "WebSocket"), ("Connection", "UPGRADE")],
        [("Content-Length", "0")],
        [("Upgrade", " websocket ")],
        [("Upgrade", "websocket,")],
    ],
    ids=str,
)
def test_request_that_is_one_passes(worker: Server, headers: Headers) -> None:
    """What browsers send, and what the RFCs allow, is no attack."""
    with worker.connect() as client:
        client.upgrade("/echo", *headers)
        client.text("x")
        assert client.read_frame().payload == b"x"


@pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.3", "foo", "web socket", ""])
def test_upgrade_to_something_else_is_an_ordinary_request(worker: Server, upgrade: str) -> None:
    """It finds no WebSocket, and the connection goes on (RFC 9110 7.8: a server may ignore it)."""
    headers = [("Upgrade", upgrade), ("Connection", "Upgrade")]
    with worker.connect() as client:
        bodies = [client.get("/plain", *headers).body for _ in range(2)]
    assert bodies == [b"no websocket"] * 2
