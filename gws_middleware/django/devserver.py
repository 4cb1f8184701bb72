"""The server of ``runserver``: gevent's ``WSGIServer`` with the log lines of Django's development server.

Rule: HTTP requests are logged in Django's format. A WebSocket has two lines of the same logger: one when it opens and
one when it ends.
"""

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
    """Logs as Django's handler does, and sends no body in answer to HEAD, which Django leaves to the server."""

    server: Server
    _body = 0
    """Bytes of the response body that have been sent."""

    def handle(self) -> None:
        """Serve a connection. A browser that disconnects is not an error."""
        try:
            super().handle()
        except ConnectionError:
            self._log_broken_pipe()

    def handle_one_response(self) -> None:
        """Serve a request, and count the bytes of its body."""
        self._body = 0
        super().handle_one_response()

    def finalize_headers(self) -> None:
        """Send the headers that a GET would have, but no end of a chunked body in answer to HEAD."""
        super().finalize_headers()
        if self.command == "HEAD":
            self.response_use_chunked = False

    def _write(self, data: bytes) -> None:
        if self.code == 101:
            self.server.view_greenlets.add(gevent.getcurrent())
        if self.command != "HEAD":
            super()._write(data)  # type: ignore[misc]
            self._body += len(data)

    def _handle_client_error(self, ex: Exception) -> Any:
        if isinstance(ex, ConnectionError):
            self._log_broken_pipe()
            return None
        return super()._handle_client_error(ex)  # type: ignore[misc]

    def log_error(self, msg: str, *args: object) -> None:
        """Log why the bytes of a client are not a request. The line of the 400 follows."""
        self._django_handler().log_error("code %d, message %s", 400, msg % args if args else msg)

    def log_request(self) -> None:
        """Log one line in Django's format, but none for a 101: WebSockets have lines of their own."""
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
    """Django's handler without a connection, for the format of its log lines."""
    return WSGIRequestHandler.__new__(WSGIRequestHandler)


def log_opening(websocket: WebSocket, **arguments: Any) -> None:
    """Receive ``websocket_opened``, and log one line."""
    _log(websocket, "opened")


def log_end(websocket: WebSocket, code: int, reason: str, duration: float, stats: Any, **arguments: Any) -> None:
    """Receive ``websocket_closed``, and log one line."""
    why = f"{code} {reason!a}" if reason else str(code)
    counts = f"{stats.messages_received} messages in, {stats.messages_sent} out"
    _log(websocket, f"closed with {why} after {duration:.1f} s, {counts}")


def _log(ws: WebSocket, what: str) -> None:
    query = ws.environ.get("QUERY_STRING")
    path = f"{ws.path}?{query}" if query else ws.path
    log.info("WebSocket %s %s", ascii(path), what, extra={"server_time": _django_handler().log_date_time_string()})


class Server(pywsgi.WSGIServer):
    """The server class for ``django.core.servers.basehttp.run()``.

    Args:
        address: Host and port to listen on. It listens when it has been created.
        handler_class: Ignored: the handler is ``Handler``.
        ipv6: Whether the host is an IPv6 address.

    """

    handler_class = Handler

    def __init__(self, address: tuple[str, int], handler_class: Any, ipv6: bool = False) -> None:
        listener = self.get_listener(address, family=socket.AF_INET6 if ipv6 else socket.AF_INET)
        super().__init__(listener, environ={"wsgi.multithread": True})
        self.view_greenlets: WeakSet[Any] = WeakSet()
        """The greenlets of views that have accepted a WebSocket."""
        self.on_start: Callable[[], object] | None = None
        """Called before the first request is served."""

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until the process ends; Django calls this after it has printed its banner."""
        websocket_opened.connect(log_opening)
        websocket_closed.connect(log_end)
        if self.on_start is not None:
            self.on_start()
        super().serve_forever(stop_timeout)

    def set_app(self, app: WSGIApp) -> None:
        """Serve ``app``, wrapped in ``WebSocketMiddleware`` unless the project has wrapped it, also where Django's
        handler of static files is around that wrapper.
        """
        wrapped = isinstance(getattr(app, "application", app), WebSocketMiddleware)
        self.application = app if wrapped else WebSocketMiddleware(app)

    def shut_down(self, timeout: float) -> None:
        """Stop accepting, close all WebSockets with ``shutdown_close_code``, and wait for their views.

        Other requests end with the process, as with Django's server.

        Args:
            timeout: Seconds for all of it.

        """
        deadline = monotonic() + timeout
        self.close()
        shutdown.drain(registry.current(), timeout=timeout)
        gevent.idle()  # lets the on_close callbacks of detached connections run
        gevent.joinall(list(self.view_greenlets), max(0.0, deadline - monotonic()))
