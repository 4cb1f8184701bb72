"""Calls that wait for the commit of database transactions.

Rule 1: without a transaction no database connection is opened.
Rule 2: the transaction that a ``TestCase`` opens around a test does not count, so that a call is made at once in the
test where it is made at once in production.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections, transaction

from ..groups.errors import GroupsError

__all__ = ["call_after", "transactions", "unsent"]

log = logging.getLogger("gws_middleware.groups")


def transactions(using: str | None) -> list[str]:
    """The databases that are in a transaction.

    Args:
        using: The only database that counts; None: all of them count.

    """
    asked = connections.all(initialized_only=True) if using is None else [connections[using]]
    return [connection.alias for connection in asked if _is_in_transaction(connection)]


def _is_in_transaction(connection: Any) -> bool:
    if connection.in_atomic_block:
        return any(not block._from_testcase for block in connection.atomic_blocks)
    # Without autocommit every query is in one whose commit Django does not see: on_commit() raises.
    return connection.connection is not None and not connection.autocommit


def call_after(databases: Sequence[str], call: Callable[[], object], what: str) -> None:
    """Make a call when the transactions of all these databases are committed; none if one is rolled back.

    Args:
        databases: Those of ``transactions()``, at least one.
        call: An error of groups that it raises is logged.
        what: What it sends, for the log.

    Raises:
        TransactionManagementError: Autocommit is off.

    """
    waiting = _Waiting(len(databases), call, what)
    for alias in databases:
        transaction.on_commit(waiting.committed, using=alias, robust=True)


class _Waiting:
    """A call, and the number of transactions that have not been committed."""

    def __init__(self, left: int, call: Callable[[], object], what: str) -> None:
        self.left = left
        self._call, self._what = call, what

    def committed(self) -> None:
        """One of them is; Django calls this."""
        self.left -= 1
        if self.left != 0:
            return
        try:
            self._call()
        except GroupsError as error:
            log.error("after a commit %s could not be sent: %s", self._what, error)


def unsent() -> int:
    """How many calls wait for a commit in this thread."""
    hooks = [entry[1] for connection in connections.all(initialized_only=True) for entry in connection.run_on_commit]
    waiting = {owner for hook in hooks if isinstance(owner := getattr(hook, "__self__", None), _Waiting)}
    return sum(each.left > 0 for each in waiting)
