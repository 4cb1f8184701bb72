"""The echo of gevent-websocket: ``receive`` until None, as its README has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MEMBERS: set[Any] = set()


def messages(ws: Any) -> Iterator[str | bytearray]:
    while (message := ws.receive()) is not None:
        yield message


def echo(ws: Any) -> None:
    while (message := ws.receive()) is not None:
        ws.send(message)


def fanout(ws: Any) -> None:
    MEMBERS.add(ws)
    for message in messages(ws):
        for member in tuple(MEMBERS):
            member.send(message)
    MEMBERS.discard(ws)


def pid(ws: Any) -> None:
    for _ in messages(ws):
        ws.send(str(os.getpid()))


PATHS: dict[str, Callable[[Any], None]] = {"/echo": echo, "/fanout": fanout, "/pid": pid}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/plain":
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
    PATHS[environ["PATH_INFO"]](environ["wsgi.websocket"])
    return []
