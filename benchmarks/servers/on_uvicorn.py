"""uvicorn: uvloop, its default WebSocket code, no deflate, no logs."""

from __future__ import annotations

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
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(application, socket.socket(fileno=int(sys.argv[1])))
