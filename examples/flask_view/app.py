"""A Flask view that sends the time at an interval, and receives the interval."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from flask import Flask

from gws_middleware.flask import websocket_route

app = Flask(__name__)

SHORTEST, LONGEST = 0.01, 60.0
"""Limits of the interval in seconds."""


@app.get("/")
def index() -> str:
    return "The clock is at /clock, over a WebSocket.\n"


@websocket_route(app, "/clock")
def clock(ws: Any) -> None:
    """Send the time every second, or at the interval that the client sends as a number of seconds."""
    interval = 1.0
    while True:
        ws.send(datetime.now(timezone.utc).isoformat())
        try:
            message = ws.receive(timeout=interval)
        except TimeoutError:
            continue  # the usual case: no message came before the time has to be sent again
        if message is None:
            break
        try:
            interval = min(LONGEST, max(SHORTEST, float(message)))
        except ValueError:
            ws.close(1007, "send a number of seconds")
            break
