"""The echo as a bare ASGI application, for the servers that run one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MEMBERS: set[Send] = set()


async def echo(receive: Receive, send: Send) -> None:
    while (event := await receive())["type"] == "websocket.receive":
        if (text := event.get("text")) is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


async def fanout(receive: Receive, send: Send) -> None:
    MEMBERS.add(send)
    while (event := await receive())["type"] == "websocket.receive":
        message = {"type": "websocket.send", "text": event["text"]}
        for member in tuple(MEMBERS):
            await member(message)
    MEMBERS.discard(send)


async def pid(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": str(os.getpid())})


PATHS: dict[str, Callable[[Receive, Send], Awaitable[None]]] = {"/echo": echo, "/fanout": fanout, "/pid": pid}


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await send({"type": "websocket.accept"})
    await PATHS[scope["path"]](receive, send)
