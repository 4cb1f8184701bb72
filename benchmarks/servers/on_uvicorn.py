"""uvicorn: uvloop, its default WebSocket code, no logs; deflate where it is measured."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import uvicorn

from .asgi import application


def serve(served: Any, listener: socket.socket) -> None:
    """Run uvicorn until it is signalled to stop."""
    config = uvicorn.Config(
        served,
        loop="uvloop",
        lifespan="off",
        ws_per_message_deflate="BENCHMARK_DEFLATE" in os.environ,
        access_log=False,
        backlog=4096,
        log_level="warning",
        timeout_graceful_shutdown=1,
        ssl_certfile=os.environ.get("BENCHMARK_CERTIFICATE"),
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(application, socket.socket(fileno=int(sys.argv[1])))
