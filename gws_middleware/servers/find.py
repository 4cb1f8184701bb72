"""From a WSGI environ to the server that the request came to."""

from __future__ import annotations

from typing import Any

from ..typing import Environ, StartResponse
from .base import SERVER_KEY, Server, is_on_gevent, owner_of
from .geventwebsocket import PACKAGE, GeventWebSocket
from .gunicorn import GunicornGevent
from .pywsgi import HANDLER_KEY, GunicornPyWSGI, PyWSGI

__all__ = ["close_after", "find"]


def find(environ: Environ, start_response: StartResponse) -> Server | None:
    """How to take this request's connection, or None where the server offers no way."""
    server = environ.get(SERVER_KEY)
    if isinstance(server, Server):
        return server
    if HANDLER_KEY in environ:
        return PyWSGI(environ[HANDLER_KEY]())
    foreign = environ.get("wsgi.websocket")
    if foreign is not None and type(foreign).__module__.partition(".")[0] == PACKAGE:
        return GeventWebSocket(foreign)
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        return GunicornGevent(sock, environ, start_response) if is_on_gevent(sock) else None
    sock = environ.get("gunicorn.sock")
    if sock is not None and is_on_gevent(sock):
        return GunicornPyWSGI(sock, start_response)
    return None


def close_after(environ: Environ, start_response: StartResponse) -> None:
    """The answer to this request is the last one on its connection, whose server offers no way to take it: a handshake
    that is not answered with 101 must not be followed by a request that a proxy has taken for bytes of a WebSocket.
    """
    response = owner_of(start_response, "force_close", "resp", "sock", environ.get("gunicorn.socket"))
    if response is not None:
        response.force_close()
        return
    handler: Any = getattr(start_response, "__self__", None)  # of gevent.pywsgi, and so gevent-websocket's
    if hasattr(handler, "close_connection"):
        handler.close_connection = True
