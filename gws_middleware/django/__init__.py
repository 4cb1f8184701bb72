"""The Django app: put ``"gws_middleware.django"`` into ``INSTALLED_APPS``, above ``django.contrib.staticfiles``.

Rule: one module for each concept of Django, and importing a module changes nothing. The names that views need are also
available here. They are loaded at first use, because Django imports this package before any app is ready.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decorators import accept_websocket, require_websocket
    from .options import Settings
    from .users import close_user_sockets
    from .views import WebSocketView

__all__ = ["Settings", "WebSocketView", "accept_websocket", "close_user_sockets", "require_websocket"]

_MODULES = {
    "Settings": "options",
    "WebSocketView": "views",
    "accept_websocket": "decorators",
    "close_user_sockets": "users",
    "require_websocket": "decorators",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
