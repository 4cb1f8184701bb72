"""Applications that take the server's socket themselves: simple-websocket, bare and in a generator, and flask-sock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from flask import Flask
from flask_sock import Sock
from simple_websocket import ConnectionClosed
from simple_websocket import Server as SimpleWebSocket

from gws_middleware import WebSocketMiddleware
from gws_middleware.typing import Environ, StartResponse

from .common import Router, configure_logging

configure_logging()
flask_app = Flask(__name__)
sock = Sock(flask_app)


def _echo(ws: Any) -> None:
    while True:
        ws.send(ws.receive())


@sock.route("/flask-sock")  # type: ignore[untyped-decorator]
def _flask_sock(ws: Any) -> None:
    """Until the peer closes."""
    _echo(ws)


@sock.route("/flask-sock/closes")  # type: ignore[untyped-decorator]
def _flask_sock_closes(ws: Any) -> None:
    """Echoes once."""
    ws.send(ws.receive())


@sock.route("/flask-sock/raises")  # type: ignore[untyped-decorator]
def _flask_sock_raises(ws: Any) -> None:
    """Flask makes a page of it, and a record in its log."""
    ws.send(ws.receive())
    raise LookupError("the reason")


router = Router()


@router.at("/flask-sock")
@router.at("/flask-sock/closes")
@router.at("/flask-sock/raises")
def _flask(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return flask_app(environ, start_response)


@router.at("/simple")
def _simple(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """With pings, for which it waits in a selector."""
    try:
        _echo(SimpleWebSocket(environ, ping_interval=25))
    except ConnectionClosed:
        pass
    return []


@router.at("/simple/generator")
def _simple_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Nothing runs before the server iterates."""
    yield from _simple(environ, start_response)


@router.at("/simple/raises")
def _simple_raises(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """An error of the application's."""
    ws = SimpleWebSocket(environ)
    ws.send(ws.receive())
    raise LookupError("the reason")


app = router
wrapped = WebSocketMiddleware(router)
