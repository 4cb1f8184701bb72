"""Connected sockets and what stands at their ends, for tests that need no server process.

The pytest process is not monkey-patched: what waits here, waits with gevent.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import gevent
import pytest
import trustme
from gevent import socket as gsocket
from gevent import ssl as gssl

import gws_middleware
from gws_middleware.codes import CloseCode, Opcode
from gws_middleware.config import Config
from gws_middleware.connection.channel import Channel, plain_channel, tls_channel
from gws_middleware.connection.websocket import WebSocket
from gws_middleware.process.registry import Registry
from gws_middleware.protocol.connection import Connection, State
from gws_middleware.protocol.deflate import Deflate, Parameters
from gws_middleware.protocol.frames import FIN, encode_frame
from gws_middleware.protocol.handshake import Handshake
from gws_middleware.servers.pywsgi import warn_if_views_block
from gws_middleware.typing import Environ, Headers, StartResponse

from .seam import channel_of, set_channel, transport_of
from .waiting import eventually

T = TypeVar("T")

DEADLINE = 5.0
"""Seconds after which a wait that should have ended fails its test."""
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x01\x02\x03\x04"


warn_if_views_block()  # for this process, which is not patched: here and not in the log of some test


def package_path() -> dict[str, str]:
    """The environment of a fresh interpreter that is to import the package that is tested here."""
    root = str(Path(gws_middleware.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": "error"}


# --- applications ----------------------------------------------------------------------------------------------------


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Sends what it receives."""
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


# --- applications that refuse ----------------------------------------------------------------------------------------


def forbids(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("403 Forbidden", [])
    return [b"no"]


def forbids_lazily(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("403 Forbidden", [])
    yield b"no"


def closes(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.websocket"].close()
    return []


# --- waiting ------------------------------------------------------------------------------------------------------


@contextmanager
def deadline(what: str, seconds: float = DEADLINE) -> Iterator[None]:
    """AssertionError in a block that lasts longer."""
    with gevent.Timeout(seconds, AssertionError(f"{what}: not within {seconds} s")):
        yield


def until(condition: Callable[[], object], what: str = "the condition", seconds: float = DEADLINE) -> None:
    """Let the loop run until ``condition()`` holds. Between two checks there is no timer on the loop."""
    eventually(condition, what, seconds, sleep=gevent.sleep, interval=0.001)


def ticks(count: int = 3) -> None:
    """Let the loop poll its sockets a few times: what was to happen at once has happened then."""
    for _ in range(count):
        gevent.sleep(0.001)


@contextmanager
def no_collector() -> Iterator[None]:
    """What is freed in the block is freed without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def forever(function: Callable[..., object], *arguments: object) -> None:
    """Call again and again until it raises; others run in between."""
    while True:
        function(*arguments)
        gevent.sleep(0)


def spin(seconds: float) -> None:
    """Compute, as a view does that never waits: the loop's clock stands still meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def unpreempted(step: Callable[[], T], undo: Callable[[], object]) -> T:
    """``step()``, which takes less than a turn of the loop. Where the kernel gave the processor to another program
    meanwhile, which may last longer than a turn, it is repeated after ``undo()``.
    """
    for _ in range(100):
        before = preemptions()
        found = step()
        if preemptions() == before:
            return found
        undo()
    raise AssertionError("the kernel gave the processor to another program in each of 100 attempts")


def preemptions() -> int:
    """How often the kernel has taken the processor from this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def in_a_watcher(callback: Callable[[], None]) -> None:
    """Run ``callback`` from a watcher of the loop, as a view runs that a message has woken."""
    sender, receiver = socket.socketpair()
    watcher = gevent.get_hub().loop.io(receiver.fileno(), 1)

    def once() -> None:
        watcher.stop()
        watcher.close()
        sender.close()
        receiver.close()
        callback()

    watcher.start(once)
    sender.send(b"x")


def in_a_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns or raises in a native thread of gevent's pool. Nothing but its end wakes this thread's loop."""

    def call() -> tuple[Any, BaseException | None]:
        try:
            return function(*arguments), None
        except BaseException as error:
            return None, error

    with deadline("the thread returns", 4 * DEADLINE):
        returned, raised = gevent.get_hub().threadpool.apply(call)
    if raised is not None:
        raise raised
    return returned


# --- what no test may leave open -----------------------------------------------------------------------------------


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def count_of(kind: type) -> int:
    """How many objects of a class are alive."""
    return sum(type(thing) is kind for thing in gc.get_objects())


def still_running() -> list[str]:
    """What keeps a loop busy, for an error: watchers that are active, and greenlets that have not ended."""
    found = []
    for thing in gc.get_objects():
        if isinstance(thing, gevent.Greenlet):
            is_left = not thing.ready()
        else:
            is_left = type(thing).__module__.startswith("gevent.") and getattr(thing, "active", None) is True
        if is_left:
            found.append(repr(thing))
    return found


def until_stopped(loop: Any, watchers: int, seconds: float = DEADLINE) -> None:
    """Wait until no more than so many watchers are active."""
    try:
        until(lambda: loop.activecnt <= watchers, "every watcher is stopped", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; {loop.activecnt} instead of {watchers}: {still_running()}") from None


@pytest.fixture(autouse=True)
def hub_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Fails a test that leaves an error in the hub, a watcher on the loop or an open descriptor.

    A test that provokes an error in the hub takes it out of the list. A module imports this fixture to use it.
    """
    hub = gevent.get_hub()
    gevent.sleep(0.001)
    descriptors, watchers = open_descriptors(), hub.loop.activecnt
    errors: list[BaseException] = []

    def collect(context: object, kind: type[BaseException], value: BaseException, trace: Any) -> None:
        if issubclass(kind, Exception):
            errors.append(value)
        elif not issubclass(kind, gevent.GreenletExit):
            hub.handle_system_error(kind, value, trace)  # a timeout of pytest's, which must end the test

    monkeypatch.setattr(hub, "handle_error", collect)
    yield errors
    until(lambda: open_descriptors() <= descriptors, "every descriptor is closed")
    until_stopped(hub.loop, watchers)
    assert errors == []


def problems(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The warnings and errors that were logged."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- pairs --------------------------------------------------------------------------------------------------------


def gevent_socket(sock: socket.socket) -> Any:
    """The connection of a plain socket in one of gevent's."""
    return gsocket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())


def tcp_pair(buffers: int | None = None) -> tuple[Any, Any]:
    """Both ends of a TCP connection; ``buffers`` makes the kernel's small, so that little is on its way."""
    with socket.socket() as listener:
        if buffers is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = socket.socket()
        if buffers is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    return gevent_socket(server), gevent_socket(client)


def unix_pair(buffers: int | None = None) -> tuple[Any, Any]:
    """Both ends of a unix socket."""
    ends: tuple[Any, Any] = gsocket.socketpair()
    return ends


_authority = cache(trustme.CA)


def tls_pair(buffers: int | None = None, pair: Callable[[int | None], tuple[Any, Any]] = tcp_pair) -> tuple[Any, Any]:
    """Both ends of a TLS connection, shaken hands; ``pair`` makes what is below."""
    server_context = gssl.SSLContext(gssl.PROTOCOL_TLS_SERVER)
    client_context = gssl.SSLContext(gssl.PROTOCOL_TLS_CLIENT)
    authority = _authority()
    authority.issue_cert("localhost").configure_cert(server_context)
    authority.configure_trust(client_context)
    plain_server, plain_client = pair(buffers)
    client = gevent.spawn(client_context.wrap_socket, plain_client, server_hostname="localhost")
    server = server_context.wrap_socket(plain_server, server_side=True)
    return server, client.get(timeout=DEADLINE)


def reset(sock: Any) -> None:
    """Disconnect with a RST instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --- both ends of a transport -------------------------------------------------------------------------------------


class CountingChannel:
    """A channel that writes down each system call with what it took or raised."""

    COUNTED = ("recv_into", "send", "sendmsg", "shutdown")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.channel, name)
        if name not in self.COUNTED:
            return method

        def counted(*arguments: Any) -> Any:
            try:
                result = method(*arguments)
            except OSError as error:
                self.calls.append((name, type(error)))
                raise
            self.calls.append((name, result))
            return result

        return counted

    def writes(self) -> list[Any]:
        """What each writing system call took."""
        return [result for name, result in self.calls if name in ("send", "sendmsg")]


@contextmanager
def counting(ws: WebSocket) -> Iterator[CountingChannel]:
    """The system calls of an accepted WebSocket, counted while the block lasts."""
    transport = transport_of(ws)
    counted = CountingChannel(channel_of(transport))
    set_channel(transport, counted)
    try:
        yield counted
    finally:
        if not transport.closed:
            set_channel(transport, counted.channel)


class Recorder:
    """The owner of a transport that keeps what it receives."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.reads: list[int] = []
        self.buffer: bytearray | None = None
        """The one of the last read."""
        self.writables = 0
        self.losses = 0

    def _data_received(self, buffer: bytearray, size: int) -> None:
        self.data += buffer[:size]
        self.reads.append(size)
        self.buffer = buffer

    def _writable(self) -> None:
        self.writables += 1

    def _connection_lost(self) -> None:
        self.losses += 1


def receive_exactly(sock: Any, size: int) -> bytes:
    """``size`` bytes, or fewer where the connection ends before."""
    received = bytearray()
    with deadline(f"{size} bytes arrive"):
        while len(received) < size:
            piece = sock.recv(min(size - len(received), 1 << 20))
            if not piece:
                break
            received += piece
    return bytes(received)


def receive_rest(sock: Any) -> bytes:
    """Everything up to the end of the connection; a reset is an end, too."""
    received = bytearray()
    with deadline("the connection ends"):
        while True:
            try:
                piece = sock.recv(1 << 16)
            except ConnectionError:
                piece = b""
            if not piece:
                return bytes(received)
            received += piece


# --- both ends of a WebSocket -------------------------------------------------------------------------------------


class Peer:
    """The client's end of a WebSocket: it reads and answers only when a test says so."""

    def __init__(self, sock: Any, deflate: Parameters | None = None) -> None:
        self.sock = sock
        compression = None if deflate is None else Deflate(deflate, client=True)
        self.engine = Connection(client=True, max_message_size=2**30, deflate=compression)
        self.inbox: list[str | bytes] = []
        self.ended = False

    def send(self, *messages: str | bytes) -> None:
        """All in one system call."""
        self.sock.sendall(b"".join(joined(self.engine.encode(message)) for message in messages))

    def send_frame(self, opcode: int, payload: bytes = b"", first: int = FIN) -> None:
        """One masked frame, lawful or not."""
        self.sock.sendall(masked_frame(opcode, payload, first))

    def close(self, code: int | None = CloseCode.NORMAL, reason: str = "") -> None:
        """Send the close frame and wait for nothing."""
        self.engine.close(code, reason)
        self.sock.sendall(self.engine.take_replies())

    def read(self) -> None:
        """One read; answers nothing."""
        with deadline("the peer receives something"):
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionError:
                data = b""
        self.ended = not data
        self.inbox += self.engine.feed(data)
        while self.engine.stalled:
            self.inbox += self.engine.feed(b"")

    def receive(self) -> str | bytes | None:
        """The next message; None when the connection has ended or the other side has closed."""
        while not self.inbox and not self.ended and self.engine.received_close is None:
            self.read()
        return self.inbox.pop(0) if self.inbox else None

    def close_frame(self) -> tuple[int, str] | None:
        """Code and reason of the other side's close frame; None if it never came."""
        while not self.ended and self.engine.received_close is None and self.engine.state is not State.FAILED:
            self.read()
        return self.engine.received_close

    def answer(self) -> None:
        """Send the pong and the close answer that are due."""
        self.sock.sendall(self.engine.take_replies())

    def disconnect(self) -> None:
        """Without a close frame: FIN."""
        self.sock.close()

    def reset(self) -> None:
        """Without a close frame: RST."""
        reset(self.sock)


def joined(encoded: bytes | tuple[bytes, bytes]) -> bytes:
    """The bytes of a message that an engine has encoded: header and payload may be two objects."""
    return encoded if isinstance(encoded, bytes) else b"".join(encoded)


def masked_frame(opcode: int, payload: bytes = b"", first: int = FIN) -> bytes:
    """One frame as a client sends it."""
    return encode_frame(first | opcode, payload, MASK)


PING_FRAME = masked_frame(Opcode.PING, b"are you there?")


@contextmanager
def connected(
    *,
    pair: Callable[..., tuple[Any, Any]] = tcp_pair,
    buffers: int | None = None,
    early: bytes = b"",
    compression: Parameters | None = None,
    **options: Any,
) -> Iterator[tuple[WebSocket, Peer]]:
    """An accepted WebSocket and its peer, without an application. Both are closed when the block ends."""
    ours, theirs = pair(buffers)
    registry = Registry()
    channel = tls_channel if isinstance(ours, gssl.SSLSocket) else plain_channel
    ws = unaccepted(lambda headers: (channel(ours), early), registry, compression=compression, **options)
    peer = Peer(theirs, compression)
    try:
        ws.accept()
        yield ws, peer
    finally:
        ws.abort()
        theirs.close()
        ours.close()
        until(lambda: not len(registry), "the registry is empty")


def refuse_switch(headers: object) -> Any:
    """For ``unaccepted``: the peer has disconnected before the 101 could be sent."""
    raise BrokenPipeError


def unaccepted(
    switch: Callable[[Headers], tuple[Channel, bytes]],
    registry: Registry | None = None,
    *,
    environ: Environ | None = None,
    subprotocols: tuple[str, ...] = (),
    compression: Parameters | None = None,
    **options: Any,
) -> WebSocket:
    """A WebSocket that has not been accepted; ``options`` are the fields of Config."""
    handshake = Handshake(KEY, subprotocols, compression)
    environ = {"PATH_INFO": "/chat"} if environ is None else environ
    return WebSocket(environ, handshake, switch, Config(**options), Registry() if registry is None else registry)


# --- the ends of a connection -------------------------------------------------------------------------------------

ENDS: dict[str, tuple[Callable[[WebSocket, Peer], object], tuple[int, str]]] = {
    "the peer closes": (lambda ws, peer: peer.close(4001, "bye"), (4001, "bye")),
    "the peer closes without a code": (lambda ws, peer: peer.close(None), (1005, "")),
    "we close": (lambda ws, peer: ws.close(4002, "done"), (4002, "done")),
    "EOF": (lambda ws, peer: peer.disconnect(), (1006, "")),
    "RST": (lambda ws, peer: peer.reset(), (1006, "")),
    "we abort": (lambda ws, peer: ws.abort(), (1006, "")),
    "a violation": (lambda ws, peer: peer.send_frame(0x3), (1002, "opcode 0x3 is reserved")),
    "a violation after a message": (
        lambda ws, peer: peer.sock.sendall(masked_frame(Opcode.TEXT, b"last") + masked_frame(Opcode.PING, bytes(126))),
        (1002, "a control frame has more than 125 bytes"),
    ),
}
"""How a connection can end, and the close code and reason of each."""


def last_of(end: str) -> list[str]:
    """The messages that come with an end of ``ENDS``."""
    return ["last"] if end == "a violation after a message" else []


every_end = pytest.mark.parametrize("end", list(ENDS))
