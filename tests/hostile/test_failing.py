"""Applications that fail after the 101 (row 23): one record, 1011, no byte of HTTP, other connections
are not affected.

``tests/test_middleware.py`` has each failure alone on every server. Here are many at once, and what the peer sends
meanwhile.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from ..support.rawclient import CONTINUATION, TEXT, Frame, RawClient, close_frame, frame, request
from ..support.servers import Server

RAISED = "the application raised; closed with 1011 .*"
FAILURES = {  # how the view ends after the 101, what the one record says
    "raise": RAISED + "LookupError: the reason$",
    "error-page": "the application answered '500 Internal Server Error'; closed with 1011$",
    "twice": RAISED + "AssertionError: start_response was called twice without exc_info",
    "exc_info": RAISED + "LookupError: the reason$",
    "again": RAISED + "LookupError: the reason$",
    "timeout": RAISED + "gevent.timeout.Timeout: 0.01 seconds$",
    "base-exception": RAISED + "Odd: the reason$",
    "raise-while-iterated": RAISED + "LookupError: the reason$",
    "raise-in-close": RAISED + "LookupError: the reason$",
    "lazily-raise": RAISED + "LookupError: the reason$",
}
CROWD = 20


def logged(server: Server, start: int) -> list[str]:
    """The records of ours since the one of this number that tell of an error."""
    return [one.text for one in server.log.records()[start:] if one.level in ("WARNING", "ERROR", "CRITICAL")]


def close_of(client: RawClient) -> tuple[int | None, bytes]:
    """The code of the close frame that comes next, and every byte after it when it has been answered."""
    close = client.read_frame()
    client.send(close_frame(close.code))
    return close.code, client.read_until_eof()


@pytest.mark.parametrize("pipelined", [frame(TEXT, b"x") * 3, request("/second")], ids=["frames", "a request"])
@pytest.mark.parametrize("ending", ["raise", "error-page"])
def test_view_that_fails_is_one_record_and_1011(worker: Server, ending: str, pipelined: bytes) -> None:
    """Whatever the peer has sent meanwhile: not a byte of HTTP comes."""
    start = len(worker.log.records())
    with worker.connect() as client:
        client.upgrade(f"/after/{ending}", then=pipelined)
        first = client.read_frame()
        code, rest = close_of(client)
    worker.log.expect(f"^ERROR gws_middleware: WebSocket '/after/{ending}': {FAILURES[ending]}")
    # A request is a broken frame, and whichever comes first is the end.
    assert code == 1011 or (code == 1002 and pipelined.startswith(b"GET"))
    assert (first, rest) == (Frame(TEXT, b"ready"), b"")
    assert len(logged(worker, start)) == 1


@pytest.mark.parametrize("ending", FAILURES)
def test_many_views_that_fail_at_once_are_one_record_each(worker: Server, ending: str) -> None:
    """Nothing of them is left: no connection, no descriptor, no greenlet. A connection that was open before, in the
    middle of a message, is not affected.
    """
    before = worker.status()
    start = len(worker.log.records())
    with ExitStack() as stack:
        opened = stack.enter_context(worker.connect())
        opened.upgrade("/echo", then=frame(TEXT, b"begun, ", fin=False))
        clients = [stack.enter_context(worker.connect()) for _ in range(CROWD)]
        for client in clients:
            client.upgrade(f"/after/{ending}")
        ends = [(client.read_frame(), *close_of(client)) for client in clients]
        opened.send(frame(CONTINUATION, b"done"))
        assert opened.read_frame() == Frame(TEXT, b"begun, done")
    worker.log.expect(f"'/after/{ending}': {FAILURES[ending]}", CROWD)
    assert ends == [(Frame(TEXT, b"ready"), 1011, b"")] * CROWD
    assert len(logged(worker, start)) == CROWD
    worker.settled(**{name: before[name] for name in ("fds", "greenlets", "watchers", "websockets")})


def test_callback_that_fails_is_one_record_and_1011(worker: Server) -> None:
    """``on_message`` of a detached connection: what waits after the message is dropped."""
    start = len(worker.log.records())
    with worker.connect() as client:
        client.upgrade("/obedient", then=frame(TEXT, b"fine") + frame(TEXT, b"raise") + frame(TEXT, b"lost"))
        first = client.read_frame()
        code, rest = close_of(client)
    worker.log.expect("^ERROR gws_middleware: WebSocket '/obedient': .* raised; closed with 1011 .*as asked$")
    assert (first, code, rest) == (Frame(TEXT, b"fine"), 1011, b"")
    assert len(logged(worker, start)) == 1
