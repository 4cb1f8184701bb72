"""Signals in the life of a WebSocket. Receivers run in its greenlet and may use the ORM; what one raises is logged and
changes nothing.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["websocket_closed", "websocket_opened"]

websocket_opened = Signal()
"""After the 101. Arguments: ``websocket``."""

websocket_closed = Signal()
"""Once for each ``websocket_opened``, when the connection has ended and its view or ``on_close`` too.

Arguments: ``websocket``; ``code`` and ``reason`` of the first close frame (1006 if there was none); ``duration`` in
seconds; ``stats``, the messages and bytes both ways.
"""
