"""Orders: what one process asks all workers of a site to do, e.g. to close the WebSockets of a user.

They are the messages of two groups that have no members.

Rule 1: an order is carried out at least once by each worker that follows, and may be carried out again, or late. What
it does has to allow that.
Rule 2: a worker that may have missed some is informed of that.
Rule 3: a live order is carried out at most once, and now or never. Live orders are followed apart, so that none of them
delays the others.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, finalize, ref

import gevent

from ..connection.turns import turns_of
from . import waiting
from .backends.base import TIMEOUT
from .errors import GroupsError
from .listening import Listener
from .message import Publication
from .position import History
from .survey import Worker

__all__ = ["KEPT", "LIVE_ORDERS", "ORDERS", "Orders"]

log = logging.getLogger("gws_middleware.groups")

ORDERS = "gws.orders"
"""The group of orders."""
KEPT = History(size=1000, age=600.0)
"""What it keeps, for workers that were without a connection meanwhile."""
LIVE_ORDERS = "gws.orders.live"
"""The group of live orders, which keeps nothing."""
AGAIN = 0.1
"""Seconds until an order that could not be given, or a subscription that failed, is tried again."""
MAX_UNSENT = 1000
"""Orders of this process that wait for the backend. The oldest are dropped, and that is logged."""

Order = dict[str, Any]


class _Following:
    """Orders are followed on a hub, until the groups are released."""

    def __init__(self, hub: Any) -> None:
        self.hub = ref(hub)
        self.is_over = False


class Orders:
    """The orders of a ``Groups``.

    Args:
        publish: Publishes an order to a group.
        listen: A new listener of a group, on the event loop of this thread.
        register: Lets all processes know this worker.
        withdraw: Is called when the process ends.
        carry_out: Is called for each order of another process, in a greenlet. Whether it was one of its own.

    """

    def __init__(
        self,
        publish: Callable[[str, Order, float], object],
        listen: Callable[[str], Listener],
        register: Callable[[Worker], object],
        withdraw: Callable[[Worker], object],
        carry_out: Callable[[Order], bool],
    ) -> None:
        self._publish, self._listen, self._carry_out = publish, listen, carry_out
        self._register, self._withdraw = register, withdraw
        self._carry_out_others: Callable[[Order], object] = _nothing
        self._on_missed: Callable[[], object] = _nothing
        self._begin()

    def _begin(self) -> None:
        """In this process, which may have been forked, no order was given or followed."""
        self._worker = Worker.here()
        self._unsent: deque[Order] = deque(maxlen=MAX_UNSENT)
        self._is_sending = False
        self._following: WeakKeyDictionary[Any, _Following] = WeakKeyDictionary()
        """By hub."""
        self._live: _Following | None = None
        """The one that has the live orders, too: a process carries out each of them once."""
        self._at_exit: finalize[Any, Any] | None = None
        """What withdraws this worker when the process ends."""

    @property
    def worker(self) -> Worker:
        """This process. Its id is in the orders that it gives, which it carries out by itself."""
        if self._worker.pid != os.getpid():
            self._begin()
        return self._worker

    @property
    def are_followed(self) -> bool:
        """Whether this process is a worker, whose connections are the site's."""
        return self.worker is not None and len(self._following) > 0

    def publish(self, order: Order, *, live: bool = False, timeout: float = TIMEOUT) -> None:
        """Have an order carried out by all other workers.

        Args:
            order: What to do.
            live: Whether it is a live one.
            timeout: Seconds to wait for the backend at most.

        Raises:
            GroupsUnavailable, UnknownOutcome: It was not given; that is not known.

        """
        self._publish(LIVE_ORDERS if live else ORDERS, {**order, "by": self.worker.id}, timeout)

    def give(self, order: Order) -> None:
        """Have an order carried out by all other workers. Where the backend cannot be used now, this is logged, and it
        is tried again as long as this process has an event loop.
        """
        order = {**order, "by": self.worker.id}
        if self._unsent:  # they keep their order
            self._keep(order)
            return
        try:
            self._publish(ORDERS, order, TIMEOUT)
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
                        self._publish(ORDERS, self._unsent[0], TIMEOUT)
                        self._unsent.popleft()
                except GroupsError:
                    pass  # it was logged
        finally:
            self._is_sending = False

    # --- following ---------------------------------------------------------------------------------------------------

    def carry_out(self, others: Callable[[Order], object], on_missed: Callable[[], object]) -> None:
        """Let a framework carry out orders of its own.

        Args:
            others: Is called for each order that is not one of groups, in a greenlet. An exception is logged.
            on_missed: Is called where some may have been missed.

        """
        self._carry_out_others, self._on_missed = others, on_missed

    def follow(self) -> None:
        """Carry out the orders of other processes from now on, on the event loop of this thread. A second call on the
        same one does nothing. Waits until the subscription holds; where it cannot be had now, it is tried again.
        """
        hub = gevent.get_hub()
        worker = self.worker
        if hub in self._following:
            return
        following = self._following[hub] = _Following(hub)
        if self._live is None or self._live.hub() is None:
            self._live = following
            gevent.spawn(self._follow_live, following, worker)
        if self._at_exit is None:
            self._at_exit = finalize(self, self._withdraw, worker)
        try:
            listener = self._listen(ORDERS)
        except GroupsError as error:
            log.error("orders for all workers cannot be followed now: %s", error)
            gevent.spawn(self._follow, following, None)
        else:
            gevent.spawn(self._follow, following, listener)

    def release(self) -> None:
        """Follow no more. The listeners end with the hub."""
        for following in self._following.values():
            following.is_over = True
        self._following.clear()
        self._live = None
        if self._at_exit is not None:
            self._at_exit.detach()  # the record ends with the backend, which would be opened again
            self._at_exit = None

    def _follow(self, following: _Following, listener: Listener | None) -> None:
        """Runs in a greenlet of its own."""
        while not following.is_over:
            if listener is None:
                listener = self._try_to_listen(ORDERS)
                if listener is None:
                    continue
                _call(self._on_missed)
            try:
                self._carry_out_all(following, listener)
            except LookupError:
                pass
            listener = None

    def _follow_live(self, following: _Following, worker: Worker) -> None:
        """Runs in a greenlet of its own."""
        while not following.is_over:
            listener = self._try_to_listen(LIVE_ORDERS)
            if listener is None or following.is_over:  # the record would open the backend again
                continue
            try:
                self._register(worker)  # what is asked from now on is answered
                self._carry_out_all(following, listener)
            except LookupError:
                pass  # more came than can wait, and that is missed
            except GroupsError:
                gevent.sleep(AGAIN)

    def _try_to_listen(self, group: str) -> Listener | None:
        """A listener; None after some time where there can be none."""
        try:
            return self._listen(group)
        except GroupsError:
            gevent.sleep(AGAIN)
            return None

    def _carry_out_all(self, following: _Following, listener: Listener) -> None:
        turns = turns_of(gevent.get_hub())
        for publication in listener:
            if turns.is_over():
                turns.give_way()
            if following.is_over:
                return
            _call(self._carry_out_one, publication)

    def _carry_out_one(self, publication: Publication) -> None:
        order = publication.data
        if isinstance(order, dict) and order.get("by") != self._worker.id and not self._carry_out(order):
            self._carry_out_others(order)


def _nothing(*arguments: Any) -> None:
    """No framework has orders."""


def _call(function: Callable[..., object], *arguments: Any) -> None:
    try:
        function(*arguments)
    except Exception:
        log.exception("an order for all workers could not be carried out")
