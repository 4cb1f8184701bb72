"""The open connections of this process, and the views that have not returned.

Rule: there is one registry in each process. A forked child starts with an empty one: the connections are its parent's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import gevent

from ..codes import CloseCode
from ..config import Config
from .counters import Counters, Traffic
from .keepalive import Keepalive, Watched
from .limits import Slots

__all__ = ["OpenConnection", "Outbox", "Registry", "current"]


class OpenConnection(Watched, Protocol):
    """What the registry, the drain and the metrics call of a connection."""

    def close(self, code: int = ..., reason: str = ...) -> None:
        """Send a close frame; never waits."""

    def abort(self) -> None:
        """Close the socket without a close frame."""

    def _forked(self) -> None:
        """This process has just been forked: the connection is the parent's."""

    @property
    def stats(self) -> Any:
        """The four numbers of ``Traffic``."""

    @property
    def _outbox_state(self) -> tuple[int, float | None]:
        """The fields of ``Outbox``."""


class Outbox(NamedTuple):
    """What waits for one peer, or for all."""

    size: int
    """Bytes."""
    blocked_since: float | None
    """Since when (``time.monotonic()``) the kernel has not taken all of it, the earliest of all; None where it has."""


class Registry:
    """The connections that have been accepted and whose socket is open."""

    def __init__(self) -> None:
        self._open: dict[OpenConnection, int] = {}  # in the order of their accept, with the close code of a shutdown
        self._unfinished: dict[OpenConnection, Any] = {}
        self._is_draining = False
        self._drain_code: int | None = None
        self.slots = Slots()
        self.keepalive = Keepalive()
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, connection: object) -> bool:
        return connection in self._open

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter(list(self._open))  # a copy: connections close while a loop goes over it

    # --- connections -----------------------------------------------------------------------------------------------

    def add(self, connection: OpenConnection, config: Config) -> None:
        """A connection with these settings has been accepted. While the process drains it is closed at once."""
        self._open[connection] = config.shutdown_close_code
        self.counters.accepted += 1
        self.keepalive.watch(connection, config)
        if self._is_draining:  # a refusal would look like a failure to a browser, a close code does not
            gevent.get_hub().loop.run_callback(connection.close, self.close_code_of(connection, self._drain_code))

    def remove(self, connection: OpenConnection) -> None:
        """The socket of a connection is closed; a second call does nothing."""
        self.keepalive.forget(connection)
        self._open.pop(connection, None)

    # --- views -----------------------------------------------------------------------------------------------------

    def view_started(self, connection: OpenConnection, greenlet: Any) -> None:
        """A connection is being accepted by a view that runs in ``greenlet``."""
        self._unfinished[connection] = greenlet

    def view_returned(self, connection: OpenConnection) -> None:
        """The view has returned, and the connection stays open; ``finished()`` follows after its ``on_close``."""
        self._unfinished[connection] = None

    def finished(self, connection: OpenConnection) -> None:
        """Neither the view nor ``on_close`` of a connection runs any more; a second call does nothing."""
        self._unfinished.pop(connection, None)

    @property
    def unfinished(self) -> list[OpenConnection]:
        """The connections whose view or ``on_close`` has not returned. Their sockets may be closed already."""
        return list(self._unfinished)

    @property
    def views(self) -> list[Any]:
        """The greenlets of the views that have not returned."""
        return [greenlet for greenlet in self._unfinished.values() if greenlet is not None]

    def is_finished(self, connections: Iterable[OpenConnection] | None = None) -> bool:
        """Whether the sockets of these connections are closed and their views and ``on_close`` have returned.

        Args:
            connections: All of the process if None.

        """
        if connections is None:
            return not (self._open or self._unfinished)
        return not any(connection in self._open or connection in self._unfinished for connection in connections)

    # --- the drain -------------------------------------------------------------------------------------------------

    @property
    def is_draining(self) -> bool:
        """Whether all connections are being closed, those too that are accepted from now on."""
        return self._is_draining

    def start_draining(self, code: int | None) -> None:
        """Close each connection that is accepted from now on.

        Args:
            code: The close code; if None, each connection's ``shutdown_close_code``.

        """
        self._is_draining, self._drain_code = True, code

    def close_code_of(self, connection: OpenConnection, code: int | None) -> int:
        """``code``, or if that is None the connection's ``shutdown_close_code``."""
        return self._open.get(connection, CloseCode.SERVICE_RESTART) if code is None else code

    # --- totals ----------------------------------------------------------------------------------------------------

    def traffic(self) -> Traffic:
        """Messages and bytes of all connections, the open ones and those that have ended."""
        return self.counters.traffic.plus(connection.stats for connection in self._open)

    def outbox(self) -> Outbox:
        """What waits for all peers."""
        states = [connection._outbox_state for connection in self._open]
        blocked = [since for _, since in states if since is not None]
        return Outbox(sum(size for size, _ in states), min(blocked, default=None))


_registry = Registry()


def current() -> Registry:
    """The registry of this process."""
    return _registry


def _forked() -> None:
    """This process has just been forked: it gets a registry of its own."""
    global _registry  # one for each process, by definition
    parents, _registry = _registry, Registry()
    if len(parents):
        # Before a watcher is stopped: what the loop asks the kernel to watch is shared with the parent until then.
        gevent.get_hub().loop.reinit()
        parents.keepalive.stop()
        for connection in parents:
            connection._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
