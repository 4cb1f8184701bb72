"""The echo of this project in plain WSGI; ``/detached`` keeps no greenlet while a connection is idle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from gws_middleware import prepare

MEMBERS: set[Any] = set()


def echo(ws: Any) -> None:
    for message in ws:
        ws.send(message)


def fanout(ws: Any) -> None:
    MEMBERS.add(ws)
    for message in ws:
        send_to_all(message)
    MEMBERS.discard(ws)


def send_to_all(text: str) -> None:
    """One frame, built once; ``offer`` never waits for a slow member."""
    frame = prepare(text)
    for member in tuple(MEMBERS):
        member.offer(frame)


def detached(ws: Any) -> None:
    ws.detach(on_message=send_back)


def send_back(ws: Any, message: str | bytes) -> None:
    ws.send(message)


def pid(ws: Any) -> None:
    for _ in ws:
        ws.send(str(os.getpid()))


PATHS: dict[str, Callable[[Any], None]] = {
    "/echo": echo,
    "/fanout": fanout,
    "/detached": detached,
    "/pid": pid,
}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    PATHS[environ["PATH_INFO"]](environ["wsgi.websocket"])
    return []
