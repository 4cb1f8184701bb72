"""docs/operations.md: its programs are run, its tables are those of the code."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright
from prometheus_client import CollectorRegistry

from gws_middleware.config import Config
from gws_middleware.connection import logs as records
from gws_middleware.metrics import health
from gws_middleware.metrics.prometheus import Exporter
from gws_middleware.metrics.table import METRICS

from ..support.browsing import ARGUMENTS
from ..support.documents import blocks, command, serve, url
from ..support.inprocess import connected, until
from ..support.notices import find_chromium
from ..support.rawclient import CLOSE, Frame, close_frame
from ..support.servers import BEHAVIOURS, ROOT, Server, launch
from ..support.waiting import eventually
from .test_prometheus import parsed

PAGE = ROOT / "docs" / "operations.md"
TEXT = PAGE.read_text("utf-8")
PROGRAMS = {block.partition("\n")[0].removeprefix("# "): block for block in blocks(PAGE, "python")}
HELLO = """
def application(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"hi"]
    for message in ws:
        ws.send(message)
    return []
"""


def write(folder: Path, *programs: str, others: Mapping[str, str] | None = None) -> None:
    """Programs of the page, and other files by their paths."""
    for name, text in {**{name: PROGRAMS[name] for name in programs}, **(others or {})}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below this heading, each as the texts of its cells."""
    part = TEXT.partition(f"\n{heading}\n")[2]
    found = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert found is not None
    return [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in found[0].splitlines()[2:]]


def names(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def test_programs_are_all_tested_here() -> None:
    """There is no Python on the page that the tests below do not run."""
    assert sorted(PROGRAMS) == [
        "gunicorn_health.py",
        "gunicorn_logs.py",
        "gunicorn_metrics.py",
        "metrics.py",
        "urls.py",
        "views.py",
        "wsgi.py",
    ]
    assert len(PROGRAMS) == len(blocks(PAGE, "python"))


# --- logs ----------------------------------------------------------------------------------------------------------


def test_logging_runs_as_printed(tmp_path: Path) -> None:
    """Each line is a JSON object; that of a WebSocket's end has the fields that the page names, the access log's line
    follows.
    """
    write(tmp_path, "gunicorn_logs.py", others={"hello.py": HELLO})
    with serve(["--config", "gunicorn_logs.py", "hello"], tmp_path / "server", files=tmp_path) as server:
        with server.connect() as client:
            client.upgrade("/room")
            client.text("x")
            client.read_frame()
            client.close_handshake(4001, "bye")
        log = server.log.path
        eventually(lambda: "GET /room" in log.read_text(), "the line of the access log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    [line] = [line for line in lines if line["logger"] == "gws_middleware"]
    fields = [name for row in table("### Fields") for name in names(row[0])]
    assert sorted(fields) == sorted(name for name in line if name.startswith("websocket_"))
    assert (line["websocket_path"], line["websocket_code"], line["websocket_reason"]) == ("/room", 4001, "bye")
    assert (line["level"], line["websocket_messages_sent"], line["websocket_bytes_sent"]) == ("INFO", 1, 7)
    assert [one["logger"] for one in lines if "GET /room" in one["message"]] == ["gunicorn.access"]


def test_line_looks_as_printed() -> None:
    """The example of the page is of the form that a record has."""
    with connected() as (ws, peer):
        peer.close(4001)
        until(lambda: ws.closed)
        template, *_ = records.closing(ws)
    form = re.escape(str(template).replace("%s%s", "%s")).replace("%s", r"\S+").replace(r"%\.1f", r"\d+\.\d")
    [printed] = [line for line in TEXT.splitlines() if line.startswith("WebSocket '")]
    assert re.fullmatch(form, printed), form


# --- metrics -------------------------------------------------------------------------------------------------------


def test_table_of_metrics_is_what_is_exported() -> None:
    """Names, kinds and labels: the table of the code, what ``prometheus_client`` has of it, and the page."""
    exported = CollectorRegistry()
    Exporter(exported)
    kinds = {(one.name + "_total" if one.type == "counter" else one.name): one.type for one in exported.collect()}
    labels = {metric.name + "_total": metric.label for metric in METRICS if metric.label}
    rows = table("## Metrics")
    found = {name: (row[1], names(row[2])) for row in rows for name in names(row[0])}
    assert kinds == {m.name + ("_total" if m.kind == "counter" else ""): m.kind for m in METRICS}
    assert found == {name: (kind, [labels[name]] if name in labels else []) for name, kind in kinds.items()}


def test_table_of_statsd_is_what_is_sent() -> None:
    """Each metric, with its kind."""
    kinds = {"counter": "counter", "gauge": "gauge", "histogram": "timer"}
    found = {name: row[1].partition(";")[0].partition(",")[0] for row in table("### statsd") for name in names(row[0])}
    assert found == {
        ".".join(filter(None, ["websocket", one.key, one.label.upper()])): kinds[one.kind] for one in METRICS
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_run_as_printed(tmp_path: Path, workers: int) -> None:
    """The two hooks, the application that serves, and the one that mounts it beside a project."""
    write(tmp_path, "gunicorn_metrics.py", "metrics.py", "wsgi.py", others={"project/wsgi.py": HELLO})
    shared = tmp_path / "prometheus"
    shared.mkdir()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(shared)} if workers > 1 else {}
    arguments = ["--config", "gunicorn_metrics.py", "--workers", str(workers), "wsgi"]
    with serve(arguments, tmp_path / "server", files=tmp_path, env=env) as server:
        for _ in range(4):
            with server.connect() as client:
                client.upgrade("/")
                client.close_handshake()
        # With several workers, one that has not had its first update yet has the numbers of the others alone.
        eventually(lambda: counts(server).get("websocket_closed_total{code=1000}") == 4, "the numbers", 20)
        kind = server.get("/-/metrics").headers["content-type"]
        body = server.get("/").body
        health_ = json.loads(server.get("/-/health").body)
    assert kind.startswith("text/plain")
    assert (body, health_["draining"]) == (b"hi", False)


def counts(server: Server) -> dict[str, float]:
    """A scrape."""
    return parsed(server.get("/-/metrics").body.decode())


def test_command_for_several_workers_is_gunicorns() -> None:
    """It makes the folder that it names, and starts more than one."""
    block = next(block for block in blocks(PAGE, "sh") if "PROMETHEUS_MULTIPROC_DIR" in block)
    assert "--workers" in command(PAGE, "--workers")
    assert block.count("$PROMETHEUS_MULTIPROC_DIR") == 2


# --- health --------------------------------------------------------------------------------------------------------


def test_table_of_health_is_what_it_answers() -> None:
    """Each key, in its order."""
    assert [name for row in table("## Health") for name in names(row[0])] == list(health.status())


def test_django_view_runs_as_printed(tmp_path: Path) -> None:
    """As a view of the URLconf."""
    settings = "SECRET_KEY = 'x'\nROOT_URLCONF = 'site1.urls'\nALLOWED_HOSTS = ['*']\n"
    entry = "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'site1.settings'\n"
    entry += "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
    modules = {"settings": settings, "wsgi": entry, "views": PROGRAMS["views.py"], "urls": PROGRAMS["urls.py"]}
    write(tmp_path, others={f"site1/{name}.py": text for name, text in modules.items()})
    with serve(["site1.wsgi"], tmp_path / "server", files=tmp_path) as server:
        response = server.get("/-/health/")
    assert (response.status, json.loads(response.body)["connections"]) == (200, 0)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("worker", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self.path))


def ask(path: Path) -> tuple[int, dict[str, Any]]:
    """Status and answer of a worker's own listener."""
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_listener_of_each_worker_runs_as_printed(tmp_path: Path) -> None:
    """It answers for its own worker, with 503 while that drains, and its socket is removed with it."""
    write(tmp_path, "gunicorn_health.py")
    folder = tmp_path / "health"
    folder.mkdir()
    options = ["--config", str(tmp_path / "gunicorn_health.py"), "--graceful-timeout", "9"]
    env = {"HEALTH_FOLDER": str(folder)}
    with launch("worker", tmp_path / "server", BEHAVIOURS, options=options, env=env) as server:
        with server.connect() as client:
            client.upgrade("/echo")
            [path] = folder.iterdir()
            before = ask(path)
            server.kill(signal.SIGTERM)
            close = client.read_frame()
            draining = ask(path)
            client.send(close_frame(1012))
            client.read_until_eof()
        server.wait()
    assert (before[0], before[1]["connections"], before[1]["pid"]) == (200, 1, int(path.stem))
    assert (close, draining[0], draining[1]["draining"]) == (Frame(CLOSE, b"\x03\xf4"), 503, True)
    assert list(folder.iterdir()) == []


# --- clients -------------------------------------------------------------------------------------------------------

ENDS = """
import itertools

codes = [1012, 1006, 1011, 1001, 1013, 1012, 1008]
opened = itertools.count()


def application(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<title>page</title>"]
    code = codes[next(opened)]
    ws.send("welcome")
    if code == 1006:
        ws.abort()
    else:
        ws.close(code, "no" if code == 1008 else "")
    return []
"""


@pytest.fixture
def page() -> Iterator[Any]:
    """An empty tab."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        yield browser.new_page()
        browser.close()


@pytest.mark.skipif(find_chromium() is None, reason="chromium was not found")
def test_client_runs_as_printed(tmp_path: Path, page: Any) -> None:
    """In a browser it connects again after the codes of the table, each time later, and after no other code."""
    write(tmp_path, others={"ends.py": ENDS})
    [client] = blocks(PAGE, "js")
    with serve(["ends"], tmp_path / "server", files=tmp_path) as server:
        page.goto(url(server, scheme="http"))
        found = page.evaluate(
            """([client, address]) => new Promise(done => {
                const waits = [], messages = [], later = window.setTimeout;
                Math.random = () => 0.5;
                window.setTimeout = (call, wait) => { waits.push(wait); later(call, 0); };
                const end = (code, reason) => done({waits, messages, code, reason});
                new Function(client + "; return stayConnected;")()(address, text => messages.push(text), end);
            })""",
            [client, url(server)],
        )
    assert found == {
        "waits": [500, 1000, 2000, 4000, 8000, 16000],
        "messages": ["welcome"] * 7,
        "code": 1008,
        "reason": "no",
    }


def test_table_of_codes_is_what_the_client_does() -> None:
    """The codes with a "yes" are those after which it connects again; 1005 is a close frame without a code."""
    [client] = blocks(PAGE, "js")
    again = set(re.findall(r"\d{4}", client.partition("new Set([")[2].partition("]")[0]))
    rows = table("### What clients should do")
    listed = {code for row in rows if row[2].startswith("yes") for code in re.findall(r"\d{4}", row[0])}
    assert again - {"1005"} == listed


def test_limits_are_settings() -> None:
    """The table names settings that exist."""
    named = {name for row in table("## Limits") for name in names(row[1])}
    assert named <= set(Config.__dataclass_fields__)
