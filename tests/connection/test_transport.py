"""``transport``: one socket on the loop, with a peer that reads and writes only when the test does so."""

from __future__ import annotations

import errno
import itertools
import socket
import ssl
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gws_middleware.connection import transport as module
from gws_middleware.connection.channel import Channel, plain_channel, tls_channel
from gws_middleware.connection.transport import DRAIN_LIMIT, READ_SIZE, Transport

from ..support.inprocess import (
    CountingChannel,
    Recorder,
    count_of,
    forever,
    hub_errors,
    in_a_watcher,
    no_collector,
    open_descriptors,
    receive_exactly,
    receive_rest,
    reset,
    spin,
    tcp_pair,
    ticks,
    tls_pair,
    unix_pair,
    unpreempted,
    until,
)
from ..support.interrupting import raised_at_line
from ..support.seam import run_callbacks_of, wake_reader
from ..support.waiting import RESOLUTION

__all__ = ["hub_errors"]

SMALL = 1 << 15
"""A socket buffer that a few frames fill, and still large enough for segments without delays."""
BIG = 16 * 2**20
"""Bytes of a message that no socket buffer takes at once."""


class Link:
    """A transport with its owner and channel at one end of a connection, ``peer`` at the other."""

    def __init__(self, pair: tuple[Any, Any], make_channel: Callable[[Any], Channel], owner: Recorder) -> None:
        self.server, self.peer = pair
        self.channel = CountingChannel(make_channel(self.server))
        self.owner = owner
        self.transport = Transport(self.channel, self.owner)

    def close(self) -> None:
        self.transport.abort()
        self.peer.close()
        self.server.close()
        until(lambda: self.transport.closed, "the transport is closed")


class NotingLoop:
    """A loop that notes the callbacks it is asked for."""

    def __init__(self, loop: Any, callbacks: list[Any]) -> None:
        self._loop, self._callbacks = loop, callbacks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def run_callback(self, callback: Any, *arguments: Any) -> None:
        self._callbacks.append(callback)
        self._loop.run_callback(callback, *arguments)


KINDS: dict[str, tuple[Callable[..., tuple[Any, Any]], Callable[[Any], Channel]]] = {
    "tcp": (tcp_pair, plain_channel),
    "unix": (unix_pair, plain_channel),
    "tls": (tls_pair, tls_channel),
}

MakeLink = Callable[..., Link]


@pytest.fixture
def make_link() -> Iterator[MakeLink]:
    """Makes links of a kind; all are closed when the test is over."""
    links: list[Link] = []

    def make(kind: str = "tcp", buffers: int | None = None, owner: Recorder | None = None) -> Link:
        pair, make_channel = KINDS[kind]
        links.append(Link(pair(buffers), make_channel, owner or Recorder()))
        return links[-1]

    yield make
    for link in links:
        link.close()


@pytest.fixture
def kind() -> str:
    """Of ``link``; ``every_kind`` has each."""
    return "tcp"


@pytest.fixture
def buffers() -> int | None:
    """The size of the socket buffers of ``link``; the kernel's own, or with ``small_buffers`` SMALL."""
    return None


@pytest.fixture
def link(make_link: MakeLink, kind: str, buffers: int | None) -> Link:
    """One that reads."""
    made = make_link(kind, buffers)
    made.transport.start()
    return made


every_kind = pytest.mark.parametrize("kind", list(KINDS))
over_tls = pytest.mark.parametrize("kind", ["tls"])
small_buffers = pytest.mark.parametrize("buffers", [SMALL])


def fill(link: Link) -> int:
    """Write until the kernel takes no more; the bytes that were handed to the transport."""
    before = link.transport.bytes_sent
    while not link.transport.outbox_size:
        link.transport.write_parts((b"", bytes(1 << 16)))
    return link.transport.bytes_sent - before


def fill_kernel(channel: Channel) -> int:
    """Bytes that the kernel took before it took no more."""
    filled = 0
    try:
        while True:
            filled += channel.send(bytes(1 << 16))
    except BlockingIOError:
        return filled


class TestChannels:
    @every_kind
    def test_connection_stays_open_after_the_servers_close(self, link: Link, kind: str) -> None:
        """A plain socket of the server's was emptied; its TLS socket is closed with ours, and nothing is lost by it."""
        assert kind == "tls" or link.server.fileno() == -1
        link.server.close()
        link.peer.sendall(b"still open")
        link.transport.write(b"so is ours")
        assert receive_exactly(link.peer, 10) == b"so is ours"
        until(lambda: link.owner.data)
        assert link.owner.data == b"still open"

    @pytest.mark.parametrize("kind", ["tcp", "tls"])
    def test_channel_sends_small_frames_without_delay(self, link: Link) -> None:
        """TCP_NODELAY: a lone small frame does not wait for the acknowledgement of the one before it."""
        with socket.socket(fileno=socket.dup(link.channel.fileno())) as ours:
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class TestReading:
    @every_kind
    def test_bytes_are_delivered_as_they_come(self, link: Link) -> None:
        """The loop reads, no greenlet does."""
        for part in (b"one", b"two", b"three"):
            link.peer.sendall(part)
            size = len(link.owner.data) + len(part)
            until(lambda size=size: len(link.owner.data) == size)
        assert link.owner.data == b"onetwothree"
        assert link.transport.bytes_received == 11

    def test_early_bytes_are_delivered_first(self, make_link: MakeLink) -> None:
        """What the server had read already comes before what is still in the kernel, and never inside ``start()``."""
        link = make_link()
        link.peer.sendall(b" and later")
        link.transport.start(b"early")
        assert link.owner.data == b""
        until(lambda: len(link.owner.data) == 15)
        assert link.owner.data == b"early and later"
        assert link.transport.bytes_received == 15

    def test_early_bytes_of_a_connection_cut_before_are_dropped(self, make_link: MakeLink) -> None:
        """After ``_connection_lost()`` nothing is delivered to the owner."""
        link = make_link()
        link.transport.abort()
        link.transport.start(b"early")
        until(lambda: link.owner.losses)
        ticks()
        assert (link.owner.data, link.transport.bytes_received) == (b"", 0)

    @pytest.mark.parametrize("paused", [False, True])
    def test_tls_bytes_that_are_decrypted_already_are_delivered(self, make_link: MakeLink, paused: bool) -> None:
        """At the start, or when a pause ends that came before they were read. The kernel's buffer is empty, so no
        watcher fires for them.
        """
        link = make_link("tls")
        link.peer.sendall(b"request and frame")
        assert link.channel.channel.pending() == 0
        until(lambda: read_now(link.channel, 8) == b"request ", "the server reads the head")
        assert link.channel.channel.pending() == 9
        link.transport.start()
        if paused:
            link.transport.pause()
            ticks()
            assert link.owner.data == b""
            link.transport.resume()
        until(lambda: link.owner.data)
        assert link.owner.data == b"and frame"

    @every_kind
    def test_one_read_takes_a_bounded_piece(self, link: Link) -> None:
        """So a peer that floods cannot keep the loop, and the owner can pause between two pieces."""
        sender = gevent.spawn(link.peer.sendall, bytes(2**20))
        link.transport.start()
        until(lambda: len(link.owner.data) == 2**20)
        sender.get()
        assert max(link.owner.reads) <= READ_SIZE

    @small_buffers
    @every_kind
    def test_paused_transport_holds_the_peer_back(self, link: Link) -> None:
        """Nothing is read during a pause, so the peer's ``send`` blocks; then all of it comes, in order."""
        data = bytes(range(256)) * 2**14  # 4 MiB
        link.transport.start()
        link.transport.pause()
        link.transport.pause()
        sender = gevent.spawn(link.peer.sendall, data)
        ticks(20)
        assert not sender.dead
        assert link.owner.data == b""
        link.transport.resume()
        link.transport.resume()
        until(lambda: len(link.owner.data) == len(data))
        sender.get()
        assert link.owner.data == data

    def test_pause_in_the_middle_of_a_delivery_holds(self, make_link: MakeLink) -> None:
        """The owner pauses from ``_data_received``, when its inbox is full."""

        class Full(Recorder):
            def _data_received(self, buffer: bytearray, size: int) -> None:
                super()._data_received(buffer, size)
                link.transport.pause()

        link = make_link(owner=Full())
        link.transport.start()
        link.peer.sendall(b"first")
        until(lambda: link.owner.data)
        link.peer.sendall(b"second")
        ticks()
        assert link.owner.data == b"first"
        link.transport.resume()
        until(lambda: len(link.owner.data) == 11)
        assert link.owner.data == b"firstsecond"

    def test_all_connections_share_one_read_buffer(self, make_link: MakeLink) -> None:
        """An idle connection holds no buffer of its own."""
        links = [make_link(), make_link()]
        for link in links:
            link.transport.start()
            link.peer.sendall(b"x")
            until(lambda link=link: link.owner.data)
        assert links[0].owner.buffer is links[1].owner.buffer is not None

    @pytest.mark.parametrize("end", ["fin", "rst"])
    def test_peer_that_disconnects_ends_the_connection(self, link: Link, end: str) -> None:
        """EOF and a reset both call ``_connection_lost``, once."""
        link.peer.close() if end == "fin" else reset(link.peer)
        until(lambda: link.owner.losses)
        ticks()
        assert link.owner.losses == 1
        assert link.transport.closed

    def test_spurious_wakeup_of_the_reader_changes_nothing(self, link: Link) -> None:
        """The loop may report a readable socket on which there is nothing."""
        wake_reader(link.transport)
        assert link.channel.calls == [("recv_into", BlockingIOError)]
        assert not link.transport.closed


def begin_again(link: Link, size: int) -> None:
    """In another turn, after ``size`` bytes were written."""
    ticks()
    receive_exactly(link.peer, size)
    link.channel.calls.clear()


def read_now(channel: CountingChannel, size: int) -> bytes:
    """``size`` bytes of what has come, read as a server reads a request; b"" when nothing has."""
    buffer = bytearray(size)
    try:
        return bytes(buffer[: channel.recv_into(buffer)])
    except ssl.SSLWantReadError:
        return b""


class TestBatching:
    @every_kind
    def test_lone_frame_leaves_at_once(self, link: Link) -> None:
        """In one system call, before ``write`` returns: it never waits for a busy view."""
        link.transport.write(b"alone")
        assert link.channel.calls == [("send", 5)]
        assert link.transport.outbox_size == 0
        ticks()
        assert link.channel.writes() == [5]
        assert receive_exactly(link.peer, 5) == b"alone"

    def test_frames_of_one_turn_are_joined(self, link: Link) -> None:
        """The first of 16 is sent at once; the others together when the turn ends."""
        frames = [b"frame %02d" % number for number in range(16)]

        def write() -> tuple[list[Any], int]:
            for frame in frames:
                link.transport.write(frame)
            return link.channel.writes(), link.transport.outbox_size

        assert unpreempted(write, lambda: begin_again(link, 16 * 8)) == ([8], 15 * 8)
        ticks()
        assert receive_exactly(link.peer, 16 * 8) == b"".join(frames)
        assert link.channel.writes() == [8, 15 * 8]

    @pytest.mark.parametrize("count", [1, 16])
    def test_frames_that_are_held_leave_in_one_system_call(self, link: Link, count: int) -> None:
        """``queue`` is for a frame that others are about to follow, mostly an answer to each message of a burst. They
        are sent when the turn ends, in one callback of the loop, even if nothing follows after all.
        """
        callbacks: list[Any] = []
        run_callbacks_of(link.transport, lambda loop: NotingLoop(loop, callbacks))

        def queue() -> tuple[list[Any], int]:
            for number in range(count):
                link.transport.queue(b"frame %02d" % number)
            return link.channel.calls, len(callbacks)

        def again() -> None:
            begin_again(link, count * 8)
            callbacks.clear()

        assert unpreempted(queue, again) == ([], 1)
        ticks()
        assert link.channel.writes() == [count * 8]
        assert receive_exactly(link.peer, count * 8)[-8:] == b"frame %02d" % (count - 1)

    def test_frame_of_a_new_turn_leaves_at_once_again(self, link: Link) -> None:
        """The batching is per turn of the loop."""
        for _ in range(3):
            link.transport.write(b"alone")
            assert link.transport.outbox_size == 0
            ticks()
        assert link.channel.writes() == [5, 5, 5]

    def test_flush_hands_over_what_waits_for_the_turn_to_end(self, link: Link) -> None:
        """The end of the turn then has nothing left to do."""
        link.transport.queue(b"held")
        link.transport.flush()
        assert link.channel.writes() == [4]
        ticks()
        assert link.channel.writes() == [4]

    @pytest.mark.parametrize(("kind", "calls"), [("tcp", ["sendmsg"]), ("tls", ["send", "send"])])
    def test_big_frame_is_handed_over_at_once_and_uncopied(self, link: Link, calls: list[str]) -> None:
        """A header with its payload goes as a vector where the socket can, part by part where it cannot."""
        header, payload = b"header", bytes(module.JOIN_UP_TO)
        link.transport.write_parts((header, payload))
        assert [name for name, _ in link.channel.calls] == calls
        assert receive_exactly(link.peer, 6 + len(payload)) == header + payload

    def test_small_parts_are_joined(self, link: Link) -> None:
        """Up to JOIN_UP_TO, one copy is cheaper than a vector."""
        link.transport.write_parts((b"header", b"payload"))
        assert link.channel.calls == [("send", 13)]

    def test_vector_is_bounded(self, make_link: MakeLink) -> None:
        """More buffers than one system call may have go in several."""
        link = make_link("unix")
        parts = tuple(bytes([number % 256]) * 512 for number in range(3 * module.VECTOR))
        reader = gevent.spawn(receive_exactly, link.peer, 512 * len(parts))
        link.transport.write_parts(parts)
        assert reader.get() == b"".join(parts)
        assert max(link.channel.writes(), key=lambda taken: taken if isinstance(taken, int) else 0) <= 512 * 512

    def test_exception_in_the_middle_of_a_write_leaves_the_size_right(self, make_link: MakeLink) -> None:
        """Of a signal handler's, at any line: a size that stays wrong would block senders, or never block one."""
        for line in range(1, 40):
            link = make_link()
            link.transport.queue(b"frame")
            cut = raised_at_line(line, link.transport.flush, "/transport.py")
            link.transport.queue(b"next")
            ticks()
            assert link.transport.outbox_size == 0
            if not cut:
                break
        assert line > 3

    def test_write_counts_its_bytes_before_they_leave(self, link: Link) -> None:
        """``bytes_sent`` is what the application has had sent, ``outbox_size`` the part that waits."""
        link.transport.queue(b"12345")
        link.transport.write_parts((b"12", b"345"))
        assert (link.transport.bytes_sent, link.transport.outbox_size) == (10, 0)


class TestBackPressure:
    @small_buffers
    @every_kind
    def test_frames_that_the_kernel_does_not_take_wait_in_order(self, link: Link) -> None:
        """Partial writes go on where they stopped, and ``_writable()`` is called once when all has been sent."""
        sent = bytearray()
        for number in itertools.count():
            frame = b"%06d" % number * 200
            sent += frame
            if number % 3:
                link.transport.write(frame)
            else:
                link.transport.write_parts((frame[:600], frame[600:]))
            if link.transport.outbox_size > 2**18:
                break
            gevent.sleep(0)
        waiting = link.transport.outbox_size
        assert link.owner.writables == 0
        assert receive_exactly(link.peer, len(sent)) == sent
        assert waiting > 2**18
        until(lambda: link.owner.writables)
        assert (link.transport.outbox_size, link.owner.writables) == (0, 1)

    @small_buffers
    def test_lone_frame_may_be_taken_in_part(self, link: Link) -> None:
        """The rest of a frame that was sent at once is kept, and nothing is sent before it."""
        frame = bytes(range(256)) * 2**15  # 8 MiB
        link.transport.write(frame)
        (taken,) = link.channel.writes()
        assert 0 < taken < len(frame)
        assert link.transport.outbox_size == len(frame) - taken
        link.transport.write(b"after")
        assert receive_exactly(link.peer, len(frame) + 5) == frame + b"after"

    def test_frame_that_finds_the_kernel_full_waits(self, make_link: MakeLink) -> None:
        """Also where the transport's outbox is empty: another user of the socket may have filled it."""
        link = make_link("unix")
        filled = fill_kernel(link.channel.channel)
        link.transport.write(b"waits")
        assert link.channel.calls == [("send", BlockingIOError)]
        assert link.transport.outbox_size == 5
        assert receive_exactly(link.peer, filled + 5)[-5:] == b"waits"

    @small_buffers
    @every_kind
    def test_nothing_is_tried_while_the_kernel_is_full(self, link: Link) -> None:
        """The writer's watcher fires when more can be sent: no system call is wasted before."""
        fill(link)
        ticks()
        calls = len(link.channel.calls)
        for _ in range(10):
            link.transport.write(b"frame")
            link.transport.flush()
            gevent.sleep(0)
        assert len(link.channel.calls) == calls

    @every_kind
    def test_big_message_leaves_without_quadratic_copying(self, link: Link) -> None:
        """16 MiB through a small socket buffer: the payload is never copied, whatever the number of pieces."""
        payload = bytes(BIG)
        received = 0
        tracemalloc.start()
        try:
            link.transport.write_parts((b"header", payload))
            buffer = bytearray(1 << 18)
            while received < BIG + 6:
                received += link.peer.recv_into(buffer)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert received == BIG + 6
        assert peak < 2**20
        # A TLS record carries 16 KiB; a plain socket takes far more in one call.
        assert len(link.channel.writes()) <= BIG // 2**14 + 16

    def test_frames_after_a_big_message_are_not_copied_with_it(self, link: Link) -> None:
        """Small frames that wait after 16 MiB join the outbox without touching what waits before them."""
        tracemalloc.start()
        try:
            payload = bytes(BIG)
            tracemalloc.reset_peak()
            link.transport.write_parts((b"header", payload))
            for _ in range(1000):
                link.transport.write(b"small frame")
            reader = gevent.spawn(receive_count, link.peer, BIG + 6 + 11_000)
            assert reader.get() == BIG + 6 + 11_000
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < BIG + 2 * 2**20

    def test_many_small_frames_are_joined_while_the_peer_is_slow(self, make_link: MakeLink) -> None:
        """20 000 frames that wait are sent in a few system calls, not in 20 000."""
        link = make_link("unix")
        filled = fill(link)
        for number in range(20_000):
            link.transport.write(b"%06d" % number)
        before = len(link.channel.calls)
        received = receive_exactly(link.peer, filled + 120_000)
        assert received[-6:] == b"019999"
        assert len(link.channel.calls) - before < 200


def receive_count(sock: Any, size: int) -> int:
    """How many of ``size`` bytes arrive, without keeping them."""
    buffer, received = bytearray(1 << 16), 0
    while received < size:
        received += sock.recv_into(buffer)
    return received


class TestBrokenWrites:
    @pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
    @pytest.mark.parametrize("verb", ["write", "queue", "write_parts"])
    def test_refused_write_leaves_the_reader_to_the_end(self, link: Link, error: type[OSError], verb: str) -> None:
        """What the peer sent before it disconnected is delivered: its close frame may be in it."""
        link.channel.send = link.channel.sendmsg = refuse(error)
        link.peer.sendall(b"last words")
        getattr(link.transport, verb)((b"header", bytes(1 << 18)) if verb == "write_parts" else b"frame")
        link.transport.flush()
        assert (link.transport.broken, link.transport.closed) == (True, False)
        assert (link.owner.writables, link.transport.outbox_size) == (1, 0)
        link.peer.close()
        until(lambda: link.owner.losses)
        assert link.owner.data == b"last words"

    def test_real_broken_pipe_leaves_the_reader_to_the_end(self, make_link: MakeLink) -> None:
        """The peer sends a last message and closes; our writes meet its RST before we have read them."""
        link = make_link()
        link.peer.sendall(b"last words")
        link.peer.close()
        until(lambda: link.transport.write(b"into the void") or link.transport.broken)
        link.transport.start()
        until(lambda: link.owner.losses)
        assert link.owner.data == b"last words"

    def test_all_that_came_before_a_reset_is_read(self, make_link: MakeLink) -> None:
        """It is more than one read takes; a write that waits for the socket meets the RST first. A loop on libuv
        reports the error of a socket once only.
        """
        link = make_link()
        link.transport.start()
        fill(link)
        sent = bytes(READ_SIZE + 1000)
        link.peer.sendall(sent)
        reset(link.peer)
        until(lambda: link.owner.losses)
        assert link.owner.data == sent

    def test_frames_after_a_refused_write_are_dropped(self, link: Link) -> None:
        """Nothing is kept for a peer that has disconnected, however they are sent."""
        link.channel.send = link.channel.sendmsg = refuse(BrokenPipeError)
        link.transport.write(b"first")
        frame = bytes(100)
        references, sizes = sys.getrefcount(frame), set()
        for _ in range(3):
            link.transport.write(frame)
            link.transport.queue(frame)
            sizes.add(link.transport.outbox_size)
            link.transport.write_parts((frame, b"more"))
            sizes.add(link.transport.outbox_size)
            ticks()
        assert (sizes, sys.getrefcount(frame)) == ({0}, references)

    @small_buffers
    def test_write_that_is_refused_while_it_waited_is_reported(self, link: Link) -> None:
        """A sender that waits for ``_writable()`` is woken, and the watcher is closed."""
        fill(link)
        reset(link.peer)
        until(lambda: link.owner.losses)
        assert link.owner.writables <= 1
        assert link.transport.outbox_size == 0

    def test_write_refused_at_the_end_of_the_turn_is_reported(self, link: Link) -> None:
        """The same for frames that were held back."""
        link.channel.send = refuse(BrokenPipeError)
        link.transport.queue(b"held")
        until(lambda: link.transport.broken)
        assert link.owner.writables == 1

    @small_buffers
    def test_refused_write_while_closing_ends_the_connection(self, link: Link) -> None:
        """Nothing is left to wait for."""
        fill(link)
        link.transport.close(linger=True)
        link.channel.send = link.channel.sendmsg = refuse(BrokenPipeError)
        receive_rest(link.peer)
        until(lambda: link.owner.losses)
        assert link.owner.losses == 1


def refuse(error: type[OSError]) -> Callable[..., int]:
    """A system call that fails."""

    def refused(*arguments: Any) -> int:
        raise error(errno.EPIPE, "refused by the test")

    return refused


class TestClosing:
    @small_buffers
    @every_kind
    def test_close_sends_first_what_waits(self, link: Link) -> None:
        """The last frame is the close frame: it must arrive."""
        size = fill(link)
        link.transport.write(b"the end")
        link.transport.close()
        link.transport.close()
        assert not link.transport.closed
        received = receive_rest(link.peer)
        assert (len(received), received[-7:]) == (size + 7, b"the end")
        until(lambda: link.owner.losses)
        ticks()
        assert link.owner.losses == 1

    @pytest.mark.parametrize("linger", [False, True])
    def test_close_flushes_what_was_held(self, link: Link, linger: bool) -> None:
        """Without waiting for the turn to end."""
        link.transport.queue(b"the end")
        link.transport.close(linger)
        assert link.channel.writes() == [7]
        assert receive_rest(link.peer) == b"the end"

    @every_kind
    def test_lingering_close_half_closes_and_drains(self, link: Link) -> None:
        """The peer reads our last frame though it was still sending: the kernel sends no RST (RFC 6455 7.1.1)."""
        link.transport.write(b"the end")
        link.transport.close(linger=True)
        ticks()
        link.peer.sendall(bytes(1000))
        ticks()
        assert not link.transport.closed
        assert receive_rest(link.peer) == b"the end"
        link.peer.close()
        until(lambda: link.owner.losses)
        assert link.owner.data == b""
        assert link.transport.bytes_received >= 1000

    @small_buffers
    def test_lingering_close_half_closes_after_what_waits(self, link: Link) -> None:
        """Not before the outbox is empty."""
        size = fill(link)
        link.transport.close(linger=True)
        assert ("shutdown", None) not in link.channel.calls
        assert len(receive_rest(link.peer)) == size
        assert ("shutdown", None) in link.channel.calls

    def test_lingering_close_cuts_a_peer_that_goes_on_sending(self, link: Link) -> None:
        """DRAIN_LIMIT bytes are dropped, then the connection is cut."""
        link.transport.close(linger=True)
        with pytest.raises(ConnectionError):
            forever(link.peer.sendall, bytes(1 << 16))
        until(lambda: link.owner.losses)
        assert DRAIN_LIMIT < link.transport.bytes_received <= DRAIN_LIMIT + READ_SIZE

    def test_lingering_close_of_a_connection_that_was_lost_ends_it(self, link: Link) -> None:
        """A half-close that the kernel refuses ends the connection at once."""
        link.channel.shutdown = refuse(BrokenPipeError)
        link.transport.close(linger=True)
        until(lambda: link.owner.losses)
        assert link.owner.losses == 1

    def test_close_reads_on_after_a_pause(self, link: Link) -> None:
        """What the full inbox held back is drained: the peer's end is noticed."""
        link.transport.pause()
        link.peer.sendall(b"never read")
        link.peer.close()
        link.transport.close(linger=True)
        until(lambda: link.owner.losses)
        assert link.owner.data == b""

    def test_tls_shutdown_sends_close_notify(self, make_link: MakeLink) -> None:
        """The peer can distinguish our end from a cut: it raises no SSLEOFError."""
        link = make_link("tls")
        link.peer.suppress_ragged_eofs = False
        link.transport.start()
        link.transport.close(linger=True)
        assert receive_rest(link.peer) == b""

    @over_tls
    def test_tls_shutdown_after_close_notify_of_the_peer_is_no_error(self, link: Link) -> None:
        """Both close_notify have been sent; the TCP connection is then closed as usual."""
        notifier = gevent.spawn(link.peer.unwrap)
        until(lambda: link.owner.losses)
        link.transport.close(linger=True)
        notifier.kill()
        assert link.owner.losses == 1

    @small_buffers
    @every_kind
    def test_abort_cuts_at_once(self, link: Link) -> None:
        """Whatever waits in the outbox is dropped."""
        size = fill(link)
        link.transport.abort()
        until(lambda: link.owner.losses)
        assert len(receive_rest(link.peer)) < size
        assert link.transport.outbox_size == 0

    def test_abort_in_the_hub_is_done_when_it_returns(self, link: Link) -> None:
        """No further callback can find a transport that is partly closed."""
        seen: list[bool] = []

        def cut() -> None:
            link.transport.abort()
            seen.append(link.transport.closed)

        gevent.get_hub().loop.run_callback(cut)
        until(lambda: seen)
        assert seen == [True]

    def test_channel_that_cannot_be_closed_is_dropped(self, link: Link) -> None:
        """The kernel may refuse ``close()``; the end is delivered to the owner all the same."""
        close = link.channel.channel.close
        link.channel.close = lambda: (close(), refuse(ConnectionResetError)())
        link.transport.abort()
        until(lambda: link.owner.losses)
        assert link.owner.losses == 1

    def test_connection_is_lost_once_by_many_ends(self, link: Link) -> None:
        """Abort, close, deadline, EOF and a refused write in one turn: one end is delivered to the owner."""
        link.transport.set_deadline(0.001)
        link.channel.send = refuse(BrokenPipeError)
        link.transport.close(linger=True)
        link.peer.close()
        link.transport.write(b"x")
        link.transport.abort()
        link.transport.abort()
        until(lambda: link.owner.losses)
        ticks(5)
        assert link.owner.losses == 1

    def test_closed_transport_ignores_every_call(self, link: Link) -> None:
        """Nothing raises and nothing is started again."""
        link.transport.abort()
        until(lambda: link.owner.losses)
        watchers = gevent.get_hub().loop.activecnt
        link.transport.write(b"x")
        link.transport.queue(b"x")
        link.transport.write_parts((b"x", b"y"))
        waiting = link.transport.outbox_size
        link.transport.flush()
        link.transport.pause()
        link.transport.resume()
        link.transport.set_deadline(1)
        link.transport.close()
        link.transport.abort()
        ticks()
        assert (waiting, link.transport.outbox_size, link.owner.losses) == (0, 0, 1)
        assert gevent.get_hub().loop.activecnt == watchers

    @every_kind
    @pytest.mark.parametrize("end", ["peer", "close", "linger", "abort", "deadline", "broken"])
    def test_end_frees_descriptor_watchers_and_object(self, make_link: MakeLink, kind: str, end: str) -> None:
        """However it ends, and without the garbage collector."""
        with no_collector():
            ticks()
            descriptors, watchers = open_descriptors(), gevent.get_hub().loop.activecnt
            transports = count_of(Transport)
            owner = use_up(*KINDS[kind], end)
            until(lambda: owner.losses)
            assert open_descriptors() == descriptors
            assert gevent.get_hub().loop.activecnt == watchers
            ticks()
            assert count_of(Transport) == transports


def use_up(pair: Callable[[int], tuple[Any, Any]], make_channel: Callable[[Any], Channel], end: str) -> Recorder:
    """A transport that has watched, read and written, and is about to end; nothing refers to it any more."""
    server, peer = pair(SMALL)
    owner = Recorder()
    channel = CountingChannel(make_channel(server))
    server.close()
    transport = Transport(channel, owner)
    transport.start(b"early")
    transport.write_parts((b"", bytes(1 << 22)))
    transport.set_deadline(0.01 if end == "deadline" else 10)
    ticks()
    if end == "close":
        transport.close()
    elif end == "linger":
        transport.close(linger=True)
    elif end == "abort":
        transport.abort()
    elif end == "broken":
        channel.send = channel.sendmsg = refuse(BrokenPipeError)
        reader = gevent.spawn(receive_rest, peer)
        until(lambda: transport.broken)
        reader.kill()
    if end in ("close", "linger"):
        receive_rest(peer)
    if end == "deadline":
        until(lambda: owner.losses)
    peer.close()
    return owner


class TestBlocked:
    @small_buffers
    @every_kind
    def test_blocked_since_is_when_the_kernel_took_no_more(self, link: Link) -> None:
        """From then on until it has taken all: what waits meanwhile only for us does not count."""
        link.transport.queue(b"held")
        found = [link.transport.blocked_since]
        ticks()
        found.append(link.transport.blocked_since)
        before = time.monotonic()
        fill(link)
        since = link.transport.blocked_since
        assert found == [None, None]
        assert since is not None
        assert before <= since <= time.monotonic()
        link.transport.write(b"more")
        receive_exactly(link.peer, 1 << 15)
        assert link.transport.blocked_since == since
        receive_exactly(link.peer, link.transport.bytes_sent - (1 << 15))
        until(lambda: link.transport.blocked_since is None)
        assert link.transport.outbox_size == 0

    @small_buffers
    @pytest.mark.parametrize("end", ["abort", "a refused write"])
    def test_connection_that_ends_is_not_blocked(self, link: Link, end: str) -> None:
        """There is nothing left to wait for."""
        fill(link)
        if end == "abort":
            link.transport.abort()
        else:
            link.channel.send = link.channel.sendmsg = refuse(BrokenPipeError)
        reader = gevent.spawn(receive_rest, link.peer)
        until(lambda: link.transport.blocked_since is None)
        reader.kill()
        assert link.transport.outbox_size == 0


class TestDeadline:
    @small_buffers
    @pytest.mark.parametrize("waits", [False, True], ids=["empty outbox", "frames wait"])
    def test_deadline_cuts_a_peer_that_does_nothing(self, link: Link, waits: bool) -> None:
        """What waits in the outbox does not put it off as long as the peer reads nothing."""
        if waits:
            fill(link)
            ticks()
        link.transport.set_deadline(0.02)
        assert not link.transport.closed
        until(lambda: link.owner.losses, seconds=1)
        assert (link.owner.losses, link.transport.closed) == (1, True)

    @small_buffers
    def test_deadline_is_later_where_the_peer_has_read(self, link: Link) -> None:
        """It starts again, and cuts when nothing was read until the next one."""
        link.transport.write_parts((b"", bytes(BIG)))
        begin, waiting = time.monotonic(), link.transport.outbox_size
        link.transport.set_deadline(0.05)
        receive_exactly(link.peer, 1 << 18)
        assert link.transport.outbox_size < waiting
        until(lambda: link.owner.losses)
        assert time.monotonic() - begin >= 0.1 - 2 * RESOLUTION

    def test_deadline_counts_from_the_call_in_a_view_that_was_busy(self, link: Link) -> None:
        """The loop's clock stands still while a view computes; the seconds do not count from there."""
        begins: list[float] = []

        def view() -> None:
            spin(0.1)
            begins.append(time.monotonic())
            link.transport.set_deadline(0.05)

        in_a_watcher(view)
        until(lambda: link.owner.losses)
        assert time.monotonic() - begins[0] >= 0.05 - RESOLUTION
