"""The Django app under real servers: the bytes that are sent, and the log."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rawclient import CLOSE, TEXT, close_frame, frame, upgrade_request
from tests.support.servers import KINDS, SWITCHED, Server, ServerDied, launch

SERVERS = ("worker", "gevent", "gevent_pywsgi", "pywsgi-handler", "geventwebsocket-worker")
PROJECT = "tests.django.project.wsgi"


def app(kind: str) -> str:
    """The application for this kind of server."""
    return f"{PROJECT}:{'application' if KINDS[kind].wraps else 'wrapped'}"


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The project, with DEBUG on."""
    directory = tmp_path_factory.mktemp(request.param)
    with launch(request.param, directory, app(request.param), env={"DEBUG": "1"}) as running:
        yield running


def test_messages_go_both_ways(server: Server) -> None:
    """Nothing is logged."""
    with server.connect() as client:
        client.send(upgrade_request("/both/3/"))
        assert client.read_response().status == 101
        client.send(frame(TEXT, b"x") + close_frame())
        assert client.read_frames_until_eof()[0].payload == b"3: x"
    server.log.check()


def test_view_that_raises_is_logged_once(server: Server) -> None:
    """By ``django.request``, with its traceback. The socket closes with 1011, and no debug page is sent."""
    before = len(server.log.records())
    with server.connect() as client:
        client.send(upgrade_request("/raises/"))
        assert client.read_response().status == 101
        last = client.read_frame()
        assert (last.opcode, last.payload) == (CLOSE, (1011).to_bytes(2, "big"))
        client.send(close_frame(1011))
        assert client.read_until_eof() == b""
    [record] = server.log.expect(r"\[ERROR\] django.request: Internal Server Error: /raises/")
    assert "LookupError: after the 101" in record.text
    server.log.check()
    logged = [one for one in server.log.records()[before:] if one.level in ("ERROR", "WARNING")]
    assert len(logged) == 1


def test_disconnect_before_the_101_is_not_logged(server: Server) -> None:
    """Neither as an error nor as a 403. A page that is reloaded disconnects like this."""
    for path in ("/both/3/", "/echo/", "/chatter/"):
        with server.connect() as client:
            client.send(upgrade_request(path))
            client.reset()
    assert server.get("/").status == 200
    server.log.check()


def test_other_requests_are_served(server: Server) -> None:
    """With plain HTTP on the same port."""
    assert server.get("/both/").body == b"http None"


@pytest.mark.parametrize("server", [kind for kind in SERVERS if kind not in SWITCHED], indirect=True)
def test_refusal_is_http(server: Server) -> None:
    """A redirect to the login page, with servers that send the 101 after the view has accepted."""
    with server.connect() as client:
        client.send(upgrade_request("/private/"))
        response = client.read_response()
        assert (response.status, response.headers["location"]) == (302, "/login/?next=/private/")
        assert client.read_until_eof() == b""


def test_wrong_setting_keeps_the_worker_from_starting(tmp_path: Path) -> None:
    """The sentence is in the log."""
    env = {"GWS": json.dumps({"max_mesage_size": 1})}
    with pytest.raises(ServerDied) as died, launch("worker", tmp_path, app("worker"), env=env):
        pass
    assert "ConfigError: 'max_mesage_size' is not a setting: did you mean 'max_message_size'?" in died.value.log


def test_stop_of_the_worker_closes_with_1012(tmp_path: Path) -> None:
    """The loop of the view ends as at any other end, and nothing is logged."""
    with launch("worker", tmp_path, app("worker")) as running, running.connect() as client:
        client.send(upgrade_request("/both/") + frame(TEXT, b"x"))
        assert client.read_response().status == 101
        assert client.read_frame().payload == b"0: x"
        running.kill(signal.SIGTERM)
        last = client.read_frame()
        assert (last.opcode, last.payload[:2]) == (CLOSE, (1012).to_bytes(2, "big"))
        client.send(close_frame(1012))
        assert client.read_until_eof() == b""
