"""Groups of a Flask application: in its test, and with two workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from flask import Flask, request

from gws_middleware import WebSocket
from gws_middleware.flask import websocket_route
from gws_middleware.groups import Groups, History
from gws_middleware.testing import connect
from tests.support.grouplogs import automatic_groups
from tests.support.rawclient import RawClient
from tests.support.servers import launch


@pytest.fixture
def groups() -> Iterator[Groups]:
    """In memory, as a test of a project has them."""
    made = Groups("memory://", history={"room": History()})
    yield made
    made.release()


@pytest.fixture
def app(groups: Groups) -> Flask:
    """A chat: members that wait, members without a greenlet, and a form."""
    made = Flask("chat")

    @websocket_route(made, "/rooms/<name>")
    def room(ws: WebSocket, name: str) -> None:
        joined = groups.join(f"room.{name}", ws, since=request.args.get("since"))
        ws.send(str(joined.position))
        for message in ws:
            groups.send(f"room.{name}", message)

    @websocket_route(made, "/rooms/<name>/listening")
    def listening(ws: WebSocket, name: str) -> None:
        groups.join(f"room.{name}", ws)
        ws.send("joined")
        ws.detach()

    @made.post("/rooms/<name>")
    def post(name: str) -> str:
        return str(groups.send(f"room.{name}", {"text": request.form["text"]}))

    return made


def test_views_and_requests_send_to_members(app: Flask, groups: Groups) -> None:
    """With ``memory://``, the test client of this package, and that of Flask."""
    with connect(app, "/rooms/a") as one, connect(app, "/rooms/a/listening") as other:
        assert one.receive() and other.receive()
        one.send("hello")
        assert one.receive() == other.receive() == "hello"
        position = app.test_client().post("/rooms/a", data={"text": "by a form"}).text
        assert one.receive_json() == other.receive_json() == {"text": "by a form"}
    assert position == str(groups.position("room.a"))
    with connect(app, f"/rooms/a?since={position}") as again:
        assert again.receive() == position


PROGRAM = """
import os

from flask import Flask
from gws_middleware.flask import websocket_route
from gws_middleware.groups import Groups

app = Flask(__name__)
groups = Groups()


@app.get("/")
def index():
    return ""


@app.post("/send/<text>")
def send(text):
    groups.send("all", text)
    return ""


@websocket_route(app, "/all")
def everything(ws):
    groups.join("all", ws)
    ws.send(str(os.getpid()))
    ws.detach(lambda ws, message: groups.send("all", message))
"""


def test_two_workers_share_groups(tmp_path: Path) -> None:
    """Nothing is configured: the file is that of the working directory."""
    (tmp_path / "flask_groups.py").write_text(PROGRAM)
    options = ["--chdir", str(tmp_path), "--workers", "2"]
    with (
        automatic_groups(tmp_path),
        launch("worker", tmp_path / "server", "flask_groups:app", options=options) as server,
        ExitStack() as stack,
    ):
        members: dict[bytes, RawClient] = {}
        while len(members) < 2:
            client = stack.enter_context(server.connect())
            client.upgrade("/all")
            members.setdefault(client.read_frame().payload, client)
        one, other = members.values()
        one.text("from a member")
        assert one.read_frame().payload == other.read_frame().payload == b"from a member"
        with server.connect() as poster:
            poster.send(b"POST /send/posted HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            assert poster.read_response().status == 200
        assert one.read_frame().payload == other.read_frame().payload == b"posted"
