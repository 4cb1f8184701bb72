"""The answers of a language model, token by token, to any number of pages: by WebSocket and as server-sent events.

A plain WSGI application. The tokens go into a group, so it does not matter which worker a page is connected to, and a
page that was disconnected gets what it has missed.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from gws_middleware import WebSocket
from gws_middleware.groups import Groups, History, Position, Publication

HERE = Path(__file__).parent
KEPT = 5000
"""Tokens that a page can get which is opened, or connects again, later."""
QUIET = 15.0
"""Seconds without a token after which an event stream sends a comment, and so learns whether the page is still open."""
RELOAD = 4000
"""The close code after which the page loads itself again."""
MAX_QUESTION = 500
"""Characters."""

GROUP = "answers.all"
groups = Groups(os.environ.get("STREAM_GROUPS", "auto"), history={"answers": History(size=KEPT, age=3600)})
log = logging.getLogger("stream")


# --- the model ------------------------------------------------------------------------------------------------------


def tokens(question: str) -> Iterator[str]:
    """What the model answers, as it comes.

    This one is made up. Here is the place for a real client, e.g. for an HTTP API that streams::

        with client.stream(question) as answer:
            yield from answer

    It waits in a socket, and the worker serves its other connections meanwhile.
    """
    text = f'You asked: "{question}" This is no model: its tokens are made up, and travel as those of one.'
    for number, word in enumerate(text.split(" ")):
        time.sleep(float(os.environ.get("STREAM_DELAY", "0.08")))  # gevent's, in the worker
        yield word if number == 0 else f" {word}"


def answer(question: str) -> None:
    """Send an answer to all pages, token by token."""
    name = secrets.token_hex(4)  # several may be on their way at the same time
    groups.send(GROUP, {"answer": name, "question": question})
    try:
        for token in tokens(question):
            groups.send(GROUP, {"answer": name, "token": token})
    except Exception:
        log.exception("the model has failed")
        groups.send(GROUP, {"answer": name, "end": "failed"})
    else:
        groups.send(GROUP, {"answer": name, "end": "complete"})


# --- the pages ------------------------------------------------------------------------------------------------------


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The application."""
    path, query = environ["PATH_INFO"], parse_qs(environ["QUERY_STRING"])
    since = query.get("since", [None])[0] or environ.get("HTTP_LAST_EVENT_ID")
    try:
        position = None if since is None else Position.parse(since)
    except ValueError as error:
        start_response("400 Bad Request", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{error}\n".encode()]
    if path == "/socket":
        ws = environ.get("wsgi.websocket")
        if ws is None:
            start_response("426 Upgrade Required", [("Content-Type", "text/plain"), ("Upgrade", "websocket")])
            return [b"This address serves only WebSockets.\n"]
        socket(ws, position)
        return []
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")])
        return events(position)
    if path in FILES:
        file, kind = FILES[path]
        start_response("200 OK", [("Content-Type", f"{kind}; charset=utf-8")])
        return [(HERE / file).read_bytes()]
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"There is / and /watch.\n"]


FILES = {
    "/": ("ask.html", "text/html"),
    "/watch": ("watch.html", "text/html"),
    "/stream.js": ("stream.js", "text/javascript"),
    "/stream.css": ("stream.css", "text/css"),
}


def socket(ws: WebSocket, since: Position | None) -> None:
    """A page that asks. The tokens pass by this greenlet, which waits for the next question."""
    ws.accept()
    ws.send(json.dumps({"process": os.getpid()}))
    if since is None:
        past, since = kept()
        for publication in past:
            ws.send(with_position(publication))
    joined = groups.join(GROUP, ws, since=since, wrap=with_position)
    if not joined.recovered:
        ws.close(RELOAD, "some tokens are no longer kept")
    for question in ws:
        if not isinstance(question, str) or not 0 < len(question) <= MAX_QUESTION:
            ws.close(1008, f"a question is a text of at most {MAX_QUESTION} characters")
            return
        answer(question)


def events(since: Position | None) -> Iterator[bytes]:
    """A page that watches: a response that does not end. ``id`` is what a browser sends when it connects again."""
    yield b"retry: 500\n\n"  # milliseconds until it does
    yield f"event: process\ndata: {os.getpid()}\n\n".encode()
    if since is None:
        past, since = kept()
        for publication in past:
            yield event(publication)
    while True:
        try:
            for publication in groups.listen(GROUP, since=since, timeout=QUIET):
                yield event(publication)
                since = publication.position
        except LookupError:
            yield b"event: reload\ndata: some tokens are no longer kept\n\n"
            return
        yield b": nothing new\n\n"


def kept() -> tuple[list[Publication], Position]:
    """What the group keeps, and the position after it."""
    position = groups.position(GROUP)
    assert position is not None  # it has a history
    past = groups.history(GROUP, limit=KEPT)
    return [publication for publication in past if publication.offset <= position.offset], position


def with_position(publication: Publication) -> str:
    """The message of a WebSocket. Called once for each token and worker, not for each page."""
    return json.dumps({**publication.data, "position": str(publication.position)})


def event(publication: Publication) -> bytes:
    """The same as a server-sent event."""
    return f"id: {publication.position}\ndata: {publication.message}\n\n".encode()
