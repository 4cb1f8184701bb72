"""A Flask view that pushes the time and listens while it does so. There is no Flask extension in it."""

from __future__ import annotations

from datetime import datetime, timezone

from flask import Flask, request

app = Flask(__name__)

SHORTEST, LONGEST = 0.01, 60.0


@app.get("/")
def index() -> str:
    return "The clock is at /clock, over a WebSocket.\n"


@app.get("/clock", websocket=True)
def clock() -> str:
    """Sends the time every second, or at the interval that the client sends as a number of seconds.

    ``websocket=True`` is Werkzeug's: its router keeps WebSockets from routes without it, and HTTP from this one.
    """
    ws = request.environ["wsgi.websocket"]
    interval = 1.0
    while not ws.closed:
        ws.send(datetime.now(timezone.utc).isoformat())
        try:
            message = ws.receive(timeout=interval)
        except TimeoutError:
            continue  # nothing came in time, which is the usual case: the next tick is due
        if message is None:
            break
        try:
            interval = min(LONGEST, max(SHORTEST, float(message)))
        except ValueError:
            ws.close(1007, "send a number of seconds")
    return ""
