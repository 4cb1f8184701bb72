"""gunicorn's settings for ``liveserver``. (In a file: older versions do not know the last one, and ignore it here.)"""

from __future__ import annotations

import os
import signal
from typing import Any

from gevent import spawn
from gevent.socket import wait_read

__all__ = ["BOND", "control_socket_disable", "graceful_timeout", "post_worker_init", "worker_class", "workers"]

BOND = "LIVE_SERVER_BOND"
"""The environment variable with the descriptor of a socket: a byte tells the test that the server has started, and its
end tells the server that the test process has gone, however that happened.
"""

worker_class = "gws_middleware.worker.GeventWebSocketWorker"
workers = 1
graceful_timeout = 5
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """Called in the worker when it has loaded the application. Connections wait in the kernel's queue by then."""
    bond = int(os.environ[BOND])
    os.write(bond, b"1")
    spawn(_end_with_the_test, bond, worker.ppid)


def _end_with_the_test(bond: int, arbiter: int) -> None:
    wait_read(bond)
    if os.getppid() == arbiter:
        os.kill(arbiter, signal.SIGTERM)
