"""A WebSocket in other native threads, and in coroutines: what docs/blocking.md says of them."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator

import gevent
import pytest

from gws_middleware import WebSocket, prepare
from gws_middleware.connection.channel import plain_channel
from gws_middleware.coroutines import run
from gws_middleware.process.registry import Registry
from gws_middleware.protocol.deflate import Parameters

from ..support.inprocess import Peer, connected, deadline, hub_errors, in_a_thread, tcp_pair, unaccepted, until
from ..support.servers import ROOT, Server

__all__ = ["hub_errors"]

PAGE = (ROOT / "docs" / "blocking.md").read_text("utf-8")
SECONDS = 30.0
"""More than any call here takes."""


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
def test_call_is_allowed_in_another_thread(name: str) -> None:
    """It returns there what it returns in the view."""
    with connected() as (ws, _):
        found = in_a_thread(CALLS[name], ws)
        if name not in ("duration", "stats"):
            assert found == CALLS[name](ws) or name in ("send", "send_json", "offer", "ping", "close", "abort")


@pytest.mark.parametrize("name", [name for name, answer in rows().items() if answer == "refused"])
def test_call_is_refused_in_another_thread(name: str) -> None:
    """With a sentence that names what may be called; the connection goes on."""
    with connected() as (ws, peer):
        with pytest.raises(RuntimeError, match=r"this is another thread: there send, .* may be called"):
            in_a_thread(CALLS[name], ws)
        peer.send("x")
        assert ws.receive() == "x"


# --- sending -------------------------------------------------------------------------------------------------------


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


def test_send_wakes_an_idle_loop() -> None:
    """Several messages, with nothing else to do for the event loop."""
    with connected() as (ws, peer):
        reading = gevent.spawn(lambda: [peer.receive() for _ in range(3)])
        in_a_thread(lambda: [ws.send(word) for word in ("one", "two", "three")])
        assert reading.get(timeout=SECONDS) == ["one", "two", "three"]


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
        until(lambda: not len(registry), "the connection has left the registry")


# --- coroutines ----------------------------------------------------------------------------------------------------


def test_coroutine_may_send() -> None:
    """It runs in another native thread: the message goes out in the view's."""

    async def talk(ws: WebSocket) -> None:
        ws.send("from a coroutine")
        await asyncio.to_thread(ws.send, "from its thread")

    with connected() as (ws, peer):
        run(talk(ws), timeout=SECONDS)
        assert [peer.receive(), peer.receive()] == ["from a coroutine", "from its thread"]


def test_coroutine_may_not_receive() -> None:
    """It would hold up all coroutines: the view receives, and passes on."""

    async def talk(ws: WebSocket) -> object:
        return ws.receive()

    with connected() as (ws, peer):
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
        client.say_goodbye()
