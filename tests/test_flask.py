"""``flask``: WebSocket routes of Flask, in one process and under ``flask run`` and ``flask gws-run``."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, redirect, request
from flask.cli import FlaskGroup

from gws_middleware import ConnectionClosed, HandshakeRefused, WebSocket
from gws_middleware.flask import NO_SERVER, init_app, websocket_route
from gws_middleware.testing import connect

from .support.documents import blocks, command, serve
from .support.inprocess import hub_errors, until
from .support.programs import environment, run_pytest, run_python
from .support.rawclient import RawClient, upgrade_request
from .support.seam import cut
from .support.servers import ROOT, STOP_TIMEOUT
from .support.waiting import eventually

__all__ = ["hub_errors"]

START = 60.0


@pytest.fixture
def app() -> Flask:
    """An application with a page."""
    made = Flask("site")
    made.add_url_rule("/page", "page", lambda: "a page")
    return made


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The log records of WARNING and above."""
    return [(one.name, one.getMessage()) for one in caplog.records if one.levelno >= logging.WARNING]


def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


# --- routes --------------------------------------------------------------------------------------------------------


def test_view_gets_the_websocket_and_the_variables_of_the_rule(app: Flask) -> None:
    """With ``request``, as in any view. The view may return None."""

    @websocket_route(app, "/rooms/<name>/<int:number>")
    def room(ws: WebSocket, name: str, number: int) -> None:
        ws.send_json([name, number, request.args["q"], request.endpoint])

    with connect(app, "/rooms/a/7?q=x") as client:
        assert client.receive_json() == ["a", 7, "x", "room"]
        assert client.receive() is None
    assert client.close_code == 1000


def test_blueprint_has_routes_too(app: Flask) -> None:
    """With its prefix, and the options of ``route``."""
    chat = Blueprint("chat", __name__, url_prefix="/chat")
    websocket_route(chat, "/<room>", endpoint="talk", strict_slashes=False)(lambda ws, room: ws.send(room))
    app.register_blueprint(chat)
    with connect(app, "/chat/x") as client:
        assert client.receive() == "x"
    assert app.view_functions.keys() >= {"chat.talk"}
    assert app.test_client().get("/chat/x").status_code == 426


def test_view_is_returned_as_it_is(app: Flask) -> None:
    """One view may have several rules, and be called by other code."""
    assert websocket_route(app, "/a")(websocket_route(app, "/b", endpoint="b")(echo)) is echo
    for path in ("/a", "/b"):
        with connect(app, path) as client:
            client.send("x")
            assert client.receive() == "x"


def test_async_view_is_refused(app: Flask) -> None:
    """Its coroutine would never be awaited."""

    async def view(ws: WebSocket) -> None: ...

    with pytest.raises(TypeError, match=r"view.* is async: a WebSocket view is a synchronous function"):
        websocket_route(app, "/x")(view)


def test_detached_connection_goes_on(app: Flask) -> None:
    """The view has returned None, and the callbacks get the messages."""
    websocket_route(app, "/")(lambda ws: ws.detach(lambda ws, message: ws.send(message * 2)))
    with connect(app) as client:
        client.send("x")
        assert client.receive() == "xx"


# --- refusals ------------------------------------------------------------------------------------------------------

NOTHING = ("gws_middleware", "WebSocket '/': the application neither accepted nor answered")
RAISED = ("site", "Exception on / [GET]")
ANSWERS: dict[str, tuple[Callable[[WebSocket], Any], int, list[tuple[str, str]]]] = {
    "abort": (lambda ws: abort(403), 403, []),
    "redirect": (lambda ws: redirect("/login"), 302, []),
    "response": (lambda ws: Response("no", 401), 401, []),
    "text": (lambda ws: ("no", 404), 404, []),
    "close": (lambda ws: ws.close(), 403, []),
    "nothing": (lambda ws: None, 500, [NOTHING]),
    "an exception": (lambda ws: 1 / 0, 500, [RAISED]),
}
"""What a view does, the status of the answer, and the log records."""


@pytest.mark.parametrize("answer", ANSWERS)
def test_view_answers_with_http_before_the_101(app: Flask, caplog: pytest.LogCaptureFixture, answer: str) -> None:
    """An ordinary response, ``abort()``, or ``close()`` and None. None alone is an error, as in plain WSGI."""
    view, status, logged = ANSWERS[answer]
    websocket_route(app, "/")(view)
    with pytest.raises(HandshakeRefused) as refused, connect(app):
        pass
    assert (refused.value.status_code, records(caplog)) == (status, logged)


@pytest.mark.parametrize("through", ["websocket_route", "init_app"])
def test_plain_http_is_answered_with_426(app: Flask, through: str) -> None:
    """Instead of Werkzeug's 400 (RFC 9110 15.5.22)."""
    if through == "websocket_route":
        websocket_route(app, "/echo")(echo)
    else:
        init_app(app)
        app.route("/echo", websocket=True)(lambda: "")
    response = app.test_client().get("/echo")
    assert (response.status_code, response.text) == (426, "This address serves only WebSockets.\n")
    assert (response.headers["Upgrade"], response.headers["Connection"]) == ("websocket", "Upgrade")


@pytest.mark.parametrize("software", ["WSGIServer/0.2", "waitress"])
def test_strict_server_is_sent_no_hop_by_hop_header(app: Flask, software: str) -> None:
    """Such a server would answer with 500 (PEP 3333)."""
    websocket_route(app, "/echo")(echo)
    response = app.test_client().get("/echo", environ_overrides={"SERVER_SOFTWARE": software})
    assert (response.status_code, "Upgrade" in response.headers, "Connection" in response.headers) == (
        426,
        False,
        False,
    )


def test_page_may_have_the_same_rule(app: Flask) -> None:
    """HTTP gets the page."""
    websocket_route(app, "/page")(echo)
    assert app.test_client().get("/page").text == "a page"
    with connect(app, "/page") as client:
        client.send("x")
        assert client.receive() == "x"


def test_handshake_for_a_page_is_a_400(app: Flask) -> None:
    """The request has the upgrade, so 426 would be wrong."""
    init_app(app)
    with pytest.raises(HandshakeRefused) as refused, connect(app, "/page"):
        pass
    assert refused.value.status_code == 400


def test_server_without_websockets_is_named_once(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """The answer has the command that runs the application with WebSockets, and one log record has it too."""
    websocket_route(app, "/")(echo)
    for _ in range(2):
        response = app.test_client().get("/", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
    assert (response.status_code, response.text) == (501, NO_SERVER + "\n")
    assert records(caplog) == [("gws_middleware", NO_SERVER)]


# --- the end of the connection -------------------------------------------------------------------------------------


def send_for_ever(ws: WebSocket) -> None:
    """Sends until the peer has disconnected and ``send`` raises ConnectionClosed."""
    while True:
        ws.send("x")
        try:
            ws.receive(timeout=0.01)
        except TimeoutError:
            pass


def by_decorator(app: Flask) -> None:
    websocket_route(app, "/")(send_for_ever)


def by_hand(app: Flask) -> None:
    """A view without the decorator."""
    init_app(app)
    app.route("/", websocket=True)(lambda: send_for_ever(request.environ["wsgi.websocket"]))


def in_a_blueprint(app: Flask) -> None:
    """An application with an error handler for all exceptions."""
    blueprint = Blueprint("all", __name__)
    blueprint.register_error_handler(Exception, lambda error: 1 / 0)
    websocket_route(blueprint, "/")(send_for_ever)
    app.register_blueprint(blueprint)


def with_a_handler_for_everything(app: Flask) -> None:
    app.register_error_handler(Exception, lambda error: 1 / 0)
    by_hand(app)


@pytest.mark.parametrize("how", [by_decorator, by_hand, in_a_blueprint, with_a_handler_for_everything])
@pytest.mark.parametrize("end", ["close", "EOF"])
def test_peer_that_disconnects_is_no_error(
    app: Flask, caplog: pytest.LogCaptureFixture, how: Callable[[Flask], None], end: str
) -> None:
    """Neither Flask nor the wrapper logs anything."""
    ended: list[BaseException | None] = []
    app.teardown_request(ended.append)
    how(app)
    with connect(app) as client:
        assert client.receive() == "x"
        if end == "EOF":
            cut(client)
    until(lambda: ended)
    assert records(caplog) == []


def raises(ws: WebSocket) -> None:
    ws.send("x")
    raise LookupError("the reason")


def test_view_that_raises_is_logged_once(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """By Flask. The connection closes with 1011."""
    websocket_route(app, "/broken")(raises)
    with connect(app, "/broken") as client:
        assert list(client) == ["x"]
    assert client.close_code == 1011
    assert records(caplog) == [("site", "Exception on /broken [GET]")]


@pytest.mark.parametrize("how", ["websocket_route", "init_app"])
def test_end_of_another_connection_is_an_error(app: Flask, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """ConnectionClosed is the end of the view's connection only if that has ended."""

    def view(ws: WebSocket) -> None:
        ws.accept()
        raise ConnectionClosed(4001)

    if how == "init_app":
        init_app(app)
        app.route("/", websocket=True)(lambda: view(request.environ["wsgi.websocket"]))
    else:
        websocket_route(app, "/")(view)
    with connect(app) as client:
        assert client.receive() is None
    assert client.close_code == 1011
    assert "Exception on / [GET]" in [message for _, message in records(caplog)]


def test_error_page_of_an_accepted_view_is_swallowed(app: Flask) -> None:
    """``abort()`` after the 101 ends the connection, as a returned response does."""

    def view(ws: WebSocket) -> None:
        ws.accept()
        abort(404)

    websocket_route(app, "/")(view)
    with connect(app) as client:
        assert client.receive() is None
    assert client.close_code == 1000


# --- docs/flask.md -------------------------------------------------------------------------------------------------

GUIDE = ROOT / "docs" / "flask.md"


def programs(directory: Path) -> dict[str, str]:
    """Write the programs of the page into a folder."""
    found = {block.splitlines()[0].removeprefix("# "): block for block in blocks(GUIDE, "python")}
    for name, block in found.items():
        (directory / name).write_text(block)
    return found


def test_guide_s_test_passes(tmp_path: Path) -> None:
    """The first program passes the test of the page."""
    assert sorted(programs(tmp_path)) == ["chatsite.py", "detached.py", "test_chatsite.py"]
    done = run_pytest(tmp_path, "test_chatsite.py", paths=[tmp_path])
    assert "1 passed" in done.stdout, done.stdout


def test_guide_s_detached_view_has_its_context(tmp_path: Path) -> None:
    """The callback pushes the application's context."""
    namespace: dict[str, Any] = {"__name__": "detached"}
    exec(programs(tmp_path)["detached.py"], namespace)
    with connect(namespace["app"], "/echo") as client:
        client.send("x")
        assert client.receive() == "detached: x"


def test_guide_s_production_command_serves(tmp_path: Path) -> None:
    """As the page has them."""
    programs(tmp_path)
    with (
        serve(command(GUIDE, "chatsite:app"), tmp_path / "server", files=tmp_path) as server,
        server.connect() as client,
    ):
        client.upgrade("/chat/lobby")
        client.text("x")
        assert client.read_frame().payload == b"lobby: x"


# --- the commands --------------------------------------------------------------------------------------------------

PROGRAM = """
from flask import Flask
from gws_middleware.flask import websocket_route

app = Flask(__name__)

@app.get("/")
def index():
    return "VERSION"

@websocket_route(app, "/echo")
def echo(ws):
    for message in ws:
        ws.send(f"VERSION: {message}")
"""


class Running:
    """A ``flask`` command that serves the program in ``directory``."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self.directory, self.process, self._log = directory, process, log
        self.port = 0

    def write(self, version: str) -> None:
        """Write the program, or another one."""
        (self.directory / "site_of_flask.py").write_text(PROGRAM.replace("VERSION", version))

    def log(self) -> str:
        return self._log.read_text()

    def listening(self) -> int:
        """The port, read from the log."""
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.log())
        assert self.process.poll() is None, self.log()
        return int(found[1]) if found else 0

    def connect(self) -> RawClient:
        return RawClient(("127.0.0.1", self.port), timeout=START)

    def answer(self, message: str) -> str:
        """The answer to a message, on a new connection."""
        with self.connect() as client:
            client.upgrade("/echo")
            client.text(message)
            answer = client.read_frame().payload.decode()
            client.close_handshake()
        return answer


@contextmanager
def flask(directory: Path, *arguments: str, **env: str) -> Iterator[Running]:
    """``flask --app site_of_flask …``, until the end of the block."""
    log = directory / "log"
    running = Running(directory, None, log)  # type: ignore[arg-type]
    running.write("1")
    with log.open("wb") as output:
        running.process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "site_of_flask", *arguments],
            cwd=directory,
            env={**environment(), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        running.port = eventually(running.listening, "the port in the log", START)
        yield running
    finally:
        running.process.terminate()
        try:
            running.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait()
            raise


def test_gws_run_serves_websockets(tmp_path: Path) -> None:
    """With the worker of this package and options of gunicorn. A stop closes the WebSockets."""
    with flask(tmp_path, "gws-run", "--port", "0", "--workers", "1", "--graceful-timeout", "9") as running:
        answers = [running.answer("x"), running.answer("y")]
    assert answers == ["1: x", "1: y"]
    assert "GeventWebSocketWorker" in running.log() and '"GET /echo HTTP/1.1" 101' in running.log()
    assert (running.process.returncode, "Traceback" in running.log()) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "env"),
    [(["--debug", "gws-run"], {}), (["gws-run", "--reload"], {}), (["gws-run"], {"FLASK_DEBUG": "1"})],
)
def test_gws_run_loads_new_code(tmp_path: Path, arguments: list[str], env: dict[str, str]) -> None:
    """In debug mode, or with ``--reload``: open WebSockets are closed, and new ones get the new code."""
    with flask(tmp_path, *arguments, "--port", "0", **env) as running, running.connect() as client:
        client.upgrade("/echo")
        client.text("x")
        before = client.read_frame().payload.decode()
        running.write("2, which is longer")
        code = client.read_frame().code
        client.close_handshake()
        eventually(lambda: running.answer("x") == "2, which is longer: x", "the new code", START)
    assert (before, code in (1001, 1012)) == ("1: x", True)


@pytest.mark.parametrize(
    ("host", "bind"), [("127.0.0.1", "127.0.0.1:5000"), ("::1", "[::1]:5000"), ("localhost", "localhost:5000")]
)
def test_gws_run_binds_as_flask_run_does(tmp_path: Path, host: str, bind: str) -> None:
    """The default port is that of Flask, and an IPv6 address is put into brackets."""
    (tmp_path / "site_of_flask.py").write_text(PROGRAM)
    command = ["-m", "flask", "--app", "site_of_flask", "gws-run", "--host", host, "--print-config"]
    done = run_python(*command, folder=tmp_path)
    assert re.search(r"^bind += (.*)$", done.stdout, re.MULTILINE)[1] == str([bind]), done  # type: ignore[index]


def test_flask_run_names_the_command(tmp_path: Path) -> None:
    """Werkzeug's server cannot open WebSockets: the answer and the log have the command to use."""
    with flask(tmp_path, "run", "--port", "0") as running, running.connect() as client:
        client.send(upgrade_request("/echo"))
        response = client.read_response()
        eventually(lambda: NO_SERVER in running.log(), "the sentence in the log")
    assert (response.status, response.body.decode()) == (501, NO_SERVER + "\n")


def test_gws_run_needs_an_application_that_gunicorn_can_load(tmp_path: Path) -> None:
    """A command with its own application factory has no name for the application."""
    script = "from flask.cli import FlaskGroup; from flask import Flask; FlaskGroup(create_app=lambda: Flask('x'))()"
    done = run_python("-c", script, "gws-run", folder=tmp_path)
    assert done.returncode == 2
    assert "gunicorn cannot load the application of this command: name it with flask --app" in done.stderr


def test_gws_run_is_a_command_of_flask() -> None:
    """By its entry point."""
    from click import Context

    group = FlaskGroup(add_default_commands=False)
    command = group.get_command(Context(group), "gws-run")
    assert command is not None and command.short_help == "Run a development server with WebSockets."
