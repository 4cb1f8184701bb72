"""``gunicorn_conf.py``, which people copy: gunicorn ignores a name that it does not know, so a test has to look."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from gws_middleware.worker import GeventWebSocketWorker

from ..support.documents import opened, url
from ..support.servers import ROOT, launch
from ..support.waiting import eventually

CONF = ROOT / "gunicorn_conf.py"


def settings() -> dict[str, Any]:
    """What the file sets."""
    values = runpy.run_path(str(CONF))
    return {name: values[name] for name in re.findall(r"^(\w+) = ", CONF.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("name", settings())
def test_setting_is_one_of_gunicorn(name: str) -> None:
    """Each name is known to gunicorn, and its value passes gunicorn's own check."""
    config = Config()
    if name == "control_socket_disable" and name not in config.settings:
        return  # older than 25.1, which has no such socket either
    config.set(name, settings()[name])
    assert config.settings[name].get() == settings()[name]


@pytest.mark.parametrize("paragraph", re.findall(r"(?:^.+\n)*^\w+ = .*\n", CONF.read_text(), re.MULTILINE))
def test_setting_has_a_reason(paragraph: str) -> None:
    """A comment stands above each number."""
    assert paragraph.startswith("# ")


def test_worker_class_is_ours() -> None:
    """Gunicorn finds the worker class by the name that stands there."""
    config = Config()
    config.set("worker_class", settings()["worker_class"])
    assert config.worker_class is GeventWebSocketWorker


@pytest.mark.parametrize(("variable", "workers"), [("3", 3), ("", None), (None, None)])
def test_workers_follow_web_concurrency(
    variable: str | None, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WEB_CONCURRENCY says how many workers there are; unset or empty, there is one for each core."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    if variable is not None:
        monkeypatch.setenv("WEB_CONCURRENCY", variable)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert settings()["workers"] == (workers or cores)


def test_access_log_tells_how_long_a_websocket_was_open(tmp_path: Path) -> None:
    """The line of a WebSocket has status 101, the bytes of the frames sent and the seconds."""
    access = tmp_path / "access.log"
    options = ["--config", str(CONF), "--access-logfile", str(access)]
    options += ["--access-logformat", settings()["access_log_format"]]  # launch has one of its own
    env = {"WEB_CONCURRENCY": "1"}
    with launch("worker", tmp_path / "server", options=options, env=env, answers=False) as server:
        with opened(url(server, "/echo")) as ws:
            ws.send("x" * 10)
            ws.recv(timeout=10)
        line = eventually(access.read_text, "a line in the access log")
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[[^]]+\] "GET /echo HTTP/1\.1" 101 \d\d "-" "Python/[^"]+" "-" \d+\.\d{6}\n', line
    )
