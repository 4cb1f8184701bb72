"""``GeventWebSocketWorker``: gunicorn's gevent worker with every application wrapped, not a line of the project
changed.
"""

from __future__ import annotations

import mmap
import os
from types import FrameType
from typing import Any, ClassVar

import gevent
from gunicorn.workers.ggevent import GeventWorker

from .health import status
from .middleware import WebSocketMiddleware
from .statsd import Statsd
from .stopping import Goodbye
from .typing import WSGIApp

__all__ = ["GeventWebSocketWorker", "status"]


POLL = 0.05
"""Seconds between two looks at whether everybody has left."""


class _Generation:
    """How often the arbiter has loaded its configuration: workers learn by it that their arbiter reloads."""

    def __init__(self) -> None:
        self._shared: mmap.mmap | None = None

    def begin(self) -> None:
        """In the arbiter, which shares the number with all workers that it forks from now on."""
        if self._shared is None:
            self._shared = mmap.mmap(-1, 8)
        self._shared[:8] = (self.number + 1).to_bytes(8, "big")

    @property
    def number(self) -> int:
        """0 where there is no arbiter."""
        return 0 if self._shared is None else int.from_bytes(self._shared[:8], "big")


_generation = _Generation()


class GeventWebSocketWorker(GeventWorker):  # type: ignore[misc]
    """``gunicorn -k gws_middleware.worker.GeventWebSocketWorker project.wsgi``.

    Settings come from ``GWS_*`` environment variables, or from ``options`` of a subclass. An application that is
    wrapped already keeps its own wrapper and settings.
    """

    wsgi: WSGIApp
    options: ClassVar[dict[str, Any]] = {}
    """Fields of ``Config``."""
    _told_to_stop = False
    _statsd: Statsd | None = None

    @classmethod
    def setup(cls) -> None:
        """Called by gunicorn in the arbiter, when it starts and at each reload."""
        _generation.begin()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._generation = _generation.number
        self.goodbye = Goodbye(self)

    @property
    def restarts(self) -> bool:
        """Whether another worker takes the place of this one, which is to stop."""
        if os.getppid() != self.ppid:  # nobody is there to start one
            return False
        return not self._told_to_stop or _generation.number > self._generation

    def load_wsgi(self) -> None:
        """Load the application and wrap it."""
        super().load_wsgi()
        if self.cfg.statsd_host and hasattr(self.log, "increment"):
            self._statsd = Statsd(self.log)
        wsgi = self.wsgi
        if not isinstance(wsgi, WebSocketMiddleware):
            wsgi = WebSocketMiddleware(wsgi, **self.options)
        # The bound method runs in its caller's C frame, which saves 0.7 KiB of stack for each waiting view.
        self.wsgi = wsgi.__call__

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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM."""
        self._told_to_stop = True
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT, SIGQUIT."""
        self._told_to_stop = True
        super().handle_quit(sig, frame)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: something has kept the loop from running for ``timeout`` seconds, and SIGKILL follows soon."""
        gevent.spawn(self.goodbye.quickly)
        super().handle_abort(sig, frame)
