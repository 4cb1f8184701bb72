"""Our handler and server for ``gevent.pywsgi``, and the patch of a stock one, in this process. The tests of ``servers``
run them as servers of their own.
"""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent
import pytest
from gevent import pywsgi as stock
from gevent import socket as gsocket
from gevent.event import Event

from gws_middleware import WebSocketMiddleware, monkey, pywsgi
from gws_middleware.servers.pywsgi import HANDLER_KEY

from .support.inprocess import no_collector, package_path, until
from .support.rawclient import CLOSE, TEXT, Frame, RawClient, close_frame, upgrade_request

T = TypeVar("T")


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Echoes, or says hello."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]
    for message in ws:
        ws.send(message)
    return []


@contextmanager
def serving(server_class: Any, app: Any = application, **options: Any) -> Iterator[Any]:
    """A server of this class on a port of its own."""
    listener = gsocket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = server_class(listener, app, log=None, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop(timeout=1)


def from_outside(function: Callable[[RawClient], T], server: Any) -> T:
    """What ``function`` makes of a connection to the server: in a thread, because it blocks."""

    def talk() -> T:
        with RawClient(server.address) as client:
            return function(client)

    result: T = gevent.get_hub().threadpool.apply(talk)
    return result


def echo(client: RawClient) -> list[Frame]:
    """What comes back for one message and a close frame."""
    client.upgrade("/")
    client.text("x")
    return [client.read_frame(), *client.close_handshake()]


def hello(client: RawClient) -> bytes:
    """An ordinary request's body."""
    return client.get("/", ("Connection", "close")).body


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patched gevent, for one test."""
    monkeypatch.setattr(stock.WSGIHandler, "get_environ", stock.WSGIHandler.get_environ)
    monkey.patch_pywsgi()
    monkey.patch_pywsgi()


ECHO = [Frame(TEXT, b"x"), Frame(CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("wrapped", [False, True])
def test_server_wraps_the_application_once(wrapped: bool) -> None:
    """A bare application is wrapped with the defaults, one that is wrapped already keeps its own wrapper."""
    app = WebSocketMiddleware(application, max_message_size=7) if wrapped else application
    with serving(pywsgi.WSGIServer, app) as server:
        found = server.application
        frames = from_outside(echo, server)
    assert frames == ECHO
    assert (found is app, found.config.max_message_size) == ((True, 7) if wrapped else (False, 2**20))


def test_handler_class_serves_a_wrapped_application() -> None:
    """``handler_class=WebSocketHandler`` is all that a stock server needs."""
    app = WebSocketMiddleware(application)
    with serving(stock.WSGIServer, app, handler_class=pywsgi.WebSocketHandler) as server:
        answers = from_outside(echo, server), from_outside(hello, server)
    assert answers == (ECHO, b"hello")


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("server_class", [stock.WSGIServer, pywsgi.WSGIServer])
def test_patch_serves_every_handler(server_class: Any) -> None:
    """After ``patch_pywsgi()``, twice, stock handlers give their connections away, and ours still do."""
    with serving(server_class, WebSocketMiddleware(application)) as server:
        answers = from_outside(echo, server), from_outside(hello, server)
    assert answers == (ECHO, b"hello")


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("request_", [echo, hello], ids=["websocket", "http"])
@pytest.mark.parametrize("server_class", [stock.WSGIServer, pywsgi.WSGIServer])
def test_handler_is_freed_with_its_connection(server_class: Any, request_: Callable[[RawClient], Any]) -> None:
    """The reference in environ makes no cycle: a handler, and the TLS socket that it may hold, needs no collector."""
    handlers: list[weakref.ref[Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        handlers.append(weakref.ref(environ[HANDLER_KEY]()))
        return application(environ, start_response)

    with no_collector(), serving(server_class, WebSocketMiddleware(app)) as server:
        from_outside(request_, server)
        until(lambda: handlers[0]() is None, "the handler is freed")
    assert len(handlers) == 1


def test_open_connections_share_strings_of_their_requests() -> None:
    """Names and frequent values in environ, of which gevent makes new ones for each request."""
    items: list[tuple[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        items.extend(item for item in environ.items() if item[0] == "HTTP_HOST")
        return application(environ, start_response)

    with serving(pywsgi.WSGIServer, app) as server:
        for _ in range(2):
            from_outside(echo, server)
    (first, host), (second, same) = items
    assert (first is second, host is same) == (True, True)


def test_stopped_server_kills_its_views() -> None:
    """With a pool, ``server.stop()`` kills the greenlets of views: ``finally`` runs, the code is 1012."""
    events: list[str] = []
    sleeping = Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("ready")
        try:
            sleeping.set()
            gevent.sleep(60)
        finally:
            events.append("finally")
        return []

    def read(client: RawClient) -> list[Frame]:
        client.upgrade("/")
        frames = [client.read_frame(), client.read_frame()]
        client.send(close_frame(1012))
        return [*frames, *client.read_frames_until_eof()]

    with serving(pywsgi.WSGIServer, app, spawn=10) as server:
        reading = gevent.spawn(from_outside, read, server)
        assert sleeping.wait(5)
        server.stop(timeout=0.1)
        frames = reading.get()
    assert (frames, events) == ([Frame(TEXT, b"ready"), Frame(CLOSE, b"\x03\xf4")], ["finally"])


UNPATCHED = """
import logging
import sys

import gevent
from gevent import socket

from gws_middleware.pywsgi import WSGIServer

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
if sys.argv[1] == "patched":
    from gevent import monkey

    monkey.patch_all()


def app(environ, start_response):
    environ["wsgi.websocket"].accept()
    return []


server = WSGIServer(("127.0.0.1", 0), app, log=None)
server.start()
for _ in range(2):
    with socket.create_connection(server.address) as sock:
        sock.sendall(bytes.fromhex(sys.argv[2]))
        while sock.recv(1 << 16):
            sock.shutdown(socket.SHUT_WR)
server.stop()
"""


@pytest.mark.parametrize(("how", "count"), [("patched", 0), ("unpatched", 1)])
def test_program_that_is_not_patched_is_warned_once(how: str, count: int) -> None:
    """Each view that waits would block all the others, and no error says so."""
    command = [sys.executable, "-c", UNPATCHED, how, upgrade_request("/").hex()]
    done = subprocess.run(command, env=package_path(), capture_output=True, text=True, timeout=60, check=True)
    warning = "WARNING gws_middleware: The standard library is not patched for gevent"
    assert (done.stderr.count(warning), done.stderr.count("\n")) == (count, count), done.stderr
