"""``gunicornworker``: how a worker is found, and what is replaced in it. Its stop in real servers is in
``process/test_shutdown.py``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from gws_middleware.process import shutdown
from gws_middleware.process.shutdown import ShutdownCoordinator
from gws_middleware.servers.gunicornworker import find_worker, keep_settings, watch_worker

from ..support.inprocess import package_path


class Worker:
    """What is used of a gunicorn worker."""

    def __init__(self) -> None:
        self.alive, self.nr, self.max_requests = True, 0, 1
        self.cfg = SimpleNamespace(graceful_timeout=30)
        self.notified = 0

    def notify(self) -> None:
        self.notified += 1

    def run(self, function: Callable[[], Any]) -> Any:
        return function()


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``shutdown.watch()`` is called with; this process is watched by no worker of a test."""
    arguments: dict[str, Any] = {}

    def watch(is_stopping: Any, *, at_exit: bool) -> None:
        arguments.update(is_stopping=is_stopping, at_exit=at_exit)

    monkeypatch.setattr(shutdown, "watch", watch)
    monkeypatch.setattr(shutdown, "is_watched", lambda: bool(arguments))
    return arguments


def test_worker_is_the_self_of_run_on_the_main_stack() -> None:
    """Nothing else on the stack is mistaken for one."""
    worker = Worker()

    class Runner:
        def run(self) -> Any:
            return worker.run(find_worker)

    assert (Runner().run(), find_worker()) == (worker, None)


def test_notify_of_a_foreign_worker_is_replaced_once(watched: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It still notifies, and checks for the stop each time."""
    checks: list[bool] = []
    monkeypatch.setattr(ShutdownCoordinator, "check", lambda self: checks.append(self._is_stopping()))
    worker = Worker()
    for _ in range(2):
        worker.run(watch_worker)
    worker.notify()
    worker.alive = False
    worker.notify()
    assert (worker.notified, checks) == (2, [False, True])
    assert (watched["is_stopping"](), watched["at_exit"]) == (True, True)


def test_worker_of_our_class_is_left_as_it_is(watched: dict[str, Any]) -> None:
    """It has a coordinator of its own, and closes before its process exits."""
    worker: Any = Worker()
    worker.shutdown = ShutdownCoordinator(lambda: not worker.alive, 30)
    worker.run(watch_worker)
    assert "notify" not in vars(worker)
    assert (watched["is_stopping"](), watched["at_exit"]) == (False, False)


def test_process_without_a_worker_closes_at_its_exit(watched: dict[str, Any]) -> None:
    """E.g. a server of gevent.pywsgi."""
    watch_worker()
    assert watched == {"is_stopping": None, "at_exit": True}


WATCH = """
import os
from types import SimpleNamespace
from gws_middleware.servers.gunicornworker import watch_worker

class Worker:
    alive, nr, max_requests, cfg = True, 0, 1, SimpleNamespace(graceful_timeout=1)
    def notify(self): pass
    def run(self): watch_worker()

watch_worker()
if not os.fork():
    worker = Worker()
    worker.run()
    os._exit("notify" in vars(worker))
_, status = os.wait()
print(os.waitstatus_to_exitcode(status))
"""


def test_forked_worker_watches_for_itself() -> None:
    """Also where its parent has opened a WebSocket: that was no worker, so no ``notify`` was replaced."""
    answer = subprocess.run(
        [sys.executable, "-c", WATCH], env=package_path(), capture_output=True, text=True, timeout=30, check=True
    )
    assert answer.stdout == "1\n"


@pytest.fixture
def kept() -> Config:
    """Settings of gunicorn, kept."""
    cfg = Config()
    cfg.set("bind", "127.0.0.1:0")
    cfg.set("keepalive", 7)
    keep_settings(cfg)
    return cfg


def test_settings_that_are_kept_are_those_of_gunicorn(kept: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the value that gunicorn finds, and gunicorn does not look for it."""
    cfg = Config()
    cfg.set("bind", "127.0.0.1:0")
    cfg.set("keepalive", 7)
    values = {name: getattr(cfg, name) for name in cfg.settings}
    monkeypatch.setattr(Config, "__getattr__", lambda cfg, name: pytest.fail(f"{name} is looked for"))
    assert {name: getattr(kept, name) for name in kept.settings} == values


def test_setting_that_is_kept_can_be_set(kept: Config) -> None:
    """As gunicorn does it: by ``set()`` alone, checked, and by no other name."""
    kept.set("keepalive", "9")
    with pytest.raises(AttributeError, match="No configuration setting for: keep_alive"):
        kept.set("keep_alive", 3)
    with pytest.raises(AttributeError, match="Invalid access!"):
        kept.keepalive = 3
    with pytest.raises(AttributeError, match="No configuration setting for: keep_alive"):
        _ = kept.keep_alive
    assert kept.keepalive == 9
