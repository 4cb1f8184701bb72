"""``closing``: which close frame counts, and the error that an application gets (RFC 6455 7.1.5 to 7.1.7)."""

from __future__ import annotations

import pytest

from gws_middleware.connection.closing import closed_error, first_close
from gws_middleware.protocol.connection import Connection

from ..support.inprocess import masked_frame
from ..support.rawclient import close_frame

Close = tuple[int, str]
LOST = "the connection was lost without a close frame (1006)"


def engine(*, ours: Close | None = None, peers: bytes = b"", ours_first: bool = True) -> Connection:
    """An engine that has sent and received these."""
    made = Connection()
    if ours is not None and ours_first:
        made.close(*ours)
    made.feed(peers)
    if ours is not None and not ours_first:
        made.close(*ours)
    return made


CASES: dict[str, tuple[Connection | None, Close, Close | None, Close | None, str]] = {
    "before the 101": (None, (1006, ""), None, None, LOST),
    "no frame": (engine(), (1006, ""), None, None, LOST),
    "the peer closes": (
        engine(peers=close_frame(4001, "bye")),
        (4001, "bye"),
        (4001, "bye"),
        (4001, ""),
        "the connection has been closed: the peer sent 4001 'bye', we sent 4001",
    ),
    "the peer closes without a code": (
        engine(peers=masked_frame(8)),
        (1005, ""),
        (1005, ""),
        (1005, ""),
        "the connection has been closed: the peer sent 1005, we sent 1005",
    ),
    "we close": (
        engine(ours=(4002, "done")),
        (4002, "done"),
        None,
        (4002, "done"),
        "the connection has been closed: we sent 4002 'done'",
    ),
    "we close and the peer answers": (
        engine(ours=(4002, "done"), peers=close_frame(4002)),
        (4002, "done"),
        (4002, ""),
        (4002, "done"),
        "the connection has been closed: the peer sent 4002, we sent 4002 'done'",
    ),
    "both at once": (
        engine(ours=(4002, "us"), peers=close_frame(4001, "peer")),
        (4002, "us"),
        (4001, "peer"),
        (4002, "us"),
        "the connection has been closed: the peer sent 4001 'peer', we sent 4002 'us'",
    ),
    "a violation": (
        engine(peers=masked_frame(0x3)),
        (1002, "opcode 0x3 is reserved"),
        None,
        (1002, "opcode 0x3 is reserved"),
        "the connection has been closed: we sent 1002 'opcode 0x3 is reserved'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_first_close_frame_counts(case: str) -> None:
    """Whichever side sent it; 1006 where there was none. The error has those of both sides, and a sentence."""
    made, first, received, sent, sentence = CASES[case]
    error = closed_error(made)
    assert first_close(made) == (error.code, error.reason) == first
    assert (error.received, error.sent) == (received, sent)
    assert str(error) == sentence
