"""``GeventWebSocketWorker``: gunicorn's gevent worker with every application wrapped, not a line of the project
changed.
"""

from __future__ import annotations

from types import FrameType
from typing import Any, ClassVar

import gevent
from gunicorn.workers.ggevent import GeventWorker

from .health import status
from .middleware import WebSocketMiddleware, is_wrapped
from .statsd import Statsd
from .stopping import Goodbye
from .typing import WSGIApp

__all__ = ["GeventWebSocketWorker", "status"]


def __getattr__(name: str) -> Any:
    if name.lower().endswith("worker"):  # no AttributeError: that would not come out of gunicorn's configuration
        raise ImportError(f"{__name__} has no {name}: the worker class is {__name__}.{__all__[0]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


POLL = 0.05
"""Seconds between two looks at whether everybody has left."""


class GeventWebSocketWorker(GeventWorker):  # type: ignore[misc]
    """``gunicorn -k gws_middleware.worker.GeventWebSocketWorker project.wsgi``.

    Settings come from ``GWS_*`` environment variables, or from ``options`` of a subclass. An application that is
    wrapped already, also inside of other wrappers, keeps its own wrapper and settings.
    """

    wsgi: WSGIApp
    options: ClassVar[dict[str, Any]] = {}
    """Fields of ``Config``."""
    _statsd: Statsd | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.goodbye = Goodbye(self)

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
        """Serve until told to stop, and until everybody has left, those too that have no view."""
        try:
            super().run()
            while not self.goodbye.said:
                self.notify()
                gevent.sleep(POLL)
        except SystemExit:  # SIGQUIT, or no arbiter any more
            self.goodbye.quickly()
            raise
        finally:
            if self._statsd is not None:
                self._statsd.send()

    def notify(self) -> None:
        """Tell the arbiter that this worker lives; once it is to stop, say goodbye to every WebSocket too."""
        super().notify()
        if self.booted:
            self.goodbye.look()
            if self._statsd is not None:
                self._statsd.beat()

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: something has kept the loop from running for ``timeout`` seconds, and SIGKILL follows soon."""
        gevent.spawn(self.goodbye.quickly)
        super().handle_abort(sig, frame)
