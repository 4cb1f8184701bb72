"""What only time, or numbers, bring about (rows 7, 10, 12, 21, 22): each with a server of its own."""

from __future__ import annotations

import ctypes
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gws_middleware.protocol.masking import speedups

from ..support.rawclient import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawClient,
    Response,
    close_frame,
    frame,
    upgrade_request,
)
from ..support.servers import Record, Server, launch
from ..support.waiting import SPARE, agrees, eventually
from .watch import Bystander, Memory

HOSTILE = "tests.fixtureapps.hostile"
MIB = 2**20
INTERVAL, TIMEOUT, MESSAGE = 0.4, 0.4, 1.0
SHORT_TIMEOUTS = {
    "GWS_PING_INTERVAL": str(INTERVAL),
    "GWS_PING_TIMEOUT": str(TIMEOUT),
    "GWS_MESSAGE_TIMEOUT": str(MESSAGE),
    "GWS_CLOSE_TIMEOUT": "0.5",
    "GWS_SEND_TIMEOUT": "1",
}


@pytest.fixture(scope="module")
def short_timeouts_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A worker with deadlines that a test can wait for."""
    with launch("worker", tmp_path_factory.mktemp("short-timeouts"), HOSTILE, env=SHORT_TIMEOUTS) as server:
        yield server


@pytest.fixture
def strict(short_timeouts_server: Server) -> Iterator[Server]:
    """That worker, with an honest peer beside the attack; after it nothing is left."""
    before = short_timeouts_server.status()
    with Bystander(short_timeouts_server) as honest:
        yield short_timeouts_server
        honest.check()
    short_timeouts_server.settled(**{name: before[name] for name in ("fds", "greenlets", "watchers", "websockets")})
    short_timeouts_server.log.check()


# --- one message (row 7) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/echo", "/detached"])
@pytest.mark.parametrize("shape", ["one frame", "fragments", "header"])
def test_message_that_takes_too_long_ends_with_1008(strict: Server, path: str, shape: str) -> None:
    """However steadily its bytes come, and whatever else comes in between."""
    beginning = {
        "one frame": frame(BINARY, length=1000),
        "fragments": frame(BINARY, b"x", fin=False),
        "header": frame(BINARY, b"x" * 300)[:3],
    }[shape]
    piece = {"one frame": b"x", "fragments": frame(PING) + frame(CONTINUATION, b"x", fin=False), "header": b""}[shape]
    with strict.connect() as client:
        client.upgrade(path)
        begin = time.monotonic()
        client.send(beginning)
        seen = dribble(client, piece, until=begin + MESSAGE + SPARE)
        waited = time.monotonic() - begin
    assert [one.code for one in seen if one.opcode == CLOSE] == [1008]
    assert agrees(waited, MESSAGE)


def dribble(client: RawClient, piece: bytes, until: float) -> list[Frame]:
    """Send the piece again and again until the other side has closed; what it sent."""
    seen: list[Frame] = []
    client.sock.settimeout(0.05)
    while time.monotonic() < until and not any(one.opcode == CLOSE for one in seen):
        client.send(piece)
        try:
            seen.append(client.read_frame())
        except TimeoutError:
            continue
        if seen[-1].opcode == PING and not piece:  # what answers a ping in the middle of a frame is a part of that
            client.send(b"x")
    return seen


def test_slow_messages_in_time_are_taken(strict: Server) -> None:
    """Each has its own time: a peer that takes most of it for every one goes on."""
    with strict.connect() as client:
        client.upgrade("/echo")
        for number in range(3):
            client.send(frame(TEXT, b"%d" % number)[:-1])
            time.sleep(MESSAGE / 2)  # this peer is slow
            client.send(frame(TEXT, b"%d" % number)[-1:])
            while (received := client.read_frame()).opcode == PING:
                client.send(frame(PONG, received.payload))
            assert received == Frame(TEXT, b"%d" % number)


# --- pings (row 10) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"p" * 125], ids=["empty", "longest"])
def test_ping_flood_of_a_peer_that_never_reads_ends_with_1008(worker: Server, memory: Memory, payload: bytes) -> None:
    """Its pongs are coalesced, so that memory stays flat, and when that lasts too long the connection ends."""
    if not payload and speedups is None:
        # The kernel takes a million pongs of two bytes, for which pure Python needs longer than a ping may take.
        pytest.skip("in pure Python such a peer is found by the ping that it does not answer, before that")
    one = frame(PING, payload)
    flood = one * (64 * MIB // len(one))
    seen = len(flood_records(worker))
    # A hundred thousand pings take a second or more of a core, which other processes may use at the same time.
    with memory.grows_by_less_than(MIB), worker.connect(receive_buffer=4096, timeout=90) as client:
        client.upgrade("/echo")
        with pytest.raises(ConnectionError):
            client.send(flood)
    record = eventually(lambda: flood_records(worker)[seen:], "its end")[0]
    assert record.level == "INFO"


def flood_records(worker: Server) -> list[Record]:
    """What was logged of connections that ended like that."""
    return [one for one in worker.log.records() if "closed with 1008 'a flood of pings'" in one.text]


# --- no peer (row 12) -----------------------------------------------------------------------------------------


def disconnect(client: RawClient) -> None:
    """As if the cable were cut: from now on the kernel drops what comes for this socket, and acknowledges nothing."""
    instruction = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF: return 0 bytes of every packet
    buffer = ctypes.create_string_buffer(instruction)
    program = struct.pack("HL", 1, ctypes.addressof(buffer))
    client.sock.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER of Linux


@pytest.mark.parametrize("path", ["/echo", "/detached"])
def test_lost_peer_is_found_by_ping(strict: Server, token: str, path: str) -> None:
    """Without a FIN, in the interval and the time to answer; the view, or ``on_close``, sees the end with 1011."""
    with strict.connect() as client:
        begin = time.monotonic()
        client.upgrade(f"{path}?id={token}")
        disconnect(client)
        wanted = "ended" if path == "/echo" else "left after 1011"
        strict.events(token, wanted)
        waited = time.monotonic() - begin
        [record] = strict.log.find(f"'{path}': closed with 1011 'keepalive ping timeout'")[-1:]
        strict.settled(websockets=1)  # the honest peer
    assert agrees(waited, INTERVAL + TIMEOUT)
    assert record.level == "INFO"


@pytest.mark.parametrize("path", ["/pushing", "/sleeping"])
def test_lost_peer_is_found_though_the_view_never_receives(strict: Server, token: str, path: str) -> None:
    """It only sends, or sleeps: pongs are missed all the same."""
    with strict.connect() as client:
        client.upgrade(f"{path}?id={token}")
        disconnect(client)
        wanted = "left by ConnectionClosed" if path == "/pushing" else "woke up after 1011"
        assert strict.events(token, wanted) == [wanted]
        strict.settled(websockets=1)


def test_lost_peer_with_a_full_inbox_is_released(strict: Server, token: str) -> None:
    """No application reads its pongs, so none misses them: the kernel finds out by what is not acknowledged."""
    with strict.connect() as client:
        client.upgrade(f"/sleeping?id={token}")
        client.send(frame(TEXT, b"x") * 100)
        disconnect(client)
        assert strict.events(token, "woke up after 1006") == ["woke up after 1006"]
        strict.settled(websockets=1)


def test_silent_peer_that_answers_pings_stays(strict: Server) -> None:
    """For many intervals, without a message of either side; its pings come at the interval."""
    with strict.connect() as client:
        begin = time.monotonic()
        client.upgrade("/echo")
        for _ in range(6):
            ping = client.read_frame()
            assert ping.opcode == PING
            client.send(frame(PONG, ping.payload))
        waited = time.monotonic() - begin
        client.text("still here")
        received = client.read_frame()
        assert client.close_handshake()[-1].code == 1000
    assert received == Frame(TEXT, b"still here")
    assert agrees(waited, 6 * INTERVAL)


# --- too many (row 21) ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A worker that takes five WebSockets, and three of one address; its unix socket's peers have none."""
    env = {"GWS_MAX_CONNECTIONS": "5", "GWS_MAX_CONNECTIONS_PER_ADDRESS": "3"}
    with launch("worker", tmp_path_factory.mktemp("small"), HOSTILE, env=env) as server:
        yield server


@pytest.fixture
def small(small_server: Server) -> Iterator[Server]:
    """That worker."""
    yield small_server
    small_server.settled(websockets=0)
    small_server.log.check()


def refusal(server: Server) -> tuple[int, str | None, bytes]:
    """How one handshake more is answered, and that the connection ends after it."""
    with server.connect() as client:
        response = answer(client)
        assert client.read_until_eof() == b""
    return response.status, response.headers.get("retry-after"), response.body


def answer(client: RawClient, path: str = "/echo") -> Response:
    """What a handshake is answered with."""
    client.send(upgrade_request(path))
    return client.read_response()


def fill(stack: ExitStack, server: Server, count: int) -> list[RawClient]:
    """So many open WebSockets."""
    clients = [stack.enter_context(server.connect()) for _ in range(count)]
    for client in clients:
        client.upgrade("/echo")
    return clients


def test_connection_beyond_the_limit_is_a_503_with_retry_after(small: Server) -> None:
    """A sentence states why; open connections are not disturbed."""
    with ExitStack() as stack:
        clients = fill(stack, small.at("unix"), 5)
        found = refusal(small.at("unix"))
        for client in clients:
            client.text("x")
        echoes = [client.read_frame() for client in clients]
    assert found == (503, "5", b"This worker has 5 WebSockets, and takes no more for now.\n")
    assert echoes == [Frame(TEXT, b"x")] * 5


def test_plain_http_is_served_beyond_the_limit(small: Server) -> None:
    """It has a limit of its own, gunicorn's."""
    with ExitStack() as stack:
        fill(stack, small.at("unix"), 5)
        assert refusal(small.at("unix"))[0] == 503
        response = small.get("/plain")
    assert response.status == 200


def test_connection_beyond_the_limit_of_its_address_is_a_429(small: Server) -> None:
    """Others are let in."""
    with ExitStack() as stack:
        fill(stack, small, 3)
        found = refusal(small)
        fill(stack, small.at("unix"), 1)
    assert found == (429, "5", b"Your address has 3 WebSockets here, and may have no more.\n")


@pytest.mark.parametrize("end", ["close", "reset", "refused by the application", "violation"])
def test_ended_connections_release_their_slots(small: Server, end: str) -> None:
    """Whatever ended them."""
    for _ in range(10):
        with small.connect() as client:
            if end == "refused by the application":
                assert answer(client, "/nowhere").status == 404
                continue
            eventually(lambda: small.status()["websockets"] < 3, "a place")
            client.upgrade("/echo")
            if end == "close":
                client.close_handshake()
            elif end == "reset":
                client.reset()
            else:
                client.send(frame(TEXT, b"\xff"))
                client.read_frames_until_eof()
    small.settled(websockets=0)
    with ExitStack() as stack:
        fill(stack, small, 3)
        assert refusal(small)[0] == 429


# --- a deploy (row 22) ---------------------------------------------------------------------------------------------

CROWD = 700
"""At 500 close frames in a second they take more than one."""


def leave(clients: list[RawClient]) -> tuple[list[int | None], float]:
    """The codes that they receive, each answered at once, and the seconds from the first to the last."""
    codes, times = [], []
    for client in clients:
        codes.append(client.read_frame().code)
        times.append(time.monotonic())
        client.send(close_frame(1000))
    return codes, max(times) - min(times)


def crowd(stack: ExitStack, server: Server) -> list[RawClient]:
    """Many detached connections."""
    clients = []
    for _ in range(CROWD):
        client = stack.enter_context(server.connect(timeout=30))
        client.upgrade("/detached")
        clients.append(client)
    return clients


def test_close_frames_of_a_stop_are_spread_and_have_1012(server_directory: Path) -> None:
    """All connections receive it."""
    with launch("worker", server_directory, HOSTILE) as server, ExitStack() as stack:
        clients = crowd(stack, server)
        server.kill(signal.SIGTERM)
        codes, seconds = leave(clients)
    assert codes == [1012] * CROWD
    assert seconds > 0.5 * CROWD / 500  # half: the test may read the first frame late


def test_close_frames_of_a_reload_have_1012(server_directory: Path) -> None:
    """Spread as well, while the new worker takes connections."""
    with launch("worker", server_directory, HOSTILE) as server, ExitStack() as stack:
        clients = crowd(stack, server)
        before = server.status()["pid"]
        server.kill(signal.SIGHUP)
        codes, seconds = leave(clients)
        server.next_worker(before)
    assert codes == [1012] * CROWD
    assert seconds > 0.5 * CROWD / 500  # half: the test may read the first frame late


def test_all_are_closed_before_the_graceful_timeout(server_directory: Path) -> None:
    """Those too that answer nothing: the server has not been killed, and its views have cleaned up."""
    with launch("worker", server_directory, HOSTILE, options=["--graceful-timeout", "6"]) as server:
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect(timeout=30)) for _ in range(50)]
            for client in clients:
                client.upgrade("/waiting")
                assert client.read_frame() == Frame(TEXT, b"ready")
            begin = time.monotonic()
            server.kill(signal.SIGTERM)
            frames = [client.read_frames_until_eof() for client in clients]
            server.wait(6)
            seconds = time.monotonic() - begin
        ends = [one for one in server.log.records() if re.search("finally of .* after 1012", one.text)]
    assert [[one.code for one in received] for received in frames] == [[1012]] * 50
    assert (len(ends), seconds < 6) == (50, True)
