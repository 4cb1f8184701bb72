"""WebSockets for synchronous Python web applications.

Names are loaded when they are first used: importing the package, or its engine, costs nothing and starts nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .codes import CloseCode, Opcode
    from .config import Config
    from .connection.websocket import WebSocket
    from .exceptions import ConfigError, ConnectionClosed, HandshakeRefused, WebSocketError
    from .middleware import WebSocketMiddleware
    from .protocol.connection import PreparedMessage, prepare

__all__ = [
    "CloseCode",
    "Config",
    "ConfigError",
    "ConnectionClosed",
    "HandshakeRefused",
    "Opcode",
    "PreparedMessage",
    "WebSocket",
    "WebSocketError",
    "WebSocketMiddleware",
    "__version__",
    "prepare",
]

__version__ = "0.1.0"

_HOMES = {
    "CloseCode": "codes",
    "Config": "config",
    "ConfigError": "exceptions",
    "ConnectionClosed": "exceptions",
    "HandshakeRefused": "exceptions",
    "Opcode": "codes",
    "PreparedMessage": "protocol.connection",
    "WebSocket": "connection.websocket",
    "WebSocketError": "exceptions",
    "WebSocketMiddleware": "middleware",
    "prepare": "protocol.connection",
}


_WORKER = "GeventWebSocketWorker"  # for gunicorn's command line; not in __all__, because gunicorn may be missing


def __getattr__(name: str) -> Any:
    home = "worker" if name == _WORKER else _HOMES.get(name)
    if home is None and name.lower().endswith("worker") and name != "worker":
        # No AttributeError: that would not come out of gunicorn's configuration.
        raise ImportError(f"{__name__} has no {name}: the worker class is {__name__}.worker.{_WORKER}")
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
