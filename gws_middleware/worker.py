"""``GeventWebSocketWorker``: gunicorn's gevent worker, with every application wrapped."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, ClassVar

import gevent
from gunicorn.workers.ggevent import GeventWorker

from .config import Options
from .metrics.health import status
from .metrics.statsd import Statsd, find_statsd
from .middleware import WebSocketMiddleware, is_wrapped
from .process.shutdown import ShutdownCoordinator
from .servers.gunicornworker import keep_settings
from .typing import WSGIApp

__all__ = ["GeventWebSocketWorker", "status"]


def __getattr__(name: str) -> Any:
    if name.lower().endswith("worker"):  # not AttributeError, which gunicorn's configuration replaces by its own
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

    def init_process(self) -> None:
        """Handle signals from now on. Until gunicorn's ``init_signals()``, which is called when gevent has patched the
        standard library, a fork has the arbiter's handlers; these lose the signal, and the arbiter would wait until the
        graceful timeout is over.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self.handle_exit)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application and wrap it."""
        super().load_wsgi()
        self._statsd = find_statsd(self)
        wsgi = self.wsgi
        if not is_wrapped(wsgi):
            wsgi = WebSocketMiddleware(wsgi, **self.options)
        if isinstance(wsgi, WebSocketMiddleware):
            wsgi = wsgi.__call__  # runs in its caller's C frame, which saves 0.7 KiB of stack for each waiting view
        self.wsgi = wsgi

    def run(self) -> None:
        """Serve until the worker is to stop and all connections are closed, those too whose view has returned."""
        keep_settings(self.cfg)
        try:
            super().run()
            while not self.shutdown.is_finished:
                self.notify()
                gevent.sleep(POLL)
        except SystemExit:  # SIGQUIT, or the arbiter has ended
            self.shutdown.close_quickly()
            raise
        finally:
            if self._statsd is not None:
                self._statsd.send()

    def notify(self) -> None:
        """Let the arbiter know that this worker runs; once the worker is to stop, close every WebSocket."""
        super().notify()
        if self.booted:
            self.shutdown.check()
            if self._statsd is not None:
                self._statsd.send_if_due()

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: the event loop has not run for ``timeout`` seconds. Close all connections before SIGKILL follows."""
        gevent.spawn(self.shutdown.close_quickly)
        super().handle_abort(sig, frame)
