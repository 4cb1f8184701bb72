"""The examples, each started with the command of its own README and used by two clients of other people's."""

from __future__ import annotations

import runpy
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import websocket
from websockets.exceptions import InvalidStatus

from ..support.documents import TIMEOUT, close_frame, command, opened, serve, url
from ..support.servers import ROOT, Server

EXAMPLES = ROOT / "examples"


@contextmanager
def by_websocket_client(address: str) -> Iterator[Any]:
    """A connection of ``websocket-client``; its methods have the same names."""
    with closing(websocket.create_connection(address, timeout=TIMEOUT, http_no_proxy="*")) as ws:
        yield ws


clients = pytest.mark.parametrize("client", [opened, by_websocket_client])


NAMES = ("django_view", "echo", "flask_view", "gevent_websocket_app")
Served = Callable[[str], Server]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """``served(name)``: one of the examples, until the tests of this file are done; the first call starts it."""
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def get(name: str) -> Server:
            if name not in running:
                arguments = command(EXAMPLES / name / "README.md", "gunicorn")
                running[name] = stack.enter_context(serve(arguments, tmp_path_factory.mktemp(name)))
            return running[name]

        yield get


def get(address: str) -> tuple[int, str]:
    """Status and text of an ordinary request."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_examples_are_all_tested_here() -> None:
    """No folder of examples/ is without a test; some have files of their own."""
    names = sorted([*NAMES, "chat", "deploy", "notifications", "stream"])
    assert sorted(path.parent.name for path in EXAMPLES.glob("*/README.md")) == names
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()) == names


# --- echo ----------------------------------------------------------------------------------------------------------


@clients
def test_echo_returns_text(served: Served, client: Any) -> None:
    """What is sent comes back, the empty message too."""
    with client(url(served("echo"))) as ws:
        replies = []
        for message in ("x", "Grüße, 你好", "", "y" * 100_000):
            ws.send(message)
            replies.append(ws.recv())
    assert replies == ["x", "Grüße, 你好", "", "y" * 100_000]


def test_echo_returns_binary(served: Served) -> None:
    """Bytes come back as bytes."""
    with opened(url(served("echo"))) as ws:
        ws.send(bytes(range(256)))
        assert ws.recv(timeout=TIMEOUT) == bytes(range(256))


# --- django_view ---------------------------------------------------------------------------------------------------


@clients
def test_django_view_returns_text(served: Served, client: Any) -> None:
    """The view echoes, through Django's middleware and URLconf."""
    with client(url(served("django_view"), "/ws/")) as ws:
        ws.send("x")
        assert ws.recv() == "x"


def test_django_view_has_a_page(served: Served) -> None:
    """The page is served, and fetches nothing from anywhere."""
    status, page = get(url(served("django_view"), scheme="http"))
    assert status == 200
    assert "/ws/" in page
    assert page.replace("http://www.w3.org/2000/svg", "").count("://") == 2  # "wss://" and "ws://" of the page itself


@pytest.mark.parametrize(
    ("path", "origin", "status"), [("/nothing/", None, 404), ("/ws/", "https://evil.example", 403)]
)
def test_django_view_refuses(served: Served, path: str, origin: str | None, status: int) -> None:
    """What Django or the origin check refuses is an HTTP answer instead of the 101."""
    with pytest.raises(InvalidStatus) as refused, opened(url(served("django_view"), path), origin=origin):
        pass
    assert refused.value.response.status_code == status


# --- flask_view ----------------------------------------------------------------------------------------------------


@clients
def test_flask_view_sends_the_time(served: Served, client: Any) -> None:
    """The clock ticks at the interval that the client asks for."""
    with client(url(served("flask_view"), "/clock")) as ws:
        ws.send("0.01")
        times = [datetime.fromisoformat(ws.recv()) for _ in range(20)]
    assert times == sorted(set(times))
    assert (times[-1] - times[0]).total_seconds() < 10  # 18 and more at the default interval


# --- gevent_websocket_app ------------------------------------------------------------------------------------------


@clients
def test_gevent_websocket_app_lets_two_talk(served: Served, client: Any) -> None:
    """Both receive joins, messages and leaves."""
    address = url(served("gevent_websocket_app"), "/chat")
    with client(address) as first:
        me = name_in(first.recv())
        with client(address) as second:
            you = name_in(second.recv())
            second.send("hello")
            received = [first.recv(), first.recv(), second.recv()]
        received.append(first.recv())
    hello = f"{you}: hello"
    assert me != you
    assert received == [f"* {you} is here, 2 in the room", hello, hello, f"* {you} has disconnected, 1 in the room"]


def name_in(line: str) -> str:
    """The name in the line of a join."""
    return line.removeprefix("* ").partition(" is here")[0]


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "status", "text"),
    [
        ("echo", "/", 200, "Connect with a WebSocket: what you send comes back.\n"),
        ("django_view", "/ws/", 400, "This address serves only WebSockets.\n"),
        ("flask_view", "/", 200, "The clock is at /clock, over a WebSocket.\n"),
        ("flask_view", "/clock", 426, "This address serves only WebSockets.\n"),
        ("gevent_websocket_app", "/", 200, "The chat is at /chat, over a WebSocket.\n"),
    ],
)
def test_plain_http_is_answered(served: Served, name: str, path: str, status: int, text: str) -> None:
    """By a page, or by an error where the address serves WebSockets alone."""
    assert get(url(served(name), path, scheme="http")) == (status, text)


@pytest.mark.parametrize(
    ("name", "path", "message", "frame"),
    [
        ("flask_view", "/clock", "soon", (1007, "send a number of seconds")),
        ("gevent_websocket_app", "/chat", b"\x00", (1003, "this chat is text")),
    ],
)
def test_wrong_message_ends_the_connection(
    served: Served, name: str, path: str, message: str | bytes, frame: tuple[int, str]
) -> None:
    """With the code and the reason of the application."""
    with opened(url(served(name), path)) as ws:
        ws.send(message)
        assert close_frame(ws) == frame


# --- what is printed beside them -----------------------------------------------------------------------------------


def test_make_run_starts_what_the_example_says() -> None:
    """``make run`` and the chat's README have one command."""
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "gunicorn_conf.py" in line)
    made = recipe.partition("gunicorn ")[2].replace("$(PORT)", "8000").split()
    assert made == command(EXAMPLES / "chat" / "README.md", "gunicorn")


PROGRAMS = [path for name in NAMES for path in sorted((EXAMPLES / name).rglob("*.py")) if name != "flask_view"]


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
def test_example_imports_nothing_of_ours(path: Path) -> None:
    """An application needs the worker, not the package. (The chat shows the Django app, flask_view that for Flask.)"""
    assert "import gws_middleware" not in path.read_text() and "from gws_middleware" not in path.read_text()


@pytest.mark.parametrize("name", ["chat", "notifications"])
def test_workers_that_start_together_have_one_key(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file of it yet, and where one reads it while another one writes it."""
    keys: list[str] = []

    def start(number: int) -> None:
        monkeypatch.setattr("os.getpid", lambda: number)
        keys.append(runpy.run_path(str(EXAMPLES / name / "project" / "settings.py"))["SECRET_KEY"])

    def write(path: Path, text: str) -> None:
        """The second worker starts while the first one writes."""
        if len(began) == 1:
            began.append(2)
            start(2)
        path.write_bytes(text.encode())

    began = [1]
    monkeypatch.setenv(f"{name.upper()}_DATABASE", str(tmp_path / "database.sqlite3"))
    monkeypatch.delenv("SECRET_KEY", raising=False)
    monkeypatch.setattr(Path, "write_text", write)
    start(1)
    assert (len(keys), len(set(keys)), len(keys[0]) >= 50) == (2, 1, True)
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("database.key", 0o600)]
