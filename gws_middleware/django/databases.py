"""Database connections of greenlets that wait for hours.

Django gives a connection back when the request ends. The request of a WebSocket ends with the WebSocket, so its
connection is given back while it waits, and the next query opens one again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished
from django.db import Error, connections, transaction
from django.db.backends.signals import connection_created
from gevent import getcurrent

from ..websocket import WebSocket

__all__ = ["connect", "finish_request", "give_back", "give_back_all", "refuse_transaction", "watch"]

_views: WeakKeyDictionary[Any, WebSocket] = WeakKeyDictionary()
"""The greenlets whose request is a WebSocket."""


def connect() -> None:
    """Learn of each connection that is opened."""
    connection_created.connect(_created, dispatch_uid="gws_middleware")
    request_finished.connect(_finished, dispatch_uid="gws_middleware")


def watch(ws: WebSocket) -> None:
    """This greenlet has accepted ``ws``, and may have queried before."""
    _views[getcurrent()] = ws
    if any(connection.connection is not None for connection in connections.all(initialized_only=True)):
        ws.expect_idle()


def _created(**arguments: Any) -> None:
    ws = _views.get(getcurrent())
    if ws is not None:
        ws.expect_idle()


def _finished(**arguments: Any) -> None:
    _views.pop(getcurrent(), None)


def finish_request() -> None:
    """Tell everybody that the request has ended, if Django has not: it makes no response where GreenletExit or
    gevent.Timeout ends a view, and much hangs on that signal.
    """
    if _views.pop(getcurrent(), None) is not None:
        request_finished.send_robust(WSGIHandler)


def give_back() -> bool:
    """Close this greenlet's connections that are in no transaction; True if one was left open.

    With a pool (psycopg's) closing one returns it to the pool.
    """
    left = getcurrent() not in _views  # another greenlet waits for the view, whose connections are still there
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or (connection.connection is not None and not connection.autocommit):
            left = True
        else:
            _close(connection)
    return left


def give_back_all() -> None:
    """Close them at the end. An atomic block that is still open is not this greenlet's: a test shares its own."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            _close(connection)


def _close(connection: Any) -> None:
    with suppress(Error):  # broken already; it is gone either way
        connection.close()


def refuse_transaction() -> None:
    """TransactionManagementError while an atomic block is open: it would stay open as long as the WebSocket."""
    for connection in connections.all(initialized_only=True):
        blocks: list[Any] = connection.atomic_blocks
        if connection.in_atomic_block and not all(block._from_testcase for block in blocks):
            raise transaction.TransactionManagementError(
                f"a WebSocket cannot be accepted inside transaction.atomic() (database {connection.alias!r}): the "
                "transaction would stay open for as long as the connection. Accept first, and open a transaction for "
                "each message; with ATOMIC_REQUESTS, decorate the view with accept_websocket or require_websocket."
            )
