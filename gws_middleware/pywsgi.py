"""WebSockets under ``gevent.pywsgi``, the server that comes with gevent."""

from __future__ import annotations

import weakref
from typing import Any

from gevent import pywsgi

from . import registry
from .middleware import WebSocketMiddleware
from .takeover import HANDLER_KEY
from .typing import Environ, WSGIApp

__all__ = ["WSGIServer", "WebSocketHandler"]


class WebSocketHandler(pywsgi.WSGIHandler):
    """``gevent.pywsgi.WSGIServer(address, WebSocketMiddleware(app), handler_class=WebSocketHandler)``."""

    def get_environ(self) -> Environ:
        """The request's environ, with the way to its connection."""
        environ: Environ = super().get_environ()
        environ[HANDLER_KEY] = weakref.ref(self)
        return environ


class WSGIServer(pywsgi.WSGIServer):
    """``gevent.pywsgi.WSGIServer`` with the handler above, and the application wrapped if it is not yet."""

    handler_class = WebSocketHandler

    def __init__(self, listener: Any, application: WSGIApp, **arguments: Any) -> None:
        if not isinstance(application, WebSocketMiddleware):
            application = WebSocketMiddleware(application)
        super().__init__(listener, application, **arguments)
        self.websockets: weakref.WeakSet[Any] = weakref.WeakSet()
        """The WebSockets that came in here."""

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more, close this server's WebSockets (``shutdown_close_code``), and stop as ``gevent.pywsgi`` does;
        ``timeout`` (s, ``stop_timeout`` unless given) is for the peers' answers, and once more for requests.
        """
        self.close()
        seconds = self.stop_timeout if timeout is None else timeout
        registry.current().drain(timeout=seconds, members=self.websockets)
        super().stop(timeout)
