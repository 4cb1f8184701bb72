"""How a connection was closed, from the close frames that its engine has seen (RFC 6455 7.1.5 to 7.1.7), and who learns
that it has ended.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..codes import CloseCode
from ..exceptions import ConnectionClosed
from ..protocol.connection import Connection

__all__ = ["EndObserver", "closed_error", "first_close"]


class EndObserver(Protocol):
    """What is called when a connection ends."""

    def ended(self, ws: Any) -> None:
        """Nothing can be sent or received any more; ``on_close`` was not called yet. Must not wait; may run in the
        hub.
        """


def first_close(engine: Connection | None) -> tuple[int, str]:
    """Code and reason of the first close frame, whichever side sent it; 1006 where there was none.

    The answer to a close frame repeats its code and has no reason, which distinguishes the two.
    """
    if engine is None:
        return int(CloseCode.ABNORMAL), ""
    sent, received = engine.sent_close, engine.received_close
    if sent is not None and received is not None and sent == (received[0], ""):
        return received
    return sent or received or (int(CloseCode.ABNORMAL), "")


def closed_error(engine: Connection | None) -> ConnectionClosed:
    """What is raised in the application that uses a connection which has ended; ``engine`` is None before the 101."""
    if engine is None:
        return ConnectionClosed()
    code, reason = first_close(engine)
    return ConnectionClosed(code, reason, received=engine.received_close, sent=engine.sent_close)
