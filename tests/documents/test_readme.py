"""README and docs: what they print is run, what they name exists, where they point is something."""

from __future__ import annotations

import inspect
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from gunicorn.config import Config
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from gws_middleware import WebSocket
from gws_middleware.groups import Groups
from gws_middleware.groups.backends.directory import automatic

from ..support.documents import TIMEOUT, blocks, close_frame, command, opened, serve, url
from ..support.programs import environment, run_pytest, run_python
from ..support.servers import ROOT, Server
from ..support.waiting import eventually

README, SERVERS = ROOT / "README.md", ROOT / "docs" / "servers.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
DJANGO = ROOT / "examples" / "django_view"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def programs(name: str) -> list[str]:
    """The Python programs of README that go by this name: it stands in their first line."""
    return [block for block in blocks(README, "python") if block.startswith(f"# {name}\n")]


def test_programs_are_all_tested_here() -> None:
    """There is no Python in README that the tests below do not run; chat.py is run by django/test_guide.py."""
    found = sorted(block.splitlines()[0] for block in blocks(README, "python"))
    assert found == [
        "# chat.py",
        "# hall.py",
        "# hello.py",
        "# test_ws.py",
        "# views.py",
        "# views.py",
        "# views.py",
        "# wsgi.py",
    ]


def test_first_program_runs_as_printed(tmp_path: Path) -> None:
    """The program at the top, started with the command below it, says hello."""
    [program] = programs("hello.py")
    (tmp_path / "hello.py").write_text(program)
    with (
        serve(command(README, "hello"), tmp_path / "server", files=tmp_path) as server,
        opened(url(server)) as ws,
    ):
        ws.send("reader")
        assert ws.recv(timeout=TIMEOUT) == "Hello, reader!"


@pytest.mark.parametrize("kind", ["gevent", "gevent_pywsgi", "worker"])
def test_wrapper_runs_as_printed(kind: str, tmp_path: Path) -> None:
    """The wsgi.py works under gunicorn's own workers and under ours, and its setting holds."""
    [program] = programs("wsgi.py")
    (tmp_path / "wsgi.py").write_text(program)
    env = {"PYTHONPATH": environment(DJANGO)["PYTHONPATH"], "DJANGO_SETTINGS_MODULE": "project.settings"}
    with (
        serve(["wsgi"], tmp_path / "server", files=tmp_path, kind=kind, env=env) as server,
        opened(url(server, "/ws/")) as ws,
    ):
        ws.send("x" * 65536)
        back = ws.recv(timeout=TIMEOUT)
        ws.send("x" * 65537)
        frame = close_frame(ws)
    assert (back, frame and frame[0]) == ("x" * 65536, 1009)


# --- the views -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """README's Django views, each at the path of its own name."""
    folder = tmp_path_factory.mktemp("views")
    names = []
    for number, program in enumerate(programs("views.py")):
        names.append((f"views_{number}", re.findall(r"^def (\w+)\(request\)", program, re.MULTILINE)))
        (folder / f"views_{number}.py").write_text(program)
    paths = "".join(f"    path('{name}/', {module}.{name}),\n" for module, found in names for name in found)
    imports = "".join(f"import {module}\n" for module, _ in names)
    (folder / "urls.py").write_text(f"from django.urls import path\n{imports}urlpatterns = [\n{paths}]\n")
    settings = "from project.settings import *\nROOT_URLCONF = 'urls'\nALLOWED_HOSTS = ['*']\n"
    (folder / "settings.py").write_text(settings)
    env = {"PYTHONPATH": environment(DJANGO)["PYTHONPATH"], "DJANGO_SETTINGS_MODULE": "settings"}
    with serve(["project.wsgi"], folder / "server", files=folder, env=env) as server:
        yield server


def test_echo_view_returns_what_is_sent(views: Server) -> None:
    """The view of "Three ways in"."""
    with opened(url(views, "/echo/")) as ws:
        ws.send("x")
        assert ws.recv(timeout=TIMEOUT) == "x"


def test_guarded_view_refuses_without_the_token(views: Server) -> None:
    """The view's own 403 goes out instead of the 101."""
    with pytest.raises(InvalidStatus) as refused, opened(url(views, "/guarded/")):
        pass
    assert refused.value.response.status_code == 403


def test_guarded_view_accepts_with_the_token(views: Server) -> None:
    """Subprotocol, header, JSON and close frame of the view arrive."""
    with opened(url(views, "/guarded/?token=let%20me%20in"), subprotocols=["json.v2", "json.v1"]) as ws:
        ws.send("[1]")
        answer = ws.recv(timeout=TIMEOUT)
        assert close_frame(ws) == (1000, "that was all")
    assert ws.response is not None
    assert (ws.subprotocol, ws.response.headers["X-Room"], answer) == ("json.v1", "lobby", '{"you sent":[1]}')


def test_clock_view_answers_after_it_has_returned(views: Server) -> None:
    """The connection is detached, and its messages are answered."""
    with opened(url(views, "/clock/")) as ws:
        ws.send("x")
        assert ws.recv(timeout=TIMEOUT) == "you sent x"


# --- groups --------------------------------------------------------------------------------------------------------


def test_hall_reaches_all_workers_as_printed(tmp_path: Path) -> None:
    """The program and the command of "Send to many connections": all members in both workers, the sender too."""
    [program] = programs("hall.py")
    (tmp_path / "hall.py").write_text(program)
    arguments = command(README, "hall")
    assert arguments[:2] == ["-w", "2"]
    groups = Groups(project=tmp_path)  # what the program has, which runs there
    with serve(arguments, tmp_path / "server", files=tmp_path) as server, ExitStack() as stack:
        stack.callback(shutil.rmtree, automatic(tmp_path))
        stack.callback(groups.release)
        members: list[ClientConnection] = []

        def both_workers_have_members() -> bool:
            members.append(stack.enter_context(opened(url(server))))
            workers = psutil.Process(server.process.pid).children()
            states = [[each.status for each in worker.net_connections("tcp")] for worker in workers]
            return sum("ESTABLISHED" in found for found in states) == 2

        eventually(both_workers_have_members, "connections in two workers")
        eventually(lambda: groups.count("hall") == len(members), "members")
        members[0].send("hello")
        assert [ws.recv(timeout=TIMEOUT) for ws in members] == ["hello"] * len(members)


# --- the rest of what is printed -----------------------------------------------------------------------------------


def test_tests_run_as_printed(tmp_path: Path) -> None:
    """The tests of "Test your application" pass."""
    [program] = programs("test_ws.py")
    (tmp_path / "test_ws.py").write_text(program)
    done = run_pytest(tmp_path, "--rootdir", str(tmp_path), "test_ws.py", paths=[DJANGO])
    assert (done.returncode, "2 passed" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize("number", range(len(blocks(SERVERS, "python"))))
def test_server_program_runs_as_printed(number: int, tmp_path: Path) -> None:
    """The programs of docs/servers.md serve; only the address is another: a socket that is bound already."""
    program = blocks(SERVERS, "python")[number]
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("w") as output:
        fd = listener.fileno()
        bound = f"__import__('gevent.socket').socket.socket(fileno={fd})"
        (tmp_path / "serve.py").write_text(program.replace('("127.0.0.1", 8000)', bound))
        process = subprocess.Popen(
            [sys.executable, "serve.py"],
            cwd=tmp_path,
            env=environment(),
            pass_fds=[fd],
            stdout=output,
            stderr=output,
        )
        host, port = listener.getsockname()
        try:
            with opened(f"ws://{host}:{port}/") as ws:
                ws.send("x")
                assert ws.recv(timeout=TIMEOUT) == "x", log.read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT)


def test_readme_starts_with_make_run_and_make_test() -> None:
    """The first two commands of the page are those, and they are targets."""
    first = [line.split("#")[0].strip() for line in blocks(README, "sh")[0].splitlines()]
    assert first == ["make run", "make test"]


@pages
def test_page_names_make_targets_that_exist(page: Path) -> None:
    """``make x`` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", page.read_text("utf-8"), re.MULTILINE))
    assert {one or other for one, other in named} <= targets


@pages
def test_page_has_gunicorn_commands_that_gunicorn_takes(page: Path) -> None:
    """Each gunicorn command parses, its worker class can be loaded and its configuration file is there."""
    for line in "\n".join(blocks(page, "sh")).splitlines():
        if "gunicorn " not in line:
            continue
        config = Config()
        arguments = config.parser().parse_args(line.split("#")[0].partition("gunicorn ")[2].split())
        assert arguments.config is None or (ROOT / arguments.config).is_file(), line
        if arguments.worker_class is not None:
            config.set("worker_class", arguments.worker_class)
            assert config.worker_class, line


@pages
def test_page_links_to_files_that_exist(page: Path) -> None:
    """A relative link leads to a file or folder of the repository."""
    links = re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link.split("#")[0]).exists()]
    assert missing == []


@pages
def test_page_names_symbols_that_exist(page: Path) -> None:
    """Every fully named symbol of the package can be imported, in a process in which Django is set up."""
    names = sorted(set(re.findall(r"\bgws_middleware(?:\.\w+)+", page.read_text("utf-8"))))
    # Neither a path like gws_middleware/config.py nor the identifier of a system check nor a permission (of which
    # test_admin.py has a test) is a symbol.
    others = re.compile(r".*\.([EW]\d{3}|(view|change)_connection)")
    symbols = [name for name in names if not others.fullmatch(name) and not (ROOT / name.replace(".", "/", 1)).exists()]
    script = "import sys, pkgutil, django; django.setup(); list(map(pkgutil.resolve_name, sys.argv[1:]))"
    settings = {"DJANGO_SETTINGS_MODULE": "tests.django.project.settings"}
    ended = run_python("-c", script, *symbols, env=settings)
    assert ended.returncode == 0, ended.stderr


def test_table_of_methods_is_right() -> None:
    """README's table of what a WebSocket can do names attributes with their arguments."""
    table = README.read_text("utf-8").partition("\n## Talk\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    wrong = []
    for name, _, arguments in (found for row in rows for found in re.findall(r"`(\w+)(\((.*?)\))?`", row)):
        attribute = inspect.getattr_static(WebSocket, name, None)
        known = inspect.signature(attribute).parameters if callable(attribute) else ()
        if attribute is None or not set(re.findall(r"(\w+)(?:=|,|$)", re.sub(r"=[^,]+", "=", arguments))) <= set(known):
            wrong.append(f"{name}({arguments})")
    assert len(rows) > 5
    assert wrong == []


@pytest.mark.parametrize(
    ("pattern", "source"),
    [
        (r"CPython (3\.\d+) to", r'requires-python = ">=(3\.\d+)"'),
        (r"CPython 3\.\d+ to (3\.\d+)", r'.*"Programming Language :: Python :: (3\.\d+)"'),
        (r"With Python (3\.\d+) or newer", r'requires-python = ">=(3\.\d+)"'),
        (r"\| gunicorn \| (\S+) or newer", r'gunicorn\[gevent\]>=([\d.]+)"'),
        (r"\| gevent \| (\S+) or newer", r'"gevent>=([\d.]+)"'),
        (r"Django (\S+) and newer", r'"django>=([\d.]+)"'),
    ],
)
def test_version_is_that_of_the_package(pattern: str, source: str) -> None:
    """README asks for what pyproject.toml asks for."""
    stated = re.search(pattern, README.read_text("utf-8"))
    packaged = re.search(source, (ROOT / "pyproject.toml").read_text("utf-8"), re.DOTALL)
    assert stated and packaged and stated[1] == packaged[1]


def test_settings_page_is_what_the_fields_say() -> None:
    """docs/settings.md is generated; run ``python docs/generate.py`` after a change of Config."""
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["settings"]()
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == generated
