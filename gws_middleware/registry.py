"""The live connections of this worker: who is here, what went by, and how to send everybody home.

One registry for each process: a fork starts with an empty one, because it inherits no conversation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

import gevent

from .codes import CloseCode

__all__ = ["Member", "Registry", "current"]

_POLL = 0.05
"""Seconds between two looks at whether a drain is done."""


class Member(Protocol):
    """What the registry asks of a connection."""

    def close(self, code: int = ..., reason: str = ...) -> None:
        """Say goodbye; never waits."""

    def abort(self) -> None:
        """Cut the connection."""


class Registry:
    """The connections that have been accepted and whose socket is still open."""

    def __init__(self) -> None:
        self._members: set[Member] = set()
        self.opened = 0
        """Connections accepted since the worker started."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members))

    def add(self, member: Member) -> None:
        """A connection has been accepted."""
        self._members.add(member)
        self.opened += 1

    def remove(self, member: Member) -> None:
        """Its socket is gone."""
        self._members.discard(member)

    def drain(self, code: int = CloseCode.GOING_AWAY, timeout: float = 10.0) -> None:
        """Close every connection with ``code`` and wait until their sockets are gone; cut those left after
        ``timeout`` s.
        """
        for member in self:
            member.close(code)
        deadline = gevent.get_hub().loop.now() + timeout
        while self._members and gevent.get_hub().loop.now() < deadline:
            gevent.sleep(_POLL)
        for member in self:
            member.abort()


_registry = Registry()
_pid = os.getpid()


def current() -> Registry:
    """This process' registry."""
    global _registry, _pid  # one for each process, by definition
    if _pid != os.getpid():
        _registry, _pid = Registry(), os.getpid()
    return _registry
