"""Peers that send more than their share at once, and views that never wait (rows 26 and 27).

The worker is killed when its event loop does not run for two seconds; each of these would keep it for longer, and not
for much longer: a view may go on with what has come while the worker stops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from ..support.rawclient import BINARY, CLOSE, CONTINUATION, DEFLATE, TEXT, Frame, RawClient, deflated, frame
from ..support.servers import Server, launch

SLOW = "/computing?each=0.002"
DETACHED = "/computing?each=0.002&detached=1"
ECHOES = 30
FRAGMENTS = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 9000
INFLATING = frame(BINARY, deflated(bytes(2**19)), rsv=4) * 100


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A worker with two seconds between heartbeats."""
    with launch(
        "worker",
        tmp_path_factory.mktemp("server"),
        "tests.fixtureapps.hostile",
        options=["--timeout", "2"],
        env={"GWS_COMPRESSION": "shared"},
    ) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "peers", "data"),
    [
        pytest.param(SLOW, 1, frame(TEXT, b"x") * 2000, id="a burst for a view that computes"),
        pytest.param(DETACHED, 1, frame(TEXT, b"x") * 2000, id="a burst for a detached connection that computes"),
        pytest.param(SLOW, 40, frame(TEXT, b"x") * 50, id="forty of them"),
        pytest.param("/echo", 100, FRAGMENTS, id="fragments"),
        pytest.param("/computing?each=0.01", 1, INFLATING, id="small frames that inflate"),
        pytest.param("/hurrying", 3, b"", id="a view that sends without a pause"),
        pytest.param("/hurrying?offer=1", 3, b"", id="a view that offers without a pause"),
    ],
)
def test_others_are_served_meanwhile(hurried: Server, path: str, peers: int, data: bytes) -> None:
    """Another client is answered again and again while the attack goes on, and the worker is not killed."""
    before = hurried.status()["pid"]
    with ExitStack() as stack, hurried.connect() as client:
        client.upgrade("/echo")
        attackers: list[RawClient] = [stack.enter_context(hurried.connect()) for _ in range(peers)]
        for attacker in attackers:
            attacker.upgrade(path, *([DEFLATE] if data is INFLATING else []))
        for attacker in attackers:
            attacker.send(data)
        for number in range(ECHOES):
            client.text(str(number))
            assert client.read_frame() == Frame(TEXT, b"%d" % number)
            for attacker in attackers if not data else ():
                attacker.sock.setblocking(False)
                with suppress(BlockingIOError):
                    attacker.sock.recv(2**20)  # it reads as fast as it can
        for attacker in attackers:
            attacker.reset()
        assert hurried.get("/").status == 200
    assert hurried.status()["pid"] == before


@pytest.mark.parametrize("detached", ["", "&detached=1"])
def test_only_what_the_rate_allows_reaches_the_application(hurried: Server, detached: str) -> None:
    """Nine thousand messages in one write, of which ten may come at once: ten are answered, then 1008."""
    with hurried.connect() as client:
        client.upgrade(f"/limited?rate=0.001&burst=10000{detached}")
        client.send(frame(TEXT, b"x") * 9000)
        frames = client.read_frames_until_eof()
        assert frames[:-1] == [Frame(TEXT, b"x")] * 10
        assert (frames[-1].opcode, frames[-1].code) == (CLOSE, 1008)
