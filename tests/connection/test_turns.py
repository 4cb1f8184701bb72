"""``turns``: no connection keeps the event loop from the others.

A view that computes does so for a whole turn of the loop, so that an order of events shows whether others were served.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

import gevent
import pytest
from gevent import get_hub

from gws_middleware import ConnectionClosed, WebSocket, prepare
from gws_middleware.codes import Opcode
from gws_middleware.connection.fastpath import LASTS
from gws_middleware.connection.turns import Turns, turns_of
from gws_middleware.protocol.connection import Connection
from gws_middleware.protocol.deflate import Deflate, Parameters
from gws_middleware.typing import Message

from ..support.inprocess import (
    Peer,
    connected,
    counting,
    deadline,
    hub_errors,
    masked_frame,
    preemptions,
    spin,
    ticks,
    unpreempted,
    until,
)
from ..support.interrupting import raised_at_call, raised_at_line
from ..support.rawclient import close_frame
from ..support.seam import after_the_poll, deliver, engine_of, is_paused, queued, transport_of, wrap_queue

__all__ = ["hub_errors"]

COMPUTE = 2 * LASTS
X = masked_frame(Opcode.TEXT, b"x")
PIECE = masked_frame(Opcode.CONTINUATION, b"x", first=0)
FRAGMENTS = masked_frame(Opcode.TEXT, b"x", first=0) + PIECE * 9000 + masked_frame(Opcode.CONTINUATION, b"x")
RESET = Parameters(server_no_context_takeover=True, client_no_context_takeover=True)


def turns() -> Turns:
    return turns_of(get_hub())


def coarse_clock() -> float:
    """The clock of a turn in C on Linux; that of a turn in Python elsewhere."""
    return time.clock_gettime(6) if sys.platform == "linux" else time.monotonic()  # CLOCK_MONOTONIC_COARSE


def outlast(seconds: float) -> None:
    """Compute for so long by both clocks: the tick that moves the coarse one may be late on a virtual machine."""
    end = coarse_clock() + seconds + 1e-6  # more than the rounding of a difference
    spin(seconds)
    while coarse_clock() < end:
        pass


def use_up_the_turn() -> None:
    """Compute until this turn of the loop is over, whenever it began."""
    outlast(2 * LASTS)
    turns().is_over()  # the loop's counter is read only when so much time has passed by the clock
    outlast(2 * LASTS)


class Heartbeat:
    """A timer of the loop, as that of a worker: how often it has fired."""

    def __init__(self) -> None:
        self.beats = 0
        self._timer = get_hub().loop.timer(0.001, 0.001)

    def __enter__(self) -> Heartbeat:
        self._timer.start(self._beat)
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.stop()
        self._timer.close()

    def _beat(self) -> None:
        self.beats += 1


class TestTurn:
    def test_is_over_when_it_has_lasted(self) -> None:
        """By the clock, and not by what has been done in it."""
        ticks(1)
        found = [turns().is_over()]
        use_up_the_turn()
        found += [turns().is_over(), turns().is_over()]
        assert found == [False, True, True]

    def test_each_poll_begins_another_one(self) -> None:
        """Whatever the one before has lasted."""
        use_up_the_turn()
        before = turns().is_over()
        ticks(1)
        assert (before, turns().is_over()) == (True, False)

    def test_lasts_no_longer_by_another_clock(self) -> None:
        """A clock that is quicker to read is late, on some machines by more than a turn: all moments are of one."""
        found = []
        for _ in range(20):
            turns().begin()
            outlast(LASTS)
            found.append(turns().is_over())
        assert found == [True] * 20

    def test_there_is_one_for_each_hub(self) -> None:
        """All connections of a hub share its turns."""
        assert turns() is turns()

        def elsewhere() -> bool:
            hub = get_hub()
            try:
                return turns_of(hub) is turns_of(hub) is not ours
            finally:
                hub.destroy(destroy_loop=True)

        ours = turns()
        assert get_hub().threadpool.apply(elsewhere)

    def test_iterations_of_a_loop_that_does_not_count_them(self) -> None:
        """The loop of gevent on libuv: its clock numbers them."""

        class Loop:
            iteration = -1
            time = 1.0

            def now(self) -> float:
                return self.time

        class Hub:
            loop = Loop()

        counting = Turns(Hub())
        before = counting.polls.iteration
        assert counting.polls.iteration == before
        Hub.loop.time += 0.001
        assert counting.polls.iteration > before


class TestQueue:
    def test_give_way_lets_the_loop_poll(self) -> None:
        """A socket, a timer and other greenlets are served meanwhile."""
        with Heartbeat() as heart:
            spin(COMPUTE)
            turns().give_way()
            turns().give_way()
            assert heart.beats

    def test_give_way_does_nothing_in_the_hub(self) -> None:
        """A callback of the loop cannot wait."""
        called: list[bool] = []
        get_hub().loop.run_callback(lambda: (turns().give_way(), called.append(True)))
        ticks()
        assert called == [True]

    def test_what_has_not_had_a_turn_comes_first(self) -> None:
        """A connection with little to do does not wait for those that have much."""
        order: list[str] = []
        for name in ("a", "b"):
            turns().later(lambda name=name: order.append(f"resumed {name}"))
        for name in ("c", "d"):
            turns().wake(lambda name=name: order.append(f"woken {name}"))
        until(lambda: len(order) == 4)
        assert order == ["woken c", "woken d", "resumed a", "resumed b"]

    def test_one_message_comes_before_many(self) -> None:
        """Each of those with many may use up a turn: those with one must not wait for all of them."""
        order: list[str] = []

        def note(name: str) -> Callable[[], None]:
            return lambda: order.append(name) or spin(COMPUTE)  # type: ignore[func-returns-value]

        for number in range(3):
            turns().wake(note(f"many {number}"))
        turns().wake(note("one"), light=True)
        until(lambda: len(order) == 4)
        assert order == ["one", "many 0", "many 1", "many 2"]

    def test_queue_has_turns_of_its_own(self) -> None:
        """Of twenty that compute for a turn each, one or two run before the loop polls."""
        done: list[int] = []
        with Heartbeat() as heart:
            for number in range(20):
                turns().later(lambda number=number: (spin(COMPUTE), done.append(heart.beats)))
            until(lambda: len(done) == 20)
        assert len(set(done)) >= 10

    def test_those_that_resume_get_a_turn_among_those_that_are_woken(self) -> None:
        """However many come."""
        order: list[str] = []

        def woken() -> None:
            spin(COMPUTE)
            order.append("woken")
            if len(order) < 50 and "resumed" not in order:
                turns().wake(woken)

        turns().later(lambda: order.append("resumed"))
        woken()
        until(lambda: "resumed" in order)
        assert order.count("woken") <= 3
        until(lambda: not queued(turns()))

    def test_one_that_gives_way_after_a_poll_waits_for_the_next(self) -> None:
        """Though the queue has not been served yet."""
        iterations: list[int] = []
        polls: list[bool] = []
        check = get_hub().loop.check()  # called after each poll
        check.start(polls.append, True)

        def give_way() -> None:
            iterations.append(len(polls))
            turns().give_way()
            iterations.append(len(polls))

        after_the_poll(turns(), gevent.Greenlet(give_way).switch)
        until(lambda: len(iterations) == 2)
        check.stop()
        check.close()
        assert iterations[1] > iterations[0]

    def test_error_in_one_leaves_the_others(self, hub_errors: list[BaseException]) -> None:
        """The loop reports it, as for any callback."""
        done: list[bool] = []
        turns().later(lambda: 1 / 0)
        turns().later(lambda: done.append(True))
        until(lambda: done)
        assert isinstance(hub_errors.pop(), ZeroDivisionError)

    def test_greenlet_that_ends_in_its_wait(self) -> None:
        """It is dropped."""
        waiting = gevent.spawn(turns().give_way)
        gevent.sleep(0)
        waiting.kill()
        ticks()
        assert waiting.dead and not queued(turns())

    def test_exception_in_the_middle_leaves_the_queue_served(self) -> None:
        """Of a signal handler's, at any line: other connections wait there, too."""
        for line in range(1, 20):
            done: list[bool] = []
            cut = raised_at_line(line, lambda: turns().later(lambda: None), "/turns.py")
            turns().later(lambda done=done: done.append(True))
            until(lambda done=done: done)
            if not cut:
                break
        assert line > 3

    def test_served_queue_keeps_no_watcher(self) -> None:
        """The loop's watchers are few, and a test counts them."""
        turns().later(int)
        until(lambda: not queued(turns()))
        ticks()
        assert "timer" not in {type(each).__name__ for each in gc.get_referents(turns())}

    @pytest.mark.parametrize("step", ["polled", "run"])
    def test_exception_while_the_queue_is_served_loses_nothing(
        self, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a signal handler's, in the hub, at any call: what waits is served with what comes next."""
        for number in range(1, 40):
            cuts: list[bool] = []

            def call(serve: Callable[[], object], number: int = number, cuts: list[bool] = cuts) -> None:
                if cuts:
                    serve()
                else:
                    cuts.append(raised_at_call(number, serve, "/turns.py"))

            with monkeypatch.context() as patched:
                wrap_queue(patched, step, call)
                done: list[int] = []
                for which in range(3):
                    turns().later(partial(done.append, which))
                until(lambda cuts=cuts: cuts, f"call {number} is cut")
                turns().later(partial(done.append, 3))
                until(lambda done=done: len(done) == 4, f"all are served after an exception at call {number}")
            assert done == [0, 1, 2, 3]
            if cuts == [False]:
                break
        assert 1 < number < 39

    def test_child_has_no_greenlet_of_its_parent(self) -> None:
        """In a forked process they are copies."""
        turns().later(lambda: None)
        child = os.fork()
        if not child:
            os._exit(queued(turns()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert queued(turns()) == 1
        until(lambda: not queued(turns()))


class TestBursts:
    """Many messages in one read, for an application that computes for each."""

    def test_view_gives_way_between_two_messages(self) -> None:
        """Another connection is answered while a burst waits for a slow view."""
        with connected(inbox_messages=100) as (slow, attacker), connected() as (other, peer):
            taken: list[str] = []

            def compute() -> None:
                for message in slow:
                    spin(COMPUTE)
                    taken.append(message)

            def echo() -> None:
                other.send(f"{other.receive()} after {len(taken)}")

            views = [gevent.spawn(compute), gevent.spawn(echo)]
            ticks()
            attacker.sock.sendall(X * 50)
            until(lambda: taken)
            peer.send("answered")
            answer = peer.receive()
            assert isinstance(answer, str) and int(answer.rpartition(" ")[2]) < 10
            slow.close()
            attacker.disconnect()
            gevent.joinall(views, 5)

    def test_no_message_is_lost_where_the_wait_is_cut_off(self) -> None:
        """A timeout around ``receive()`` may come while it lets others run: before it has taken a message."""
        with connected(inbox_messages=100) as (ws, peer):
            peer.sock.sendall(b"".join(masked_frame(Opcode.TEXT, b"%d" % number) for number in range(30)))
            until(lambda: ws.count_messages() == 30)
            got: list[object] = []
            cut = 0
            while len(got) < 30:
                spin(COMPUTE)
                try:
                    with gevent.Timeout(0):
                        got.append(ws.receive())
                except gevent.Timeout:
                    cut += 1
                    got.append(ws.receive())
            if get_hub().loop.iteration >= 0:  # on libuv a timer that is started begins another turn
                assert cut > 10
            assert got == [str(number) for number in range(30)]

    def test_detached_connection_gives_way_between_two_messages(self) -> None:
        """Its callbacks are no less slow."""
        with connected(inbox_messages=100) as (slow, attacker), Heartbeat() as heart:
            beats: list[int] = []
            slow.detach(lambda ws, message: (spin(COMPUTE), beats.append(heart.beats)))
            attacker.sock.sendall(X * 20)
            until(lambda: len(beats) == 20)
            assert len(set(beats)) >= 10

    def test_views_of_many_connections_share_a_turn(self) -> None:
        """A hundred sockets are ready at once: those that come late are woken in a later turn, in order."""
        order: list[str] = []
        with ExitStack() as stack, Heartbeat() as heart:
            pairs = [stack.enter_context(connected()) for _ in range(10)]

            def view(ws: object) -> None:
                for message in ws:  # type: ignore[attr-defined]
                    spin(COMPUTE)
                    order.append(f"{message}{heart.beats}")

            views = [gevent.spawn(view, ws) for ws, _ in pairs]
            ticks()
            for _, peer in pairs:
                peer.send("x")
            until(lambda: len(order) == 10)
            assert len(set(order)) >= 5
        gevent.joinall(views, 5)

    @pytest.mark.parametrize("detached", [False, True])
    @pytest.mark.parametrize(("end", "code"), [(close_frame(4001), 4001), (masked_frame(0x3), 1002)])
    def test_messages_before_the_end_are_answered_before_it(
        self, ws: WebSocket, peer: Peer, end: bytes, code: int, detached: bool
    ) -> None:
        """Though the view lets others run between two of them."""

        def answer(ws: WebSocket, message: Message) -> None:
            spin(COMPUTE)
            ws.send(message)

        def view() -> None:
            for message in ws:
                answer(ws, message)

        viewing = None
        if detached:
            ws.detach(answer)
        else:
            viewing = gevent.spawn(view)
        ticks()
        peer.sock.sendall(b"".join(masked_frame(Opcode.TEXT, b"%d" % number) for number in range(10)) + end)
        assert [peer.receive() for _ in range(10)] == [str(number) for number in range(10)]
        close_frame = peer.close_frame()
        assert close_frame is not None and close_frame[0] == code
        if viewing is not None:
            viewing.get(timeout=5)

    def test_connection_that_ends_before_its_view_is_woken(self, ws: WebSocket, peer: Peer) -> None:
        """The view receives what came, and then the end: once each."""
        view = gevent.spawn(list, ws)
        ticks()
        data = X + close_frame(4001)
        get_hub().loop.run_callback(lambda: (use_up_the_turn(), deliver(ws, data)))
        assert view.get(timeout=5) == ["x"]
        assert ws.close_code == 4001
        peer.disconnect()


class TestParsing:
    """What one read holds is not all parsed at once."""

    def test_fragments_of_many_connections_share_a_turn(self) -> None:
        """Nine thousand fragments in one segment cost tens of milliseconds: other connections are served meanwhile."""
        with ExitStack() as stack, connected() as (other, peer), Heartbeat() as heart:
            pairs = [stack.enter_context(connected()) for _ in range(8)]
            echo = gevent.spawn(lambda: other.send(other.receive()))
            sending = [gevent.spawn(attacker.sock.sendall, FRAGMENTS) for _, attacker in pairs]
            until(lambda: any(ws.stats.bytes_received for ws, _ in pairs))
            peer.send("answered")
            assert peer.receive() == "answered"
            beats = heart.beats
            assert not all(ws.count_messages() for ws, _ in pairs)
            until(lambda: all(ws.count_messages() for ws, _ in pairs), seconds=20)
            assert heart.beats > beats + 8
            assert {ws.receive() for ws, _ in pairs} == {"x" * 9002}
            gevent.joinall([echo, *sending], 5)

    def test_detached_connection_gets_a_message_that_was_parsed_later(self, ws: WebSocket, peer: Peer) -> None:
        """The greenlet for it is started then."""
        got: list[object] = []
        ws.detach(lambda ws, message: got.append(message))
        sending = gevent.spawn(peer.sock.sendall, FRAGMENTS)
        until(lambda: got, seconds=20)
        assert got == ["x" * 9002]
        sending.join(5)

    def test_ping_flood_is_answered_in_turns(self, ws: WebSocket, peer: Peer) -> None:
        """Control frames are parsed one by one, too."""
        with Heartbeat() as heart:
            sending = gevent.spawn(peer.sock.sendall, masked_frame(Opcode.PING, b"x") * 40_000 + X)
            assert ws.receive() == "x"
            assert heart.beats > 1
            sending.kill()

    def test_end_of_a_flood_is_seen(self, ws: WebSocket, peer: Peer) -> None:
        """A close frame that waits inside is parsed in its turn."""
        sending = gevent.spawn(peer.sock.sendall, FRAGMENTS + close_frame(4001))
        assert (list(ws), ws.close_code) == (["x" * 9002], 4001)
        sending.kill()

    def test_close_in_the_middle_of_a_flood_reads_the_answer(self) -> None:
        """What waits inside is skipped in turns, up to the peer's close frame."""
        with connected(close_timeout=60, inbox_messages=1) as (ws, peer):
            sending = gevent.spawn(peer.sock.sendall, X * 5 + FRAGMENTS + close_frame(4001))
            until(lambda: is_paused(ws))
            ws.close(4002)
            until(lambda: transport_of(ws).closed, "the connection ends by the peer's close frame")
            assert engine_of(ws).received_close == (4001, "")
            sending.kill()

    def test_messages_that_inflate_are_delivered_in_turns(self) -> None:
        """Each of a few bytes becomes a megabyte: the loop runs between them."""
        engine = Connection(client=True, max_message_size=2**30, deflate=Deflate(RESET, client=True))
        frames = b"".join(engine.encode(bytes(2**20)) for _ in range(40))  # type: ignore[misc]
        with connected(compression=RESET) as (ws, peer), Heartbeat() as heart:
            sizes: list[int] = []
            ws.detach(lambda ws, message: sizes.append(len(message)))
            peer.sock.sendall(frames)
            until(lambda: len(sizes) == 40)
            assert heart.beats > 3

    def test_all_of_a_large_burst_arrives_in_order(self, ws: WebSocket, peer: Peer) -> None:
        """Ten thousand messages in one segment, taken one by one."""
        frames = b"".join(masked_frame(Opcode.TEXT, b"%d" % number) for number in range(10_000))
        sending = gevent.spawn(peer.sock.sendall, frames)
        assert [ws.receive() for _ in range(10_000)] == [str(number) for number in range(10_000)]
        sending.join(5)


class TestSending:
    """A view that sends without a pause to a peer that reads as fast."""

    LIMIT = 200_000

    @pytest.mark.parametrize("kind", ["send", "large", "offer", "ping and send"])
    def test_view_that_never_waits_leaves_others_their_turn(self, ws: WebSocket, peer: Peer, kind: str) -> None:
        """``while True: ws.send(…)``: the kernel takes all of it, and still the loop runs."""
        stop: list[bool] = []

        def read() -> None:
            with suppress(OSError):  # the test closes the socket
                while peer.sock.recv(1 << 20):
                    pass

        def view() -> int:
            frame, count = prepare("x" * 10), 0
            while not stop and count < self.LIMIT:
                if kind == "offer":
                    ws.offer(frame)
                elif kind == "large":
                    ws.send(bytes(100_000))
                else:
                    if kind == "ping and send":
                        ws.ping()
                    ws.send("x" * 10)
                count += 1
            return count

        reading, viewing = gevent.spawn(read), gevent.spawn(view)
        gevent.spawn_later(0.01, stop.append, True)
        with deadline("the view ends", 60):
            assert viewing.get() < self.LIMIT
        peer.disconnect()
        reading.kill()

    def test_what_a_view_sends_while_it_computes_is_sent_at_once(self, ws: WebSocket, peer: Peer) -> None:
        """Not when it gives way: real time has passed since the message before."""
        sizes: list[int] = []

        def view() -> None:
            for number in range(5):
                spin(4 * COMPUTE)
                ws.send(str(number))
                sizes.append(sum(channel.writes()))

        with counting(ws) as channel:
            gevent.spawn(view).get()
        assert sizes == [3, 6, 9, 12, 15]
        assert [peer.receive() for _ in range(5)] == list("01234")

    @pytest.mark.parametrize(
        ("method", "waiting"), [("offer", []), ("ping", []), ("ping", ["two"]), ("close", []), ("close", ["two"])]
    )
    def test_frame_is_sent_at_once_in_a_turn_that_has_lasted(
        self, ws: WebSocket, peer: Peer, method: str, waiting: list[str]
    ) -> None:
        """After a message, and with one that waits. In the hub nothing can wait for another turn, and in a view these
        methods do not: the end of the turn may be far away.
        """
        writes: list[list[int]] = []

        def callback() -> None:
            channel.calls.clear()
            before = preemptions()
            for message in ("one", *waiting):
                ws.offer(message)
            if preemptions() != before:
                return  # the turn may have been over before the last of them: once more, in another one
            use_up_the_turn()
            getattr(ws, method)(*(["last"] if method == "offer" else []))
            writes.append(channel.writes())

        with counting(ws) as channel, deadline("a turn without a preemption"):
            while not writes:
                get_hub().loop.run_callback(callback)
                ticks()
        size = {"offer": 6, "ping": 10, "close": 4}[method]
        assert writes == [[5, size + 5 * len(waiting)]]

    def test_frames_of_one_turn_are_still_joined(self, ws: WebSocket, peer: Peer) -> None:
        """A view that sends quickly costs one system call for the first frame and one for all others."""

        def send() -> None:
            for number in range(10):
                ws.send(str(number))

        def again() -> None:
            received()
            channel.calls.clear()

        def received() -> list[Message]:
            return [peer.receive() for _ in range(10)]

        with counting(ws) as channel:
            ticks(1)
            unpreempted(send, again)
            ticks()
            assert len(channel.writes()) == 2
        assert received() == list("0123456789")

    def test_connection_that_ends_while_its_sender_gives_way(self, ws: WebSocket, peer: Peer) -> None:
        """It raises in the sender as in any other wait."""

        def view() -> None:
            use_up_the_turn()
            with pytest.raises(ConnectionClosed):
                ws.send("x")

        viewing = gevent.spawn(view)
        gevent.spawn(ws.abort)
        viewing.get(timeout=5)
        peer.disconnect()

    def test_view_that_sends_without_a_pause_gets_the_end(self, ws: WebSocket, peer: Peer) -> None:
        """The peer's close frame is answered, though the view is always in the middle of something."""

        def view() -> None:
            with suppress(ConnectionClosed):
                while True:
                    spin(COMPUTE)
                    ws.send("x")

        viewing = gevent.spawn(view)
        ticks()
        peer.close(4001)
        assert peer.close_frame() == (4001, "")
        viewing.get(timeout=5)
