"""``GeventWebSocketWorker``: gunicorn's gevent worker with every application wrapped, not a line of the project
changed.
"""

from __future__ import annotations

from types import FrameType
from typing import Any, ClassVar

import gevent
from gunicorn.workers.ggevent import GeventWorker

from . import registry
from .codes import CloseCode
from .middleware import WebSocketMiddleware
from .typing import WSGIApp

__all__ = ["GeventWebSocketWorker"]


class GeventWebSocketWorker(GeventWorker):  # type: ignore[misc]
    """``gunicorn -k gws_middleware.worker.GeventWebSocketWorker project.wsgi``.

    Settings come from ``GWS_*`` environment variables, or from ``options`` of a subclass. An application that is
    wrapped already keeps its own wrapper and settings.
    """

    wsgi: WSGIApp
    options: ClassVar[dict[str, Any]] = {}
    """Fields of ``Config``."""
    _draining = False

    def load_wsgi(self) -> None:
        """Load the application and wrap it."""
        super().load_wsgi()
        wsgi = self.wsgi
        if not isinstance(wsgi, WebSocketMiddleware):
            wsgi = WebSocketMiddleware(wsgi, **self.options)
        # The bound method runs in its caller's C frame, which saves 0.7 KiB of stack for each waiting view.
        self.wsgi = wsgi.__call__

    def run(self) -> None:
        """Serve until told to stop; connections without a view are sent home last."""
        super().run()
        registry.current().drain(CloseCode.GOING_AWAY, self._grace())

    def notify(self) -> None:
        """Tell the arbiter that this worker lives; once it is to stop, say goodbye to every WebSocket too.

        gunicorn calls this each second, and when it stops - for a signal, ``max_requests`` or a reload - not before it
        has stopped accepting: nobody comes in behind the goodbye.
        """
        super().notify()
        if self.booted and not self.alive and not self._draining:
            self._draining = True
            gevent.spawn(registry.current().drain, CloseCode.GOING_AWAY, self._grace())

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT, SIGQUIT: the same, without waiting for the answers."""
        # In a greenlet: the signal may have come between a view's 101 and its entry in the registry.
        gevent.spawn(registry.current().drain, CloseCode.GOING_AWAY, self._grace())
        super().handle_quit(sig, frame)

    def _grace(self) -> float:
        """Part of the graceful timeout, behind which the arbiter kills."""
        grace: float = self.cfg.graceful_timeout / 3
        return grace
