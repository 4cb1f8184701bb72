"""``GeventWebSocketWorker`` in a real gunicorn: settings, signals, hooks, and what is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .rawclient import BINARY, CLOSE, TEXT, Frame, RawClient, close_frame, frame
from .servers import BEHAVIOURS, ROOT, Certificate, Server, ServerDied, eventually, launch

WORKERS = "tests.fixtureapps.workers"


# --- settings ------------------------------------------------------------------------------------------------------


def limit(server: Server) -> int:
    """The greatest message that the server takes, of those from 9 bytes to 201."""
    for size in (9, 10, 11, 50, 51, 100, 101, 200):
        with server.connect() as client:
            client.upgrade("/echo")
            client.send(frame(BINARY, bytes(size + 1)))
            if client.read_frame().opcode == CLOSE:
                client.send(close_frame(1009))
                return size
    return 201


@pytest.mark.parametrize(
    ("env", "options", "app", "expected"),
    [
        ({"GWS_MAX_MESSAGE_SIZE": "100"}, [], BEHAVIOURS, 100),
        ({"GWS_MAX_MESSAGE_SIZE": "100"}, ["-k", f"{WORKERS}.Small"], BEHAVIOURS, 50),
        ({"GWS_MAX_MESSAGE_SIZE": "100"}, ["-k", f"{WORKERS}.Small"], f"{BEHAVIOURS}:tiny", 10),
    ],
    ids=["environment", "options", "explicit wrapper"],
)
def test_settings_come_from_the_nearest_place(
    server_directory: Path, env: dict[str, str], options: list[str], app: str, expected: int
) -> None:
    """``GWS_*`` variables set a knob, a worker's ``options`` win over them, and an application that is wrapped already
    keeps its own: it is not wrapped twice.
    """
    with launch("worker", server_directory, app, env=env, options=options) as server:
        found = limit(server)
    assert found == expected


@pytest.mark.parametrize(
    ("kind", "env", "options", "app", "sentence"),
    [
        (
            "worker",
            {"GWS_MAX_MESAGE_SIZE": "100"},
            [],
            BEHAVIOURS,
            "the environment variable GWS_MAX_MESAGE_SIZE is not a setting: did you mean 'GWS_MAX_MESSAGE_SIZE'?",
        ),
        (
            "worker",
            {"GWS_MAX_MESSAGE_SIZE": "many"},
            [],
            BEHAVIOURS,
            "the environment variable GWS_MAX_MESSAGE_SIZE is 'many': wanted a number",
        ),
        (
            "worker",
            {},
            ["-k", f"{WORKERS}.Misspelt"],
            BEHAVIOURS,
            "'max_mesage_size' is not a setting: did you mean 'max_message_size'?",
        ),
        (
            "gevent",
            {},
            [],
            "tests.fixtureapps.misspelt",
            "'compresion' is not a setting: did you mean 'compression'?",
        ),
        ("pywsgi-handler", {"GWS_SEND_TIMOUT": "1"}, [], BEHAVIOURS, "did you mean 'GWS_SEND_TIMEOUT'?"),
    ],
    ids=["variable", "value", "option", "argument", "pywsgi"],
)
def test_misspelt_setting_stops_the_server(
    server_directory: Path, kind: str, env: dict[str, str], options: list[str], app: str, sentence: str
) -> None:
    """A server with a setting that there is not does not start, and its log names the nearest one that there is."""
    with (
        pytest.raises(ServerDied) as died,
        launch(kind, server_directory, app, env=env, options=options),
    ):
        pass
    assert f"gws_middleware.exceptions.ConfigError: {sentence}" in died.value.log or (
        kind == "pywsgi-handler" and sentence in died.value.log
    )


# --- being stopped -------------------------------------------------------------------------------------------------


@contextmanager
def open_websockets(server: Server, *paths: str) -> Iterator[list[RawClient]]:
    """One connection for each path, accepted."""
    with ExitStack() as stack:
        clients = []
        for path in paths:
            client = stack.enter_context(server.connect())
            client.upgrade(path)
            if "detached" not in path:
                assert client.read_frame() == Frame(TEXT, b"ready")
            clients.append(client)
        yield clients


GOING_AWAY = Frame(CLOSE, b"\x03\xe9")
SERVICE_RESTART = Frame(CLOSE, b"\x03\xf4")


@pytest.mark.parametrize(
    ("number", "over_tls"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, False), (signal.SIGQUIT, False)],
    ids=["term", "term-tls", "int", "quit"],
)
def test_stop_says_goodbye(server_directory: Path, certificate: Certificate, number: int, over_tls: bool) -> None:
    """Every peer hears 1001 and can answer, waiting views end by themselves and clean up, and gunicorn is gone at
    once instead of after its graceful timeout.
    """
    with launch("worker", server_directory, certificate=certificate if over_tls else None) as server:
        paths = ["/waiting?id=one", "/waiting?id=two", "/detached?id=three"]
        with open_websockets(server, *paths) as clients:
            server.kill(number)
            heard = [client.read_frame() for client in clients]
            for client in clients:
                client.send(close_frame(1001))
            rests = [client.read_until_eof() for client in clients]
        server.wait(5)
    finals = [one.text for one in server.log.find("finally of", 2)]
    assert (heard, rests) == ([GOING_AWAY] * 3, [b""] * 3)
    assert sorted(finals) == [f"INFO tests: finally of {name} after 1001" for name in ("one", "two")]


def test_peer_that_answers_no_goodbye_is_cut(server_directory: Path) -> None:
    """A silent peer costs a third of the graceful timeout, not all of it."""
    with launch("worker", server_directory, options=["--graceful-timeout", "3"]) as server:
        with open_websockets(server, "/waiting?id=one", "/detached?id=two") as clients:
            server.kill(signal.SIGTERM)
            frames = [client.read_frames_until_eof() for client in clients]
        code = server.wait(3)
    assert (frames, code) == ([[GOING_AWAY]] * 2, 0)


def test_reload_says_goodbye_and_serves_on(server_directory: Path) -> None:
    """On SIGHUP the old worker's connections end with 1012, and a new worker takes new ones."""
    with launch("worker", server_directory) as server:
        before = server.status()["pid"]
        with open_websockets(server, "/waiting?id=one") as [client]:
            server.kill(signal.SIGHUP)
            heard = client.read_frame()
            client.send(close_frame(1012))
            client.read_until_eof()
        eventually(lambda: server.status()["pid"] != before, "a new worker")
        with server.connect() as client:
            client.upgrade("/echo")
            client.text("x")
            echo = client.read_frame()
    assert (heard, echo) == (SERVICE_RESTART, Frame(TEXT, b"x"))


@pytest.mark.parametrize(
    ("how", "goodbye"), [("worker told to stop", GOING_AWAY), ("max_requests", SERVICE_RESTART)], ids=["told", "count"]
)
def test_view_that_looks_at_nothing_is_ended(server_directory: Path, how: str, goodbye: Frame) -> None:
    """When the graceful timeout of a worker is over, the greenlets of its views are killed: ``finally`` runs, the
    peer hears 1001, or 1012 where the worker ends by itself, and another worker takes the place.
    """
    options = ["--graceful-timeout", "1", "--max-requests", "3" if how == "max_requests" else "0"]
    with launch("worker", server_directory, options=options) as server:
        before = server.status()["pid"]
        with open_websockets(server, "/forever?id=one") as [client]:
            if how != "max_requests":
                os.kill(before, signal.SIGTERM)
            heard = client.read_frame()
            client.send(close_frame(1001))
            rest = client.read_until_eof()
        server.log.find("finally of one$")
        server.log.expect("Worker graceful timeout")
        eventually(lambda: server.status()["pid"] != before, "a new worker")
    assert (heard, rest) == (goodbye, b"")


# --- hooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["worker", "gevent"])
def test_post_request_hook_sees_the_response(server_directory: Path, kind: str) -> None:
    """The hook is called once for each WebSocket, at its end, with the 101 and the bytes of the frames."""
    hooks = str(ROOT / "tests/fixtureapps/gunicorn_hooks.py")
    with launch(kind, server_directory, options=["--config", hooks]) as server:
        with server.connect() as client:
            client.upgrade("/echo")
            client.text("x")
            client.read_frame()
            assert not [one for one in server.log.records() if "post_request /echo" in one.text]
            client.say_goodbye()
        server.log.find("post_request /echo")
        server.get("/plain")
        server.log.find("post_request /plain")
        found = [one.text for one in server.log.records() if "post_request /echo" in one.text]
    assert [text.partition("post_request ")[2] for text in found] == ["/echo: 101 Switching Protocols, 7 bytes, GET"]


# --- nothing stays -------------------------------------------------------------------------------------------------


def cycle(server: Server, number: int) -> None:
    """One connection, ended in one of several ways."""
    ways: list[Any] = [
        ("/echo", RawClient.say_goodbye),
        ("/echo", RawClient.close),
        ("/echo", RawClient.reset),
        ("/after/list", RawClient.say_goodbye),
        ("/detached", RawClient.say_goodbye),
        ("/detached", RawClient.reset),
    ]
    path, end = ways[number % len(ways)]
    with server.connect() as client:
        client.upgrade(path)
        client.send(frame(TEXT, b"x" * 1000))
        client.read_frame()
        end(client)


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_hundreds_of_connections_leave_nothing_behind(
    server_directory: Path, certificate: Certificate, over_tls: bool
) -> None:
    """Descriptors, greenlets, watchers, objects and memory are those of a worker that has warmed up."""
    with launch("worker", server_directory, certificate=certificate if over_tls else None) as server:
        for number in range(48):
            cycle(server, number)
        before = server.settled(websockets=0)
        for number in range(240):
            cycle(server, number)
        counts = {name: before[name] for name in ("fds", "greenlets", "watchers")}
        after = server.settled(websockets=0, **counts)
    assert after["objects"] - before["objects"] < 240  # less than one for each connection
    assert after["rss"] - before["rss"] < 2**20
