"""Which server a request came to.

The order matters where an environ has two signs. gevent-websocket's object comes before gunicorn's sockets, because its
gunicorn worker sets both, and has sent the 101 already.
"""

from __future__ import annotations

from typing import Any

from ..typing import Environ, StartResponse
from .base import SERVER_KEY, Server, find_owner, is_on_gevent
from .geventwebsocket import PACKAGE, GeventWebSocket
from .gunicorn import GunicornGevent
from .pywsgi import HANDLER_KEY, GunicornPyWSGI, PyWSGI

__all__ = ["close_after_response", "find_server"]


def find_server(environ: Environ, start_response: StartResponse) -> Server | None:
    """The server of a request.

    Args:
        environ: The request's WSGI environ.
        start_response: What the middleware was called with.

    Returns:
        How to take the connection; None where the server offers no way.

    """
    server = environ.get(SERVER_KEY)
    if isinstance(server, Server):
        return server
    if HANDLER_KEY in environ:
        return PyWSGI(environ[HANDLER_KEY]())
    foreign = environ.get("wsgi.websocket")
    if foreign is not None and type(foreign).__module__.partition(".")[0] == PACKAGE:
        return GeventWebSocket(foreign)
    sock = environ.get("gunicorn.socket")  # set by gunicorn's workers, but for those on gevent.pywsgi
    if sock is not None:
        return GunicornGevent(sock, environ, start_response) if is_on_gevent(sock) else None
    sock = environ.get("gunicorn.sock")  # set by gunicorn's gevent_pywsgi
    if sock is not None and is_on_gevent(sock):
        return GunicornPyWSGI(sock, start_response)
    return None


def close_after_response(environ: Environ, start_response: StartResponse) -> None:
    """Have the connection closed after the response to this request, on a server that offers no way to take it.

    A handshake that is not answered with 101 must not be followed by a request that a proxy has taken for bytes of a
    WebSocket. On servers that are not gunicorn or ``gevent.pywsgi`` this does nothing.
    """
    response = find_owner(start_response, "force_close", "resp", "sock", environ.get("gunicorn.socket"))
    if response is not None:
        response.force_close()
        return
    handler: Any = getattr(start_response, "__self__", None)  # of gevent.pywsgi, or gevent-websocket's subclass
    if hasattr(handler, "close_connection"):
        handler.close_connection = True
