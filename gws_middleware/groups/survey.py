"""The survey: the connections of all workers of a site, as they were a moment ago.

Rule: a survey can have less than there is, and says so: workers that have not answered in time, and connections above
the limit.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ConnectionInfo", "Survey", "WorkerInfo"]


class ConnectionInfo(NamedTuple):
    """One connection of the site."""

    id: str
    """No other connection of the site has it."""
    worker: str
    """The name of its worker: ``"host:pid"``."""
    user: str | None
    """The primary key of the user as text; None for an anonymous one, where it has not been read, and without Django.
    """
    user_name: str | None
    """The name of the user, where it has been read."""
    address: str
    """Of the client."""
    path: str
    """Of its URL."""
    since: float
    """When it was opened, in seconds since 1970."""
    last_activity: float
    """When the peer last sent anything, in seconds since 1970."""
    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    outbox: int
    """Bytes that wait for the peer."""
    latency: float | None
    """Seconds between the last ping and its pong; None before the first one."""
    groups: tuple[str, ...]
    """The groups of which it is a member."""


class WorkerInfo(NamedTuple):
    """One worker of the site."""

    name: str
    """``"host:pid"``."""
    host: str
    pid: int
    since: float
    """When it began to follow orders, in seconds since 1970."""
    connections: int
    """How many are open."""
    groups: int
    """How many groups have members here."""
    lag: float
    """Seconds by which its event loop was late when it answered."""
    version: str
    """Of this package."""


class Survey(NamedTuple):
    """What ``Groups.survey()`` has found."""

    connections: list[ConnectionInfo]
    workers: list[WorkerInfo]
    """Those that have answered."""
    missing: list[str]
    """The names of workers that have not answered in time."""
    more: bool
    """There are more connections than were asked for."""
