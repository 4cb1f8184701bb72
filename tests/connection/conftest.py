"""An accepted WebSocket and its peer, for tests that need no settings of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gws_middleware import WebSocket

from ..support.inprocess import Peer, connected

Pair = tuple[WebSocket, Peer]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of one connection."""
    with connected() as both:
        yield both


@pytest.fixture
def ws(pair: Pair) -> WebSocket:
    """The server's end."""
    return pair[0]


@pytest.fixture
def peer(pair: Pair) -> Peer:
    """The client's end."""
    return pair[1]
