"""Centrifuge's protocol: its clients, e.g. ``centrifuge`` (npm) and ``centrifuge-python`` (PyPI), work with groups.

::

    from gws_middleware.groups import Groups
    from gws_middleware.groups.centrifuge import Policy, serve

    groups = Groups(history={"room": History(size=100)})

    class Rooms(Policy):
        def may_join(self, ws, name):
            return name.startswith("room.")

    def live(environ, start_response):
        serve(environ["wsgi.websocket"], groups, Rooms())
        return []

Names are loaded when they are first used: ``protocol`` needs no event loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .serving import CentrifugeError, Policy, serve

__all__ = ["CentrifugeError", "Policy", "serve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".serving", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
