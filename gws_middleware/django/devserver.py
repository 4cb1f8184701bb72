"""The server behind ``runserver``: gevent's, with the address, the log and the manners of Django's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any
from weakref import WeakSet

import gevent
from django.core.servers.basehttp import WSGIRequestHandler
from gevent import pywsgi, socket

from ..connection.websocket import WebSocket
from ..middleware import WebSocketMiddleware
from ..process import registry, shutdown
from ..pywsgi import WebSocketHandler
from ..typing import WSGIApp
from .signals import websocket_closed, websocket_opened

__all__ = ["Handler", "Server"]

log = logging.getLogger("django.server")


class Handler(WebSocketHandler):
    """Logs as Django's handler does, and sends no body in answer to HEAD: Django leaves that to the server."""

    server: Server
    _body = 0
    """Bytes of the response's body."""

    def handle(self) -> None:
        """Serve a connection; that the browser has gone is no error."""
        try:
            super().handle()
        except ConnectionError:
            self._log_broken_pipe()

    def handle_one_response(self) -> None:
        """Serve a request."""
        self._body = 0
        super().handle_one_response()

    def finalize_headers(self) -> None:
        """What the head says of a body is true of the GET."""
        super().finalize_headers()
        if self.command == "HEAD":
            self.response_use_chunked = False

    def _write(self, data: bytes) -> None:
        if self.code == 101:
            self.server.views.add(gevent.getcurrent())
        if self.command != "HEAD":
            super()._write(data)  # type: ignore[misc]
            self._body += len(data)

    def _handle_client_error(self, ex: Exception) -> Any:
        if isinstance(ex, ConnectionError):
            self._log_broken_pipe()
            return None
        return super()._handle_client_error(ex)  # type: ignore[misc]

    def log_error(self, msg: str, *args: object) -> None:
        """What came is no request: one line before that of the 400."""
        self._django_handler().log_error("code %d, message %s", 400, msg % args if args else msg)

    def log_request(self) -> None:
        """One line in Django's format. A WebSocket has lines of its own."""
        status = self.status.decode("latin-1") if isinstance(self.status, bytes) else str(self.status)
        code = status[:3]
        if not code.isdigit():
            self._log_broken_pipe()
        elif code != "101":
            self._django_handler().log_request(code, self._body)

    def _django_handler(self) -> Any:
        handler = _django_handler()
        handler.request, handler.requestline = self.socket, self.requestline
        return handler

    def _log_broken_pipe(self) -> None:
        log.info("- Broken pipe from %s", self.client_address)


def _django_handler() -> Any:
    """Django's handler, without a connection of its own: it knows the format of the lines."""
    return WSGIRequestHandler.__new__(WSGIRequestHandler)


def log_opening(websocket: WebSocket, **arguments: Any) -> None:
    """A WebSocket has been accepted."""
    _log(websocket, "opened")


def log_end(websocket: WebSocket, code: int, reason: str, duration: float, stats: Any, **arguments: Any) -> None:
    """One has ended, and so has its view or ``on_close``."""
    why = f"{code} {reason!a}" if reason else str(code)
    counts = f"{stats.messages_received} messages in, {stats.messages_sent} out"
    _log(websocket, f"closed with {why} after {duration:.1f} s, {counts}")


def _log(ws: WebSocket, what: str) -> None:
    query = ws.environ.get("QUERY_STRING")
    path = f"{ws.path}?{query}" if query else ws.path
    log.info("WebSocket %s %s", ascii(path), what, extra={"server_time": _django_handler().log_date_time_string()})


class Server(pywsgi.WSGIServer):
    """What ``django.core.servers.basehttp.run()`` makes and runs; it listens once it is made."""

    handler_class = Handler

    def __init__(self, address: tuple[str, int], handler_class: Any, ipv6: bool = False) -> None:
        listener = self.get_listener(address, family=socket.AF_INET6 if ipv6 else socket.AF_INET)
        super().__init__(listener, environ={"wsgi.multithread": True})
        self.views: WeakSet[Any] = WeakSet()
        """The greenlets that talk on a WebSocket."""
        self.greet: Callable[[], object] | None = None
        """Called before the first request is served."""

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Called by Django when it has printed its banner."""
        websocket_opened.connect(log_opening)
        websocket_closed.connect(log_end)
        if self.greet is not None:
            self.greet()
        super().serve_forever(stop_timeout)

    def set_app(self, app: WSGIApp) -> None:
        """Serve ``app``. A project that wraps its application itself keeps its wrapper, also behind Django's handler of
        static files.
        """
        wrapped = isinstance(getattr(app, "application", app), WebSocketMiddleware)
        self.application = app if wrapped else WebSocketMiddleware(app)

    def shut_down(self, timeout: float) -> None:
        """Accept no more, close every WebSocket (``shutdown_close_code``) and let its view finish; ``timeout`` s for
        both.

        Other requests end with the process, as Django's do.
        """
        deadline = monotonic() + timeout
        self.close()
        shutdown.drain(registry.current(), timeout=timeout)
        gevent.idle()  # detached connections: their on_close has been started
        gevent.joinall(list(self.views), max(0.0, deadline - monotonic()))
