"""A server's gevent socket without a server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket as gsocket

__all__ = ["in_greenlet", "pair"]


@pytest.fixture
def pair() -> Iterator[tuple[Any, socket.socket]]:
    """A server's gevent socket, and the client's end."""
    theirs, ours = gsocket.socketpair()
    with theirs, ours:
        yield theirs, ours


def in_greenlet(function: Any, *arguments: Any) -> Any:
    """What ``function`` returns in a greenlet of its own, as a request of a gevent server is one."""
    return gevent.spawn(function, *arguments).get()
