"""What core calls of a framework's adapter.

``gws_middleware.django`` installs one; without it nothing is called. Rule: of this package only ``typing`` is imported
here, so that any module may import this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .typing import Headers

__all__ = ["Adapter", "current", "install"]


class Adapter:
    """The base of a framework's adapter, which does nothing. Every method runs in a greenlet, never in the hub."""

    grace: float | None = None
    """Seconds that a greenlet waits in ``receive()`` or ``send()`` before ``idle()`` is called; None: it never is."""

    def settings(self) -> Mapping[str, Any]:
        """The project's values for fields of ``Config``. Called for each application that is wrapped."""
        return {}

    def accepting(self, ws: Any) -> Headers:
        """The WebSocket is about to be accepted.

        Returns:
            Headers for its 101.

        Raises:
            Exception: Any. ``accept()`` raises it, and the WebSocket is not accepted.

        """
        return []

    def opened(self, ws: Any) -> None:
        """It has been accepted, by this greenlet."""

    def idle(self) -> bool:
        """This greenlet has waited for ``grace`` seconds, and goes on to wait: release what it does not need meanwhile.

        Returns:
            Whether it still holds something, so that its next wait calls this again.

        """
        return False

    def ran(self, ws: Any) -> None:
        """A greenlet of a detached connection ends: that of the view, or one that has emptied the inbox."""

    def user_of(self, ws: Any) -> tuple[str | None, str | None]:
        """The user of the WebSocket. This makes no query: what has not been read is None.

        Returns:
            The primary key as text, and the name.

        """
        return None, None

    def closed(self, ws: Any) -> None:
        """The connection has ended; its view and ``on_close`` have returned. Called once for each ``opened``."""


_adapter = Adapter()


def install(adapter: Adapter) -> None:
    """Make this the adapter of the process, for WebSockets and wrappers that are made from now on."""
    global _adapter  # one for each process, by definition
    _adapter = adapter


def current() -> Adapter:
    """The adapter of this process."""
    return _adapter
