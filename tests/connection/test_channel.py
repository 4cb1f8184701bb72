"""What a channel does on a plain socket. Each test of ``make`` runs on both: on ``SocketChannel``, which is in C,
and on ``_socket.socket``, which does the same job where that is not built.
"""

from __future__ import annotations

import array
import errno
import fcntl
import importlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import termios
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gws_middleware.connection import transport
from gws_middleware.connection.channel import (
    PROBE_AFTER,
    PROBE_EVERY,
    PROBES,
    Channel,
    give_up_silent,
    plain_channel,
    tls_channel,
)

from ..support.inprocess import hub_errors, receive_rest, reset, tcp_pair, tls_pair, unix_pair, until
from ..support.seam import use_channel_in_c

__all__ = ["hub_errors"]

SMALL = 4096
"""A socket buffer that little data fills."""
BIG = 16 * 2**20
"""More bytes than a socket takes at once."""

Make = Callable[..., tuple[Any, Any]]


def c_module() -> Any:
    """The extension, whatever GWS_SPEEDUPS is; where it is not built the test is skipped."""
    try:
        return importlib.import_module("gws_middleware.connection._channel")
    except ImportError as error:
        pytest.skip(f"the C extension is not built ({error})")


@pytest.fixture(params=["c", "socket"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a channel and its peer, of ``tcp_pair()`` or ``unix_pair()``; all are closed when the test is over."""
    use_channel_in_c(monkeypatch, c_module() if request.param == "c" else None)
    ends: list[Any] = []

    def make(pair: Callable[..., tuple[Any, Any]] = unix_pair, buffers: int | None = None) -> tuple[Any, Any]:
        ours, peer = pair(buffers)
        ends.extend((plain_channel(ours), peer))
        return ends[-2], ends[-1]

    yield make
    for end in ends:
        end.close()


def fill(channel: Any) -> int:
    """Send until the kernel takes no more; how many bytes it took."""
    taken = 0
    try:
        while True:
            taken += channel.send(bytes(1 << 16))
    except BlockingIOError:
        return taken


VERBS: dict[str, Callable[[Any], object]] = {
    "recv_into": lambda channel: channel.recv_into(bytearray(8)),
    "send": lambda channel: channel.send(b"x"),
    "send a view": lambda channel: channel.send(memoryview(b"x")),
    "sendmsg": lambda channel: channel.sendmsg([b"x", b"y"]),
    "shutdown": lambda channel: channel.shutdown(socket.SHUT_WR),
    "setsockopt": lambda channel: channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
}
WRITES = ["send", "send a view", "sendmsg"]

KINDS_OF_BUFFER: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytes of a subclass": type("Bytes", (bytes,), {}),
    "bytearray": bytearray,
    "memoryview": memoryview,
    "a slice": lambda data: memoryview(b"<" + data + b">")[1:-1],
    "wide items": lambda data: array.array("H", data),
}


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_recv_into_takes_what_is_there(make: Make, pair: Any) -> None:
    """The beginning of the buffer is written, the rest of it is left."""
    channel, peer = make(pair)
    peer.sendall(b"hello")
    buffer = bytearray(b"." * 8)
    assert (channel.recv_into(buffer), buffer) == (5, b"hello...")


def test_recv_into_takes_no_more_than_fits(make: Make) -> None:
    """What does not fit stays for the next call."""
    channel, peer = make()
    peer.sendall(b"hello")
    buffer = bytearray(3)
    reads = [(channel.recv_into(buffer), bytes(buffer)), (channel.recv_into(buffer), bytes(buffer[:2]))]
    assert reads == [(3, b"hel"), (2, b"lo")]


@pytest.mark.parametrize(
    "target",
    [lambda buffer: memoryview(buffer)[2:6], lambda buffer: memoryview(buffer)[2:6].cast("H")],
    ids=["a slice", "wide items"],
)
def test_recv_into_a_view(make: Make, target: Callable[[bytearray], memoryview]) -> None:
    """A part of a buffer is written where it lies, and its size is counted in bytes."""
    channel, peer = make()
    peer.sendall(b"hello")
    buffer = bytearray(b"." * 8)
    assert (channel.recv_into(target(buffer)), buffer) == (4, b"..hell..")


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_recv_into_at_the_end(make: Make, pair: Any) -> None:
    """What the peer sent comes first, then 0 at each call."""
    channel, peer = make(pair)
    peer.sendall(b"bye")
    peer.close()
    assert [channel.recv_into(bytearray(8)) for _ in range(3)] == [3, 0, 0]


def test_recv_into_when_nothing_is_there(make: Make) -> None:
    """It never waits, though the socket it was made from would have."""
    channel, _ = make(lambda buffers: socket.socketpair())
    with pytest.raises(BlockingIOError) as caught:
        channel.recv_into(bytearray(8))
    assert caught.value.errno == errno.EAGAIN


def test_recv_into_after_a_reset(make: Make) -> None:
    """The peer's RST is an error, not an end."""
    channel, peer = make(tcp_pair)
    reset(peer)
    with pytest.raises(ConnectionResetError) as caught:
        channel.recv_into(bytearray(8))
    assert caught.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("wrong", [b"read-only", memoryview(bytearray(8))[::2], "text", 8, None])
def test_recv_into_what_cannot_be_written(make: Make, wrong: object) -> None:
    """Nothing is read from the socket then."""
    channel, peer = make()
    peer.sendall(b"hello")
    with pytest.raises((TypeError, BufferError)):
        channel.recv_into(wrong)
    assert channel.recv_into(bytearray(8)) == 5


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 8])
def test_send(make: Make, pair: Any, data: bytes) -> None:
    """Every byte arrives, and nothing else."""
    channel, peer = make(pair)
    assert channel.send(data) == len(data)
    channel.close()
    assert receive_rest(peer) == data


@pytest.mark.parametrize("kind", list(KINDS_OF_BUFFER))
@pytest.mark.parametrize("verb", ["send", "sendmsg"])
def test_write_every_kind_of_buffer(make: Make, verb: str, kind: str) -> None:
    """Whatever holds contiguous bytes can be sent, and is counted in bytes."""
    channel, peer = make()
    data = KINDS_OF_BUFFER[kind](b"12345678")
    assert channel.send(data) == 8 if verb == "send" else channel.sendmsg([data]) == 8
    channel.close()
    assert receive_rest(peer) == b"12345678"


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_send_more_than_fits(make: Make, pair: Any) -> None:
    """The answer is what the kernel took, and exactly that arrives."""
    channel, peer = make(pair, SMALL)
    data = os.urandom(BIG)
    sent = channel.send(data)
    assert 0 < sent < BIG
    channel.close()
    assert receive_rest(peer) == data[:sent]


@pytest.mark.parametrize("verb", WRITES)
def test_write_when_the_kernel_takes_nothing(make: Make, verb: str) -> None:
    """It never waits."""
    channel, _ = make()
    fill(channel)
    with pytest.raises(BlockingIOError) as caught:
        VERBS[verb](channel)
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize("verb", WRITES)
def test_write_when_the_peer_has_closed(make: Make, verb: str) -> None:
    """It fails as any broken pipe does."""
    channel, peer = make()
    peer.close()
    with pytest.raises(BrokenPipeError) as caught:
        VERBS[verb](channel)
    assert caught.value.errno == errno.EPIPE


@pytest.mark.parametrize("verb", WRITES)
def test_write_after_a_reset(make: Make, verb: str) -> None:
    """The first write raises for the peer's RST."""
    channel, peer = make(tcp_pair)
    reset(peer)
    with pytest.raises(ConnectionResetError) as caught:
        VERBS[verb](channel)
    assert caught.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("wrong", [memoryview(b"12345678")[::2], "text", 8, None])
def test_write_what_is_no_buffer(make: Make, wrong: object) -> None:
    """Nothing is sent then, not even the buffers before it."""
    channel, peer = make()
    for call in (lambda: channel.send(wrong), lambda: channel.sendmsg([b"x", wrong])):
        with pytest.raises((TypeError, BufferError)):
            call()
    channel.close()
    assert receive_rest(peer) == b""


# --- writing many -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
@pytest.mark.parametrize("count", [0, 1, 2, transport.VECTOR])
@pytest.mark.parametrize("sequence", [list, tuple, iter])
def test_sendmsg(make: Make, pair: Any, count: int, sequence: Callable[[list[bytes]], Any]) -> None:
    """Every buffer arrives, in order; empty ones are none."""
    channel, peer = make(pair)
    buffers = [b"" if n % 5 == 4 else b"<%d>" % n for n in range(count)]
    assert channel.sendmsg(sequence(buffers)) == len(b"".join(buffers))
    channel.close()
    assert receive_rest(peer) == b"".join(buffers)


def test_sendmsg_more_than_fits(make: Make) -> None:
    """The answer is what the kernel took, which may end within a buffer, and exactly that arrives."""
    channel, peer = make(tcp_pair, SMALL)
    buffers = [os.urandom(BIG // 256) for _ in range(256)]
    sent = channel.sendmsg(buffers)
    assert 0 < sent < BIG
    channel.close()
    assert receive_rest(peer) == b"".join(buffers)[:sent]


def test_sendmsg_more_buffers_than_the_kernel_allows(make: Make) -> None:
    """Nothing is sent then."""
    channel, peer = make()
    with pytest.raises(OSError, match="Message too long") as caught:
        channel.sendmsg([b"x"] * (os.sysconf("SC_IOV_MAX") + 1))
    channel.close()
    assert (caught.value.errno, receive_rest(peer)) == (errno.EMSGSIZE, b"")


def test_sendmsg_runs_beside_other_threads(make: Make) -> None:
    """Two channels that write in two threads both write all they were given."""
    ends = [make(tcp_pair) for _ in range(2)]
    parts = [b"x" * 97] * transport.VECTOR

    def work(channel: Any) -> None:
        for _ in range(20):
            try:
                channel.sendmsg(parts)
            except BlockingIOError:
                break
        channel.shutdown(socket.SHUT_WR)

    threads = [threading.Thread(target=work, args=(channel,)) for channel, _ in ends]
    for thread in threads:
        thread.start()
    received = [receive_rest(peer) for _, peer in ends]
    for thread in threads:
        thread.join()
    assert [set(data) for data in received] == [{ord("x")}] * 2


def test_every_buffer_is_released(make: Make) -> None:
    """After success and after every error: a bytearray that is still lent cannot grow."""
    channel, peer = make()
    peer.sendall(b"x")
    buffer = bytearray(8)
    calls = [lambda: channel.recv_into(buffer), lambda: channel.send(buffer), lambda: channel.sendmsg([buffer] * 3)]
    for call in calls:
        call()
    for call in (calls[0], lambda: channel.sendmsg([buffer, 8]), lambda: channel.sendmsg([buffer] * 4096)):
        with pytest.raises((OSError, TypeError)):
            call()
    fill(channel)
    for call in calls[1:]:
        with pytest.raises(BlockingIOError):
            call()
    buffer += b"more"
    assert len(buffer) == 12


# --- options ------------------------------------------------------------------------------------------------------


def option(channel: Any, level: int, name: int) -> int:
    """What the kernel has, read through a descriptor beside the channel's."""
    with socket.socket(fileno=os.dup(channel.fileno())) as beside:
        return beside.getsockopt(level, name)


@pytest.mark.parametrize("value", [0, 1])
def test_setsockopt(make: Make, value: int) -> None:
    """The kernel has it."""
    channel, _ = make(tcp_pair)
    assert channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, value) is None
    assert option(channel, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == value


@pytest.mark.parametrize(
    ("level", "name", "value", "number"),
    [
        (socket.SOL_SOCKET, 9999, 1, errno.ENOPROTOOPT),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, -1, errno.EINVAL),
    ],
)
def test_setsockopt_that_the_kernel_refuses(make: Make, level: int, name: int, value: int, number: int) -> None:
    """With the number of its error."""
    channel, _ = make(tcp_pair)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is compared
        channel.setsockopt(level, name, value)
    assert caught.value.errno == number


# --- giving up a peer that no longer answers ----------------------------------------------------------------------

TIMEOUTS = [  # ping_interval, ping_timeout, send_timeout, milliseconds
    (20.0, 20.0, 30.0, 40_000),
    (20.0, 20.0, 60.0, 60_000),
    (20.0, None, 5.0, 20_000),
    (0.25, 0.25, 0.1, 500),
    (1e9, 1e9, 1.0, 2**31 - 1),
]
KEEPALIVE = {"TCP_KEEPIDLE": PROBE_AFTER, "TCP_KEEPINTVL": PROBE_EVERY, "TCP_KEEPCNT": PROBES}


@pytest.mark.parametrize(("interval", "timeout", "wait", "milliseconds"), TIMEOUTS)
def test_kernel_has_the_timeout_that_pings_have(
    make: Make, interval: float, timeout: float | None, wait: float, milliseconds: int
) -> None:
    """``TCP_USER_TIMEOUT`` (RFC 5482) is as long as a peer may be silent, and as ``send()`` may wait for it."""
    channel, _ = make(tcp_pair)
    give_up_silent(channel, interval, timeout, wait)
    assert option(channel, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
    assert option(channel, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_kernel_sends_probes_where_there_are_no_pings(make: Make) -> None:
    """Nothing else would be sent to a peer that no longer answers."""
    channel, _ = make(tcp_pair)
    give_up_silent(channel, None, 20.0, 30.0)
    assert option(channel, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert {name: option(channel, socket.IPPROTO_TCP, getattr(socket, name)) for name in KEEPALIVE} == KEEPALIVE
    assert option(channel, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


@pytest.mark.parametrize("interval", [20.0, None])
def test_kernel_of_a_unix_socket_gets_no_options(make: Make, interval: float | None) -> None:
    """It has no such options and needs none: its peer cannot disappear without an end of the stream."""
    channel, peer = make(unix_pair)
    give_up_silent(channel, interval, 20.0, 30.0)
    channel.send(b"x")
    assert peer.recv(1) == b"x"


@pytest.mark.parametrize("interval", [20.0, None])
def test_kernel_of_a_tls_connection_gets_them_too(interval: float | None) -> None:
    """Its socket object stays, and takes the same options."""
    ours, peer = tls_pair()
    channel = tls_channel(ours)
    give_up_silent(channel, interval, 20.0, 30.0)
    found = (
        option(channel, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        option(channel, socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    )
    for end in (channel, ours, peer):
        end.close()
    assert found == ((40_000, 0) if interval else (0, 1))


@pytest.mark.parametrize("interval", [20.0, None])
def test_system_without_an_option_does_without(
    make: Make, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E.g. ``TCP_USER_TIMEOUT``, which macOS has not; the other options are set all the same."""
    channel, _ = make(tcp_pair)
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    give_up_silent(channel, interval, 20.0, 30.0)
    assert option(channel, socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == (PROBES if interval is None else 9)


@pytest.mark.parametrize("interval", [20.0, None])
def test_peer_that_has_disconnected_already_is_no_error(make: Make, interval: float | None) -> None:
    """Reading finds it out."""
    channel, peer = make(tcp_pair)
    reset(peer)
    channel.close()
    give_up_silent(channel, interval, 20.0, 30.0)
    assert channel.fileno() == -1


# --- the end ------------------------------------------------------------------------------------------------------


def test_shutdown_of_one_direction(make: Make) -> None:
    """The peer reads the end, and can still write."""
    channel, peer = make()
    channel.send(b"last")
    channel.shutdown(socket.SHUT_WR)
    assert receive_rest(peer) == b"last"
    peer.sendall(b"answer")
    assert channel.recv_into(bytearray(8)) == 6


def test_close_ends_the_connection(make: Make) -> None:
    """The peer sees the end at once, and the descriptor is free."""
    channel, peer = make()
    number = channel.fileno()
    channel.close()
    assert receive_rest(peer) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_close_twice(make: Make) -> None:
    """The second one does nothing, even when the number has been used again."""
    channel, _ = make()
    number = channel.fileno()
    channel.close()
    anew = os.open(os.devnull, os.O_RDONLY)
    channel.close()
    os.close(anew)
    assert anew == number


def test_fileno(make: Make) -> None:
    """The descriptor that was taken over; -1 when it is closed."""
    ours, peer = unix_pair()
    number = ours.fileno()
    channel = plain_channel(ours)
    assert channel.fileno() == number
    channel.close()
    peer.close()
    assert channel.fileno() == -1


@pytest.mark.parametrize("verb", list(VERBS))
def test_closed_channel_refuses(make: Make, verb: str) -> None:
    """Every use is an error that names it."""
    channel, _ = make()
    channel.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        VERBS[verb](channel)
    assert caught.value.errno == errno.EBADF


def test_unreferenced_channel_warns_and_is_closed(make: Make) -> None:
    """As any socket does; ``make`` itself would keep it."""
    ours, peer = unix_pair()
    channel = plain_channel(ours)
    number = channel.fileno()
    with pytest.warns(ResourceWarning, match=rf"unclosed <.*\bfd={number}\b"):
        del channel
    assert receive_rest(peer) == b""
    peer.close()


def test_unreferenced_channel_where_warnings_are_errors(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No caller can catch that error: it is reported, a pending exception stays, and the socket is closed."""
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_type))
    ours, peer = unix_pair()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError):
            max(plain_channel(ours), 1 // 0)
    assert receive_rest(peer) == b""
    peer.close()
    assert reported == [ResourceWarning]


def test_closed_channel_is_freed_without_a_warning(make: Make) -> None:
    """There is nothing to warn of."""
    ours, peer = unix_pair()
    peer.close()
    channel = plain_channel(ours)
    channel.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del channel
    assert caught == []


# --- TLS ----------------------------------------------------------------------------------------------------------


FULL, OVERHEAD = 2**14, 22
"""Bytes of data in a full record, and what the record has besides (RFC 8446 5.2)."""


def waiting_bytes(channel: Channel) -> int:
    """How many the kernel has for it; those of TLS, not of the data."""
    size = array.array("i", [0])
    fcntl.ioctl(channel.fileno(), termios.FIONREAD, size)
    return size[0]


def read_now(channel: Channel, buffer: bytearray) -> int:
    """0 where nothing has come."""
    try:
        return channel.recv_into(buffer)
    except ssl.SSLWantReadError:
        return 0


def send_now(channel: Channel, data: bytes) -> int:
    """0 where the kernel takes nothing."""
    try:
        return channel.send(data)
    except BlockingIOError:
        return 0


class TestTLS:
    def test_unix_socket_gets_no_tcp_option(self) -> None:
        """A proxy may speak TLS over a unix socket, where TCP's options are errors."""
        ours, peer = tls_pair(pair=unix_pair)
        channel = tls_channel(ours)
        peer.sendall(b"x")
        buffer = bytearray(10)
        until(lambda: read_now(channel, buffer) == 1)
        channel.close()
        assert channel.fileno() == -1
        assert peer.recv(10) == b""
        peer.close()

    def test_full_kernel_takes_nothing(self) -> None:
        """As with a plain socket; the same bytes are sent later."""
        ours, peer = tls_pair(buffers=4096)
        channel = tls_channel(ours)
        data, sent = bytes(range(256)) * 256, 0
        while taken := send_now(channel, data):
            sent += taken
        reader = gevent.spawn(receive_rest, peer)
        until(lambda: send_now(channel, data))
        channel.shutdown(socket.SHUT_WR)
        received = reader.get(timeout=10)
        assert received == data * (sent // len(data) + 1)
        channel.close()
        peer.close()

    def test_read_takes_all_full_records_that_have_come(self) -> None:
        """And the one that ends them; without a poll of the loop between two."""
        ours, peer = tls_pair()
        channel = tls_channel(ours)
        data = bytes(range(256)) * 192 + b"end"
        peer.sendall(data)
        until(lambda: waiting_bytes(channel) >= len(data) + 4 * OVERHEAD)
        buffer = bytearray(65536)
        assert channel.recv_into(buffer) == len(data)
        assert buffer[: len(data)] == data
        channel.close()
        peer.close()

    @pytest.mark.parametrize("size", [FULL, FULL + 14, 2 * FULL - 1, 2 * FULL, 3 * FULL + 5])
    def test_no_part_of_a_record_is_left_decrypted(self, size: int) -> None:
        """The descriptor is not readable for it, so nothing would read it."""
        ours, peer = tls_pair()
        channel = tls_channel(ours)
        peer.sendall(bytes(4 * FULL))
        until(lambda: waiting_bytes(channel) > 4 * FULL)
        assert channel.recv_into(memoryview(bytearray(size))) == size // FULL * FULL
        assert channel.pending() == 0  # type: ignore[attr-defined]
        channel.close()
        peer.close()

    @pytest.mark.parametrize("then", ["nothing", "the end", "no record"])
    def test_full_record_is_not_lost_by_what_follows_it(self, then: str) -> None:
        """The next read says what that is."""
        ours, peer = tls_pair()
        channel = tls_channel(ours)
        peer.sendall(bytes(FULL))
        if then == "the end":
            peer.settimeout(0)
            with pytest.raises(ssl.SSLWantReadError):  # close_notify is sent, and the answer has not come
                peer.unwrap()
        elif then == "no record":
            os.write(peer.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        until(lambda: waiting_bytes(channel) > FULL + (0 if then == "nothing" else 20 + 6))
        buffer = bytearray(4 * FULL)
        assert channel.recv_into(buffer) == FULL
        if then == "the end":
            assert channel.recv_into(buffer) == 0
        else:
            with pytest.raises(ssl.SSLWantReadError if then == "nothing" else ssl.SSLError) as failed:
                channel.recv_into(buffer)
            assert isinstance(failed.value, ssl.SSLWantReadError) is (then == "nothing")
        channel.close()
        peer.close()


# --- SocketChannel alone ------------------------------------------------------------------------------------------


def test_socket_channel_of_a_number_that_is_none() -> None:
    """-1 is what a closed socket gives for its descriptor."""
    with pytest.raises(ValueError, match="negative file descriptor"):
        c_module().SocketChannel(-1)


def test_socket_channel_of_a_closed_descriptor() -> None:
    """It cannot be taken over, and nothing is closed later."""
    with socket.socket() as sock:
        number = sock.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        c_module().SocketChannel(number)


@pytest.mark.parametrize(
    ("arguments", "names"), [((), {}), ((1, 2), {}), ((), {"fd": 1}), ((1,), {"family": 2}), (("1",), {}), ((1.0,), {})]
)
def test_socket_channel_of_anything_else(arguments: tuple[Any, ...], names: dict[str, Any]) -> None:
    """It takes one number, by position."""
    with pytest.raises(TypeError):
        c_module().SocketChannel(*arguments, **names)


def test_socket_channel_is_small_and_shut() -> None:
    """There is one for each connection: it holds no attributes, and its class is what it is."""
    kind = c_module().SocketChannel
    ours, peer = unix_pair()
    channel = kind(ours.detach())
    peer.close()
    channel.close()
    for target in (channel, kind):
        with pytest.raises((AttributeError, TypeError)):
            target.extra = 1
    with pytest.raises(TypeError):
        type("Sub", (kind,), {})
    assert sys.getsizeof(channel) <= 32


def test_socket_channel_when_sigpipe_is_not_ignored() -> None:
    """An application may have given SIGPIPE back to the system: a peer that has disconnected is an error even so."""
    c_module()
    program = (
        "import signal, socket\n"
        "from gws_middleware.connection._channel import SocketChannel\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "ours, peer = socket.socketpair()\n"
        "channel = SocketChannel(ours.detach())\n"
        "peer.close()\n"
        "for write in (lambda: channel.send(b'x'), lambda: channel.sendmsg([b'x'])):\n"
        "    try:\n"
        "        write()\n"
        "    except BrokenPipeError:\n"
        "        print('broken')\n"
        "channel.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "broken\n" * 2), signal.strsignal(-done.returncode)


# --- the choice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("choice", "expected"), [("0", "socket"), ("1", "SocketChannel"), (None, "SocketChannel")])
def test_plain_channel_follows_the_choice(choice: str | None, expected: str) -> None:
    """GWS_SPEEDUPS, as ``masking`` has read it, chooses the socket too."""
    c_module()
    program = (
        "import socket\n"
        "from gws_middleware.connection.channel import plain_channel\n"
        "with socket.socketpair()[0] as ours:\n"
        "    channel = plain_channel(ours)\n"
        "print(type(channel).__name__)\n"
        "channel.close()\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "GWS_SPEEDUPS"}
    environ.update({} if choice is None else {"GWS_SPEEDUPS": choice})
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == expected + "\n"
