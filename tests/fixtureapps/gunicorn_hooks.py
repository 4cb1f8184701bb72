"""A configuration file for gunicorn whose hooks tell what they see."""

from __future__ import annotations

from typing import Any

keepalive = 5


def post_worker_init(worker: Any) -> None:
    """Changes a setting of the worker."""
    worker.cfg.set("keepalive", 100)


def pre_request(worker: Any, req: Any) -> None:
    """Logs that setting, and changes it once more."""
    how = "kept" if "keepalive" in vars(worker.cfg) else "looked for"
    worker.log.info("pre_request %s: keepalive %s, %s", req.path, worker.cfg.keepalive, how)
    worker.cfg.set("keepalive", worker.cfg.keepalive + 1)


def post_request(worker: Any, req: Any, environ: dict[str, Any], resp: Any) -> None:
    """Logs the request and its response."""
    worker.log.info("post_request %s: %s, %s bytes, %s", req.path, resp.status, resp.sent, environ["REQUEST_METHOD"])
