"""``find``: which server a request came to, and servers that cannot give their connection away."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest
from gevent import socket as gsocket

from gws_middleware.middleware import NO_SOCKET
from gws_middleware.servers.base import SERVER_KEY
from gws_middleware.servers.base import Server as AnyServer
from gws_middleware.servers.find import close_after_response, find_server
from gws_middleware.servers.gunicorn import GunicornGevent
from gws_middleware.servers.pywsgi import GunicornPyWSGI, PyWSGI, leave_handler

from ..support.rawclient import request, upgrade_request
from ..support.servers import POWERLESS, SWITCHED, Server
from .pairs import in_greenlet, pair

__all__ = ["pair"]


def start_response(status: str, headers: Any) -> Any:
    """A wrapper's, which leads to no server."""
    return lambda data: None


# --- without a server ----------------------------------------------------------------------------------------------


class Handler:
    """What is used of a gevent.pywsgi handler."""

    def __init__(self, sock: Any) -> None:
        self.socket, self.close_connection = sock, False

    def start_response(self, status: str, headers: Any) -> Any:
        return lambda data: None


def test_each_server_is_found_by_its_keys(pair: Any) -> None:
    """The keys that each of them leaves in environ."""
    sock, own, handler = pair[0], AnyServer(), Handler(pair[0])
    assert find_server({SERVER_KEY: own, "gunicorn.socket": sock}, start_response) is own
    assert type(find_server(leave_handler({}, handler), start_response)) is PyWSGI
    assert type(in_greenlet(find_server, {"gunicorn.socket": sock}, start_response)) is GunicornGevent
    assert type(in_greenlet(find_server, {"gunicorn.sock": sock}, start_response)) is GunicornPyWSGI


@pytest.mark.parametrize("key", ["gunicorn.socket", "gunicorn.sock"])
def test_socket_of_a_thread_is_not_taken(key: str) -> None:
    """Other workers of gunicorn's leave a socket in environ too: it is not gevent's, or not a greenlet's own."""
    with socket.socket() as plain, gsocket.socket() as on_gevent:
        found = [
            in_greenlet(find_server, {key: plain}, None),
            find_server({key: on_gevent}, lambda status, headers: lambda data: None),
        ]
    assert found == [None, None]


def test_environ_without_a_known_key_has_no_server() -> None:
    """That of wsgiref, mod_wsgi and others."""
    assert find_server({"wsgi.websocket": object()}, lambda status, headers: lambda data: None) is None


def test_response_of_a_server_that_cannot_is_the_last_one(pair: Any) -> None:
    """Gunicorn's Response and gevent.pywsgi's handler end their keep-alive loops; others are left as they are."""
    closed: list[str] = []

    class Response:
        def start_response(self, status: str, headers: Any) -> None: ...

        def force_close(self) -> None:
            closed.append("gunicorn")

    handler = Handler(pair[0])
    close_after_response({"gunicorn.socket": None}, Response().start_response)
    close_after_response({}, handler.start_response)
    close_after_response({}, start_response)
    assert (closed, handler.close_connection) == (["gunicorn"], True)


# --- real servers that cannot ---------------------------------------------------------------------------------------


@pytest.fixture
def powerless(request: pytest.FixtureRequest, shared_server: Any) -> Server:
    """A server that cannot give its connections away, and has logged what it is expected to."""
    found: Server = shared_server(request.param)
    return found


@pytest.mark.parametrize("powerless", POWERLESS, indirect=True)
def test_powerless_server_answers_501(powerless: Server) -> None:
    """The client, and once the log, get a sentence that names the worker class which can."""
    for _ in range(2):
        with powerless.connect() as client:
            client.send(upgrade_request("/echo"))
            response = client.read_response()
    powerless.log.expect(re.escape(NO_SOCKET))
    powerless.log.check()
    assert (response.status, response.body.decode()) == (501, NO_SOCKET + "\n")


@pytest.mark.parametrize("powerless", [*POWERLESS, *SWITCHED], indirect=True)
def test_connection_ends_after_a_501(powerless: Server, token: str) -> None:
    """No request that follows in the same segment is served: a proxy may have taken it for bytes of a WebSocket.
    (gevent-websocket's servers pass a handshake on that is no GET.)
    """
    with powerless.connect() as client:
        handshake = upgrade_request("/echo", method="POST" if powerless.kind.name in SWITCHED else "GET")
        client.send(handshake + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    if powerless.log.problems():  # the first handshake of this server
        powerless.log.expect(re.escape(NO_SOCKET))
    powerless.log.check()
    assert (response.status, rest, powerless.events(token)) == (501, b"", [])


@pytest.mark.parametrize("powerless", POWERLESS, indirect=True)
def test_powerless_server_serves_plain_http(powerless: Server) -> None:
    """Everything but upgrades is passed on."""
    powerless.get("/plain")
    response = powerless.get("/plain")
    powerless.log.check()
    assert (response.status, response.body) == (200, b"no websocket")
