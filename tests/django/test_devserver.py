"""``gws_middleware.django.devserver``: requests, WebSockets and the log of ``runserver``."""

from __future__ import annotations

import re
from time import monotonic

import gevent
import gevent.socket
import pytest

from gws_middleware.django.devserver import Server
from gws_middleware.process.registry import Registry
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import until
from ..support.rawclient import RawClient, request, upgrade_request
from ..support.seam import use_registry
from .runserver import Runserver, close_code

TIME = r"^\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] "


def test_project_gets_websockets_static_files_and_gevent(runserver: Runserver) -> None:
    """The project does not use gevent."""
    with runserver.connect("/echo/") as client:
        client.recv()
        client.send("hello")
        assert client.recv() == "hello"
    assert runserver.get("/hello/") == (200, "patched: True")
    assert runserver.get("/static/style.css") == (200, "body {}\n")


def test_output_at_the_start_is_that_of_django(runserver: Runserver) -> None:
    """Reloader, checks, migrations and the banner, with the port that the kernel has selected, and one more line."""
    runserver.printed("^Quit the server with CONTROL-C")
    lines = [
        "Watching for file changes with StatReloader",
        "Performing system checks...",
        r"System check identified no issues \(0 silenced\).",
        r"You have \d+ unapplied migration\(s\)",
        "Django version [^ ]+, using settings 'site1.settings'",
        r"Starting (WSGI )?development server at http://127.0.0.1:[1-9]\d+/$",
    ]
    runserver.printed("^WebSockets are served at ws" + re.escape(runserver.url.removeprefix("http")) + "/$")
    assert re.search("^" + "[^$]*^".join(lines), runserver.log, re.MULTILINE), runserver.log


def test_request_is_logged_in_djangos_format(runserver: Runserver) -> None:
    """Time, request line, status and the size of the body."""
    runserver.get("/hello/?logged")
    runserver.printed(TIME + r'"GET /hello/\?logged HTTP/1\.1" 200 13$')


def test_opening_and_end_of_a_websocket_are_logged(runserver: Runserver) -> None:
    """Each by one line. The second has code, reason and counters. Data of the peer is escaped."""
    with runserver.connect("/echo/?logged=%C3%BC") as client:
        client.recv()
        runserver.printed(TIME + r"WebSocket '/echo/\?logged=%C3%BC' opened$")
        assert runserver.log.count("?logged=%C3%BC") == 1
        client.close(4001, "enough \u00fc\n")
    end = r"closed with 4001 'enough \\xfc\\n' after \d+\.\d s, 0 messages in, 1 out$"
    runserver.printed(TIME + r"WebSocket '/echo/\?logged=%C3%BC' " + end)
    assert runserver.log.count("?logged=%C3%BC") == 2


def test_reset_of_a_websocket_is_logged_as_1006(runserver: Runserver) -> None:
    """Without a reason."""
    with RawClient(runserver.address) as client:
        client.upgrade("/echo/?cut")
        runserver.printed(r"WebSocket '/echo/\?cut' opened$")
        client.reset()
    runserver.printed(r"WebSocket '/echo/\?cut' closed with 1006 after \d+\.\d s, 0 messages in, 1 out$")


def test_refused_websocket_is_logged_as_a_request(runserver: Runserver) -> None:
    """With its status."""
    with RawClient(runserver.address) as client:
        client.send(upgrade_request("/absent/?refused"))
        assert client.read_response().status == 404
    runserver.printed(TIME + r'"GET /absent/\?refused HTTP/1\.1" 404 \d+$')


def test_detached_websocket_is_logged_at_its_end(runserver: Runserver) -> None:
    """Not when its view ends."""
    before = runserver.log.count("Traceback")
    with RawClient(runserver.address) as client:
        client.upgrade("/detached/?logged")
        client.read_frame()
        runserver.get("/hello/?after-the-view")
        runserver.printed(r"\?after-the-view HTTP/1.1")
        assert runserver.log.count("/detached/?logged") == 1
        client.close_handshake(4001)
    runserver.printed(TIME + r"WebSocket '/detached/\?logged' closed with 4001 after \d+\.\d s, 0 messages in, 1 out$")
    runserver.printed("^on_close has read 4001$")
    assert (runserver.log.count("/detached/?logged"), runserver.log.count("Traceback")) == (2, before)


def test_one_connection_serves_all_kinds_of_requests(runserver: Runserver) -> None:
    """The answer to HEAD has no body, a stream has an end, and an upload may be large."""
    size = 20_000_000
    with RawClient(runserver.address) as client:
        for path in ("/hello/", "/stream/"):
            client.send(request(path, method="HEAD"))
            assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.get("/stream/").body == b"abcdef"
        client.send(request("/upload/", ("Content-Length", str(size)), method="POST") + bytes(size))
        assert client.read_response().body == str(size).encode()
        assert client.get("/static/style.css").body == b"body {}\n"


def test_exception_of_a_websocket_view_is_logged_once(runserver: Runserver) -> None:
    """By Django. The peer gets 1011."""
    with runserver.connect("/broken/") as client:
        assert close_code(client) == 1011
    runserver.printed("WebSocket '/broken/' closed with 1011 after")
    assert runserver.log.count("RuntimeError: the WebSocket's view failed") == 1


def test_disconnect_of_the_browser_is_no_error(runserver: Runserver) -> None:
    """During a request or a WebSocket."""
    before = runserver.log.count("Traceback")
    with RawClient(runserver.address) as client:
        client.send(b"GET /hello/ HTTP/1.1\r\nHost: t")
        port = client.sock.getsockname()[1]
        runserver.get("/hello/")  # so that the server has read what is there
        client.reset()
    runserver.printed(rf"- Broken pipe from \('127.0.0.1', {port}\)")
    with RawClient(runserver.address) as client:
        client.upgrade("/echo/?reset")
        client.reset()
    runserver.printed(r"WebSocket '/echo/\?reset' closed with 1006")
    assert runserver.log.count("Traceback") == before


def test_https_is_refused_with_a_hint(runserver: Runserver) -> None:
    """The line is that of Django."""
    with RawClient(runserver.address) as client:
        client.send(b"\x16\x03\x01\x02\x00\x01\r\n")
        assert client.read_response().status == 400
    runserver.printed("You're accessing the development server over HTTPS, but it only supports HTTP.")


def test_shut_down_has_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the close frames of the peers and the ends of the views."""
    # After drain() a registry closes each new WebSocket, so this test has its own.
    use_registry(monkeypatch, Registry())

    def stubborn(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        gevent.sleep(3600)
        return []

    server = Server(("127.0.0.1", 0), None)
    server.set_app(stubborn)
    server.start()
    peer = gevent.socket.create_connection(server.address)
    peer.sendall(upgrade_request())
    until(lambda: server.view_greenlets, "the view has accepted")
    began = monotonic()
    server.shut_down(1.0)
    took = monotonic() - began
    peer.close()
    gevent.killall(list(server.view_greenlets))
    assert 0.9 < took < 1.8
