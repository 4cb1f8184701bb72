"""Worker classes and gunicorn hooks for the tests of the worker."""

from __future__ import annotations

from typing import Any, ClassVar

from gunicorn.glogging import Logger

from gws_middleware.worker import GeventWebSocketWorker


class Small(GeventWebSocketWorker):
    """With a setting of its own."""

    options: ClassVar[dict[str, Any]] = {"max_message_size": 50}


class Misspelt(GeventWebSocketWorker):
    """With a setting that there is not."""

    options: ClassVar[dict[str, Any]] = {"max_mesage_size": 50}


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
