"""nginx, HAProxy and Caddy with the files of ``examples/deploy/``, each in front of gunicorn on a unix socket."""

from __future__ import annotations

import json
import os
import runpy
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from ..support.notices import find
from ..support.proxies import FRONTS, PROXIES, Client, Front, Proxy, Way, adapt, launch
from ..support.rawclient import CLOSE, request, upgrade_request
from ..support.servers import ROOT, Certificate, Server
from ..support.servers import launch as launch_server
from ..support.waiting import eventually

APP = "tests.fixtureapps.proxied"
OPTIONS = ["--proxy-protocol", "--keep-alive", "5"]
"""What believes the line that HAProxy sends ahead; who sends none, is served as before."""
SIZE = 2**22
CLIENT = "127.0.0.2"
WAIT = 20.0

Running = Callable[[str], Proxy]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One gunicorn for all."""
    env = {"GWS_MAX_MESSAGE_SIZE": str(SIZE)}
    with launch_server("worker", tmp_path_factory.mktemp("site"), APP, options=OPTIONS, env=env) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, site: Server, certificate: Certificate) -> Iterator[Running]:
    """``running(proxy)``: a proxy in front of it, until the module ends; the first call starts it."""
    started: dict[str, Proxy] = {}
    with ExitStack() as stack:

        def get(name: str) -> Proxy:
            if name not in started:
                directory = tmp_path_factory.mktemp(name)
                started[name] = stack.enter_context(launch(name, directory, str(site.unix), certificate))
            return started[name]

        yield get


@pytest.fixture
def way(request: pytest.FixtureRequest, site: Server, running: Running) -> Iterator[Way]:
    """The way through the port with which the test is parametrized; gunicorn's log is checked after each test."""
    front: Front = request.param
    yield running(installed(front.proxy)).at(front)
    site.log.check()


def installed(proxy: str) -> str:
    """The same, or the test is skipped; notices.py names it."""
    if find(proxy) is None:
        pytest.skip(f"{proxy} is not installed")
    return proxy


def fronts(chooses: Callable[[Front], bool] = lambda front: True) -> pytest.MarkDecorator:
    """Parametrizes with the ports for which ``chooses`` is true."""
    chosen = [front for front in FRONTS.values() if chooses(front)]
    return pytest.mark.parametrize("way", chosen, ids=[front.name for front in chosen], indirect=True)


proxies = pytest.mark.parametrize("proxy", PROXIES)


def end_of(ws: Client, wait: float = WAIT) -> ConnectionClosed:
    """How a connection ended on which no message comes any more; TimeoutError where it does not end."""
    with pytest.raises(ConnectionClosed) as ended:
        ws.recv(timeout=wait)
    return ended.value


def echoes(ws: Client, message: str = "x") -> bool:
    """Whether it is open and answers."""
    ws.send(message)
    return ws.recv(timeout=WAIT) == message


# --- the shipped files ---------------------------------------------------------------------------------------------


def test_adapt_replaces_on_marked_lines_alone() -> None:
    """The test leaves the shipped file as it is but for what the file itself says is another's to choose."""
    text = "port 80\nport 80 # yours\n# yours\nhost 80 {\n\t# yours too: 80\n\tport 80\n"
    assert adapt(text, {"80": "1"}) == "port 80\nport 1 # yours\n# yours\nhost 1 {\n\t# yours too: 1\n\tport 80\n"


def test_adapt_insists_on_each_text() -> None:
    """A text that is not there, or on no marked line, is an error: the test would try another file than it means."""
    with pytest.raises(AssertionError, match="no marked line has 'port 80'"):
        adapt("port 80\nport 443 # yours\n", {"port 80": "port 1"})


# --- what goes through ---------------------------------------------------------------------------------------------


@fronts()
def test_websocket_is_opened_and_echoes(way: Way) -> None:
    """The upgrade passes, and messages of all kinds in both directions."""
    with way.open() as ws:
        replies = []
        for message in ("x", "Grüße, 你好", "", b"", bytes(range(256))):
            ws.send(message)
            replies.append(ws.recv(timeout=WAIT))
    assert replies == ["x", "Grüße, 你好", "", b"", bytes(range(256))]


@fronts()
def test_http_goes_beside_a_websocket(way: Way) -> None:
    """While a WebSocket is open, plain requests are answered, several on one connection."""
    with way.open() as ws, closing(way.http()) as connection:
        answers = [way.ask(connection) for _ in range(3)]
        assert echoes(ws)
    assert answers == [(200, "hello")] * 3


@fronts()
def test_large_messages_pass_both_ways(way: Way) -> None:
    """Messages that fill every buffer on the way arrive whole."""
    message = bytes(range(256)) * (SIZE // 256)
    with way.open(compression=None) as ws:
        ws.send(message)
        assert ws.recv(timeout=WAIT) == message


@fronts()
def test_many_messages_under_way_stay_in_order(way: Way) -> None:
    """Nothing is lost or turned around where the proxy cuts the stream into other pieces."""
    messages = [str(number) * (number % 50) for number in range(2000)]
    with way.open() as ws:
        received = []
        for at in range(0, len(messages), 100):
            for message in messages[at : at + 100]:
                ws.send(message)
            received += [ws.recv(timeout=WAIT) for _ in range(100)]
    assert received == messages


@fronts()
def test_subprotocol_is_agreed_on(way: Way) -> None:
    """The client's offer and the application's choice pass."""
    with way.open(subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == "chat.v2"


@fronts()
@pytest.mark.parametrize(
    ("code", "reason"), [(1000, "that was all"), (1008, "Regeln, 规则"), (1013, ""), (4321, "x" * 123)]
)
def test_close_code_of_the_application_arrives(way: Way, code: int, reason: str) -> None:
    """Code and reason come through as the application gave them."""
    with way.open(f"/close?code={code}&reason={quote(reason)}") as ws:
        ended = end_of(ws)
    assert ended.rcvd is not None
    assert (ended.rcvd.code, ended.rcvd.reason) == (code, reason)


@fronts()
@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (3000, "Grüße"), (4999, "x" * 123)])
def test_close_code_of_the_client_arrives(way: Way, site: Server, token: str, code: int, reason: str) -> None:
    """And as the client gave them."""
    with way.open(f"/echo?id={token}") as ws:
        ws.close(code, reason)
    event = f"{code} {reason}"
    assert site.events(token, until=event) == [event]


@fronts()
def test_disconnect_of_the_client_is_detected(way: Way, site: Server, token: str) -> None:
    """Without a close frame: the connection on the other side of the proxy ends too."""
    with way.raw() as client:
        client.upgrade(f"/echo?id={token}", way.host)
    assert site.events(token, until="1006 ") == ["1006 "]


# --- what the application sees -------------------------------------------------------------------------------------


@fronts()
def test_page_of_the_site_may_connect(way: Way) -> None:
    """The Host header is the browser's, so that the origin check knows the site's own pages."""
    with way.open(origin=way.origin) as ws:
        assert echoes(ws)


@fronts()
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_page_of_another_site_may_not(way: Way, origin: str) -> None:
    """Another port is another origin too."""
    with pytest.raises(InvalidStatus) as refused, way.open(origin=origin):
        pass
    assert refused.value.response.status_code == 403


def seen(way: Way) -> list[Any]:
    """What the application sees of a client that claims to be another: over a WebSocket, and over HTTP."""
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http" if way.front.tls else "https"}
    with way.open("/facts", source=CLIENT, additional_headers=forged) as ws:
        over_websocket = json.loads(ws.recv(timeout=WAIT))
    _, text = way.get("/facts", forged, source=CLIENT)
    return [over_websocket, json.loads(text)]


@fronts(lambda front: front.proxy == "haproxy")
def test_haproxy_tells_the_client_by_the_proxy_protocol(way: Way) -> None:
    """REMOTE_ADDR is the client, though gunicorn is on a unix socket."""
    assert [facts["address"] for facts in seen(way)] == [CLIENT, CLIENT]


@fronts(lambda front: front.proxy != "haproxy")
def test_address_is_empty_on_a_unix_socket(way: Way) -> None:
    """Without the PROXY protocol REMOTE_ADDR is empty, and not the address of the proxy."""
    assert [facts["address"] for facts in seen(way)] == ["", ""]


@fronts(lambda front: front.reads_http)
def test_proxy_tells_the_client_by_x_forwarded_for(way: Way) -> None:
    """The header has the client, and nothing that it says of itself."""
    assert [facts["forwarded for"] for facts in seen(way)] == [CLIENT, CLIENT]


@fronts(lambda front: front.reads_http)
def test_proxy_tells_the_scheme(way: Way) -> None:
    """Where the browser speaks TLS the application knows, whatever the client says of itself."""
    scheme = "https" if way.front.tls else "http"
    assert [facts["scheme"] for facts in seen(way)] == [scheme, scheme]


@proxies
def test_access_log_has_the_client(
    proxy: str, tmp_path: Path, server_directory: Path, certificate: Certificate
) -> None:
    """gunicorn_conf.py's line tells who it was, for HTTP and for a WebSocket, though gunicorn is on a unix socket."""
    form = str(runpy.run_path(str(ROOT / "gunicorn_conf.py"))["access_log_format"])
    options = [*OPTIONS, "--access-logfile", str(tmp_path / "access.log"), "--access-logformat", form]
    with (
        launch_server("worker", server_directory, APP, options=options, logs_access=False) as server,
        launch(installed(proxy), tmp_path / proxy, str(server.unix), certificate) as running,
    ):
        way = running.at(FRONTS[proxy])
        way.get("/facts", source=CLIENT)
        with way.open("/echo", source=CLIENT) as ws:
            assert echoes(ws)
        lines = eventually(
            lambda: [line for line in (tmp_path / "access.log").read_text().splitlines() if "HTTP/1.1" in line][1:],
            "two lines in the access log",
        )
    found = [line for line in (tmp_path / "access.log").read_text().splitlines() if CLIENT in line]
    assert lines and [status for line in found for status in line.split() if status in ("200", "101")] == ["200", "101"]


# --- refusals ------------------------------------------------------------------------------------------------------


@fronts(lambda front: front.reads_http)
@pytest.mark.parametrize(
    "path", ["/internal/second", "//internal/second", "/%69nternal/second", "/x/../internal/second"]
)
def test_internal_pages_are_not_shown(way: Way, site: Server, token: str, path: str) -> None:
    """What is below /internal/ stays inside, in whatever way it is written."""
    status, text = way.get(f"{path}?id={token}")
    assert (status, "SMUGGLED" in text, site.events(token)) == (404, False, [])


@fronts(lambda front: front.reads_http)
@pytest.mark.parametrize(
    "path",
    [
        "/internal/second/../../facts",
        "/internal/second/..%2f..%2Ffacts",
        "/internal/second%2f..%2f..%2ffacts",
        "/internal/%2e%2e/facts",
        "/internal/%2E./facts",
        "/internal%2fsecond",
        "/%2finternal/second",
        "/%2e%2finternal%2fsecond",
        "/x/..%2finternal/second",
        "/./internal/./second",
        "/internal//second",
        "/%69nternal%2Fsecond/../../facts",
    ],
)
def test_rule_sees_the_path_that_is_passed_on(way: Way, site: Server, token: str, path: str) -> None:
    """An application that is mounted below /internal/ is not reached by a path that the rule takes for another one."""
    _, text = way.get(f"{path}?id={token}")
    assert ("SMUGGLED" in text, site.events(token)) == (False, [])


@fronts()
def test_path_and_query_arrive_as_they_were_sent(way: Way) -> None:
    """Escapes of all kinds, in the path and in the query."""
    _, text = way.get("/facts/%C3%A9%20%25%3F%23%5C;a=b+c,(d)%22%E4%BD%A0?x=%2f%20&y=/../%3f?&z")
    facts = json.loads(text)
    assert facts["path"].encode("latin-1").decode() == '/facts/é %?#\\;a=b+c,(d)"你'
    assert facts["query"] == "x=%2f%20&y=/../%3f?&z"


REFUSED: dict[str, tuple[str, dict[str, str], bytes, bytes]] = {
    "by the application": ("/refuse", {}, b"403", b"not you"),
    "as the wrong version": ("/echo", {"Sec-WebSocket-Version": "12"}, b"426", b""),
    "as a foreign origin": ("/echo", {"Origin": "https://evil.example"}, b"403", b"Origin"),
}
"""Path, headers, status of the answer, and a part of its page."""


@fronts()
@pytest.mark.parametrize(("path", "headers", "status", "page"), REFUSED.values(), ids=REFUSED)
def test_nothing_is_smuggled_after_a_refused_upgrade(
    way: Way, site: Server, token: str, path: str, headers: dict[str, str], status: bytes, page: bytes
) -> None:
    """Where an upgrade is refused no tunnel opens: the next request on the connection is checked by the proxy, or not
    answered, and does not reach what the proxy hides.
    """
    answer = answer_before_smuggling(way, token, upgrade_request(path, way.host, *headers.items()))
    assert answer.startswith(b"HTTP/1.1 " + status) and page in answer
    assert (b"SMUGGLED" in answer, site.events(token)) == (False, [])


def answer_before_smuggling(way: Way, token: str, first: bytes) -> bytes:
    """All that comes back for ``first`` and a hidden page after it, sent at once."""
    with way.raw() as client:
        client.send(first + request(f"/internal/second?id={token}", ("Connection", "close"), host=way.host[1]))
        return client.read_until_eof()


@fronts(lambda front: front.reads_http)
def test_nothing_is_smuggled_after_another_upgrade(way: Way, site: Server, token: str) -> None:
    """An upgrade to what gunicorn does not speak is an ordinary request, and opens no tunnel."""
    upgrade = ("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAMAAABk")
    answer = answer_before_smuggling(way, token, request("/", *upgrade, host=way.host[1]))
    assert answer.startswith(b"HTTP/1.1 200")
    assert (b"SMUGGLED" in answer, site.events(token)) == (False, [])


@fronts(lambda front: front.reads_http)
@pytest.mark.parametrize("upgrade", ["h2c", "websocket, h2c", "h2c, websocket", "TLS/1.0", "websocket2", "xwebsocket"])
def test_no_other_upgrade_is_passed_on(way: Way, upgrade: str) -> None:
    """A tunnel is opened for WebSocket alone. (HAProxy itself refuses a list that names it, and has no key.)"""
    status, text = way.get("/facts", {"Upgrade": upgrade, "Connection": "Upgrade"})
    assert status == 400 or json.loads(text)["upgrade"] is None


@fronts(lambda front: front.reads_http)
def test_second_upgrade_header_is_not_passed_on(way: Way) -> None:
    """Two headers are a list of two protocols."""
    headers = [("Upgrade", "h2c"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
    with way.raw() as client:
        client.send(request("/facts", *headers, ("Connection", "close"), host=way.host[1]))
        response = client.read_response()
    assert response.status == 400 or json.loads(response.body)["upgrade"] is None


@fronts()
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "WEBSOCKET"])
def test_websocket_is_passed_on_in_any_letters(way: Way, upgrade: str) -> None:
    """The name of a protocol compares without case."""
    with way.raw() as client:
        client.upgrade("/echo", way.host, ("Upgrade", upgrade), ("Connection", "keep-alive, Upgrade"))


@fronts()
def test_nothing_is_smuggled_after_an_upgrade(way: Way, site: Server, token: str) -> None:
    """Where it is accepted, what follows is frames to gunicorn, before the 101 and after it: HTTP is a violation."""
    second = request(f"/internal/second?id={token}", host=way.host[1])
    with way.raw() as client:
        client.upgrade("/echo", way.host, then=second)
        client.send(second)  # Caddy 2.6 drops what came before the 101
        frames = client.read_frames_until_eof()
    assert [(frame.opcode, frame.code) for frame in frames] == [(CLOSE, 1002)]
    assert site.events(token) == []


# --- reloads -------------------------------------------------------------------------------------------------------


def opened(way: Way) -> Client | None:
    """A WebSocket, or None where the connection was lost: one that the old process has accepted last may be."""
    try:
        return way.open()
    except (ConnectionError, InvalidMessage):
        return None


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_reload_of_the_proxy_keeps_websockets(
    proxy: str, tmp_path: Path, site: Server, certificate: Certificate
) -> None:
    """The old process serves its connections on, while new ones go to the new process."""
    ways = [front for front in FRONTS.values() if front.proxy == installed(proxy)]
    with launch(proxy, tmp_path, str(site.unix), certificate) as running, ExitStack() as stack:
        old = [stack.enter_context(running.at(front).open()) for front in ways]
        leaving = running.reload()
        new = [stack.enter_context(eventually(partial(opened, running.at(front)), "a new one")) for front in ways]
        assert all(echoes(ws) for ws in [*old, *new])
        for pid in leaving:
            with suppress(ProcessLookupError):  # one that had no connection has ended
                os.kill(pid, signal.SIGKILL)
        assert [end_of(ws).rcvd for ws in old] == [None] * len(old)
        assert all(echoes(ws) for ws in new)


def test_reload_of_caddy_sends_a_close_frame(tmp_path: Path, site: Server, certificate: Certificate) -> None:
    """Caddy ends its WebSockets at a reload; the next connect works."""
    with launch(installed("caddy"), tmp_path, str(site.unix), certificate) as running:
        way = running.at(FRONTS["caddy-tls"])
        with way.open() as ws:
            running.reload()
            ended = end_of(ws)
        with way.open() as ws:
            assert echoes(ws)
    assert ended.rcvd is not None
    # Before 2.6.3 Caddy's close to gunicorn is not masked: the answer to it may come before Caddy's to the client.
    assert (ended.rcvd.code, ended.rcvd.reason) in ((1001, ""), (1002, "a client's frame is not masked"))


@proxies
def test_reload_of_gunicorn_sends_a_close_frame_through_the_proxy(
    proxy: str, tmp_path: Path, server_directory: Path, certificate: Certificate
) -> None:
    """The next connect finds the new worker."""
    with launch_server("worker", server_directory, APP, options=OPTIONS) as server:
        with launch(installed(proxy), tmp_path, str(server.unix), certificate) as running:
            way = running.at(FRONTS[f"{proxy}-tls"])
            before = server.status()["pid"]
            with way.open() as ws:
                server.kill(signal.SIGHUP)
                ended = end_of(ws)
            with way.open() as ws:
                assert echoes(ws)
        after = server.status()["pid"]
    assert ended.rcvd is not None
    assert ended.rcvd.code == 1012
    assert before != after


# --- silence -------------------------------------------------------------------------------------------------------

SILENCE = "1s"
NGINX_KEEPS_TIMERS = 0.3
"""Seconds: nginx keeps a timer that is set again where the new time is less than that after the old one."""
cutting = pytest.mark.parametrize("front", [f for f in FRONTS.values() if f.cuts_silence], ids=lambda front: front.name)


@cutting
def test_idle_connection_is_cut_and_pings_keep_it(
    front: Front, tmp_path: Path, site: Server, certificate: Certificate
) -> None:
    """After the time in the shipped file a connection without a frame in either direction ends, without a close frame.
    Pings of the application keep it, and so do pongs of the client.
    """
    with launch(installed(front.proxy), tmp_path, str(site.unix), certificate, silence=SILENCE) as running:
        way = running.at(front)
        with way.open() as ponging, way.open("/pinging") as pinging, way.open() as idle:
            time.sleep(1.2 * NGINX_KEEPS_TIMERS)  # else its time began with the 101
            ponging.pong()
            started = time.monotonic()
            assert echoes(idle)
            ended = None
            while ended is None:  # the idle one was opened last: at its end the time of the others is over too
                ponging.pong()
                with suppress(TimeoutError):
                    ended = end_of(idle, wait=0.2)
            assert ended.rcvd is None
            assert 0.9 < time.monotonic() - started < 5  # not 1: the proxy has a clock of its own
            assert echoes(ponging) and echoes(pinging)


@cutting
def test_idle_connection_is_kept_alive_by_pings(
    front: Front, tmp_path: Path, server_directory: Path, certificate: Certificate
) -> None:
    """``ping_interval`` below the proxy's time keeps a connection on which no message is sent."""
    env = {"GWS_PING_INTERVAL": "0.3"}
    with (
        launch_server("worker", server_directory, APP, options=OPTIONS, env=env) as server,
        launch(installed(front.proxy), tmp_path, str(server.unix), certificate, silence=SILENCE) as running,
        running.at(front).open() as ws,
    ):
        with pytest.raises(TimeoutError):
            ws.recv(timeout=2)  # no event shows that nothing ends it: a connection without pings ends after 1 s
        assert echoes(ws)
