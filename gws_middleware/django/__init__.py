"""The Django app: put ``"gws_middleware.django"`` into ``INSTALLED_APPS``, above ``django.contrib.staticfiles``.

Each concept of Django's has a module of its own; importing one costs what Django itself costs, and changes nothing. The
names that views need are here too, and are loaded when they are first used: Django imports this package before any app
is ready.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decorators import accept_websocket, require_websocket
    from .users import close_user_sockets
    from .views import WebSocketView

__all__ = ["WebSocketView", "accept_websocket", "close_user_sockets", "require_websocket"]

_HOMES = {
    "WebSocketView": "views",
    "accept_websocket": "decorators",
    "close_user_sockets": "users",
    "require_websocket": "decorators",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
