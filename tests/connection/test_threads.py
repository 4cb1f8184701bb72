"""A WebSocket in other native threads, and in coroutines: the tables of docs/blocking.md hold."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gws_middleware import ConnectionClosed, WebSocket, prepare
from gws_middleware.connection.channel import plain_channel
from gws_middleware.coroutines import run
from gws_middleware.process.registry import Registry
from gws_middleware.protocol.deflate import Parameters

from ..support.inprocess import Peer, connected, deadline, hub_errors, in_a_thread, tcp_pair, unaccepted, until
from ..support.seam import channel_of, run_callbacks_of, set_channel, transport_of, waiting_senders
from ..support.servers import ROOT, Server

__all__ = ["hub_errors"]

PAGE = (ROOT / "docs" / "blocking.md").read_text("utf-8")
SECONDS = 30.0
"""More than any call takes."""


@pytest.fixture(autouse=True, scope="module")
def threads() -> None:
    """The native threads are there before a test counts descriptors."""
    run(asyncio.wait_for(asyncio.to_thread(int), SECONDS))
    gevent.get_hub().threadpool.apply(int)


@pytest.fixture
def eager() -> Iterator[None]:
    """The interpreter changes threads five hundred times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


# --- the table -----------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[WebSocket], object]] = {
    "send": lambda ws: ws.send("x"),
    "send_json": lambda ws: ws.send_json([]),
    "offer": lambda ws: ws.offer(prepare("x")),
    "ping": lambda ws: ws.ping(),
    "close": lambda ws: ws.close(),
    "abort": lambda ws: ws.abort(),
    "closed": lambda ws: ws.closed,
    "close_code": lambda ws: ws.close_code,
    "close_reason": lambda ws: ws.close_reason,
    "latency": lambda ws: ws.latency,
    "stats": lambda ws: ws.stats,
    "duration": lambda ws: ws.duration,
    "path": lambda ws: ws.path,
    "environ": lambda ws: ws.environ,
    "accept": lambda ws: ws.accept(),
    "receive": lambda ws: ws.receive(),
    "receive_json": lambda ws: ws.receive_json(),
    "for message in ws": lambda ws: next(ws),
    "has_messages": lambda ws: ws.has_messages(),
    "detach": lambda ws: ws.detach(),
}


def rows() -> dict[str, str]:
    """Each name in the page's table of methods, with "yes" or "refused"."""
    part = PAGE.partition("\n## In another native thread\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1:3] for line in re.findall(r"^\| `.*$", part, re.MULTILINE)]
    return {name: answer.strip() for names, answer in cells for name in re.findall(r"`([^`]+)`", names)}


def test_every_name_of_the_table_is_tried() -> None:
    """And what is tried is in it."""
    assert rows().keys() == CALLS.keys()


@pytest.mark.parametrize("name", [name for name, answer in rows().items() if answer == "yes"])
def test_call_is_allowed_in_another_thread(ws: WebSocket, name: str) -> None:
    """It returns there what it returns in the view."""
    found = in_a_thread(CALLS[name], ws)
    if name not in ("duration", "stats"):
        assert found == CALLS[name](ws) or name in ("send", "send_json", "offer", "ping", "close", "abort")


REFUSED = [name for name, answer in rows().items() if answer == "refused"]


@pytest.mark.parametrize("waiting", [False, True], ids=["empty inbox", "a message waits"])
@pytest.mark.parametrize("name", [*REFUSED, "receive with a timeout"])
def test_call_is_refused_in_another_thread(ws: WebSocket, peer: Peer, name: str, waiting: bool) -> None:
    """With a sentence that names what may be called; the connection goes on."""
    call = CALLS.get(name, lambda ws: ws.receive(timeout=1))
    if waiting:
        peer.send("x")
        until(lambda: ws.stats.messages_received)
    with pytest.raises(RuntimeError, match=r"this is another thread: there send, .* may be called"):
        in_a_thread(call, ws)
    if not waiting:
        peer.send("x")
    assert ws.receive() == "x"


# --- what is called there -----------------------------------------------------------------------------------------


class Noting:
    """Notes the threads in which something is used."""

    def __init__(self, used: Any, threads: set[int]) -> None:
        self._used, self._threads = used, threads

    def __getattr__(self, name: str) -> Any:
        self._threads.add(threading.get_ident())
        return getattr(self._used, name)


@pytest.mark.parametrize("name", ["send", "send_json", "offer", "ping", "close", "abort"])
def test_socket_and_loop_are_used_in_the_thread_of_the_loop(ws: WebSocket, name: str) -> None:
    """Another thread may use neither of them: gevent's loop is not made for it, and frames would interleave."""
    transport, threads = transport_of(ws), set[int]()
    set_channel(transport, Noting(channel_of(transport), threads))
    run_callbacks_of(transport, lambda loop: Noting(loop, threads))
    in_a_thread(CALLS[name], ws)
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize(
    ("call", "arrives"),
    [
        (lambda ws: ws.send("text"), "text"),
        (lambda ws: ws.send(b"text", binary=False), "text"),
        (lambda ws: ws.send(bytes(200_000)), bytes(200_000)),
        (lambda ws: ws.send_json({"a": 1}), '{"a":1}'),
        (lambda ws: ws.offer("text"), "text"),
        (lambda ws: ws.offer(prepare("text")), "text"),
    ],
)
def test_message_is_sent(ws: WebSocket, peer: Peer, call: Callable[[WebSocket], object], arrives: str | bytes) -> None:
    """An idle loop is woken for each, and does not wait for a timer of its own."""

    def send() -> list[float]:
        seconds = []
        for _ in range(10):
            began = time.monotonic()
            assert call(ws) in (None, True)
            seconds.append(time.monotonic() - began)
        return seconds

    reading = gevent.spawn(lambda: [peer.receive() for _ in range(10)])
    seconds = in_a_thread(send)
    assert reading.get(timeout=SECONDS) == [arrives] * 10
    assert max(seconds) < 2


@pytest.mark.parametrize(
    ("call", "arrives"), [(lambda ws: ws.close(4002, "done"), (4002, "done")), (lambda ws: ws.abort(), None)]
)
def test_connection_is_ended(ws: WebSocket, peer: Peer, call: Callable[[WebSocket], object], arrives: object) -> None:
    """With and without a close frame, as by any greenlet: an idle loop is woken for it."""
    received = threading.Event()

    def read() -> object:
        frame = peer.close_frame()
        received.set()
        return frame

    def end() -> bool:
        call(ws)
        return received.wait(2)

    in_a_thread(ws.ping, b"hello")
    reading = gevent.spawn(read)
    assert in_a_thread(end)
    assert (reading.get(timeout=SECONDS), ws.closed, ws.close_code) == (arrives, True, 4002 if arrives else 1006)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda ws: ws.send(None), TypeError),
        (lambda ws: ws.offer(None), TypeError),
        (lambda ws: ws.close(1005), ValueError),
        (lambda ws: ws.ping(bytes(126)), ValueError),
    ],
)
def test_wrong_call_raises_in_the_thread(
    ws: WebSocket, call: Callable[[WebSocket], object], error: type[Exception]
) -> None:
    """Where it was made; the connection stays open."""
    with pytest.raises(error):
        in_a_thread(call, ws)
    assert not ws.closed


def test_connection_that_has_ended(ws: WebSocket) -> None:
    """As in the loop's thread."""
    ws.abort()
    with pytest.raises(ConnectionClosed):
        in_a_thread(ws.send, "x")
    assert in_a_thread(ws.offer, "x") is False


def test_sender_waits_for_a_slow_peer_in_its_thread() -> None:
    """The loop serves others meanwhile."""
    with connected(buffers=1 << 15, send_high_water=1000) as (ws, peer):
        sending = gevent.get_hub().threadpool.spawn(lambda: [ws.send(bytes(1 << 18)) for _ in range(5)])
        until(lambda: waiting_senders(ws))
        assert not sending.ready()
        assert [peer.receive() for _ in range(5)] == [bytes(1 << 18)] * 5
        sending.get(timeout=5)


@pytest.mark.parametrize("compression", [None, Parameters()], ids=["plain", "compressed"])
def test_messages_of_many_threads_arrive_whole(eager: None, compression: Parameters | None) -> None:
    """And those of each thread in its order, also while a greenlet of the view's thread sends."""
    senders, count = 5, 60
    with connected(compression=compression) as (ws, peer):

        def send(sender: int) -> None:
            for number in range(count):
                ws.send(f"{sender}:{number}:{'abcde'[sender] * 20_000}")
                if sender == 0:
                    gevent.sleep(0)

        pool = gevent.get_hub().threadpool
        results = [gevent.spawn(send, 0), *(pool.spawn(send, sender) for sender in range(1, senders))]
        with deadline("all messages arrive", SECONDS):
            found = [str(peer.receive()) for _ in range(senders * count)]
            for result in results:
                result.get()
    for sender in range(senders):
        text = "abcde"[sender] * 20_000
        ours = [message for message in found if message.startswith(f"{sender}:")]
        assert ours == [f"{sender}:{number}:{text}" for number in range(count)]


def test_first_send_accepts() -> None:
    """As it does in the view."""
    ours, theirs = tcp_pair()
    registry = Registry()
    ws = unaccepted(lambda headers: (plain_channel(ours), b""), registry)
    try:
        in_a_thread(ws.send, "x")
        assert (ws.accepted, Peer(theirs).receive()) == (True, "x")
    finally:
        ws.abort()
        theirs.close()
        until(lambda: not len(registry), "the registry is empty")


# --- coroutines ----------------------------------------------------------------------------------------------------


def test_coroutine_may_send(ws: WebSocket, peer: Peer) -> None:
    """It runs in another native thread: the message goes out in the view's."""

    async def talk(ws: WebSocket) -> None:
        ws.send("from a coroutine")
        await asyncio.to_thread(ws.send, "from its thread")

    run(talk(ws), timeout=SECONDS)
    assert [peer.receive(), peer.receive()] == ["from a coroutine", "from its thread"]


def test_coroutine_may_not_receive(ws: WebSocket, peer: Peer) -> None:
    """It would hold up all coroutines: the view receives, and passes on."""

    async def talk(ws: WebSocket) -> object:
        return ws.receive()

    peer.send("x")
    with pytest.raises(RuntimeError, match="this is another thread"):
        run(talk(ws), timeout=SECONDS)
    assert ws.receive() == "x"


@pytest.mark.parametrize("server", ["worker", "gevent", "pywsgi"], indirect=True)
@pytest.mark.parametrize("path", ["/native", "/coroutine"])
def test_view_with_threads_on_a_real_server(server: Server, path: str) -> None:
    """The view receives, and a native thread or a coroutine answers, in a process that is monkey-patched."""
    with server.connect(timeout=SECONDS) as client:
        client.upgrade(path)
        for word in ("one", "two"):
            client.text(word)
            assert client.read_frame().payload == word.upper().encode()
        client.close_handshake()
