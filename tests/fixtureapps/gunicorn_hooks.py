"""A configuration file for gunicorn whose hook tells what it sees."""

from __future__ import annotations

from typing import Any


def post_request(worker: Any, req: Any, environ: dict[str, Any], resp: Any) -> None:
    """Logs the request and its response."""
    worker.log.info("post_request %s: %s, %s bytes, %s", req.path, resp.status, resp.sent, environ["REQUEST_METHOD"])
