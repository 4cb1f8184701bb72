"""``GeventWebSocketWorker`` in a real gunicorn: settings, the name of the class, hooks, and leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .support.rawclient import BINARY, CLOSE, TEXT, RawClient, close_frame, frame
from .support.servers import BEHAVIOURS, ROOT, Certificate, Server, ServerDied, launch

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
        ({"GWS_MAX_MESSAGE_SIZE": "100"}, ["-k", f"{WORKERS}.Small"], f"{BEHAVIOURS}:tiny_inside", 10),
    ],
    ids=["environment", "options", "explicit wrapper", "wrapper inside of another"],
)
def test_settings_come_from_the_nearest_place(
    server_directory: Path, env: dict[str, str], options: list[str], app: str, expected: int
) -> None:
    """``GWS_*`` variables are settings, a worker's ``options`` win over them, and an application that is wrapped
    already keeps its own: it is not wrapped twice.
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
            "the environment variable GWS_MAX_MESSAGE_SIZE is 'many': wanted a whole number from 1 to",
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
    """A server with a setting that does not exist does not start, and its log names the nearest one that does."""
    with (
        pytest.raises(ServerDied) as died,
        launch(kind, server_directory, app, env=env, options=options),
    ):
        pass
    assert f"gws_middleware.exceptions.ConfigError: {sentence}" in died.value.log or (
        kind == "pywsgi-handler" and sentence in died.value.log
    )


# --- the name of the class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gws_middleware.GeventWebSocketWorker", "egg:gws-middleware#websocket"])
def test_worker_class_has_other_names(server_directory: Path, name: str) -> None:
    """That of the package, and its entry point in ``gunicorn.workers``."""
    with launch("worker", server_directory, options=["-k", name]) as server, server.connect() as client:
        client.upgrade("/echo")
        client.text("x")
        assert client.read_frame().payload == b"x"
        client.close_handshake()


@pytest.mark.parametrize(
    "name",
    [
        "gws_middleware.geventwebsocketworker",
        "gws_middleware.GeventWorker",
        "gws_middleware.worker.GeventWebsocketWorker",
        "gws_middleware.worker.Worker",
    ],
)
def test_worker_class_that_is_misspelt_names_the_right_one(server_directory: Path, name: str) -> None:
    """The last line of what gunicorn prints says which class there is. (``-k gws_middleware`` runs no code of ours.)"""
    with pytest.raises(ServerDied) as died, launch("worker", server_directory, options=["-k", name]):
        pass
    sentence = "worker class is gws_middleware.worker.GeventWebSocketWorker"
    assert sentence in died.value.log.strip().splitlines()[-1]


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
            client.close_handshake()
        server.log.find("post_request /echo")
        server.get("/plain")
        server.log.find("post_request /plain")
        found = [one.text for one in server.log.records() if "post_request /echo" in one.text]
    assert [text.partition("post_request ")[2] for text in found] == ["/echo: 101 Switching Protocols, 7 bytes, GET"]


def test_settings_of_a_worker_are_kept(server_directory: Path) -> None:
    """What gunicorn reads for each request are plain attributes, which have what hooks set, before and after that."""
    hooks = str(ROOT / "tests/fixtureapps/gunicorn_hooks.py")
    with launch("worker", server_directory, options=["--config", hooks]) as server:
        server.get("/plain")
        server.get("/plain")
        found = [one.text.partition("/plain: ")[2] for one in server.log.find("pre_request /plain: ", 2)]
        first, second = (int(text.removeprefix("keepalive ").removesuffix(", kept")) for text in found)
    assert (first > 100, second) == (True, first + 1)


# --- leaks ----------------------------------------------------------------------------------------------------------


def cycle(server: Server, number: int) -> None:
    """One connection, ended in one of several ways."""
    ways: list[Any] = [
        ("/echo", RawClient.close_handshake),
        ("/echo", RawClient.close),
        ("/echo", RawClient.reset),
        ("/after/list", RawClient.close_handshake),
        ("/detached", RawClient.close_handshake),
        ("/detached", RawClient.reset),
    ]
    path, end = ways[number % len(ways)]
    with server.connect() as client:
        client.upgrade(path)
        client.send(frame(TEXT, b"x" * 1000))
        client.read_frame()
        end(client)


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_hundreds_of_connections_leak_nothing(server_directory: Path, certificate: Certificate, over_tls: bool) -> None:
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
