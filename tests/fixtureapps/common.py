"""What the fixture applications share: logging that a test can read, events it can wait for, the worker's counts."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import gevent
from gevent.event import Event
from greenlet import greenlet

from gws_middleware.process import registry
from gws_middleware.typing import Environ, StartResponse, WSGIApp

__all__ = ["UGLY", "Router", "configure_logging", "hold", "json_response", "query", "record", "text_response"]


UGLY = "".join(map(chr, [*range(32), 127])) + "\x85\x9b31m\u2028\u2029\u202eforged"
"""Each control character, and others that may end a line or turn it around: what must never reach a log as it is."""


class _OneLine(logging.Formatter):
    """A record is one line, its traceback too, so that a test can tell where a record ends."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        return super().format(record).replace("\n", " \\ ")


def configure_logging(level: int = logging.INFO) -> None:
    """Everything from ``level`` up to stderr, as ``LEVEL logger: message``; leaked sockets and files too.

    To be called in the worker, where an application is loaded: gunicorn's arbiter leaks a few on its own account.
    """
    warnings.simplefilter("default", ResourceWarning)
    atexit.register(warnings.simplefilter, "ignore", ResourceWarning)  # servers leave their listeners to the end
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(level)


# --- requests and responses ----------------------------------------------------------------------------------------


def query(environ: Environ, name: str, default: str = "") -> str:
    """A parameter of the query string."""
    return parse_qs(environ.get("QUERY_STRING", "")).get(name, [default])[0]


def text_response(start_response: StartResponse, body: str, status: str = "200 OK") -> list[bytes]:
    """A whole plain-text response."""
    data = body.encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]


def json_response(start_response: StartResponse, value: object) -> list[bytes]:
    """A whole JSON response."""
    data = json.dumps(value).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]


# --- events --------------------------------------------------------------------------------------------------------

_events: dict[str, list[str]] = {}
_changed = Event()
_WAIT = 5.0


def record(environ: Environ, event: str) -> None:
    """Note that ``event`` has happened to the request with this ``?id=``; ``/events`` returns it."""
    global _changed
    _events.setdefault(query(environ, "id"), []).append(event)
    changed, _changed = _changed, Event()
    changed.set()


def _tell_events(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """``/events?id=…&until=…``: what was recorded, once ``until`` is among it or five seconds have passed."""
    name, until = query(environ, "id"), query(environ, "until")
    deadline = time.monotonic() + _WAIT
    while until and until not in _events.get(name, ()) and time.monotonic() < deadline:
        _changed.wait(deadline - time.monotonic())
    return json_response(start_response, _events.get(name, []))


_held: dict[str, Event] = {}


def hold(environ: Environ) -> None:
    """Wait until ``/go`` has been requested with the ``?id=`` of this request."""
    event = _held[query(environ, "id")] = Event()
    event.wait()


def _go(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    _held[query(environ, "id")].set()
    return text_response(start_response, "continued")


# --- the worker's counts -------------------------------------------------------------------------------------------


def _resident_size() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _tell_status(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """``/status``: what this worker holds, garbage not counted."""
    gc.collect()
    loop: Any = gevent.get_hub().loop
    return json_response(
        start_response,
        {
            "pid": os.getpid(),
            "fds": len(os.listdir("/proc/self/fd")),
            "greenlets": sum(isinstance(item, greenlet) and not item.dead for item in gc.get_objects()),
            "watchers": loop.activecnt,
            "websockets": len(registry.current()),
            "objects": len(gc.get_objects()),
            "rss": _resident_size(),
        },
    )


# --- dispatch ------------------------------------------------------------------------------------------------------


class Router:
    """A WSGI application that dispatches by path; it also answers ``/``, ``/events``, ``/go`` and ``/status``."""

    def __init__(self) -> None:
        self._views: dict[str, WSGIApp] = {"/": _hello, "/events": _tell_events, "/go": _go, "/status": _tell_status}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        view = self._views.get(environ["PATH_INFO"])
        if view is None:
            return text_response(start_response, "no such path", "404 Not Found")
        return view(environ, start_response)

    def view(self, path: str) -> WSGIApp:
        """The view of ``path``."""
        return self._views[path]

    def at(self, path: str) -> Callable[[WSGIApp], WSGIApp]:
        """Decorator: the view of ``path``."""

        def add(view: WSGIApp) -> WSGIApp:
            assert path not in self._views, path
            self._views[path] = view
            return view

        return add


def _hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return text_response(start_response, "hello")
