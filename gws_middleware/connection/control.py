"""What the middleware, servers, adapters of frameworks and groups do with a WebSocket, beside what applications do."""

from __future__ import annotations

import itertools
import os
import secrets
from typing import Any
from weakref import WeakValueDictionary

import gevent

from ..config import Config
from ..exceptions import ConnectionClosed
from ..process.shutdown import ends_process
from ..protocol.handshake import accept_headers
from .callbacks import LogLine
from .closing import EndObserver
from .states import ANSWERED, CLOSING, LOST, OPEN, PENDING, has_ended, is_accepted
from .websocket import WebSocket

__all__ = [
    "accept_switched",
    "address_of",
    "answer",
    "config_of",
    "ends_greenlet",
    "expect_idle",
    "find",
    "forget",
    "greenlet_ends",
    "has_room",
    "id_of",
    "is_closed",
    "is_finished",
    "is_from_end",
    "is_http_over",
    "is_lost",
    "is_pending",
    "observers_of",
    "open_now",
    "refuse_foreign",
    "release",
    "set_server",
    "set_view",
    "shutdown_code_of",
    "unwatch_end",
    "user_of",
    "waiting_bytes",
    "watch_end",
]


# --- the middleware ---------------------------------------------------------------------------------------------------


def config_of(ws: WebSocket) -> Config:
    """Its settings: those of the middleware, or what the view has set by ``limits()``."""
    return ws._config


def is_pending(ws: WebSocket) -> bool:
    """Whether nothing was sent for it so far, neither a 101 nor another response."""
    return ws._state == PENDING


def is_lost(ws: WebSocket) -> bool:
    """Whether the peer had disconnected before the 101 could be sent: nothing can be answered."""
    return ws._state == LOST


def is_closed(ws: WebSocket) -> bool:
    """Whether the connection has ended or is ending; unlike ``ws.closed`` this does not accept."""
    return ws._state >= CLOSING


def is_http_over(ws: WebSocket) -> bool:
    """Whether nothing of HTTP may be written any more: the 101 was sent, or the peer had disconnected before it."""
    return ws.accepted or is_lost(ws)


def set_view(ws: WebSocket, view: Any) -> None:
    """The 101 is about to be sent; ``view`` is the greenlet of the view."""
    ws._registry.view_started(ws, view)


def accept_switched(ws: WebSocket, subprotocol: str | None) -> None:
    """The server has sent the 101 itself, with this subprotocol. The application may still call ``accept()``, once.

    The connection is taken first: whatever raises then finds it open, and it is closed with 1011.
    """
    pending = ws._pending
    assert pending is not None
    ws.subprotocol = subprotocol
    ws._take(pending, accept_headers(pending.handshake, None))
    pending.switched = True
    ws._pending = pending
    ws._adapter.accepting(ws)
    ws._check_user_limit()


def answer(ws: WebSocket) -> None:
    """An HTTP response was started: there will be no 101."""
    ws._pending = None
    if ws._state == PENDING:
        ws._state = ANSWERED


def is_finished(ws: WebSocket) -> bool:
    """Whether it was detached, and its ``on_close`` has been called."""
    return ws._callbacks is not None and ws._callbacks.is_finished


def release(ws: WebSocket, log_line: LogLine | None) -> None:
    """The view has returned. ``log_line`` is for the end of a detached connection."""
    if ws._callbacks is None:
        ws._finish(None)
        return
    if not ws._callbacks.is_finished:
        ws._registry.view_returned(ws)
        ws._callbacks.log_line = log_line
    ws._adapter.ran(ws)


def forget(ws: WebSocket, *, cut: bool) -> None:
    """The request is over. ``cut``: an exception came out of it before ``release()``."""
    if is_accepted(ws._state):
        if cut:
            if not has_ended(ws._state):
                ws.abort()
            if ws._callbacks is None:
                ws._registry.finished(ws)
        return
    ws._registry.slots.release(ws)
    ws._registry.finished(ws)


# --- servers and adapters ---------------------------------------------------------------------------------------------


def set_server(ws: WebSocket, server: Any) -> None:
    """It came to this server of ``gevent.pywsgi``."""
    ws._server = server


def expect_idle(ws: WebSocket) -> None:
    """The view has begun to hold what ``Adapter.idle()`` gives back: it is called once the view has waited for long."""
    ws._holds = ws._adapter.grace is not None
    ws._waited = 0.0


# --- groups -----------------------------------------------------------------------------------------------------------


def open_now(ws: WebSocket) -> None:
    """Accept the handshake if that is what is missing.

    Raises:
        ConnectionClosed: The connection has ended.
        RuntimeError: The caller runs in another thread of the operating system than the connection.

    """
    ws._turn.refuse_foreign()
    if ws._state != OPEN:
        ws._check_open()


def refuse_foreign(ws: WebSocket) -> None:
    """RuntimeError where the caller runs in another thread of the operating system than the connection."""
    ws._turn.refuse_foreign()


def watch_end(ws: WebSocket, observer: EndObserver) -> None:
    """Let ``observer.ended(ws)`` be called once, when the connection ends, before ``on_close``; not after a fork."""
    if ws._observers is None:
        ws._observers = [observer]
    else:
        ws._observers.append(observer)


def unwatch_end(ws: WebSocket, observer: EndObserver) -> None:
    """Let it not be called."""
    if ws._observers is not None and observer in ws._observers:
        ws._observers.remove(observer)


def observers_of(ws: WebSocket) -> list[EndObserver]:
    """What ``watch_end()`` was called with."""
    return list(ws._observers or ())


def has_room(ws: WebSocket, size: int) -> bool:
    """Whether ``offer()`` would keep a message for the peer instead of closing the connection of a slow one.

    Args:
        ws: The connection.
        size: Bytes of the frame that is not compressed.

    """
    if ws._state != OPEN:
        return True
    size += size // 1000 + 20  # deflate adds a little to what cannot be compressed
    waiting = ws._transport.outbox_size
    return not waiting or waiting + size <= ws._send_limit


def greenlet_ends(ws: WebSocket) -> None:
    """A greenlet that ran code of the application for this connection is about to end."""
    ws._adapter.ran(ws)


def ends_greenlet(error: BaseException) -> bool:
    """Whether an exception of an application's code is for the greenlet or the process. Any other is logged."""
    return isinstance(error, gevent.GreenletExit) or ends_process(error)


def is_from_end(ws: WebSocket, error: BaseException) -> bool:
    """Whether an exception comes from the use of a connection that has ended."""
    return isinstance(error, ConnectionClosed) and is_closed(ws)


def shutdown_code_of(ws: WebSocket) -> int:
    """The close code of a process that ends."""
    return ws._shutdown_code()


def address_of(ws: WebSocket) -> str:
    """The client's address, by the setting ``client_address``; empty where there is none. What that function raises is
    passed on.
    """
    function = ws._config.client_address
    address = ws.environ.get("REMOTE_ADDR") if function is None else function(ws.environ)
    return "" if address is None else str(address)


def user_of(ws: WebSocket) -> tuple[str | None, str | None]:
    """The primary key and the name of its user, as far as the framework has read them."""
    return ws._adapter.user_of(ws)


def waiting_bytes(ws: WebSocket) -> int:
    """Bytes that wait for the peer."""
    return ws._outbox_state[0]


_process_id = ""
_numbers = itertools.count(1)
_by_id: WeakValueDictionary[str, WebSocket] = WeakValueDictionary()
"""Those that have been asked for their ids."""


def id_of(ws: WebSocket) -> str:
    """A text that no other connection of the site has, in no process. May be called in any thread."""
    number: str | None = ws.__dict__.get("_id")
    if number is None:
        global _process_id  # one for each process, by definition
        _process_id = _process_id or secrets.token_hex(6)
        number = ws.__dict__.setdefault("_id", f"{_process_id}{next(_numbers):x}")
        _by_id[number] = ws
    return number


def find(number: str) -> WebSocket | None:
    """The connection of this process with this id; None where it is another's, or is not used any more."""
    return _by_id.get(number)


def _forked() -> None:
    """In a process that has just been forked."""
    global _process_id
    _process_id = ""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
