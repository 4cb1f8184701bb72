"""What the Django app does for each WebSocket of the process.

Rule: the core calls this object and imports nothing of Django. The object only calls the module of each concept, in the
right order.
"""

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
    """Passes the events of each WebSocket to settings, database connections, sessions and signals."""

    @property
    def grace(self) -> float | None:  # type: ignore[override]
        """The setting ``database_grace``: seconds, or None."""
        return conf.load().database_grace

    def settings(self) -> Mapping[str, Any]:
        """The values of ``settings.GWS`` and the origins that Django trusts.

        Returns:
            Values for fields of ``Config``.

        Raises:
            ConfigError: A setting has a wrong name, a wrong value, or is in a place that is not read.

        """
        return conf.wrapper_settings()

    def accepting(self, ws: WebSocket) -> Headers:
        """Commit the request's transaction and save the session, before the 101.

        Returns:
            The ``Set-Cookie`` headers for the 101.

        """
        users.load_rotated_session(ws)
        databases.commit_request(ws)
        return sessions.save_at_handshake(ws)

    def opened(self, ws: WebSocket) -> None:
        """Watch the database connections of this greenlet, and close the WebSocket if its login has been revoked."""
        software = ws.environ.get("SERVER_SOFTWARE", "")
        checks.warn_unpatched_server(software)
        checks.warn_separate_workers(software, ws.environ.get("wsgi.multiprocess", False))
        databases.watch(ws)
        websocket_opened.send_robust(WebSocket, websocket=ws)
        users.opened(ws)

    def idle(self) -> bool:
        """Release the database connections that are in no transaction.

        Returns:
            Whether the greenlet still has an open connection.

        """
        return databases.release_idle()

    def ran(self, ws: WebSocket) -> None:
        """Release all database connections at the end of a greenlet of a detached connection."""
        try:
            databases.finish_request()
        finally:
            databases.release_all()

    def user_of(self, ws: WebSocket) -> tuple[str | None, str | None]:
        """The user of a WebSocket, as far as it was read.

        Returns:
            The primary key as text, and the name.

        """
        login = users.login_of(ws)
        return login.key, login.user_name

    def closed(self, ws: WebSocket) -> None:
        """Send ``websocket_closed``, whose receivers may query, and then release all database connections."""
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
            databases.release_all()
