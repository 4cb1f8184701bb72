"""What happened to the request with this ``?id=``, in order; and which backend a query was answered by."""

from __future__ import annotations

import atexit
from collections import defaultdict
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import parse_qs
from weakref import WeakKeyDictionary

from django.core.signals import request_finished, request_started
from django.db import connections
from django.db.backends.signals import connection_created
from gevent import getcurrent, sleep

from gws_middleware.django.signals import websocket_closed, websocket_opened
from gws_middleware.typing import Environ

EVENTS: defaultdict[str, list[str]] = defaultdict(list)
_requests: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The greenlets that serve a request, which ``request_finished`` does not name."""
_numbers = count(1)


def token(environ: Environ) -> str:
    """The name that the test gave to this request."""
    query: str = environ.get("QUERY_STRING", "")
    return parse_qs(query).get("id", [""])[0]


def connect() -> None:
    """Called once by wsgi.py."""
    request_started.connect(_started)
    request_finished.connect(_finished)
    websocket_opened.connect(_opened)
    websocket_closed.connect(_closed)
    connection_created.connect(_created)
    atexit.register(_close_pools)  # open pools of psycopg warn at the exit of the interpreter


def _started(*, environ: Environ, **arguments: Any) -> None:
    _requests[getcurrent()] = token(environ)
    EVENTS[token(environ)].append("started")


def _finished(**arguments: Any) -> None:
    EVENTS[_requests[getcurrent()]].append("finished")


def _opened(*, websocket: Any, **arguments: Any) -> None:
    EVENTS[token(websocket.environ)].append("opened")


def _closed(*, websocket: Any, **arguments: Any) -> None:
    EVENTS[token(websocket.environ)].append("closed")
    if "receiver-sleeps" in websocket.environ.get("QUERY_STRING", ""):
        backend()
        sleep(3600)


def _created(*, connection: Any, **arguments: Any) -> None:
    """Add PostgreSQL's function for the number of a connection to those of SQLite."""
    if connection.vendor == "sqlite":
        connection.connection.create_function("pg_backend_pid", 0, partial(int, next(_numbers)))


def backend(alias: str = "default") -> int:
    """Query, and return the number of the connection, which is unique in this process."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        number: int = cursor.fetchone()[0]
        return number


def _close_pools() -> None:
    connection: Any
    for connection in connections.all():
        if connection.settings_dict["OPTIONS"].get("pool"):
            connection.close_pool()
