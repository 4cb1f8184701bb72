"""gevent-websocket's handler and its gunicorn worker, which send the 101 before the application is called.

So no handshake can be refused with HTTP: a refused one ends with a close frame. In environ our WebSocket replaces their
object.
"""

from __future__ import annotations

from typing import Any

from ..connection.channel import Channel
from ..connection.compat import client_of
from ..typing import Headers, StartResponse
from .pywsgi import PyWSGI

__all__ = ["PACKAGE", "GeventWebSocket"]

PACKAGE = "geventwebsocket"
"""The package of the object that they put into ``environ["wsgi.websocket"]``."""


class GeventWebSocket(PyWSGI):
    """gevent-websocket's handler, which is a subclass of gevent.pywsgi's."""

    switched = True

    def __init__(self, foreign: Any) -> None:
        super().__init__(foreign.handler)
        self._foreign = foreign
        for name, value in self._handler.response_headers:
            if name.lower() == b"sec-websocket-protocol":
                self.subprotocol = value.decode("latin-1")

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        self._foreign.closed = True  # or their object writes a close frame of its own when the handler ends
        return self._take(self._handler)

    def opened(self, ws: Any) -> None:
        super().opened(ws)
        # The entry had their object until now. Their handler removes it when the view has returned.
        self._handler.server.clients[self._handler.client_address] = client_of(ws)
