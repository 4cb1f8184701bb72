"""Serves a fixture application with a server that has no command line of its own.

``python -m tests.fixtureapps.serve KIND MODULE:NAME --fd N [--fd N …] [--certfile FILE --keyfile FILE] --access FILE``
"""

from __future__ import annotations

import argparse
import atexit
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from gws_middleware.typing import WSGIApp

Start = Callable[[list[socket.socket], WSGIApp, dict[str, str], Any], None]


def _gevent_servers(server_class: Any, handler_class: Any = None) -> Start:
    """``gevent.pywsgi`` until SIGTERM, one server for each listener."""

    def serve(listeners: list[socket.socket], app: WSGIApp, tls: dict[str, str], access_log: Any) -> None:
        import gevent.event

        options: dict[str, Any] = {} if handler_class is None else {"handler_class": handler_class}
        servers = [server_class(listener, app, log=access_log, **options, **tls) for listener in listeners]
        stopped = gevent.event.Event()
        for number in (signal.SIGTERM, signal.SIGQUIT):
            gevent.signal_handler(number, stopped.set)
        for server in servers:
            server.start()
        stopped.wait()
        for server in servers:
            server.stop(timeout=1)

    return serve


def _pywsgi() -> Start:
    from gws_middleware.pywsgi import WSGIServer

    return _gevent_servers(WSGIServer)


def _pywsgi_handler() -> Start:
    from gevent import pywsgi

    from gws_middleware.pywsgi import WebSocketHandler

    return _gevent_servers(pywsgi.WSGIServer, WebSocketHandler)


def _pywsgi_patched() -> Start:
    from gevent import pywsgi

    from gws_middleware.monkey import patch_pywsgi

    patch_pywsgi()
    patch_pywsgi()
    return _gevent_servers(pywsgi.WSGIServer)


def _pywsgi_stock() -> Start:
    from gevent import pywsgi

    return _gevent_servers(pywsgi.WSGIServer)


def _geventwebsocket_handler() -> Start:
    from gevent import pywsgi
    from geventwebsocket.handler import WebSocketHandler

    return _gevent_servers(pywsgi.WSGIServer, WebSocketHandler)


def _wsgiref() -> Start:
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    def serve(listeners: list[socket.socket], app: WSGIApp, tls: dict[str, str], access_log: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda *_: sys.exit(0))
        server = WSGIServer(listeners[0].getsockname(), WSGIRequestHandler, bind_and_activate=False)
        server.socket.close()
        server.socket = listeners[0]
        server.server_name, server.server_port = "localhost", server.socket.getsockname()[1]
        server.setup_environ()
        server.set_app(app)
        try:
            server.serve_forever()
        finally:
            for listener in listeners:
                listener.close()

    return serve


KINDS: dict[str, Callable[[], Start]] = {
    "pywsgi": _pywsgi,
    "pywsgi-handler": _pywsgi_handler,
    "pywsgi-patched": _pywsgi_patched,
    "pywsgi-stock": _pywsgi_stock,
    "geventwebsocket-handler": _geventwebsocket_handler,
    "wsgiref": _wsgiref,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("app")
    parser.add_argument("--fd", type=int, action="append", required=True)
    parser.add_argument("--certfile")
    parser.add_argument("--keyfile")
    parser.add_argument("--access", required=True)
    arguments = parser.parse_args()
    if arguments.kind != "wsgiref":
        from gevent import monkey

        monkey.patch_all()
    start = KINDS[arguments.kind]()
    module, _, name = arguments.app.partition(":")
    app = getattr(import_module(module), name)
    if arguments.kind == "wsgiref":
        sockets = [socket.socket(fileno=fd) for fd in arguments.fd]
    else:
        from gevent import socket as gsocket

        sockets = [gsocket.socket(fileno=fd) for fd in arguments.fd]
    tls = {"certfile": arguments.certfile, "keyfile": arguments.keyfile} if arguments.certfile else {}
    access_log = open(arguments.access, "a", buffering=1)  # noqa: SIM115 - used until the process ends
    atexit.register(access_log.close)  # registered first, so called last
    start(sockets, app, tls, access_log)


if __name__ == "__main__":
    main()
