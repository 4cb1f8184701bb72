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
from .process import registry
from .servers.pywsgi import HANDLER_KEY
from .typing import Environ, WSGIApp

__all__ = ["WSGIServer", "WebSocketHandler"]

log = logging.getLogger("gws_middleware")

_WRAPPED = "_gws_middleware_wrapped"
"""The attribute of a server that keeps its application and the same with the wrapper."""


class WebSocketHandler(pywsgi.WSGIHandler):
    """``gevent.pywsgi.WSGIServer(address, app, handler_class=WebSocketHandler)``.

    The application is wrapped in ``WebSocketMiddleware`` unless it is already. A server's ``pre_start_hook(handler)``
    is called for each request; where it returns true the request is served without a WebSocket.
    """

    def get_environ(self) -> Environ:
        """The request's environ, with the way to its connection."""
        environ: Environ = super().get_environ()
        environ[HANDLER_KEY] = weakref.ref(self)
        return environ

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
    known: tuple[WSGIApp, WSGIApp] | None = getattr(server, _WRAPPED, None)
    if known is None or known[0] is not app:
        known = app, app if is_wrapped(app) else WebSocketMiddleware(app)
        setattr(server, _WRAPPED, known)
    return known[1]


class WSGIServer(pywsgi.WSGIServer):
    """``gevent.pywsgi.WSGIServer`` with the handler above, and the application wrapped if it is not yet.

    ``debug`` and ``pre_start_hook`` are gevent-websocket's: the first sets the level of the logger ``gws_middleware``,
    the second is called as ``WebSocketHandler`` says. TypeError for an argument that neither this class nor
    ``gevent.pywsgi.WSGIServer`` has.
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
        """The WebSockets that came in here."""
        if issubclass(self.handler_class, WebSocketHandler):  # gevent-websocket's fills a dictionary
            self.clients = Clients(self)
        self.debug = debug
        self.pre_start_hook = pre_start_hook
        if debug:
            log.setLevel(logging.DEBUG)

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more, close this server's WebSockets (``shutdown_close_code``), and stop as ``gevent.pywsgi`` does;
        ``timeout`` (s, ``stop_timeout`` unless given) is for the peers' answers, and once more for requests.
        """
        self.close()
        seconds = self.stop_timeout if timeout is None else timeout
        registry.current().drain(timeout=seconds, members=self.websockets)
        super().stop(timeout)


def _check(arguments: Iterable[str]) -> None:
    """Gevent takes any argument that it does not know for one of TLS, and each connection fails later."""
    wrap = gevent.ssl.SSLContext.wrap_socket if "ssl_context" in arguments else gevent.ssl.wrap_socket
    known = {"ssl_context", *inspect.signature(pywsgi.WSGIServer).parameters, *inspect.signature(wrap).parameters}
    for name in arguments:
        if name not in known - {"self", "sock", "ssl_args"}:
            raise TypeError(
                f"WSGIServer() got an unexpected argument {name!r}: it takes those of gevent.pywsgi.WSGIServer, "
                "debug and pre_start_hook"
            )
