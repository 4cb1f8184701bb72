"""gunicorn's settings for ``liveserver``. (In a file: older versions do not know the last one, and ignore it here.)"""

from __future__ import annotations

__all__ = ["control_socket_disable", "graceful_timeout", "worker_class", "workers"]

worker_class = "gws_middleware.worker.GeventWebSocketWorker"
workers = 1
graceful_timeout = 5
control_socket_disable = True
