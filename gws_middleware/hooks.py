"""What the adapter of a framework is asked and told about the WebSockets of this process.

``gws_middleware.django`` installs one; without it nothing is asked. Rule: nothing of ours is imported here but shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .typing import Headers

__all__ = ["Adapter", "current", "install"]


class Adapter:
    """One that wants to know nothing: the base of a framework's. Every method runs in a greenlet, never in the hub."""

    grace: float | None = None
    """Seconds that a greenlet waits in ``receive()`` or ``send()`` before ``idle()`` is called; None: it never is."""

    def settings(self) -> Mapping[str, Any]:
        """The project's values for fields of ``Config``; asked for each application that is wrapped."""
        return {}

    def accepting(self, ws: Any) -> Headers:
        """The WebSocket is about to be accepted: headers for its 101. An exception comes out of ``accept()``, which
        then has not happened.
        """
        return []

    def opened(self, ws: Any) -> None:
        """It has been accepted, by this greenlet."""

    def idle(self) -> bool:
        """This greenlet has been waiting for ``grace`` seconds, and waits on: give back what it does not need
        meanwhile. True if it still holds something.
        """
        return False

    def ran(self, ws: Any) -> None:
        """A greenlet of a detached connection is about to end: the view's, or one that worked through the inbox."""

    def closed(self, ws: Any) -> None:
        """The connection has ended, and so have its view and ``on_close``. Called once for each ``opened``."""


_adapter = Adapter()


def install(adapter: Adapter) -> None:
    """Make it the adapter of this process, for the WebSockets and the wrappers made from now on."""
    global _adapter  # one for each process, by definition
    _adapter = adapter


def current() -> Adapter:
    """The adapter of this process."""
    return _adapter
