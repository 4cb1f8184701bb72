"""What Django does for each WebSocket of the process, whichever way its view was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..connection.websocket import WebSocket
from ..hooks import Adapter
from ..typing import Headers
from . import checks, conf, databases, sessions, users
from .signals import websocket_closed, websocket_opened

__all__ = ["DjangoAdapter"]


class DjangoAdapter(Adapter):
    """Settings, database connections, sessions and signals."""

    @property
    def grace(self) -> float | None:  # type: ignore[override]
        """The setting ``database_grace``."""
        return conf.load().database_grace

    def settings(self) -> Mapping[str, Any]:
        """What ``settings.GWS`` says, and the origins that Django trusts."""
        return conf.for_the_wrapper()

    def accepting(self, ws: WebSocket) -> Headers:
        """The request's transaction is committed, the session is saved, and its cookie goes with the 101."""
        users.settle(ws)
        databases.commit_request(ws)
        return sessions.save_at_handshake(ws)

    def opened(self, ws: WebSocket) -> None:
        """From now on this greenlet's database connections are watched. Whose session has ended meanwhile is closed."""
        checks.warn_about_the_server(ws.environ.get("SERVER_SOFTWARE", ""))
        databases.watch(ws)
        websocket_opened.send_robust(WebSocket, websocket=ws)
        users.opened(ws)

    def idle(self) -> bool:
        """Database connections that nobody needs while waiting."""
        return databases.give_back()

    def ran(self, ws: WebSocket) -> None:
        """The same, at the end of each run."""
        try:
            databases.finish_request()
        finally:
            databases.give_back_all()

    def closed(self, ws: WebSocket) -> None:
        """Receivers may use the database; afterwards nothing of it is left."""
        try:
            databases.finish_request()
            websocket_closed.send_robust(
                WebSocket,
                websocket=ws,
                code=ws.close_code,
                reason=ws.close_reason,
                duration=ws.duration,
                stats=ws.stats,
            )
        finally:
            databases.give_back_all()
