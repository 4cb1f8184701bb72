"""Whatever raises while a request is served, and at whichever line: no slot stays reserved, no connection stays open,
and nothing is left that a drain would wait for.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
import pytest

import gws_middleware
from gws_middleware import WebSocketMiddleware
from gws_middleware.connection import websocket
from gws_middleware.connection.callbacks import Callbacks
from gws_middleware.connection.transport import Transport
from gws_middleware.hooks import Adapter
from gws_middleware.process import shutdown, site
from gws_middleware.process.keepalive import Keepalive
from gws_middleware.process.limits import Slots
from gws_middleware.process.registry import Registry
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from .support.inprocess import forbids, forbids_lazily, hub_errors, until
from .support.registries import here
from .support.seam import PairServer, abandon, use_pair_server

__all__ = ["here", "hub_errors"]


class Numbers:
    """Of one worker, in a table that a test can read."""

    def __init__(self) -> None:
        self.table: dict[str, int] = {}

    def exchange_number(self, name: str, number: int) -> int:
        self.put_numbers({name: number})
        gevent.sleep(0)
        return number

    def put_numbers(self, numbers: Mapping[str, int]) -> None:
        self.table.update(numbers)
        for name in [name for name, number in self.table.items() if not number]:
            del self.table[name]


NUMBERS = Numbers()
OPTIONS: dict[str, Any] = {
    "max_connections": 1,
    "max_connections_per_address": 1,
    "max_connections_per_user": 1,
    "client_address": lambda environ: "one address",
    "user_key": lambda ws: "one user",
    "site_limits": NUMBERS,
    "accept_timeout": 5,
    "close_timeout": 0.05,
    "send_timeout": 0.5,
}


def held_by(registry: Registry) -> dict[str, Any]:
    """All that it holds for requests and connections; each value is empty or 0 when there are none."""
    return {
        "reserved": registry.slots.reserved,
        "holders": len(registry.slots),
        "connections": len(registry),
        "unfinished": registry.unfinished,
        "watched": len(registry.keepalive),
        "numbers": NUMBERS.table,
    }


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are many lines."""
    monkeypatch.setattr(site, "AFTER", 0.0)
    monkeypatch.setattr(site, "RETRY", 0.01)


def is_empty(registry: Registry) -> bool:
    return not any(held_by(registry).values())


# --- the applications ----------------------------------------------------------------------------------------------


def echoes(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


def detaches(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.websocket"].detach(lambda ws, message: ws.send(message), lambda ws: None)
    return []


def lazily(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield from echoes(environ, start_response)


def forgets(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return []


APPS = [echoes, detaches, lazily, forbids, forbids_lazily, forgets]
apps = pytest.mark.parametrize("app", APPS)


def talk(app: Any) -> None:
    """One connection from beginning to end, however far it comes."""
    # The timeout is short: what an exception has cut off is waited for in vain, once for each line.
    client, entered = connect(app, timeout=0.2), False
    with suppress(Exception, Injected):
        client.__enter__()
        entered = True
        client.send("x")
        client.receive()
    # Not its __exit__(), which waits for what an exception may have cut off.
    abandon(client, entered=entered, seconds=2)


# --- each step that calls something --------------------------------------------------------------------------------


class FailedError(Exception):
    """What a step raises."""


def fails(*arguments: Any, **named: Any) -> Any:
    raise FailedError


STEPS: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "adapter.accepting": lambda patch: patch.setattr(Adapter, "accepting", fails),
    "adapter.opened": lambda patch: patch.setattr(Adapter, "opened", fails),
    "adapter.ran": lambda patch: patch.setattr(Adapter, "ran", fails),
    "adapter.closed": lambda patch: patch.setattr(Adapter, "closed", fails),
    "shutdown.watch": lambda patch: patch.setattr(shutdown, "is_watched", fails),
    "server.switch": lambda patch: patch.setattr(PairServer, "switch", fails),
    "server.opened": lambda patch: patch.setattr(PairServer, "opened", fails),
    "server.refuse_more": lambda patch: patch.setattr(PairServer, "refuse_more", fails),
    "server.leave": lambda patch: patch.setattr(PairServer, "leave", fails),
    "server.log_later": lambda patch: patch.setattr(PairServer, "log_later", fails),
    "server.start_response": lambda patch: patch.setattr(PairServer, "start_response", fails),
    "engine": lambda patch: patch.setattr(websocket, "engine_for", fails),
    "kernel options": lambda patch: patch.setattr(websocket, "give_up_silent", fails),
    "transport": lambda patch: patch.setattr(websocket, "Transport", fails),
    "transport.start": lambda patch: patch.setattr(Transport, "start", fails),
    "slots.reserve": lambda patch: patch.setattr(Slots, "reserve", fails),
    "slots.site": lambda patch: patch.setattr(Slots, "site", fails),
    "numbers.exchange": lambda patch: patch.setattr(Numbers, "exchange_number", fails),
    "registry.view_started": lambda patch: patch.setattr(Registry, "view_started", fails),
    "registry.add": lambda patch: patch.setattr(Registry, "add", fails),
    "keepalive.watch": lambda patch: patch.setattr(Keepalive, "watch", fails),
}


@pytest.mark.parametrize("switched", [False, True], ids=["late", "switched"])
@pytest.mark.parametrize("step", [*STEPS, "client_address", "user_key"])
@apps
def test_step_that_raises_leaves_nothing_reserved(
    here: Registry,
    monkeypatch: pytest.MonkeyPatch,
    hub_errors: list[BaseException],
    app: Any,
    step: str,
    switched: bool,
) -> None:
    """The next client is served as if nothing had happened."""
    monkeypatch.setattr(PairServer, "switched", switched)
    wrapped = WebSocketMiddleware(app, **{**OPTIONS, **({step: fails} if step in OPTIONS else {})})
    with monkeypatch.context() as patch:
        STEPS.get(step, lambda patch: None)(patch)
        for _ in range(2):
            talk(wrapped)
            until(lambda: is_empty(here), f"everything is released, not {held_by(here)}")
    assert {type(error) for error in hub_errors} <= {FailedError, BrokenPipeError}  # the latter is what servers drop
    hub_errors.clear()
    with connect(WebSocketMiddleware(echoes, **OPTIONS)) as client:
        client.send("served")
        assert client.receive() == "served"


# --- any line ------------------------------------------------------------------------------------------------------

ROOT = Path(gws_middleware.__file__).parent
FILES = {
    str(ROOT / f"{name}.py")
    for name in (
        "middleware",
        *(f"process/{name}" for name in ("limits", "site", "registry", "keepalive")),
        *(f"connection/{name}" for name in ("websocket", "opening", "callbacks", "control", "transport")),
    )
}
assert all(Path(path).exists() for path in FILES)


class Injected(BaseException):
    """What e.g. a signal handler raises between two lines."""


@cache
def _lines(path: str) -> list[str]:
    return Path(path).read_text("utf-8").splitlines()


def _is_try(frame: FrameType) -> bool:
    """Python handles signals when it calls and jumps, and not at the line before a block."""
    return _lines(frame.f_code.co_filename)[frame.f_lineno - 1].strip() == "try:"


class Injection:
    """Raises at one of the lines of the package that ``run`` executes, counted from 0; counts them all."""

    def __init__(self, number: int, skipped: set[str]) -> None:
        self.number, self.skipped = number, skipped
        self.count, self.position = 0, ""

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call this function of the greenlet that runs now."""
        current = gevent.getcurrent()

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if frame.f_code.co_filename not in FILES or frame.f_code.co_name in self.skipped:
                return None
            if event == "line" and not _is_try(frame) and gevent.getcurrent() is current:
                self.count += 1
                if self.count - 1 == self.number:
                    self.position = f"{frame.f_code.co_name}:{frame.f_lineno}"
                    raise Injected
            return trace

        sys.settrace(trace)
        try:
            return function(*arguments)
        except Injected:
            return None
        finally:
            sys.settrace(None)


class Server(PairServer):
    """Passes the exception on to the client, too."""

    def serve(self, app: Any, environ: Environ) -> None:
        try:
            super().serve(app, environ)
        finally:
            if not self.answered.ready():
                self.answered.set_exception(ConnectionResetError())


def injected(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, injection: Injection) -> None:
    """Have what this method does meet the injection."""
    method = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self, *arguments: injection.run(method, self, *arguments))


IN_THE_VIEW, IN_THE_HUB = (Server, "serve"), (Transport, "_lost")
CASES = [
    *((app, False, *IN_THE_VIEW, set()) for app in APPS),
    (echoes, True, *IN_THE_VIEW, set()),
    *((app, False, *IN_THE_HUB, set()) for app in (echoes, detaches, lazily)),
    # Nothing comes after the end of _run(), so there a line may be the last one.
    (detaches, False, Callbacks, "_run", {"_run", "_take_end", "_end", "_finish", "finished"}),
]


# A channel that was just made is closed by its finalizer, which warns.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("app", "switched", "owner", "name", "skipped"),
    CASES,
    ids=[f"{case[0].__name__}-{'switched' if case[1] else 'late'}-{case[3]}" for case in CASES],
)
def test_exception_at_any_line_leaves_nothing_reserved(
    here: Registry,
    monkeypatch: pytest.MonkeyPatch,
    hub_errors: list[BaseException],
    app: Any,
    switched: bool,
    owner: type,
    name: str,
    skipped: set[str],
) -> None:
    """In the greenlet of the view, in the hub when the socket is closed, and in that of the callbacks."""
    use_pair_server(monkeypatch, Server)
    monkeypatch.setattr(Server, "switched", switched)
    wrapped = WebSocketMiddleware(app, **OPTIONS)
    number, total = -1, 0  # the first run counts
    while number < total:
        injection = Injection(number, skipped)
        with monkeypatch.context() as patch:
            injected(patch, owner, name, injection)
            talk(wrapped)
            until(lambda: is_empty(here), f"everything is released after {injection.position}")
        number, total = number + 1, max(total, injection.count)
    gc.collect()  # a channel that was just made may be in a cycle with the exception
    assert total > 1
    assert {type(error) for error in hub_errors} <= {BrokenPipeError}  # what servers drop
    hub_errors.clear()
