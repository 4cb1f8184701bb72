"""The servers' own access logs: one line for each WebSocket, at its end, with its duration and its bytes, also where
its view has returned long before.
"""

from __future__ import annotations

import io
import json
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest
from gevent import socket as gsocket
from gunicorn.config import Config
from gunicorn.glogging import Logger

from gws_middleware.pywsgi import WebSocketHandler, WSGIServer
from gws_middleware.typing import Environ, StartResponse

from ..support.counting import Counting
from ..support.inprocess import until
from ..support.rawclient import CLOSE, PING, Frame, close_frame, frame, upgrade_request
from ..support.seam import log_line_of
from ..support.servers import LATE, Access, Server, carried, launch
from ..support.waiting import eventually

everywhere = pytest.mark.parametrize("server", carried(LATE, "tcp", "tls"), indirect=True)
every_kind = pytest.mark.parametrize("server", LATE, indirect=True)


@everywhere
@pytest.mark.parametrize("closed_by", ["server", "client"])
def test_attached_websocket_has_one_line(server: Server, token: str, closed_by: str) -> None:
    """With 101, its duration, and the bytes of the frames that were sent."""
    with server.connect() as client:
        client.send(upgrade_request(f"/duration?id={token}" if closed_by == "server" else f"/echo?id={token}"))
        head = client.read_until(b"\r\n\r\n")
        if closed_by == "client":
            client.text("x" * 300)
            client.read_frame()
            sent = 304
            client.send(close_frame())
        else:
            sent = 12 + 70010
            client.read_exactly(sent)
        sent += len(client.read_exactly(4))
        client.send(close_frame())
        assert client.read_until_eof() == b""
    line = server.await_access(f"id={token}")
    expected = sent if server.kind.access == "gunicorn" else sent + len(head)
    assert (line.status, line.sent) == (101, expected)
    assert closed_by == "client" or 0.3 <= line.seconds < 3


@every_kind
def test_refusal_has_one_line(server: Server, token: str) -> None:
    """That of the HTTP response."""
    with server.connect() as client:
        client.send(upgrade_request(f"/answer?status=403%20Forbidden&id={token}"))
        client.read_response()
    assert server.await_access(f"id={token}").status == 403


class Client(Counting):
    """A client that knows what its line in the log has to be."""

    def __init__(self, server: Server, path: str, *, pings: bool = True) -> None:
        super().__init__(server.address, tls=server.tls)
        self.begin = time.monotonic()
        self.send(upgrade_request(path))
        self.head = self.read_until(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        self.pong = b""
        if pings:  # its answer shows that the server's clock for this connection runs, too
            self.send(frame(PING))
            self.pong = self.read_exactly(2)
            assert self.pong == b"\x8a\x00"
        self.opened = time.monotonic()
        self.sent, self.received = 0, len(self.buffer)
        self.counts_head = server.kind.access == "pywsgi"

    def end_with(self, code: int = 1000) -> None:
        """Close, and read to the end."""
        self.closed_at = time.monotonic()
        self.send(close_frame(code))
        self.read_until_eof()
        self.end = time.monotonic()

    def size(self, frames: int) -> int:
        """The bytes of its line, for so many bytes of frames that were sent to it after the pong."""
        return len(self.pong) + frames + (len(self.head) if self.counts_head else 0)

    def is_line(self, line: Access) -> bool:
        """Whether it is the line of this connection."""
        least, most = self.closed_at - self.opened, self.end - self.begin
        # gunicorn writes microseconds, and a server's clock may be another than ours
        lasted = least - 0.01 <= line.seconds <= most + 0.01
        return lasted and (line.status, line.sent) == (101, self.size(self.received))


def lines(server: Server, mark: str) -> list[Access]:
    """The lines so far, and those of requests that ended before now are among them."""
    after = f"/plain?after-{mark}-{time.monotonic()}"
    server.get(after)
    eventually(lambda: server.access(after), f"a line with {after!r} in the access log")
    return detached(server, mark)


def detached(server: Server, mark: str) -> list[Access]:
    """The lines of WebSockets so far; the test's other requests have the mark, too."""
    return [line for line in server.access(mark) if line.request.startswith("GET /detached")]


@everywhere
def test_line_of_a_detached_websocket_comes_at_its_end(server: Server, token: str) -> None:
    """Not when its view returns; with its whole duration, all of its bytes, and its request line."""
    with Client(server, f"/detached?id={token}") as client:
        while time.monotonic() < client.opened + 0.2:
            client.echo(1000)
        early = lines(server, token)
        client.end_with()
    server.events(token, "left after 1000")
    [line] = lines(server, token)
    assert early == []
    assert client.is_line(line), (line, vars(client))
    assert line.request == f"GET /detached?id={token} HTTP/1.1"


@every_kind
def test_several_detached_websockets_have_a_line_each(server: Server, token: str) -> None:
    """Each with its own numbers, in the order in which they end."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server, f"/detached?id={token}&n={n}")) for n in range(5)]
        for number, client in enumerate(clients):
            for _ in range(number):
                client.echo(number * 300)
        order = [3, 0, 4, 1, 2]
        for number in order:
            clients[number].end_with()
            eventually(lambda number=number: server.access(f"{token}&n={number}"), "its line")  # type: ignore[misc]
    found = lines(server, token)
    assert [line.request for line in found] == [f"GET /detached?id={token}&n={n} HTTP/1.1" for n in order]
    assert all(clients[number].is_line(line) for number, line in zip(order, found, strict=True)), found


@pytest.mark.parametrize("first", ["on_close", "view"])
@every_kind
def test_websocket_that_ends_before_its_view_has_one_line(server: Server, token: str, first: str) -> None:
    """Whether its view or ``on_close`` returns last."""
    with Client(server, f"/detached/outlived?id={token}&first={first}") as client:
        client.echo(10)
        client.end_with()
    server.events(token, "on_close")
    events = server.events(token, "view")
    line = eventually(lambda: detached(server, token), "its line")[0]
    assert events == (["on_close", "view"] if first == "on_close" else ["view", "on_close"])
    assert (line.status, line.sent) == (101, client.size(12 + 4))
    assert len(lines(server, token)) == 1


@every_kind
def test_reset_detached_websocket_has_one_line(server: Server, token: str) -> None:
    """Without a close frame, too."""
    with Client(server, f"/detached?id={token}") as client:
        client.echo(10)
        client.reset()
    server.events(token, "left after 1006")
    [line] = lines(server, token)
    assert (line.status, line.sent) == (101, client.size(12))


@every_kind
def test_detached_websocket_that_the_server_closes_has_one_line(server: Server, token: str) -> None:
    """When the close frame is sent, which is among the bytes."""
    with Client(server, f"/detached/closes?id={token}") as client:
        client.echo(10)
        client.text("bye")
        code = client.read_frame().code
        server.events(token, "left after 4002")
        found = lines(server, token)
        client.end_with(4002)
    [line] = lines(server, token)
    assert (code, found) == (4002, [line])
    assert (line.status, line.sent) == (101, client.size(12 + 4))


@every_kind
def test_view_that_detaches_and_raises_has_one_line(server: Server, token: str) -> None:
    """The connection ends with 1011."""
    with Client(server, f"/detached/closes?id={token}&raise=yes", pings=False) as client:
        code = client.read_frame().code
        client.end_with(1011)
    server.events(token, "left after 1011")
    server.log.expect("the reason")
    [line] = lines(server, token)
    assert (code, line.status, line.sent) == (1011, 101, client.size(4))


@pytest.mark.parametrize("answers", [True, False], ids=["answered", "unanswered"])
@pytest.mark.parametrize("kind", LATE)
def test_detached_websocket_that_the_stop_ends_has_one_line(server_directory: Path, kind: str, answers: bool) -> None:
    """It is written before the process ends, with the close frame among its bytes."""
    options = ["--graceful-timeout", "3"]
    with ExitStack() as stack:
        with launch(kind, server_directory, options=options) as server:
            clients = [stack.enter_context(Client(server, f"/detached?n={n}")) for n in range(3)]
            for client in clients:
                client.echo(10)
            server.kill(signal.SIGTERM)
            closes = [client.read_frame() for client in clients]
            for client in clients:
                if answers:
                    client.send(close_frame(1012))
                client.read_until_eof()
        found = server.access("/detached")
    assert closes == [Frame(CLOSE, b"\x03\xf4")] * 3
    assert sorted(line.request.split()[1] for line in found) == [f"/detached?n={n}" for n in range(3)]
    assert [(line.status, line.sent) for line in found] == [(101, clients[0].size(12 + 4))] * 3


@pytest.mark.parametrize("logs", [True, False], ids=["access log", "no access log"])
@pytest.mark.parametrize("kind", ["worker", "gevent", "gevent_pywsgi"])
def test_nothing_is_kept_for_a_log_that_is_off(server_directory: Path, kind: str, logs: bool) -> None:
    """A detached connection holds what its line needs where there will be one, and nothing elsewhere. (The logger of
    earlier releases of gunicorn does not tell whether it is off.)
    """
    app = "tests.fixtureapps.operations"
    with launch(kind, server_directory, app, logs_access=logs) as server, server.connect() as client:
        client.upgrade("/detached")
        client.text("x")
        client.read_frame()
        kept = json.loads(server.get("/kept").body)
        client.close_handshake()
    assert kept == (1 if logs or not hasattr(Logger(Config()), "access_log_enabled") else 0)


class OwnLog(WebSocketHandler):
    """Has an access log of its own."""

    lines: ClassVar[list[str]] = []

    def log_request(self) -> None:
        self.lines.append(self.requestline)


@pytest.mark.parametrize(
    ("log", "handler", "kept"),
    [(None, WebSocketHandler, False), (io.StringIO(), WebSocketHandler, True), (None, OwnLog, True)],
    ids=["no log", "log", "handler with a log of its own"],
)
def test_nothing_is_kept_where_pywsgi_has_no_log(log: Any, handler: type[WebSocketHandler], kept: bool) -> None:
    """The handler, which would write the line, is released."""
    opened: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        opened.append(environ["wsgi.websocket"])
        opened[0].detach()
        return []

    server = WSGIServer(("127.0.0.1", 0), app, log=log, handler_class=handler)
    server.start()
    try:
        with gsocket.create_connection(server.address) as client:
            client.sendall(upgrade_request("/"))
            assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
            found = log_line_of(opened[0]) is not None
            written = list(OwnLog.lines)
    finally:
        server.stop()
    assert (found, written) == (kept, [])


class Full:
    """A log on a disk that is full."""

    def write(self, line: str) -> None:
        raise OSError(28, "No space left on device")


def test_log_that_fails_has_no_other_effect(caplog: pytest.LogCaptureFixture) -> None:
    """The error is one record, and our own line about the end is there."""
    caplog.set_level("INFO", "gws_middleware")

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.websocket"].detach()
        return []

    server = WSGIServer(("127.0.0.1", 0), app, log=Full())
    server.start()
    try:
        with gsocket.create_connection(server.address) as client:
            client.sendall(upgrade_request("/full"))
            assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
            client.sendall(close_frame(1000))
            assert client.recv(1000) == b"\x88\x02\x03\xe8"
        until(lambda: len(caplog.records) == 2)
    finally:
        server.stop()
    closed, raised = caplog.records
    assert closed.getMessage().startswith("WebSocket '/full': closed with 1000 after ")
    assert (raised.levelname, raised.getMessage()) == ("ERROR", "WebSocket '/full': the access log raised")
    assert "No space left on device" in caplog.text


LOGGERS = "tests.fixtureapps.workers"


@pytest.mark.parametrize("kind", ["worker", "gevent"])
def test_logger_of_the_project_gets_what_gunicorn_gives(server_directory: Path, kind: str) -> None:
    """Request and response have the same attributes and methods for a detached connection as for any other."""
    with launch(kind, server_directory, options=["--logger-class", f"{LOGGERS}.FullLogger"]) as server:
        for path in ("/detached?a=b", "/echo?a=b"):
            with server.connect() as client:
                client.upgrade(path)
                client.text("x")
                client.read_frame()
                client.close_handshake()

        def lines() -> list[str]:
            return [line for line in server.access_path.read_text().splitlines() if line.startswith("full ")]

        eventually(lambda: len([line for line in lines() if "a=b" in line]) == 2, "both lines")
    found = sorted(line for line in lines() if "a=b" in line)
    assert found == [
        f"full ['GET', '/{path}', 'a=b', '/{path}?a=b', (1, 1), 101, 7, True] Response GET"
        for path in ("detached", "echo")
    ]


def test_logger_that_raises_is_contained(server_directory: Path) -> None:
    """Its error for a detached connection is one record, and the end of the connection is as ever."""
    with launch("worker", server_directory, options=["--logger-class", f"{LOGGERS}.BrokenLogger"]) as server:
        with server.connect() as client:
            client.upgrade("/detached?id=one")
            client.text("x")
            client.read_frame()
            client.close_handshake()
        server.log.expect(
            "^ERROR gws_middleware: WebSocket '/detached': the access log raised .*LookupError: the reason$"
        )
        server.log.check()
        assert server.settled(websockets=0)["websockets"] == 0
