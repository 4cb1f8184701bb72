"""Database connections of greenlets that wait for hours.

Django gives a connection back when the request ends. The request of a WebSocket ends with the WebSocket, so its
connection is given back while it waits, and the next query opens one again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.apps import apps
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished
from django.db import Error, connections, transaction
from django.db.backends.signals import connection_created
from gevent import getcurrent

from ..connection import control
from ..connection.websocket import WebSocket

__all__ = [
    "NonAtomic",
    "abandon_request",
    "atomic_until_accepted",
    "commit_request",
    "connect",
    "finish_request",
    "give_back",
    "give_back_all",
    "in_transactions",
    "watch",
]

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
        control.expect_idle(ws)


def _created(**arguments: Any) -> None:
    ws = _views.get(getcurrent())
    if ws is not None:
        control.expect_idle(ws)


def _finished(**arguments: Any) -> None:
    _views.pop(getcurrent(), None)


def finish_request() -> None:
    """Tell everybody that the request has ended, if Django has not: it makes no response where GreenletExit or
    gevent.Timeout ends a view, and much hangs on that signal.
    """
    if _views.pop(getcurrent(), None) is not None:
        request_finished.send_robust(WSGIHandler)


def abandon_request() -> None:
    """The same before the 101, for a view that ends with an exception that Django lets pass."""
    request_finished.send_robust(WSGIHandler)
    give_back_all()


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


# --- transactions ----------------------------------------------------------------------------------------------------


class NonAtomic(set[str]):
    """The databases in which Django is to open no transaction for a view: all. As a plain set, those that the project
    has named.
    """

    def __contains__(self, alias: object) -> bool:
        return True


def in_transactions(non_atomic: Iterable[str]) -> ExitStack:
    """The transactions of ``ATOMIC_REQUESTS``, entered, for a view that stays out of these databases."""
    with ExitStack() as stack:
        for alias in _atomic_requests(non_atomic):
            stack.enter_context(transaction.atomic(using=alias))
        return stack.pop_all()


def _atomic_requests(non_atomic: Iterable[str]) -> list[str]:
    left_out = set(non_atomic)
    return [
        alias
        for alias, database in connections.settings.items()
        if database["ATOMIC_REQUESTS"] and alias not in left_out
    ]


class _Handshake(NamedTuple):
    """What a WebSocket's view does before it accepts."""

    transactions: ExitStack
    greenlet: Any
    blocks: list[Any]


_handshakes: WeakKeyDictionary[WebSocket, _Handshake] = WeakKeyDictionary()
"""Those in transactions of ``ATOMIC_REQUESTS``."""


def atomic_until_accepted(ws: WebSocket, non_atomic: Iterable[str]) -> AbstractContextManager[Any]:
    """The same for a WebSocket: they end with ``accept()``, or else with the view, as those of plain HTTP do.

    Without the app in ``INSTALLED_APPS`` there is nothing that could end them in time, and so there are none.
    """
    if ws.accepted or not _atomic_requests(non_atomic) or not apps.is_installed("gws_middleware.django"):
        return nullcontext()
    transactions = in_transactions(non_atomic)
    blocks = [block for connection in connections.all(initialized_only=True) for block in connection.atomic_blocks]
    _handshakes[ws] = _Handshake(transactions, getcurrent(), blocks)
    transactions.callback(_handshakes.pop, ws, None)
    return transactions


def commit_request(ws: WebSocket) -> None:
    """The WebSocket is about to be accepted: commit what its view has done, and go on in autocommit.

    TransactionManagementError where that cannot be: nothing has been committed then. A database that refuses to commit
    raises what it always does.
    """
    handshake = _handshakes.get(ws)
    if handshake is not None and handshake.greenlet is not getcurrent():
        raise transaction.TransactionManagementError(
            "the transaction of this request belongs to its view's greenlet, and a WebSocket is accepted when that has "
            "been committed: call accept() in the view, before another greenlet uses the WebSocket"
        )
    ours = [] if handshake is None else handshake.blocks
    for connection in connections.all(initialized_only=True):
        blocks: list[Any] = connection.atomic_blocks
        if any(block not in ours and not block._from_testcase for block in blocks):
            raise transaction.TransactionManagementError(
                f"a WebSocket cannot be accepted inside transaction.atomic() (database {connection.alias!r}): the "
                "transaction would stay open for as long as the connection. Accept first, and open a transaction for "
                "each message."
            )
    if handshake is not None:
        handshake.transactions.close()
