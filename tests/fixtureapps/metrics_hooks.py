"""A configuration file for gunicorn as docs/operations.md has it, but for an update that tests need not wait for."""

from __future__ import annotations

import os

from gws_middleware.metrics import prometheus, statsd
from gws_middleware.metrics.prometheus import child_exit, post_worker_init

__all__ = ["child_exit", "post_worker_init"]

prometheus.INTERVAL = float(os.environ.get("METRICS_EVERY", "0.05"))
statsd.INTERVAL = 0.0  # at each heartbeat of gunicorn's worker, which is each second
