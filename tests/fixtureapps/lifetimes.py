"""Peers that read nothing before the 101, callbacks that end with any exception, and forks: what must cost one
connection, and no other.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator

from gws_middleware import ConnectionClosed, WebSocketMiddleware, registry
from gws_middleware.takeover import HANDLER_KEY
from gws_middleware.typing import Environ, StartResponse

from .behaviours import PLAIN, app
from .common import json_response, query, record

__all__ = ["app", "wrapped"]

wrapped = WebSocketMiddleware(app)


@app.at("/reserved")
def reserved(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """How many slots of this worker are reserved, and for how many connections its drain would wait."""
    here = registry.current()
    return json_response(start_response, [here.reserved.get("worker", 0), len(here), len(here._running)])


# --- peers that read nothing before the 101 ------------------------------------------------------------------------


def _fill(environ: Environ) -> None:
    """Fill the kernel's buffer of this connection, as a large page does that was pipelined before the handshake."""
    handler = environ[HANDLER_KEY]() if HANDLER_KEY in environ else None
    theirs = environ.get("gunicorn.socket") or environ.get("gunicorn.sock") or handler.socket
    with socket.socket(fileno=os.dup(theirs.fileno())) as sock:
        sock.setblocking(False)
        try:
            while True:
                sock.send(bytes(65536))
        except BlockingIOError:
            pass


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
