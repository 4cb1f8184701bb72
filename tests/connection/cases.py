"""A WebSocket over a real socket in each of its states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
from gevent.event import Event

from gws_middleware import ConnectionClosed, WebSocket
from gws_middleware.connection import control

from ..support.inprocess import Peer, plain_channel, tcp_pair, unaccepted, until
from ..support.rawclient import close_frame
from ..support.seam import channel_of, set_channel, state_of, transport_of

__all__ = ["Case", "in_state", "refuse_writes", "run_loop"]


class Case:
    """A WebSocket in one state."""

    def __init__(self, ws: WebSocket, peer: Peer, go_on: Event) -> None:
        self.ws, self.peer, self.go_on = ws, peer, go_on
        """``go_on``: where it is being accepted, the 101 may be written."""

    @property
    def state(self) -> str:
        return state_of(self.ws)


class RefusingChannel:
    """A channel on which each write fails, as one to a peer that has disconnected."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def send(self, data: object) -> int:
        raise BrokenPipeError

    sendmsg = send


def refuse_writes(ws: WebSocket) -> None:
    """Let the kernel refuse a write, which for a real peer cannot be had before it resets the connection."""
    transport = transport_of(ws)
    set_channel(transport, RefusingChannel(channel_of(transport)))
    ws.ping()


@contextmanager
def in_state(name: str) -> Iterator[Case]:
    """A WebSocket over a real socket, in this state."""
    ours, theirs = tcp_pair()
    go_on = Event()

    def switch(headers: object) -> Any:
        if name == "LOST":
            raise BrokenPipeError
        if name == "ACCEPTING":
            go_on.wait()
        return plain_channel(ours), b""

    ws = unaccepted(switch)
    case = Case(ws, Peer(theirs), go_on)
    accepting = None
    if name == "ACCEPTING":
        accepting = gevent.spawn(ws.accept)
        run_loop()
    elif name == "ANSWERED":
        control.answer(ws)
    elif name in ("OPEN", "CLOSING", "CLOSED"):
        ws.accept()
        if name == "CLOSING":
            refuse_writes(ws)
        elif name == "CLOSED":
            theirs.sendall(close_frame(1000))
            until(lambda: ws.close_code == 1000)
    elif name == "REFUSED":
        ws.close()
    elif name == "LOST":
        with suppress(ConnectionClosed):
            ws.accept()
    try:
        assert case.state == name
        yield case
    finally:
        go_on.set()
        if accepting is not None:
            accepting.join()
        ws.abort()
        theirs.close()
        ours.close()
        run_loop()


def run_loop() -> None:
    """Let the loop run until nothing is left to do."""
    for _ in range(20):
        gevent.sleep(0)
