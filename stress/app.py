"""The application under test: plain WSGI views, a Django view with its ORM, and faults that can be enabled.

Environment: ``STRESS_DIRECTORY`` is where stored messages and the database are; ``STRESS_DJANGO=1`` loads the views
below ``/db``; ``STRESS_FAULTS`` names faults (faults.py); ``STRESS_HISTORY`` is how many messages a group keeps, and
``STRESS_GROUPS`` the URL of groups, if it is not that of a log in the directory.
"""

from __future__ import annotations

import gc
import itertools
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from greenlet import greenlet

from gws_middleware import WebSocketMiddleware, prepare
from gws_middleware.process import registry
from gws_middleware.typing import Environ, StartResponse, WSGIApp
from tests.fixtureapps.common import configure_logging, json_response, text_response

from . import rooms
from .faults import enabled

PID = str(os.getpid())
DIRECTORY = Path(os.environ.get("STRESS_DIRECTORY", "."))
STORE = DIRECTORY / os.environ.get("STRESS_STORE", "stored.txt")
WORKER = "X-Worker"
"""The header with the pid of the worker, in HTTP responses and in the 101."""

_VIEWS: dict[str, WSGIApp] = {}
_members: set[Any] = set()
_leaked: list[Any] = []
_forever = Event()
_answered, _stored = itertools.count(1), itertools.count(1)


def client_address(environ: Environ) -> Any:
    """The setting of that name: a header that a proxy sets. It raises if the proxy has let an invalid value pass."""
    return environ["HTTP_X_ADDRESS"].encode("ascii") if "HTTP_X_ADDRESS" in environ else None


def at(path: str) -> Callable[[WSGIApp], WSGIApp]:
    """Decorator: the view of ``path``."""

    def add(view: WSGIApp) -> WSGIApp:
        _VIEWS[path] = view
        return view

    return add


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Dispatch by path; what is below ``/db`` is Django's."""
    path = environ["PATH_INFO"]
    if path.startswith("/db/") and _django is not None:
        return _django(environ, start_response)
    view = _VIEWS.get(path)
    if view is None:
        return text_response(start_response, "no such path", "404 Not Found")
    return view(environ, _signed(start_response))


def _signed(start_response: StartResponse) -> StartResponse:
    """``start_response`` that adds the pid of the worker to the headers of an HTTP response."""

    def signed(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        return start_response(status, [*headers, (WORKER, PID)], *rest)

    return signed


# --- HTTP ----------------------------------------------------------------------------------------------------------


@at("/")
def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A request without work."""
    return text_response(start_response, "hello")


@at("/work")
def work(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A request that takes 0.2 s, so that a stopping worker has some in progress."""
    gevent.sleep(0.2)
    return text_response(start_response, "done")


@at("/held")
def held(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The resources that this worker holds, garbage not counted."""
    for _ in range(3):
        gc.collect()
    living = gc.get_objects()
    kinds = [type(item) for item in living]
    ours = _ours(living) - _at_boot
    loop: Any = gevent.get_hub().loop
    return json_response(
        start_response,
        {
            "descriptors": len(os.listdir("/proc/self/fd")),
            "greenlets": sum(isinstance(item, greenlet) and not item.dead for item in living),
            "watchers": loop.activecnt,
            "websockets": len(registry.current()),
            "slots": sum(registry.current().slots.reserved.values()),
            "databases": sum(issubclass(kind, sqlite3.Connection) for kind in kinds),
            "our objects": ours.total(),
            "kinds": ours,
            "members": len(_members),
        },
    )


def _ours(living: list[Any]) -> Counter[str]:
    """Objects of the package's classes, by their names."""
    kinds = map(type, living)
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("gws_middleware."))


# --- WebSockets ----------------------------------------------------------------------------------------------------


def opened(environ: Environ, start_response: StartResponse) -> Any:
    """The accepted WebSocket of a request; None for a request without one, and then a 400 has been started."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("400 Bad Request", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return None
    ws.accept(headers=[(WORKER, PID)])
    if "leak" in enabled:
        _leaked.append(os.urandom(65536))
    return ws


@at("/echo")
def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A view that runs as long as the connection is open."""
    ws = opened(environ, start_response)
    if ws is not None:
        for message in ws:
            answer(ws, message)
        if "greenlet" in enabled:
            gevent.spawn(_forever.wait)
    return []


def answer(ws: Any, message: Any) -> None:
    """Send a message back, with the enabled faults."""
    if "block" in enabled:
        _block(0.02)
    if "wrong" in enabled and next(_answered) % 20 == 0:
        message += "?"
    ws.send(message)


def _block(seconds: float) -> None:
    """Compute, and block the event loop."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@at("/detached")
def detached(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A view that detaches and returns."""
    ws = opened(environ, start_response)
    if ws is not None:
        ws.detach(on_message=answer)
    return []


@at("/room")
def room(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A message is sent to all members of this worker's room."""
    ws = opened(environ, start_response)
    if ws is None:
        return []
    _members.add(ws)
    try:
        for message in ws:
            whole = prepare(message)
            for member in list(_members):
                member.offer(whole)
    finally:
        _members.discard(ws)
    return []


@at("/quiet-room")
def quiet_room(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A member of the room that is detached; its messages are dropped."""
    ws = opened(environ, start_response)
    if ws is not None:
        ws.detach(on_close=_members.discard)
        _members.add(ws)
    return []


@at("/raise")
def raising(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A view that raises."""
    ws = opened(environ, start_response)
    if ws is not None:
        ws.receive()
        raise LookupError("expected")
    return []


@at("/page")
def page(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A response that is larger than the buffers of a connection."""
    return text_response(start_response, "x" * 2**20)


@at("/late")
def late(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Waits for something else, accepts, and then only checks for the end."""
    gevent.sleep(0.3)
    ws = environ["wsgi.websocket"]
    while not ws.closed:
        gevent.sleep(0.05)
    return []


@at("/flood")
def flood(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends without a pause, and waits for the peer to read."""
    ws = opened(environ, start_response)
    while ws is not None:
        ws.send(b"x" * 16384)
    return []


@at("/compute")
def computing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A view that computes for each message."""
    ws = opened(environ, start_response)
    for _ in ws or ():
        _block(0.001)
    return []


@at("/compute-detached")
def computing_detached(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The same, without a view."""
    ws = opened(environ, start_response)
    if ws is not None:
        ws.detach(on_message=lambda ws, message: _block(0.001))
    return []


@at("/limited")
def limited(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Echoes ten messages that come at once, and not more."""
    ws = environ.get("wsgi.websocket")
    if ws is not None:
        ws.limits(message_rate=5, rate_burst=2)
    return echo(environ, start_response)


@at("/unread")
def not_receiving(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A view that does not receive."""
    ws = opened(environ, start_response)
    if ws is not None:
        gevent.sleep(1)
    return []


@at("/sink")
def sink(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A view that receives and sends nothing."""
    for _ in opened(environ, start_response) or ():
        pass
    return []


@at("/push")
def push(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A view that sends small messages without a pause."""
    ws = opened(environ, start_response)
    while ws is not None:
        ws.send("x" * 10)
    return []


@at("/push-offer")
def push_offer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The same with ``offer``, which never waits."""
    ws, message = opened(environ, start_response), prepare("x" * 10)
    while ws is not None and ws.offer(message):
        pass
    return []


@at("/stored")
def stored(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Acknowledges a message when it is stored: one write to a file that is opened for appending is atomic, also
    between processes, and stays when its process ends.
    """
    ws = opened(environ, start_response)
    if ws is None:
        return []
    file = _store()
    if "cut" in enabled:
        gevent.spawn_later(1 + os.getpid() % 2, ws.abort)
    for message in ws:
        if "forget" not in enabled or next(_stored) % 10:
            os.write(file, message.encode() + b"\n")
        ws.send(f"ack {message}")
    return []


_file: int | None = None


def _store() -> int:
    global _file  # one for the process
    if _file is None:
        _file = os.open(STORE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return _file


# --- groups --------------------------------------------------------------------------------------------------------


def _of_groups(serve: Callable[[Environ, Any], None]) -> WSGIApp:
    """A view for what rooms.py does with a WebSocket."""

    def view(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        ws = opened(environ, start_response)
        if ws is not None:
            serve(environ, ws)
        return []

    return view


for _path, _serve in rooms.VIEWS.items():
    at(_path)(_of_groups(_serve))


# --- Django --------------------------------------------------------------------------------------------------------


def _load_django() -> WSGIApp:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(DIRECTORY / "database.sqlite3"),
        "OPTIONS": {"timeout": 20},
    }
    settings.configure(
        SECRET_KEY="stress",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="stress.pages",
        INSTALLED_APPS=["gws_middleware.django"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        DATABASES={"default": database},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()
    return get_wsgi_application()


wrapped = WebSocketMiddleware(application)
_django = _load_django() if os.environ.get("STRESS_DJANGO") else None
configure_logging()
_at_boot = _ours(gc.get_objects())
"""Objects that the fork has copied, e.g. those of the arbiter for the workers that it had then."""
