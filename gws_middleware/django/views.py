"""``WebSocketView``: a class-based view for WebSockets.

Rule: one instance serves one connection, and ``disconnect`` is called once for each connection that was accepted.
"""

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
    """A view for one connection: override ``connect``, ``receive`` and ``disconnect``.

    ``LoginRequiredMixin`` and other mixins of Django run before the handshake is answered. A class with ``get()``
    answers plain HTTP with it. Without ``get()`` plain HTTP is answered with 426.
    """

    subprotocols: ClassVar[Sequence[str]] = ()
    """The supported subprotocols. The first one in the client's list that is among them is selected. Default: none."""
    websocket: WebSocket
    """The connection."""

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view function for the URLconf; ``initkwargs`` are those of Django's ``View.as_view``."""
        view = super().as_view(**initkwargs)
        return accept_websocket(view) if hasattr(cls, "get") else require_websocket(view)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Serve the connection until it ends, or answer plain HTTP."""
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
        """Handle the handshake. The default accepts it.

        Args:
            *args: Positional arguments of the URL.
            **kwargs: Named arguments of the URL.

        Returns:
            A response that refuses the handshake, or None to accept it (unless this method has accepted or closed).

        """
        return None

    def receive(self, message: Message) -> None:
        """Handle a message.

        Args:
            message: ``str`` for a text message, ``bytes`` for a binary one.

        """

    def disconnect(self, code: int | None) -> None:
        """Handle the end of the connection.

        Args:
            code: The code of the first close frame, 1006 if there was none.

        """
