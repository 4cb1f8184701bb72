"""``WebSocketView``: a WebSocket as a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse
from django.views import View

from ..codes import CloseCode
from ..connection import control
from ..connection.websocket import WebSocket
from ..typing import Message
from .decorators import accept_websocket, require_websocket
from .serving import attach

__all__ = ["WebSocketView"]


class WebSocketView(View):
    """Override ``connect``, ``receive`` and ``disconnect``. One instance serves one connection.

    ``LoginRequiredMixin`` and its like stand in front, before the handshake is answered. A class that also has
    ``get()`` answers plain HTTP with it; without one it is answered with 426.
    """

    subprotocols: ClassVar[Sequence[str]] = ()
    """The subprotocols that it speaks; the client's most wanted of them is agreed on."""
    websocket: WebSocket

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """The view for the URLconf."""
        view = super().as_view(**initkwargs)
        return accept_websocket(view) if hasattr(cls, "get") else require_websocket(view)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Run the connection from beginning to end, or answer plain HTTP."""
        ws = attach(request)
        if ws is None:
            return super().dispatch(request, *args, **kwargs)
        self.websocket = ws
        try:
            refusal = self.connect(*args, **kwargs)
            if not ws.accepted:
                if refusal is not None or control.is_closed(ws):
                    return refusal
                ws.accept(next((name for name in ws.offered_subprotocols if name in self.subprotocols), None))
            for message in ws:
                self.receive(message)
        except Exception:
            ws.close(CloseCode.INTERNAL_ERROR)
            raise
        finally:
            if ws.accepted:
                self.disconnect(ws.close_code)
        return None

    def connect(self, *args: Any, **kwargs: Any) -> HttpResponse | None:
        """The handshake, with the URL's arguments. Return a response to refuse it, or None: then it is accepted, unless
        this has done so.
        """
        return None

    def receive(self, message: Message) -> None:
        """A message has come: ``str`` for text, ``bytes`` for binary."""

    def disconnect(self, code: int | None) -> None:
        """The connection has ended with this close code; called once for each that was accepted."""
