"""Database connections and transactions of WebSocket views.

Rule 1: a view that waits holds no database connection. Django closes the connections of a request when the request
ends, and the request of a WebSocket may last for hours. So they are closed while the view waits, and the next query
opens one.
Rule 2: the transaction of ``ATOMIC_REQUESTS`` ends with ``accept()``, before the 101, so that a commit that fails is
still an HTTP error.
Rule 3: only the greenlet that opened a connection closes it.
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
    "atomic_requests",
    "atomic_until_accepted",
    "commit_request",
    "connect",
    "finish_refused_request",
    "finish_request",
    "in_transactions",
    "release_all",
    "release_idle",
    "watch",
]

_views: WeakKeyDictionary[Any, WebSocket] = WeakKeyDictionary()
"""The greenlets of views that have accepted a WebSocket."""


def connect() -> None:
    """Register the receivers for new database connections and for the end of a request."""
    connection_created.connect(_created, dispatch_uid="gws_middleware")
    request_finished.connect(_finished, dispatch_uid="gws_middleware")


def watch(ws: WebSocket) -> None:
    """Watch the database connections of this greenlet, which has just accepted ``ws`` and may already have some."""
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
    """Send ``request_finished``, unless Django has sent it for this greenlet.

    Django sends none where GreenletExit or gevent.Timeout ends a view, because there is no response then. Django and
    other packages release resources when they receive this signal.
    """
    if _views.pop(getcurrent(), None) is not None:
        request_finished.send_robust(WSGIHandler)


def finish_refused_request() -> None:
    """Send ``request_finished`` for a view that ended before the 101 with an exception that Django does not handle."""
    request_finished.send_robust(WSGIHandler)
    release_all()


def release_idle() -> bool:
    """Close this greenlet's connections that are in no transaction. A connection of psycopg's pool returns to the pool.

    Returns:
        Whether a connection of the view may still be open.

    """
    open_left = getcurrent() not in _views  # another greenlet waits instead of the view, which keeps its connections
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block or (connection.connection is not None and not connection.autocommit):
            open_left = True
        else:
            _close(connection)
    return open_left


def release_all() -> None:
    """Close all connections of this greenlet, but for those in an atomic block, which belong to a test that shares its
    own connections.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            _close(connection)


def _close(connection: Any) -> None:
    with suppress(Error):  # it was broken already, and it is closed in any case
        connection.close()


# --- transactions ----------------------------------------------------------------------------------------------------


class NonAtomic(set[str]):
    """A value for Django's ``_non_atomic_requests`` that contains every database, so that Django opens no transaction
    for the view. Its items are the databases that the project itself excludes.
    """

    def __contains__(self, alias: object) -> bool:
        return True


def in_transactions(non_atomic: Iterable[str]) -> ExitStack:
    """Enter the transactions of ``ATOMIC_REQUESTS``.

    Args:
        non_atomic: The databases in which the view has no transaction.

    Returns:
        A context manager that ends the transactions.

    """
    with ExitStack() as stack:
        for alias in atomic_requests(non_atomic):
            stack.enter_context(transaction.atomic(using=alias))
        return stack.pop_all()


def atomic_requests(non_atomic: Iterable[str]) -> list[str]:
    """The databases in which Django opens a transaction for each view.

    Args:
        non_atomic: The databases in which the view has no transaction.

    Returns:
        Their aliases.

    """
    excluded = set(non_atomic)
    return [
        alias
        for alias, database in connections.settings.items()
        if database["ATOMIC_REQUESTS"] and alias not in excluded
    ]


class _Handshake(NamedTuple):
    """The open transactions of a view that has not accepted yet, and the greenlet that entered them."""

    transactions: ExitStack
    greenlet: Any
    blocks: list[Any]


_NO_TRANSACTION = nullcontext()
"""One for all views without transactions, which keep it for as long as they run."""

_handshakes: WeakKeyDictionary[WebSocket, _Handshake] = WeakKeyDictionary()
"""The WebSockets whose view is in transactions of ``ATOMIC_REQUESTS``."""


def atomic_until_accepted(ws: WebSocket, non_atomic: Iterable[str]) -> AbstractContextManager[Any]:
    """Enter the transactions of ``ATOMIC_REQUESTS`` for the view of a WebSocket.

    They end with ``accept()``, or with the view if it does not accept. Without the app in ``INSTALLED_APPS`` nothing
    would end them at ``accept()``, so there are none.

    Args:
        ws: The WebSocket.
        non_atomic: The databases in which the view has no transaction.

    Returns:
        A context manager around the view.

    """
    if ws.accepted or not atomic_requests(non_atomic) or not apps.is_installed("gws_middleware.django"):
        return _NO_TRANSACTION
    transactions = in_transactions(non_atomic)
    blocks = [block for connection in connections.all(initialized_only=True) for block in connection.atomic_blocks]
    _handshakes[ws] = _Handshake(transactions, getcurrent(), blocks)
    transactions.callback(_handshakes.pop, ws, None)
    return transactions


def commit_request(ws: WebSocket) -> None:
    """Commit the transactions of ``ATOMIC_REQUESTS`` before ``ws`` is accepted. The view continues in autocommit.

    Args:
        ws: The WebSocket that is about to be accepted.

    Raises:
        TransactionManagementError: The caller is in an atomic block, or is another greenlet than the view. Nothing has
            been committed.
        django.db.Error: The database did not commit.

    """
    handshake = _handshakes.get(ws)
    if handshake is not None and handshake.greenlet is not getcurrent():
        raise transaction.TransactionManagementError(
            "the transaction of this request belongs to its view's greenlet, and accept() has to commit it: call "
            "accept() in the view, before another greenlet uses the WebSocket"
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
