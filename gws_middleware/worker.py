"""``GeventWebSocketWorker``: gunicorn's gevent worker with every application wrapped, not a line of the project
changed.
"""

from __future__ import annotations

from types import FrameType
from typing import Any, ClassVar

import gevent
from gunicorn.workers.ggevent import GeventWorker

from .config import Options
from .metrics.health import status
from .metrics.statsd import Statsd
from .middleware import WebSocketMiddleware, is_wrapped
from .process.shutdown import ShutdownCoordinator
from .typing import WSGIApp

__all__ = ["GeventWebSocketWorker", "status"]


def __getattr__(name: str) -> Any:
    if name.lower().endswith("worker"):  # no AttributeError: that would not come out of gunicorn's configuration
        raise ImportError(f"{__name__} has no {name}: the worker class is {__name__}.{__all__[0]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


POLL = 0.05
"""Seconds between two checks whether all connections are closed."""


class GeventWebSocketWorker(GeventWorker):  # type: ignore[misc]
    """``gunicorn -k gws_middleware.worker.GeventWebSocketWorker project.wsgi``.

    Settings come from ``GWS_*`` environment variables, or from ``options`` of a subclass. An application that is
    wrapped already, also inside of other wrappers, keeps its own wrapper and settings.
    """

    wsgi: WSGIApp
    options: ClassVar[Options] = {}
    """Fields of ``Config``."""
    _statsd: Statsd | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shutdown = ShutdownCoordinator(lambda: not self.alive, self.cfg.graceful_timeout)

    def load_wsgi(self) -> None:
        """Load the application and wrap it."""
        super().load_wsgi()
        if self.cfg.statsd_host and hasattr(self.log, "increment"):
            self._statsd = Statsd(self.log)
        wsgi = self.wsgi
        if not is_wrapped(wsgi):
            wsgi = WebSocketMiddleware(wsgi, **self.options)
        if isinstance(wsgi, WebSocketMiddleware):
            wsgi = wsgi.__call__  # runs in its caller's C frame, which saves 0.7 KiB of stack for each waiting view
        self.wsgi = wsgi

    def run(self) -> None:
        """Serve until told to stop, and until all connections are closed, those too that have no view."""
        try:
            super().run()
            while not self.shutdown.is_finished:
                self.notify()
                gevent.sleep(POLL)
        except SystemExit:  # SIGQUIT, or no arbiter any more
            self.shutdown.close_quickly()
            raise
        finally:
            if self._statsd is not None:
                self._statsd.send()

    def notify(self) -> None:
        """Tell the arbiter that this worker lives; once it is to stop, close every WebSocket too."""
        super().notify()
        if self.booted:
            self.shutdown.check()
            if self._statsd is not None:
                self._statsd.beat()

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: something has kept the loop from running for ``timeout`` seconds, and SIGKILL follows soon."""
        gevent.spawn(self.shutdown.close_quickly)
        super().handle_abort(sig, frame)
