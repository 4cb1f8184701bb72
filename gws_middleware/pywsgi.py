"""WebSockets under ``gevent.pywsgi``, the server that comes with gevent."""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import gevent.ssl
from gevent import pywsgi

from .connection.compat import Clients
from .middleware import WebSocketMiddleware, is_wrapped
from .process import registry, shutdown
from .servers.pywsgi import leave_handler
from .typing import Environ, WSGIApp

__all__ = ["WSGIServer", "WebSocketHandler"]

log = logging.getLogger("gws_middleware")

_WRAPPED = "_gws_middleware_wrapped"
"""The attribute of a server object for its application and the same application wrapped."""


class WebSocketHandler(pywsgi.WSGIHandler):
    """``gevent.pywsgi.WSGIServer(address, app, handler_class=WebSocketHandler)``.

    The application is wrapped in ``WebSocketMiddleware`` unless it is already. A server's ``pre_start_hook(handler)``
    is called for each request; where it returns true the request is served without a WebSocket.
    """

    def get_environ(self) -> Environ:
        """The request's environ, with a reference to this handler."""
        return leave_handler(super().get_environ(), self)

    def run_application(self) -> None:
        """Call the application, wrapped."""
        hook = getattr(self.server, "pre_start_hook", None)
        if hook is None or not hook(self):
            self.application = _wrapped(self.server, self.application)
        elif isinstance(self.application, WebSocketMiddleware):
            self.application = self.application.app
        super().run_application()


def _wrapped(server: Any, app: Any) -> WSGIApp:
    if isinstance(app, WebSocketMiddleware):
        return app
    cached: tuple[WSGIApp, WSGIApp] | None = getattr(server, _WRAPPED, None)
    if cached is None or cached[0] is not app:
        cached = app, app if is_wrapped(app) else WebSocketMiddleware(app)
        setattr(server, _WRAPPED, cached)
    return cached[1]


class WSGIServer(pywsgi.WSGIServer):
    """``gevent.pywsgi.WSGIServer`` with ``WebSocketHandler``. The application is wrapped if it is not yet.

    Args:
        listener: As for ``gevent.pywsgi.WSGIServer``.
        application: The WSGI application.
        debug: Whether the logger ``gws_middleware`` has the level DEBUG (as in gevent-websocket); False by default.
        pre_start_hook: Called with the handler for each request, as ``WebSocketHandler`` says (as in gevent-websocket).
        arguments: Those of ``gevent.pywsgi.WSGIServer``.

    Raises:
        TypeError: An argument that neither this class nor ``gevent.pywsgi.WSGIServer`` has.

    """

    handler_class = WebSocketHandler

    def __init__(
        self,
        listener: Any,
        application: WSGIApp,
        *,
        debug: bool = False,
        pre_start_hook: Callable[[Any], object] | None = None,
        **arguments: Any,
    ) -> None:
        _check(arguments)
        if not is_wrapped(application):
            application = WebSocketMiddleware(application)
        super().__init__(listener, application, **arguments)
        self.websockets: weakref.WeakSet[Any] = weakref.WeakSet()
        """The WebSockets of this server."""
        if issubclass(self.handler_class, WebSocketHandler):  # gevent-websocket's fills a dictionary
            self.clients = Clients(self)
        self.debug = debug
        self.pre_start_hook = pre_start_hook
        if debug:
            log.setLevel(logging.DEBUG)

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, close this server's WebSockets (``shutdown_close_code``), and stop as ``gevent.pywsgi`` does.

        Args:
            timeout: Seconds for the peers' answers, and once more for requests; ``stop_timeout`` by default.

        """
        self.close()
        seconds = self.stop_timeout if timeout is None else timeout
        shutdown.drain(registry.current(), timeout=seconds, only=self.websockets)
        super().stop(timeout)


def _check(arguments: Iterable[str]) -> None:
    """Refuse a misspelt argument: gevent would take it for one of TLS, and each connection would fail later."""
    wrap = gevent.ssl.SSLContext.wrap_socket if "ssl_context" in arguments else gevent.ssl.wrap_socket
    known = {"ssl_context", *inspect.signature(pywsgi.WSGIServer).parameters, *inspect.signature(wrap).parameters}
    for name in arguments:
        if name not in known - {"self", "sock", "ssl_args"}:
            raise TypeError(
                f"WSGIServer() got an unexpected argument {name!r}: it takes those of gevent.pywsgi.WSGIServer, "
                "debug and pre_start_hook"
            )
