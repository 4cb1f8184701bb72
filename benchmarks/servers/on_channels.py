"""Groups of Channels, with channels_redis, on uvicorn: the consumer of its tutorial, in its asynchronous form."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any
from uuid import uuid4

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from django.conf import settings
from django.urls import path

from . import on_uvicorn


class Group(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Text is sent to all connections of this path."""

    name = "all"

    async def connect(self) -> None:
        await self.channel_layer.group_add(self.name, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.name, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(self.name, {"type": "chat.message", "text": text_data})

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class Hop(Group):
    """Each connection has a group of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.name = f"hop-{uuid4().hex}"


class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Text is sent back."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data)


class Pid(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Any text is answered with the number of this process."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=str(os.getpid()))


if __name__ == "__main__":
    # The pool of redis-py has 100 connections at most by default, and raises an error for the next one.
    host = {"address": os.environ["BENCHMARK_REDIS"], "max_connections": 10_000}
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [host]}}
    settings.configure(SECRET_KEY="benchmarks", INSTALLED_APPS=["channels"], CHANNEL_LAYERS={"default": layer})
    django.setup()
    consumers = {"echo": Echo, "group": Group, "hop": Hop, "pid": Pid}
    router = URLRouter([path(name, consumer.as_asgi()) for name, consumer in consumers.items()])
    on_uvicorn.serve(router, socket.socket(fileno=int(sys.argv[1])))
