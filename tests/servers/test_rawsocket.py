"""Applications that use the server's socket themselves (simple-websocket, flask-sock) beside the middleware."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest

from ..support.rawclient import CLOSE, TEXT, Frame, close_frame, request
from ..support.servers import LATE, Certificate, Server, launch

ACCEPT_TIMEOUT = 0.4


@pytest.fixture(scope="module")
def raw_server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Any]:
    """A server of ``fixtureapps.rawsocket`` with a short ``accept_timeout``."""
    with ExitStack() as stack:

        @cache
        def get(kind: str, over_tls: bool) -> Server:
            directory, tls = tmp_path_factory.mktemp("server"), certificate if over_tls else None
            env = {"GWS_ACCEPT_TIMEOUT": str(ACCEPT_TIMEOUT)}
            return stack.enter_context(launch(kind, directory, RAW, env=env, certificate=tls))

        yield lambda kind, carrier: get(kind, carrier.startswith("tls")).at(carrier)


RAW = "tests.fixtureapps.rawsocket"
# simple-websocket finds no socket in the environ of gevent_pywsgi.
RAW_KINDS = [name for name in LATE if name != "gevent_pywsgi"]
raw_kinds = pytest.mark.parametrize("kind", RAW_KINDS)


@pytest.mark.parametrize("carrier", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("path", ["/flask-sock", "/simple", "/simple/generator"])
@raw_kinds
def test_application_that_takes_the_socket_is_left_alone(raw_server: Any, kind: str, path: str, carrier: str) -> None:
    """simple-websocket and flask-sock read and write on the server's socket: ``accept_timeout`` does not end them, and
    after their end nothing is written, served or logged.
    """
    server: Server = raw_server(kind, carrier)
    with server.connect() as client:
        client.upgrade(path)
        began = time.monotonic()
        while time.monotonic() - began < 1.5 * ACCEPT_TIMEOUT:
            client.text("x")
            assert client.read_frame() == Frame(TEXT, b"x")
            time.sleep(0.05)  # no faster than needed: other tests run beside this one
        client.send(close_frame() + request("/plain"))
        frames = client.read_frames_until_eof()
    server.get("/")
    server.log.check()
    assert frames == [Frame(CLOSE, b"\x03\xe8")]


@raw_kinds
def test_application_that_takes_the_socket_may_close(raw_server: Any, kind: str) -> None:
    """Its own close frame is the last that is written."""
    server: Server = raw_server(kind, "tcp")
    with server.connect() as client:
        client.upgrade("/flask-sock/closes")
        client.text("x")
        frames = [client.read_frame(), client.read_frame()]
        client.send(close_frame())
        rest = client.read_until_eof()
    server.get("/")
    server.log.check()
    assert (frames, rest) == ([Frame(TEXT, b"x"), Frame(CLOSE, b"\x03\xe8")], b"")


@pytest.mark.parametrize("path", ["/flask-sock/raises", "/simple/raises"])
@raw_kinds
def test_error_of_an_application_that_takes_the_socket_is_no_page(raw_server: Any, kind: str, path: str) -> None:
    """The error is logged once, by the framework or by us, and no HTTP is written into the connection."""
    server: Server = raw_server(kind, "tcp")
    with server.connect() as client:
        client.upgrade(path)
        client.text("x")
        first = client.read_frame()
        client.sock.shutdown(socket.SHUT_WR)  # what the application has copied of the socket is open until then
        rest = client.read_until_eof()
    server.log.expect("(Exception on /flask-sock/raises|raised on its own connection).*LookupError: the reason$")
    server.get("/")
    server.log.check()
    assert (first, b"HTTP" in rest) == (Frame(TEXT, b"x"), False)
