"""gunicorn's configuration file for ``liveserver``.

It is a file and not options of the command, because older versions of gunicorn ignore an unknown name in a file.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from gevent import spawn
from gevent.socket import wait_read

__all__ = ["READY_SOCKET", "control_socket_disable", "graceful_timeout", "post_worker_init", "worker_class", "workers"]

READY_SOCKET = "LIVE_SERVER_READY_SOCKET"
"""The environment variable with the descriptor of a socket that the test process has the other end of. The server sends
a byte when it has started, and it stops when it reads EOF, because the test process has ended then.
"""

worker_class = "gws_middleware.worker.GeventWebSocketWorker"
workers = 1
graceful_timeout = 5
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """Send the byte; gunicorn calls this in the worker when it has loaded the application."""
    ready_socket = int(os.environ[READY_SOCKET])
    os.write(ready_socket, b"1")
    spawn(_stop_at_eof, ready_socket, worker.ppid)


def _stop_at_eof(ready_socket: int, arbiter: int) -> None:
    wait_read(ready_socket)
    if os.getppid() == arbiter:
        os.kill(arbiter, signal.SIGTERM)
