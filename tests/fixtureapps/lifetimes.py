"""Peers that read nothing before the 101, callbacks that end with any exception, and forks: what must cost one
connection, and no other.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
from gevent import monkey
from gevent.os import tp_read

from gws_middleware import ConnectionClosed, WebSocketMiddleware
from gws_middleware.process import registry
from gws_middleware.servers.gunicornworker import find_worker
from gws_middleware.servers.pywsgi import HANDLER_KEY
from gws_middleware.typing import Environ, StartResponse

from ..support.seam import descriptor_of
from .behaviours import PLAIN, app
from .common import hold, json_response, query, record

__all__ = ["app", "wrapped"]

wrapped = WebSocketMiddleware(app)


@app.at("/reserved")
def reserved(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """How many slots of this worker are reserved, and for how many connections its drain would wait."""
    here = registry.current()
    return json_response(start_response, [here.slots.reserved.get("worker", 0), len(here), len(here.unfinished)])


# --- peers that read nothing before the 101 ------------------------------------------------------------------------


def _fill(environ: Environ) -> None:
    """Fill the kernel's buffer of this connection, as a large page does that was pipelined before the handshake.

    It is full when it has been so for 0.3 s: a delayed acknowledgement of the peer makes room once more.
    """
    handler = environ[HANDLER_KEY]() if HANDLER_KEY in environ else None
    theirs = environ.get("gunicorn.socket") or environ.get("gunicorn.sock") or handler.socket
    with socket.socket(fileno=os.dup(theirs.fileno())) as sock:
        sock.setblocking(False)
        found_full = 0
        while found_full < 15:
            try:
                sock.send(bytes(65536))
                found_full = 0
            except BlockingIOError:
                found_full += 1
                gevent.sleep(0.02)


@app.at("/full/accept")
def full_accept(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Accepts where the peer reads nothing."""
    _fill(environ)
    try:
        environ["wsgi.websocket"].accept()
    except ConnectionClosed:
        record(environ, "ConnectionClosed")
    return []


@app.at("/full/answer")
def full_answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with a page, which the server writes (``?how=list``, ``iterator``, ``empty``, ``lazily``, ``write``)."""
    _fill(environ)
    return {"list": _answer, "iterator": _answer_iterator, "empty": _empty, "write": _write, "lazily": _lazily}[
        query(environ, "how")
    ](environ, start_response)


class _Page:
    def __init__(self, environ: Environ, chunks: Iterable[bytes]) -> None:
        self._environ, self._chunks = environ, chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        record(self._environ, "closed")


def _answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("403 Forbidden", PLAIN)
    return _Page(environ, [b"the body"])


def _answer_iterator(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("403 Forbidden", PLAIN)
    return _Page(environ, iter([b"the ", b"body"]))


def _empty(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("403 Forbidden", [*PLAIN, ("Content-Length", "0")])
    return _Page(environ, [])


def _write(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    try:
        start_response("403 Forbidden", PLAIN)(b"the body")
    finally:
        record(environ, "closed")
    return []


def _lazily(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    try:
        start_response("403 Forbidden", PLAIN)
        yield b"the body"
    finally:
        record(environ, "closed")


# --- forks ---------------------------------------------------------------------------------------------------------


@app.at("/pid")
def pid(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the process that answers; "close" and "abort" are done instead."""
    ws = environ["wsgi.websocket"]
    ws.send("ready")
    for message in ws:
        _answer_with_pid(ws, message)
    return []


@app.at("/pid/detached")
def pid_detached(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The same, without a view."""
    ws = environ["wsgi.websocket"]
    ws.send("ready")
    ws.detach(_answer_with_pid)
    return []


def _answer_with_pid(ws: Any, message: str) -> None:
    if message in ("close", "abort"):
        getattr(ws, message)()
    else:
        ws.send(f"{os.getpid()} {message}")


@app.at("/fork")
def fork(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Forks a child (``?how=gevent``, by gevent's ``os.fork``, or ``raw``) that lives until this view ends, and runs
    the loop (``?runs=loop``) or nothing; sends what the child finds.
    """
    ws = environ["wsgi.websocket"]
    ws.send("ready")
    ws.receive()
    numbers = [descriptor_of(each) for each in registry.current()]
    close = monkey.get_original("os", "close")  # gevent's waits for the loop
    (read_end, write_end), (end, ending) = os.pipe(), os.pipe()
    # The child has a copy of gunicorn's main loop, which ends a worker whose parent is another process than before.
    worker = find_worker()
    arbiter = getattr(worker, "ppid", 0)
    if worker is not None:
        worker.ppid = os.getpid()
    child = (os.fork if query(environ, "how") == "gevent" else monkey.get_original("os", "fork"))()
    if child and worker is not None:
        worker.ppid = arbiter
    if not child:
        close(ending)
        try:
            os.write(write_end, json.dumps(_child_finds(ws, numbers)).encode())
            if query(environ, "runs") == "loop":
                while not select.select([end], [], [], 0)[0]:
                    gevent.sleep(0.001)
            else:
                monkey.get_original("os", "read")(end, 1)
        finally:
            os._exit(0)
    close(write_end)
    close(end)
    ws.send(tp_read(read_end, 10_000))
    for message in ws:
        _answer_with_pid(ws, message)
    close(read_end)
    close(ending)
    os.waitpid(child, 0)
    return []


def _child_finds(ws: Any, numbers: list[int]) -> dict[str, object]:
    try:
        ws.send("from the child")
        sent = "sent"
    except ConnectionClosed:
        sent = "ConnectionClosed"
    return {
        "pid": os.getpid(),
        "closed": ws.closed,
        "send": sent,
        "registry": len(registry.current()),
        "descriptors": sum(_is_open(number) for number in numbers),
    }


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


# --- callbacks and views that end with any exception ---------------------------------------------------------------


class Odd(BaseException):
    """No Exception, and nothing that Python or gevent knows."""


ERRORS = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "Odd": Odd, "LookupError": LookupError}


@app.at("/failing")
def failing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Raises ``?error=`` in ``?where=``: ``view``, ``on_message`` or ``on_close``."""
    ws, where = environ["wsgi.websocket"], query(environ, "where")
    error = ERRORS[query(environ, "error")]
    token = {"QUERY_STRING": environ["QUERY_STRING"]}

    def on_message(ws: Any, message: str) -> None:
        if where == "on_message":
            raise error("the reason")

    def on_close(ws: Any) -> None:
        record(token, "on_close")
        if where == "on_close":
            raise error("the reason")

    ws.send("ready")
    if where == "view":
        ws.receive()
        raise error("the reason")
    ws.detach(on_message, on_close)
    return []


# --- views that read nothing but ``closed``, and peers that close before the 101 --------------------------------------


@app.at("/looking")
def looking(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """gevent-websocket's best-known example: another greenlet sends (``?sends=1``), the view asks for the end."""
    ws = environ["wsgi.websocket"]

    def send() -> None:
        try:
            while True:
                ws.send("tick")
                gevent.sleep(0.01)
        except ConnectionClosed:
            record(environ, "sender ended")

    if query(environ, "sends"):
        gevent.spawn(send)
    while not ws.closed:
        gevent.sleep(0.01)
    record(environ, f"closed after {ws.close_code}")
    return []


USES: dict[str, Callable[[Any], object]] = {
    "accept": lambda ws: ws.accept(),
    "closed": lambda ws: ws.closed,
    "is_closed": lambda ws: ws.is_closed(),
    "receive": lambda ws: ws.receive(),
    "iterate": list,
    "wait": lambda ws: ws.wait(),
    "send": lambda ws: ws.send("x"),
    "ping": lambda ws: ws.ping(),
    "detach": lambda ws: ws.detach(),
}
"""Every way to accept."""


@app.at("/waits")
def waits(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Waits for ``/go`` before it uses the WebSocket (``?use=``), and records what that returns or raises."""
    record(environ, "waiting")
    hold(environ)
    ws = environ["wsgi.websocket"]
    try:
        found = repr(USES[query(environ, "use")](ws))
    except ConnectionClosed as error:
        found = f"ConnectionClosed {error.code}"
    record(environ, found)
    record(environ, f"closed: {ws.closed}, {ws.close_code}")
    return []
