"""Groups of an application without a framework: in its test, and with two workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gws_middleware import WebSocket
from gws_middleware.groups import Groups, History
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse, WSGIApp
from tests.support.grouplogs import automatic_groups
from tests.support.rawclient import RawClient
from tests.support.servers import launch


@pytest.fixture
def groups() -> Iterator[Groups]:
    """In memory, as a test of a project has them."""
    made = Groups("memory://", history={"room": History()})
    yield made
    made.release()


def chat(groups: Groups) -> WSGIApp:
    """A room for each path; the query is the position of the peer."""

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        ws: WebSocket | None = environ.get("wsgi.websocket")
        name = "room." + environ["PATH_INFO"][1:]
        if ws is None:
            groups.send(name, {"path": name})
            start_response("204 No Content", [])
            return []
        joined = groups.join(name, ws, since=environ["QUERY_STRING"] or None)
        ws.send(f"{joined.position} {joined.recovered}")
        for message in ws:
            groups.send(name, message, exclude=ws)
        return []

    return application


def test_application_is_tested_in_one_process(groups: Groups) -> None:
    """With ``memory://`` and the test client."""
    app = chat(groups)
    with connect(app, "/1") as one, connect(app, "/1") as other, connect(app, "/2") as elsewhere:
        for client in (one, other, elsewhere):
            client.receive()
        one.send("hello")
        assert other.receive() == "hello"
        groups.send("room.1", b"to all")
        assert one.receive() == other.receive() == b"to all"
        groups.send("room.2", "elsewhere")
        assert elsewhere.receive() == "elsewhere"


def test_client_resumes(groups: Groups) -> None:
    """With the position that it has, after a cut."""
    app = chat(groups)
    with connect(app, "/1") as client:
        position = str(client.receive()).split()[0]
    groups.send_many([("room.1", "one"), ("room.1", "two")])
    with connect(app, f"/1?{position}") as client:
        assert [client.receive(), client.receive()] == ["one", "two"]
        assert client.receive() == f"{groups.position('room.1')} True"


def test_callback_may_send(groups: Groups) -> None:
    """Of a detached connection, which is a member."""

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        groups.join("all", ws, wrap=lambda publication: f"{publication.data}!")
        ws.send("joined")
        ws.detach(lambda ws, message: groups.send("all", message))
        return []

    with connect(application) as one, connect(application) as other:
        assert one.receive() == other.receive() == "joined"
        one.send("hello")
        assert one.receive() == other.receive() == "hello!"


PROGRAM = """
import os

from gws_middleware.groups import Groups

groups = Groups()


def application(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        groups.send("all", f"from {environ['PATH_INFO']}")
        start_response("204 No Content", [])
        return []
    groups.join("all", ws)
    ws.send(str(os.getpid()))
    for message in ws:
        groups.send("all", message)
    return []
"""


def test_two_workers_share_groups(tmp_path: Path) -> None:
    """Nothing is configured: the file is that of the working directory."""
    (tmp_path / "wsgi_groups.py").write_text(PROGRAM)
    options = ["--chdir", str(tmp_path), "--workers", "2"]
    with (
        automatic_groups(tmp_path) as directory,
        launch("worker", tmp_path / "server", "wsgi_groups:application", options=options) as server,
        ExitStack() as stack,
    ):
        here = Groups(project=tmp_path)
        stack.callback(here.release)
        members: dict[bytes, RawClient] = {}
        while len(members) < 2:
            client = stack.enter_context(server.connect())
            client.upgrade("/")
            members.setdefault(client.read_frame().payload, client)
        one, other = members.values()
        one.text("from a member")
        assert one.read_frame().payload == other.read_frame().payload == b"from a member"
        server.get("/a-request")
        assert one.read_frame().payload == other.read_frame().payload == b"from /a-request"
        here.send("all", "from another process")
        assert one.read_frame().payload == other.read_frame().payload == b"from another process"
        assert directory.is_dir()


def test_publication_is_read_without_a_websocket(groups: Groups) -> None:
    """Server-sent events: the body of a response iterates."""

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        listener = groups.listen("room.1", timeout=5)
        return (f"data: {publication.message}\n\n".encode() for publication in listener)

    body = application({}, lambda *arguments: None)  # type: ignore[arg-type, return-value]
    groups.send("room.1", {"n": 1})
    groups.send("room.1", "two")
    assert [next(body), next(body)] == [b'data: {"n":1}\n\n', b"data: two\n\n"]
