"""Groups: one message to many connections, in all workers.

::

    from gws_middleware.groups import Groups

    groups = Groups()

    def room(environ, start_response):
        ws = environ["wsgi.websocket"]
        groups.join("room.7", ws)
        for text in ws:
            groups.send("room.7", {"text": text})
        return []

Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Groups
    from .errors import GroupsError, GroupsUnavailable, UnknownOutcome
    from .hub import Joined
    from .message import Publication
    from .position import History, Position
    from .presence import Member, Presence, presence_group
    from .survey import ConnectionInfo, Survey, WorkerInfo

__all__ = [
    "ConnectionInfo",
    "Groups",
    "GroupsError",
    "GroupsUnavailable",
    "History",
    "Joined",
    "Member",
    "Position",
    "Presence",
    "Publication",
    "Survey",
    "UnknownOutcome",
    "WorkerInfo",
    "presence_group",
]

_HOMES = {
    "ConnectionInfo": "survey",
    "Groups": "client",
    "GroupsError": "errors",
    "GroupsUnavailable": "errors",
    "History": "position",
    "Joined": "hub",
    "Member": "presence",
    "Position": "position",
    "Presence": "presence",
    "Publication": "message",
    "Survey": "survey",
    "UnknownOutcome": "errors",
    "WorkerInfo": "survey",
    "presence_group": "presence",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
