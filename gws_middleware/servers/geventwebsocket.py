"""gevent-websocket's handler and gunicorn worker, which send the 101 before the application is called."""

from __future__ import annotations

from typing import Any

from ..connection.channel import Channel
from ..connection.compat import client_of
from ..typing import Headers, StartResponse
from .pywsgi import PyWSGI

__all__ = ["PACKAGE", "GeventWebSocket"]

PACKAGE = "geventwebsocket"
"""The package of the object that it leaves in ``environ["wsgi.websocket"]``."""


class GeventWebSocket(PyWSGI):
    """gevent-websocket's handler and worker: they have sent the 101 before the application was called."""

    switched = True

    def __init__(self, foreign: Any) -> None:
        super().__init__(foreign.handler)
        self._foreign = foreign
        for name, value in self._handler.response_headers:
            if name.lower() == b"sec-websocket-protocol":
                self.subprotocol = value.decode("latin-1")

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        # Their object would write a close frame of its own when the handler ends.
        self._foreign.closed = True
        return self._take(self._handler)

    def opened(self, ws: Any) -> None:
        super().opened(ws)
        # Their list has had their object until now. Their handler removes the entry when the view has returned.
        self._handler.server.clients[self._handler.client_address] = client_of(ws)
