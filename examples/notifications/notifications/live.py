"""The WebSocket of the pages, which speaks Centrifuge's protocol: its client is ``centrifuge`` of npm."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from gws_middleware.django import groups
from gws_middleware.django.centrifuge import LOGGED_OUT, CentrifugeError, CentrifugeView

__all__ = ["DASHBOARD", "LOGGED_OUT", "Live", "session_group"]

DASHBOARD = "dashboard"
"""The group of the dashboards."""


def session_group(request: HttpRequest) -> str:
    """The name of the group of a session's connections. Not its key: with that one could log in."""
    return f"session.{sha256(str(request.session.session_key).encode()).hexdigest()}"


class Live(CentrifugeView):
    """A user may receive what is sent to that user's own group, and no more. Nothing may be published."""

    def connected(self, request: HttpRequest) -> None:
        if not request.user.is_authenticated:
            raise PermissionDenied("not logged in")
        groups.join(session_group(request), request.websocket)  # nothing is sent to it; a logout closes it

    def may_join(self, request: HttpRequest, name: str) -> bool:
        return name == groups.user_group(request.user)

    def rpc(self, request: HttpRequest, method: str, data: Any) -> Any:
        """For the footer of the page: the process that serves this connection."""
        if method == "process":
            return os.getpid()
        raise CentrifugeError(104)
