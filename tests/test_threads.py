"""A WebSocket in other native threads: its methods are called there as in the view, and run in the view's thread."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from gws_middleware import ConnectionClosed, prepare
from gws_middleware.channel import plain_channel
from gws_middleware.coroutines import run
from gws_middleware.protocol.deflate import Parameters

from .inprocess import connected, deadline, hub_errors, tcp_pair, unaccepted, until
from .servers import Server

__all__ = ["hub_errors"]

SECONDS = 30.0
"""More than any call here takes."""
get_ident = get_original("_thread", "get_ident")


@pytest.fixture(autouse=True, scope="module")
def threads() -> None:
    """The native threads are there before a test counts descriptors."""
    run(asyncio.wait_for(asyncio.to_thread(int), SECONDS))
    gevent.get_hub().threadpool.apply(int)


@pytest.fixture
def eager() -> Iterator[None]:
    """The interpreter changes threads a thousand times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def in_a_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns or raises in a native thread of gevent's pool. Nothing but its end wakes this thread's loop."""

    def call() -> tuple[Any, BaseException | None]:
        try:
            return function(*arguments), None
        except BaseException as error:
            return None, error

    with deadline("the thread returns", SECONDS):
        returned, raised = gevent.get_hub().threadpool.apply(call)
    if raised is not None:
        raise raised
    return returned


# --- sending -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, Parameters()], ids=["plain", "compressed"])
def test_messages_of_many_threads_arrive_whole(eager: None, compression: Parameters | None) -> None:
    """And those of each thread in its order, also while greenlets of the view's thread send."""
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
            found = [str(peer.receive()).split(":") for _ in range(senders * count)]
            for result in results:
                result.get()
    expected = [[str(sender), str(number), "abcde"[sender] * 20_000] for sender in range(5) for number in range(count)]
    assert sorted(found, key=lambda parts: (parts[0], int(parts[1]))) == expected
    for sender in range(senders):
        assert [int(parts[1]) for parts in found if parts[0] == str(sender)] == list(range(count))


def test_send_wakes_an_idle_loop() -> None:
    """Several messages, of which the later ones wait for the end of the loop's turn, with nothing else to do."""
    with connected() as (ws, peer):
        reading = gevent.spawn(lambda: [peer.receive() for _ in range(3)])
        in_a_thread(lambda: [ws.send(word) for word in ("one", "two", "three")])
        assert reading.get(timeout=SECONDS) == ["one", "two", "three"]


def test_send_waits_for_a_slow_peer() -> None:
    """The thread waits as a view does, and goes on when the peer has read."""
    with connected(buffers=8192) as (ws, peer):
        sending = gevent.get_hub().threadpool.spawn(lambda: [ws.send(bytes(1 << 20)) for _ in range(4)])
        until(lambda: ws.waiting[0] > 0, "the peer is slow", SECONDS)
        assert not sending.ready()
        with deadline("the peer reads", SECONDS):
            sizes = [len(peer.receive() or "") for _ in range(4)]
        assert (sizes, sending.get(timeout=SECONDS)) == ([1 << 20] * 4, [None] * 4)


def test_errors_are_raised_in_the_calling_thread() -> None:
    """Those of a wrong call, and ConnectionClosed."""
    with connected() as (ws, peer):
        with pytest.raises(TypeError):
            in_a_thread(ws.send, 3.5j)
        peer.close(4001, "bye")
        with pytest.raises(ConnectionClosed) as closed:
            in_a_thread(lambda: [ws.receive(), ws.send("x")])
    assert closed.value.code == 4001


def test_offer_json_and_ping_are_sent() -> None:
    """All that sends may be called."""
    with connected() as (ws, peer):
        assert in_a_thread(ws.offer, prepare("offered")) is True
        in_a_thread(ws.send_json, {"a": 1})
        in_a_thread(ws.ping)
        found = [peer.receive(), peer.receive()]
        until(lambda: peer.engine.has_replies or peer.read() or peer.engine.has_replies, "the ping arrives", SECONDS)
        peer.answer()
        until(lambda: ws.latency is not None, "the pong arrives", SECONDS)
    assert found == ["offered", '{"a":1}']


# --- receiving -----------------------------------------------------------------------------------------------------


def test_receive_waits_for_a_message() -> None:
    """The thread waits, and nothing else does."""
    with connected() as (ws, peer):
        receiving = gevent.get_hub().threadpool.spawn(ws.receive)
        until(lambda: ws._reader is not None or receiving.ready(), "the thread waits", SECONDS)
        peer.send("x")
        assert receiving.get(timeout=SECONDS) == "x"


def test_receive_has_a_timeout() -> None:
    """TimeoutError in the thread, and the connection stays usable."""
    with connected() as (ws, peer):
        with pytest.raises(TimeoutError, match="no message within"):
            in_a_thread(ws.receive, 0.01)
        peer.send("x")
        assert in_a_thread(ws.receive) == "x"


def test_iteration_ends_with_the_connection() -> None:
    """``for message in ws`` in a thread."""
    with connected() as (ws, peer):
        peer.send("one", '{"two": 2}', "three")
        first = in_a_thread(next, ws)
        second = in_a_thread(ws.receive_json)
        peer.close()
        assert [first, second, *in_a_thread(list, ws)] == ["one", {"two": 2}, "three"]


def test_messages_are_counted() -> None:
    """``count_messages()`` lets the loop of the WebSocket run, and not one of the thread."""
    with connected() as (ws, peer):
        peer.send("x")
        until(lambda: in_a_thread(ws.count_messages), "the message", SECONDS)


# --- the end -------------------------------------------------------------------------------------------------------


def test_close_sends_the_close_frame() -> None:
    """With code and reason."""
    with connected() as (ws, peer):
        in_a_thread(ws.close, 4000, "done")
        assert peer.close_frame() == (4000, "done")
        peer.answer()


def test_abort_cuts_the_connection() -> None:
    """A view that waits sees the end."""
    with connected() as (ws, peer):
        view = gevent.spawn(ws.receive)
        until(lambda: ws._reader is not None, "the view waits")
        in_a_thread(ws.abort)
        assert (view.get(timeout=SECONDS), ws.close_code, peer.receive()) == (None, 1006, None)


def test_detach_calls_back_in_the_thread_of_the_websocket() -> None:
    """Callbacks run where they would if the view had detached, those for messages that wait too."""
    with connected() as (ws, peer):
        found: list[tuple[Any, int]] = []
        peer.send("waits")
        until(ws.count_messages, "the message", SECONDS)
        in_a_thread(ws.detach, lambda ws, message: found.append((message, get_ident())))
        until(lambda: found, "the message is delivered", SECONDS)
    assert found == [("waits", get_ident())]


# --- before it is accepted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda ws: ws.accept(),
        lambda ws: ws.send("x"),
        lambda ws: ws.receive(),
        lambda ws: ws.detach(),
        lambda ws: ws.ping(),
        lambda ws: next(ws),
        lambda ws: ws.count_messages(),
    ],
    ids=["accept", "send", "receive", "detach", "ping", "iteration", "count_messages"],
)
def test_accepting_is_for_the_view(call: Callable[[Any], Any]) -> None:
    """The 101 goes out in the greenlet of the request, whose session and database connection belong to it."""
    ours, theirs = tcp_pair()
    try:
        ws = unaccepted(lambda headers: (plain_channel(ours), b""))
        with pytest.raises(RuntimeError, match="has not been accepted: accept it in its view"):
            in_a_thread(call, ws)
        assert not ws.accepted
    finally:
        ws.abort()
        ours.close()
        theirs.close()


def test_facts_are_read_anywhere() -> None:
    """They are plain attributes."""
    with connected() as (ws, _):
        ws.send("x")
        found = in_a_thread(
            lambda: (ws.closed, ws.close_code, ws.latency, ws.stats.messages_sent, ws.path, ws.accepted)
        )
    assert found == (False, None, None, 1, "/chat", True)


# --- coroutines ----------------------------------------------------------------------------------------------------


def test_coroutine_may_send_and_receive() -> None:
    """In the asyncio thread ``send`` takes a turn of the view's event loop; what may wait for long has a thread."""

    async def talk(ws: Any) -> Any:
        ws.send("from a coroutine")
        return await asyncio.to_thread(ws.receive)

    with connected() as (ws, peer):
        peer.send("to a coroutine")
        found = run(talk(ws), timeout=SECONDS)
        assert (found, peer.receive()) == ("to a coroutine", "from a coroutine")


@pytest.mark.parametrize("server", ["worker", "pywsgi"], indirect=True)
def test_native_thread_talks_on_a_real_server(server: Server) -> None:
    """A view that gives its connection to a native thread, in a process that is monkey-patched."""
    with server.connect(timeout=SECONDS) as client:
        client.upgrade("/native")
        for word in ("one", "two"):
            client.text(word)
            assert client.read_frame().payload == word.upper().encode()
        client.say_goodbye()
