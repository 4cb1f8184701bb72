"""An application that is wrapped with a setting that there is not."""

from __future__ import annotations

from gws_middleware import WebSocketMiddleware

from .behaviours import app

wrapped = WebSocketMiddleware(app, compresion="shared")
