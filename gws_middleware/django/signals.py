"""The signals ``websocket_opened`` and ``websocket_closed``.

Rule: receivers run in the greenlet of the WebSocket and may use the ORM. An exception of a receiver is logged and has
no other effect.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["websocket_closed", "websocket_opened"]

websocket_opened = Signal()
"""Sent after the 101. Argument: ``websocket``."""

websocket_closed = Signal()
"""Sent once for each ``websocket_opened``, after the connection and its view or ``on_close`` have ended.

Arguments: ``websocket``; ``code`` and ``reason`` of the first close frame (1006 and "" if there was none); ``duration``
    in seconds; ``stats``, the numbers of messages and bytes that were received and sent.
"""
