"""Other people's WSGI wrappers, outside and inside of the middleware, in real servers (``fixtureapps/wrapping.py``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ..support.rawclient import CLOSE, TEXT, Frame, RawClient, close_frame, frame, request, upgrade_request
from ..support.servers import Server

WRAPPING = "tests.fixtureapps.wrapping:app"
KINDS = ["worker", "gevent", "gevent_pywsgi", "pywsgi-handler"]
WRAPPING_KINDS = ["worker", "pywsgi-handler"]
"""The worker's or the handler's own wrapper is outermost: there every composition is wrapped twice."""
TRANSPARENT = ["nothing", "iterable", "generator", "buffering", "copying", "replacing-input", "error-page", "proxy-fix"]
HIDING = ["profiler", "hiding", "hiding-generator", "hiding-buffering", "hiding-all", "hiding-all-generator"]


@pytest.fixture
def server(request: pytest.FixtureRequest, shared_server: Any) -> Iterator[Server]:
    """The shared server of this kind, with all compositions in it."""
    running: Server = shared_server(request.param, app=WRAPPING)
    yield running
    running.log.check()


every_server = pytest.mark.parametrize("server", KINDS, indirect=True)


def rest_of(client: RawClient) -> tuple[int | None, bytes]:
    """The code of the server's close frame, which comes next, and every byte that comes after it."""
    close = client.read_frame()
    client.send(close_frame(close.code))
    return close.code, client.read_until_eof()


def compositions() -> list[tuple[str, str]]:
    """Wrappers outside of the middleware on every server. Wrappers inside of it are the same everywhere: one server of
    each family.
    """
    pairs = []
    for kind in KINDS:
        for name in [*TRANSPARENT, "sentry", "twice", *HIDING]:
            pairs.append((kind, f"outside-{name}"))
            if kind in ("gevent", "pywsgi-handler"):
                pairs.append((kind, f"inside-{name}"))
    return pairs


everywhere = pytest.mark.parametrize(("server", "composition"), compositions(), indirect=["server"])


# --- what has to hold below every wrapper --------------------------------------------------------------------------


@everywhere
def test_messages_go_both_ways(server: Server, token: str, composition: str) -> None:
    """The connection is taken, with what was pipelined after the request, and is closed at its end."""
    with server.connect() as client:
        client.upgrade(f"/{composition}/echo?id={token}", then=frame(TEXT, b"early"))
        client.text("late")
        echoes = [client.read_frame(), client.read_frame()]
        close = client.close_handshake()
    assert (echoes, close) == ([Frame(TEXT, b"early"), Frame(TEXT, b"late")], [Frame(CLOSE, b"\x03\xe8")])
    assert server.events(token, "ended") == ["ended"]


@everywhere
def test_nothing_is_written_after_the_101(server: Server, token: str, composition: str) -> None:
    """The response is swallowed, closed once, and no request after it is served."""
    with server.connect() as client:
        client.upgrade(f"/{composition}/after/list?id={token}")
        client.read_frame()
        client.send(close_frame() + request(f"/second?id={token}"))
        frames, rest = [client.read_frame()], client.read_until_eof()
    assert (frames, rest) == ([Frame(CLOSE, b"\x03\xe8")], b"")
    assert server.events(token, "closed") == ["closed"]


@everywhere
def test_generator_view_is_swallowed(server: Server, token: str, composition: str) -> None:
    """So is the response of a view that runs while it is iterated."""
    with server.connect() as client:
        client.upgrade(f"/{composition}/after/lazily?id={token}")
        client.read_frame()
        code, rest = rest_of(client)
    assert (code, rest) == (1000, b"")
    assert server.events(token, "closed") == ["closed"]


@everywhere
def test_error_after_the_101_is_logged_once(server: Server, token: str, composition: str) -> None:
    """One record, 1011, and no HTTP byte."""
    with server.connect() as client:
        client.upgrade(f"/{composition}/after/raise?id={token}")
        client.read_frame()
        code, rest = rest_of(client)
    seen = composition.startswith("outside") and server.kind.name not in WRAPPING_KINDS
    if not composition.endswith("error-page") or seen:
        server.log.expect(r"^ERROR gws_middleware: .*; closed with 1011 .*LookupError: the reason$")
    else:
        server.log.expect(r"^ERROR gws_middleware: .* the application answered '500 Internal Server Error'; closed")
    assert (code, rest) == (1011, b"")


@everywhere
def test_connection_is_closed_after_a_refusal(server: Server, token: str, composition: str) -> None:
    """The application's own answer is sent, closed once, and no request after it is served (row 18)."""
    with server.connect() as client:
        upgrade = upgrade_request(f"/{composition}/answer?status=403%20Forbidden&id={token}")
        client.send(upgrade + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, response.body, rest) == (403, b"the body\n", b"")
    assert server.events(token, "closed") == ["closed"]


@everywhere
def test_refusal_by_the_rules_ends_the_connection(server: Server, token: str, composition: str) -> None:
    """The middleware's own answer too."""
    with server.connect() as client:
        client.send(
            upgrade_request(f"/{composition}/echo", ("Sec-WebSocket-Version", "8")) + request(f"/second?id={token}")
        )
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, rest, server.events(token)) == (426, b"", [])


@everywhere
def test_access_log_tells_of_a_websocket_once(server: Server, token: str, composition: str) -> None:
    """One line with 101 for each WebSocket, below wrappers as without."""
    with server.connect() as client:
        client.upgrade(f"/{composition}/echo?id={token}")
        client.close_handshake()
    assert server.await_access(f"/echo?id={token}").status == 101


# --- one at a time -------------------------------------------------------------------------------------------------


@every_server
def test_error_page_of_a_wrapper_ends_the_connection(server: Server, token: str) -> None:
    """A wrapper outside may answer an exception before the 101: nothing is served after that either."""
    with server.connect() as client:
        client.send(upgrade_request("/outside-error-page/answer/raise") + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, response.body, rest, server.events(token)) == (500, b"sorry", b"", [])


@pytest.mark.parametrize("where", ["outside", "inside"])
@every_server
def test_mounted_application_gets_its_websocket(server: Server, where: str) -> None:
    """Below werkzeug's dispatcher, on either side of it."""
    with server.connect() as client:
        client.upgrade(f"/{where}-mounting/mounted/facts")
        facts = json.loads(client.read_frame().payload)
        code, rest = rest_of(client)
    assert (facts["type"], code, rest) == ("gws_middleware.connection.websocket.WebSocket", 1000, b"")


@pytest.mark.parametrize("server", ["gevent", "gevent_pywsgi"], indirect=True)
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("own-greenlet", "calls WebSocketMiddleware in a greenlet of its own and hides the server's start_response"),
        ("deferring", "does not call the server's start_response at once"),
    ],
)
def test_server_out_of_reach_is_an_error_that_says_so(server: Server, name: str, sentence: str) -> None:
    """No frame is sent without a 101: an ordinary 500, the end, and the log says what to do about it."""
    with server.connect() as client:
        client.send(upgrade_request(f"/outside-{name}/echo") + request("/second"))
        response = client.read_response()
        rest = client.read_until_eof()
    server.log.expect(f"a WSGI wrapper .*{sentence}: put WebSocketMiddleware outside of it")
    assert (response.status, rest) == (500, b"")


# --- sentry --------------------------------------------------------------------------------------------------------


def reports(server: Server) -> list[str]:
    """What sentry has received since the last call."""
    received: list[str] = json.loads(server.get("/reports").body)
    return received


@pytest.mark.parametrize("where", ["outside", "inside"])
@pytest.mark.parametrize("ending", ["raise", "lazily-raise"])
@every_server
def test_sentry_receives_an_error_once(server: Server, token: str, where: str, ending: str) -> None:
    """An exception after the 101 is one report, whichever wrapper is nearer to the view."""
    reports(server)
    with server.connect() as client:
        client.upgrade(f"/{where}-sentry/after/{ending}?id={token}")
        client.read_frame()
        code, rest = rest_of(client)
    server.log.expect("LookupError: the reason$")
    assert (code, rest, reports(server)) == (1011, b"", ["LookupError: the reason"])


@pytest.mark.parametrize("where", ["outside", "inside"])
@pytest.mark.parametrize("path", ["echo", "after/list", "after/lazily", "after/error-page", "answer?status=403%20No"])
@every_server
def test_sentry_receives_nothing_else(server: Server, token: str, where: str, path: str) -> None:
    """Taking a connection and ending its request is no exception to any wrapper."""
    reports(server)
    with server.connect() as client:
        client.send(upgrade_request(f"/{where}-sentry/{path}") + close_frame())
        client.read_until_eof()
    expected = []
    if "error-page" in path:
        server.log.expect("closed with 1011$")
        expected = ["WebSocket %s: the application answered %s; closed with 1011"]
    found = reports(server)
    assert len(found) == len(expected)
    assert all(sentence in one for one, sentence in zip(found, expected, strict=True))


@pytest.mark.parametrize("server", [kind for kind in KINDS if kind not in WRAPPING_KINDS], indirect=True)
def test_peer_that_disconnects_is_no_report(server: Server, token: str) -> None:
    """Nor is ConnectionClosed that escapes a view because its peer has disconnected. (A wrapper that is nearer to the
    view than ours reports it all the same.)
    """
    reports(server)
    with server.connect() as client:
        client.upgrade(f"/outside-sentry/pushing?id={token}")
        client.close_handshake()
    server.events(token, "left by ConnectionClosed")
    assert reports(server) == []
