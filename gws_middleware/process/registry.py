"""The live connections of this worker: who is here, how many may be, what went by, and how to send everybody home.

One registry for each process: a fork starts with an empty one, because it inherits no conversation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Protocol

import gevent

from ..codes import CloseCode
from ..config import Config
from .counters import Counters
from .keepalive import Keepalive, Watched

__all__ = ["Member", "Registry", "current"]

PACE = 500
"""Goodbyes in a second, when there are many: each brings a client back at once."""
_POLL = 0.05
"""Seconds between two looks at whether a drain is done."""


class Member(Watched, Protocol):
    """What the registry asks of a connection."""

    def close(self, code: int = ..., reason: str = ...) -> None:
        """Say goodbye; never waits."""

    def abort(self) -> None:
        """Cut the connection."""

    def _forked(self) -> None:
        """This is a process that has just been forked: the connection is the parent's."""

    @property
    def stats(self) -> Any:
        """``Stats``."""

    @property
    def _outbox_state(self) -> tuple[int, float | None]:
        """Bytes that wait for the peer, and since when (``time.monotonic()``) the kernel has not taken them all."""


class Registry:
    """The connections that have been accepted and whose socket is still open."""

    def __init__(self) -> None:
        self._members: dict[Member, int] = {}  # in the order in which they came, with the close code of a shutdown
        self._running: dict[Member, Any] = {}
        self._slots: dict[Hashable, dict[Any, None]] = {}
        self._keys: dict[Any, list[Hashable]] = {}
        self._draining = False
        self._drain_code: int | None = None
        self.keepalive = Keepalive()
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members))

    @property
    def draining(self) -> bool:
        """Whether everybody is being sent home."""
        return self._draining

    def add(self, member: Member, config: Config) -> None:
        """A connection with these settings has been accepted."""
        self._members[member] = config.shutdown_close_code
        self.counters.accepted += 1
        self.keepalive.watch(member, config)
        if self._draining:  # it came in behind the goodbye to the others
            gevent.get_hub().loop.run_callback(member.close, self._code_for(member, self._drain_code))

    def remove(self, member: Member) -> None:
        """Its socket is gone."""
        self.keepalive.forget(member)
        self._members.pop(member, None)

    def began(self, member: Member, view: Any) -> None:
        """It has been accepted, and ``view`` is the greenlet of its view."""
        self._running[member] = view

    def left(self, member: Member) -> None:
        """Its view has left, and the connection lives on."""
        self._running[member] = None

    def ended(self, member: Member) -> None:
        """Nothing of the application's runs for it any more, neither its view nor ``on_close``."""
        self._running.pop(member, None)

    # --- limits ----------------------------------------------------------------------------------------------------
    #
    # A slot is not a number that is counted up and down but the entry of its holder. So nothing is counted twice, and
    # whatever exception comes between two lines here, release() leaves none of the holder's slots reserved.

    def reserve(self, holder: Any, key: Hashable, limit: int) -> bool:
        """Reserve one of the ``limit`` slots of ``key`` for ``holder``; False if all are reserved."""
        holders = self._slots.get(key, ())
        if len(holders) >= limit:
            return False
        self._keys.setdefault(holder, []).append(key)
        self._slots.setdefault(key, {})[holder] = None
        return True

    def release(self, holder: Any) -> None:
        """Release all slots of ``holder``; a second call does nothing."""
        for key in self._keys.get(holder, ()):
            holders = self._slots.get(key, {})
            holders.pop(holder, None)
            if not holders:
                self._slots.pop(key, None)
        self._keys.pop(holder, None)

    @property
    def reserved(self) -> dict[Hashable, int]:
        """How many slots of each key are reserved."""
        return {key: len(holders) for key, holders in self._slots.items() if holders}

    # --- what went by ----------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, Any]:
        """The counters, with what the open connections have added to them so far, and what is the case right now."""
        counters = self.counters
        sums = [counters.messages_received, counters.messages_sent, counters.bytes_received, counters.bytes_sent]
        outbox = 0
        for member in self._members:
            sums = [total + more for total, more in zip(sums, member.stats, strict=True)]
            outbox += member._outbox_state[0]
        return {
            "open": len(self),
            "accepted": counters.accepted,
            "refused": dict(counters.refused),
            "closed": dict(counters.closed),
            **dict(zip(("messages_received", "messages_sent", "bytes_received", "bytes_sent"), sums, strict=True)),
            "dropped": counters.dropped,
            "outbox_bytes": outbox,
            "loop_lag": self.keepalive.lag,
        }

    # --- the end ---------------------------------------------------------------------------------------------------

    def drain(self, code: int | None = None, timeout: float = 10.0, members: Iterable[Member] | None = None) -> None:
        """Close connections with ``code``, by default each with its ``shutdown_close_code``, and wait until sockets are
        closed and views have ended: all connections, those too that come from now on, unless ``members`` says which.

        Goodbyes to many are spread over ``timeout`` s at the most. ``timeout`` s after the last of them the sockets
        that are left are cut, and views are waited for no longer.
        """
        everybody = members is None
        if everybody:
            self._draining, self._drain_code = True, code
        members = list(self._members if members is None else members)
        pause = min(1 / PACE, timeout / max(1, len(members)))
        begin = time.monotonic()
        for number, member in enumerate(members):
            early = begin + number * pause - time.monotonic()
            if early > _POLL:  # a few at a time: as many as the loop would be woken for
                gevent.sleep(early)
            member.close(self._code_for(member, code))
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._are_here(None if everybody else members):
            gevent.sleep(_POLL)
        for member in self if everybody else [each for each in members if each in self._members]:
            member.abort()
        if self._members:
            gevent.sleep(0)  # what was cut goes in the hub: then it is counted

    def _code_for(self, member: Member, code: int | None) -> int:
        return self._members.get(member, CloseCode.SERVICE_RESTART) if code is None else code

    def _are_here(self, members: Iterable[Member] | None) -> bool:
        if members is None:
            return bool(self._members or self._running)
        return any(member in self._members or member in self._running for member in members)

    def kill_views(self) -> None:
        """End the views that have not ended by themselves: their ``finally`` runs, which whoever ends the process would
        leave them no time for.
        """
        views = [view for view in self._running.values() if view is not None]
        gevent.killall(views, block=False)


_registry = Registry()


def current() -> Registry:
    """This process' registry."""
    return _registry


def _begin() -> None:
    """In a process that has just been forked: the connections are its parent's."""
    global _registry  # one for each process, by definition
    parents, _registry = _registry, Registry()
    if len(parents):
        # Before a watcher is stopped: what the loop asks the kernel to watch is shared with the parent until then.
        gevent.get_hub().loop.reinit()
        parents.keepalive.stop()
        for member in parents:
            member._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
