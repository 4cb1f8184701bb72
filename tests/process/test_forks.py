"""A forked child has copies of its parent's connections: it must neither use them nor keep them open."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ..conftest import SharedServer
from ..support.rawclient import CLOSE, TEXT, Frame, RawClient, close_frame
from ..support.servers import Server
from ..support.waiting import eventually

if sys.version_info >= (3, 12):  # which warns of forks beside threads; gevent has some
    pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SERVERS = ["worker", "worker/tls", "gevent", "gevent_pywsgi", "pywsgi", "pywsgi/tls", "geventwebsocket-worker"]
LOST = {"closed": True, "send": "ConnectionClosed", "registry": 0, "descriptors": 0}


@pytest.fixture
def forking(request: pytest.FixtureRequest, shared_server: SharedServer) -> Iterator[Server]:
    """A server whose views fork."""
    kind, _, carrier = request.param.partition("/")
    server = shared_server(kind, carrier or "tcp", "tests.fixtureapps.lifetimes")
    yield server
    server.log.check()


everywhere = pytest.mark.parametrize("forking", SERVERS, indirect=True)
every_child = pytest.mark.parametrize(
    ("how", "runs"), [("gevent", "loop"), ("gevent", "nothing"), ("raw", "loop"), ("raw", "nothing")]
)


def opened(stack: ExitStack, server: Server, path: str) -> RawClient:
    client = stack.enter_context(server.connect())
    client.upgrade(path)
    assert client.read_frame() == Frame(TEXT, b"ready")
    return client


@contextmanager
def forked(client: RawClient) -> Iterator[dict[str, object]]:
    """Have this client's view fork; what the child finds. A child that runs the loop accepts connections, too, so it
    has ended when the block has.
    """
    client.text("fork")
    found: dict[str, object] = json.loads(client.read_frame().payload)
    pid = found.pop("pid")
    yield found
    assert client.close_handshake() == [Frame(CLOSE, b"\x03\xe8")]
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the child has ended")


@every_child
@everywhere
def test_child_has_no_connection_of_its_parents(forking: Server, how: str, runs: str) -> None:
    """Every message is answered by the parent, whatever the child does; for the child every connection has ended."""
    with ExitStack() as stack:
        attached, detached = opened(stack, forking, "/pid"), opened(stack, forking, "/pid/detached")
        forker = opened(stack, forking, f"/fork?how={how}&runs={runs}")
        answers = set()
        with forked(forker) as found:
            for number in range(30):
                for client in (attached, detached, forker):
                    client.text(str(number))
                    pid, _, echo = client.read_frame().payload.partition(b" ")
                    answers.add(pid)
                    assert echo == str(number).encode()
    assert found == LOST
    assert len(answers) == 1


@pytest.mark.parametrize("path", ["/pid", "/pid/detached"])
@pytest.mark.parametrize("runs", ["loop", "nothing"])
@everywhere
def test_child_keeps_no_connection_open(forking: Server, runs: str, path: str) -> None:
    """What the parent closes or cuts has ended for the peer, too, though the child lives on."""
    with ExitStack() as stack:
        closing, cut = opened(stack, forking, path), opened(stack, forking, path)
        forker = opened(stack, forking, f"/fork?how=gevent&runs={runs}")
        with forked(forker):
            closing.text("close")
            assert closing.read_frame() == Frame(CLOSE, b"\x03\xe8")
            closing.send(close_frame())
            cut.text("abort")
            assert [closing.read_until_eof(), cut.read_until_eof()] == [b"", b""]
