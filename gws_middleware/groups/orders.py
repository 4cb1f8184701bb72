"""Orders: what one process asks all workers of a site to do, e.g. to close the WebSockets of a user.

They are the messages of a group with history, which has no members.

Rule 1: an order is carried out at least once by each worker that follows, and may be carried out again, or late. What
it does has to allow that.
Rule 2: it is reported to a worker that it may have missed some.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import gevent

from . import waiting
from .errors import GroupsError
from .position import History

if TYPE_CHECKING:
    from .listening import Listener

__all__ = ["KEPT", "ORDERS", "Orders"]

log = logging.getLogger("gws_middleware.groups")

ORDERS = "gws.orders"
"""The group of orders."""
KEPT = History(size=1000, age=600.0)
"""What it keeps, for workers that were without a connection meanwhile."""
AGAIN = 0.1
"""Seconds until an order that could not be given, or a subscription that failed, is tried again."""
MAX_UNSENT = 1000
"""Orders of this process that wait for the backend. The oldest are dropped, and that is logged."""

Order = dict[str, Any]


class Orders:
    """The orders of a ``Groups``.

    Args:
        publish: Publishes an order.
        listen: A new listener of the group of orders, on the event loop of this thread.

    """

    def __init__(self, publish: Callable[[Order], object], listen: Callable[[], Listener]) -> None:
        self._publish, self._listen = publish, listen
        self._name = secrets.token_hex(8)
        """By which a worker knows its own orders, which it has carried out already."""
        self._unsent: deque[Order] = deque(maxlen=MAX_UNSENT)
        self._is_sending = False
        self._following: WeakSet[Any] = WeakSet()
        """The hubs on which they are followed."""

    def give(self, order: Order) -> None:
        """Have an order carried out by all other workers. Where the backend cannot be used now, this is logged, and it
        is tried again as long as this process has an event loop.
        """
        order = {**order, "by": self._name}
        if self._unsent:  # they keep their order
            self._keep(order)
            return
        try:
            self._publish(order)
        except GroupsError as error:
            log.error("an order for all workers (%s) could not be given: %s", order.get("do"), error)
            self._keep(order)

    def _keep(self, order: Order) -> None:
        if not waiting.can_switch():
            return
        if len(self._unsent) == MAX_UNSENT:
            log.error("an order for all workers was dropped: %d wait for the backend", MAX_UNSENT)
        self._unsent.append(order)
        if not self._is_sending:
            self._is_sending = True
            gevent.spawn(self._send_later)

    def _send_later(self) -> None:
        """Runs in a greenlet of its own while orders wait."""
        try:
            while self._unsent:
                gevent.sleep(AGAIN)
                try:
                    while self._unsent:
                        self._publish(self._unsent[0])
                        self._unsent.popleft()
                except GroupsError:
                    pass  # it was logged
        finally:
            self._is_sending = False

    def follow(self, carry_out: Callable[[Order], object], on_missed: Callable[[], object]) -> None:
        """Carry out the orders of other processes from now on, on the event loop of this thread. A second call on the
        same one does nothing. Waits until the subscription holds; where it cannot be had now, it is tried again.

        Args:
            carry_out: Is called for each order, in a greenlet. An exception is logged.
            on_missed: Is called where some may have been missed.

        """
        hub = gevent.get_hub()
        if hub in self._following:
            return
        self._following.add(hub)
        try:
            listener = self._listen()
        except GroupsError as error:
            log.error("orders for all workers cannot be followed now: %s", error)
            gevent.spawn(self._run, None, carry_out, on_missed)
        else:
            gevent.spawn(self._run, listener, carry_out, on_missed)

    def _run(
        self,
        listener: Iterable[Any] | None,
        carry_out: Callable[[Order], object],
        on_missed: Callable[[], object],
    ) -> None:
        """Runs in a greenlet of its own."""
        try:
            while True:
                if listener is None:
                    try:
                        listener = self._listen()
                    except GroupsError:
                        gevent.sleep(AGAIN)
                        continue
                    _call(on_missed)
                try:
                    for publication in listener:
                        order = publication.data
                        if isinstance(order, dict) and order.get("by") != self._name:
                            _call(carry_out, order)
                    return  # the groups were released
                except LookupError:
                    listener = None
        finally:
            self._following.discard(gevent.get_hub())


def _call(function: Callable[..., object], *arguments: Any) -> None:
    try:
        function(*arguments)
    except Exception:
        log.exception("an order for all workers could not be carried out")
