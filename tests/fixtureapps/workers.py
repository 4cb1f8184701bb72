"""Worker classes and gunicorn hooks for the tests of the worker."""

from __future__ import annotations

import atexit
import os
import signal
import time
from typing import Any, ClassVar

from gunicorn.glogging import Logger

from gws_middleware.worker import GeventWebSocketWorker, status


class Small(GeventWebSocketWorker):
    """With a setting of its own."""

    options: ClassVar[dict[str, Any]] = {"max_message_size": 50}


class Misspelt(GeventWebSocketWorker):
    """With a setting that there is not."""

    options: ClassVar[dict[str, Any]] = {"max_mesage_size": 50}


class SlowToBoot(GeventWebSocketWorker):
    """Takes a second until gunicorn sets the signal handlers of a worker."""

    def patch(self) -> None:
        """Writes that it has begun."""
        self.log.info("patching")
        time.sleep(1)
        super().patch()


class LateToStop(GeventWebSocketWorker):
    """With a WebSocket it stops its arbiter, at the moment from which it takes gunicorn longest to notice that; and its
    exit handlers take a fifth of a second.
    """

    def load_wsgi(self) -> None:
        """Registers an exit handler in the worker."""
        super().load_wsgi()
        atexit.register(self.leave)

    def leave(self) -> None:
        """Takes its time, and writes that it is done."""
        time.sleep(0.2)
        self.log.info("the exit handler has run")

    def notify(self) -> None:
        """After that gunicorn sleeps for a second."""
        super().notify()
        if self.alive and status()["connections"]:
            os.kill(os.getppid(), signal.SIGTERM)


class FullLogger(Logger):  # type: ignore[misc]
    """Reads what gunicorn's own access log does not: the request line from the request, attributes of the response."""

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> None:
        """One line with all of it."""
        atoms = self.atoms(resp, req, environ, request_time)
        facts = [
            req.method,
            req.path,
            req.query,
            req.uri,
            req.version,
            resp.status_code,
            resp.sent,
            resp.should_close(),
        ]
        self.access_log.info("full %s %s %s", facts, resp.__class__.__name__, atoms["m"])

    def atoms(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> dict[str, Any]:
        """With one more."""
        return {**super().atoms(resp, req, environ, request_time), "path": req.path}


class BrokenLogger(Logger):  # type: ignore[misc]
    """Raises for detached connections."""

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> None:
        """Of others it writes the line."""
        if environ["PATH_INFO"] == "/detached":
            raise LookupError("the reason")
        super().access(resp, req, environ, request_time)
