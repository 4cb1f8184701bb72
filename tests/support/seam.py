"""What tests need of the package beside its public interface, each thing once.

A change inside of the package changes a line here, and no test. ``private`` counts private names in all other files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gevent import get_hub

from gws_middleware import testing
from gws_middleware.codes import CloseCode
from gws_middleware.connection import channel as channels
from gws_middleware.connection import states
from gws_middleware.connection.transport import Transport
from gws_middleware.connection.turns import Turns
from gws_middleware.connection.websocket import WebSocket
from gws_middleware.groups.backends import redis
from gws_middleware.groups.backends.database import Database
from gws_middleware.groups.backends.sqlite import SqliteBackend, SqliteFeed
from gws_middleware.middleware import _Lifetime
from gws_middleware.process import registry as registries
from gws_middleware.process.registry import Registry
from gws_middleware.protocol import deflate
from gws_middleware.protocol.connection import Connection
from gws_middleware.testing import Client, _PairServer

__all__ = [
    "Lifetime",
    "PairServer",
    "TLSChannel",
    "abandon",
    "activity",
    "after_the_poll",
    "application_of",
    "channel_of",
    "cut",
    "deliver",
    "descriptor_of",
    "engine_of",
    "fail",
    "forget_shared_compressors",
    "has_ended",
    "is_paused",
    "keepalive_ping",
    "leave_transaction_open",
    "limit_messages",
    "live_shortly",
    "log_line_of",
    "message_number",
    "middlewares_of",
    "outbox_state",
    "queued",
    "read_now",
    "read_size",
    "record_waits",
    "registry_of",
    "replace_append",
    "replace_trim_group",
    "request_of",
    "run_callbacks_of",
    "set_channel",
    "set_inbox",
    "set_up_engine",
    "set_up_transport",
    "set_up_turn",
    "set_up_websocket",
    "socket_of",
    "state_of",
    "sweep_now",
    "transport_of",
    "use_channel_in_c",
    "use_pair_server",
    "use_registry",
    "waiting_senders",
    "wake_reader",
]


# --- a WebSocket ---------------------------------------------------------------------------------------------------


def transport_of(ws: Any) -> Transport:
    """What reads and writes the socket of an accepted WebSocket."""
    transport: Transport = ws._transport
    return transport


def descriptor_of(ws: Any) -> int:
    """The file descriptor of its socket."""
    number: int = transport_of(ws)._channel.fileno()
    return number


def log_line_of(ws: Any) -> Any:
    """What is kept for its line in the access log, None where nothing is."""
    return ws._callbacks.log_line


def state_of(ws: Any) -> str:
    """Its state, by the name in ``states``. ``repr(ws)`` shows it too, but among other things."""
    return states.NAMES[ws._state]


def has_ended(ws: Any) -> bool:
    """Whether the end is complete. ``closed`` is true before: as soon as nothing can be sent any more."""
    return states.has_ended(ws._state)


def is_paused(ws: Any) -> bool:
    """Whether nothing is read because the inbox is full. An application does not see it."""
    paused: bool = ws._paused
    return paused


def engine_of(ws: Any) -> Connection:
    """The engine of an accepted WebSocket: which close frames it has sent and received."""
    engine: Connection = ws._engine
    return engine


def registry_of(ws: Any) -> Registry:
    """The registry that the test has made the WebSocket with."""
    registry: Registry = ws._registry
    return registry


def waiting_senders(ws: Any) -> int:
    """How many greenlets wait in ``send()`` for the peer to read."""
    return len(ws._senders or ())


def deliver(ws: Any, data: bytes) -> None:
    """What the transport does with bytes that it has read, at a moment that the test chooses."""
    ws._data_received(bytearray(data), len(data))


def fail(ws: Any, code: CloseCode, reason: str) -> None:
    """What keepalive and the limits do with a peer that exceeds them."""
    ws._fail(code, reason)


def activity(ws: Any) -> int | None:
    """The number that keepalive compares."""
    found: int | None = ws._activity()
    return found


def message_number(ws: Any) -> int | None:
    """The number that keepalive compares for ``message_timeout``."""
    found: int | None = ws._message_number()
    return found


def keepalive_ping(ws: Any) -> None:
    """What keepalive calls where the peer shows no activity."""
    ws._keepalive_ping()


def outbox_state(ws: Any) -> tuple[int, float | None]:
    """Bytes that wait for the peer, and since when: the metrics are made of it."""
    found: tuple[int, float | None] = ws._outbox_state
    return found


def record_waits(monkeypatch: Any) -> list[float | None]:
    """The seconds of each wait in ``receive()`` from now on; none of them lasts, and none brings a message."""
    waits: list[float | None] = []
    monkeypatch.setattr(WebSocket, "_park", lambda ws, timeout: waits.append(timeout))
    return waits


# --- a transport ---------------------------------------------------------------------------------------------------


def channel_of(transport: Any) -> Any:
    """Its channel, on which a test replaces a system call."""
    return transport._channel


def set_channel(transport: Any, channel: Any) -> None:
    """Give it another channel, e.g. one that counts or refuses."""
    transport._channel = channel


def wake_reader(transport: Any) -> None:
    """What the loop does when the socket is readable."""
    transport._readable()


def read_size(transport: Any) -> int:
    """The most bytes of its next read."""
    return len(transport._window)


def run_callbacks_of(transport: Any, wrap: Callable[[Any], Any]) -> None:
    """Wrap the loop on which it asks for callbacks; the attributes of gevent's loop cannot be replaced."""
    transport._loop = wrap(transport._loop)


def use_channel_in_c(monkeypatch: Any, module: Any) -> None:
    """The module that ``plain_channel()`` takes its class from; None for the socket of the standard library."""
    monkeypatch.setattr(channels, "_in_c", module)


# --- the base classes that exist in C and in Python: what the constructors of their subclasses set --------------------

TLSChannel = channels._TLS


def set_up_engine(engine: Any) -> None:
    """It is between two messages of a client that masks nothing."""
    engine._between, engine._masked, engine._max_message_size = True, False, 100
    engine.eventful, engine.plain = False, True


def set_up_turn(turn: Any, polls: Any, began: float, thread: int) -> None:
    """It began at ``began``, on ``time.monotonic()``'s clock, in the current poll of ``polls``."""
    turn.polls, turn._iteration, turn._began, turn._thread = polls, polls.iteration, began, thread


def set_up_transport(transport: Any, channel: Any, turn: Any, owner: Any) -> None:
    """Nothing was read or written yet in this turn of the loop."""
    transport._channel, transport._turn, transport._owner = channel, turn, owner
    transport._buffer = transport._window = bytearray(8)
    transport._outbox, transport._flush_due, transport._write_turn = [], False, turn.polls.iteration - 1
    transport.outbox_size = transport.bytes_received = transport.bytes_sent = 0


def set_up_websocket(ws: Any, *, engine: Any, transport: Any, hub: Any, turn: Any, callbacks: Any) -> None:
    """It is open, and no greenlet waits for a message."""
    ws._engine, ws._transport, ws._hub, ws._turn, ws._callbacks = engine, transport, hub, turn, callbacks
    ws._reader, ws._inbox, ws._state, ws._plain = None, [], states.OPEN, True
    ws._high_water, ws._send_limit = 100, 1000
    ws._messages_received = ws._messages_sent = 0
    ws._paused = ws._end_delivered = ws._holds = False


def set_inbox(ws: Any, messages: list[Any]) -> None:
    """These messages have come; the oldest is the last item."""
    ws._inbox = messages


# --- the turns of the loop -----------------------------------------------------------------------------------------


def queued(turns: Turns) -> int:
    """How many callbacks and greenlets wait for another turn."""
    return len(turns._light) + len(turns._woken) + len(turns._resumed)


def after_the_poll(turns: Turns, callback: Callable[[], object]) -> None:
    """Call it in the hub after the poll after which the queue is served, and before it is served."""

    def polled(timer: Any) -> None:
        turns._polled(timer)
        callback()

    timer = turns._timer = get_hub().loop.timer(0)
    timer.start(polled, timer)


def wrap_queue(monkeypatch: Any, step: str, call: Callable[[Callable[[], object]], object]) -> None:
    """One of the two steps in which the hub serves the queue, "polled" or "run", is made by ``call``."""
    original = getattr(Turns, f"_{step}")
    monkeypatch.setattr(Turns, f"_{step}", lambda turns, argument: call(partial(original, turns, argument)))


# --- the engine ----------------------------------------------------------------------------------------------------


def forget_shared_compressors(monkeypatch: Any) -> None:
    """As in a process in which no connection has compressed a message yet, until the end of the test."""
    monkeypatch.setattr(deflate, "_shared", {})


# --- the middleware ------------------------------------------------------------------------------------------------

Lifetime = _Lifetime
"""What exists for each request while its view runs, to count how many there are."""


# --- Django -------------------------------------------------------------------------------------------------------


def middlewares_of(handler: Any) -> Any:
    """The outermost call of the chain that a handler of Django's has made."""
    return handler._middleware_chain


# --- the test client -----------------------------------------------------------------------------------------------

PairServer = _PairServer
"""The server under ``connect()``: tests subclass it and replace its methods."""


def use_pair_server(monkeypatch: Any, kind: type[PairServer]) -> None:
    """Have ``connect()`` run applications under this class."""
    monkeypatch.setattr(testing, "_PairServer", kind)


def request_of(client: Client) -> tuple[Any, dict[str, Any]]:
    """The application and the environ that the client is about to call."""
    return client._app, client._environ


def socket_of(client: Client) -> Any:
    """The client's end of the connection."""
    return client._sock


def application_of(client: Client) -> Any:
    """The greenlet that runs the application."""
    return client._greenlet


def cut(client: Client) -> None:
    """End the connection without a close frame, as a client that crashes."""
    client._sock.close()
    client._lost = True


def abandon(client: Client, *, entered: bool, seconds: float) -> None:
    """Leave its block without waiting for what an exception may have cut off: close the socket, and wait ``seconds`` at
    most for the application.
    """
    client._sock.close()
    client._greenlet.join(seconds)
    if entered:
        testing._watchdog.stop()


def limit_messages(client: Client, size: int) -> None:
    """Set the most bytes of a message that the client's engine takes."""
    assert client._engine is not None
    client._engine._max_message_size = size


# --- the process ---------------------------------------------------------------------------------------------------


def use_registry(monkeypatch: Any, registry: Registry) -> None:
    """Make it ``registry.current()`` until the end of the test. In the package only a fork may replace the registry."""
    monkeypatch.setattr(registries, "_registry", registry)


# --- the log of groups ---------------------------------------------------------------------------------------------


def read_now(feed: SqliteFeed) -> None:
    """Let a feed read in its next ``wait()``, as it does each second."""
    feed._read_at = 0.0


def sweep_now(feed: SqliteFeed) -> None:
    """Let it also do what it does every few seconds."""
    feed._sweep_at = feed._read_at = 0.0


def replace_append(monkeypatch: Any, append: Callable[..., object]) -> Callable[..., Any]:
    """Let ``append`` run where a publish writes a row; the original."""
    original = Database._append
    monkeypatch.setattr(Database, "_append", append)
    return original


def replace_trim_group(monkeypatch: Any, trim: Callable[..., object]) -> None:
    """Let ``trim`` run where a publish deletes rows."""
    monkeypatch.setattr(Database, "_trim_group", trim)


def leave_transaction_open(backend: SqliteBackend) -> None:
    """As an exception right after BEGIN would."""
    assert backend._handle._database is not None
    backend._handle._database._connection.execute("BEGIN IMMEDIATE")


# --- Redis -----------------------------------------------------------------------------------------------------------


def live_shortly(set_attribute: Callable[[Any, str, Any], object] = setattr) -> None:
    """Let this process count as dead a second after its last sign, and sign and put its records again more often.

    Args:
        set_attribute: ``monkeypatch.setattr``, for the time of a test.

    """
    for name, value in (("LIVING", 1.0), ("_LIVING", 1000), ("PING", 0.3), ("REPEAT_WHERE_EVICTED", 0.5)):
        set_attribute(redis, name, value)


def repeat_with_each_sign(set_attribute: Callable[[Any, str, Any], object]) -> None:
    """Let a process put all its records again whenever it gives a sign."""
    set_attribute(redis, "REPEAT", 0.0)


def is_signing(backend: redis.RedisBackend) -> bool:
    """Whether a greenlet gives a sign, and puts records again where that is due."""
    found: bool = backend._is_signing
    return found
