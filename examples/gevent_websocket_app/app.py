"""A chat with gevent-websocket's ``WebSocketApplication`` and ``Resource``, on the worker of this package."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from geventwebsocket import Resource, WebSocketApplication, WebSocketError


class Chat(WebSocketApplication):
    """Sends each message to all members. The members are those of one worker process, so run it with one worker."""

    members: ClassVar[list[Chat]] = []
    joined: ClassVar[int] = 0

    def on_open(self) -> None:
        Chat.joined += 1
        self.name = f"guest {Chat.joined}"
        Chat.members.append(self)
        send_to_all(f"* {self.name} is here, {len(Chat.members)} in the room")

    def on_message(self, message: str | bytes | None) -> None:
        if message is None:  # the end; on_close() follows
            return
        if isinstance(message, bytes):
            self.ws.close(1003, "this chat is text")
            return
        send_to_all(f"{self.name}: {message}")

    def on_close(self, reason: object = None) -> None:
        Chat.members.remove(self)
        send_to_all(f"* {self.name} has disconnected, {len(Chat.members)} in the room")


def send_to_all(line: str) -> None:
    """Send a line to all members. It waits for a member who does not read, for at most 30 seconds (``send_timeout``);
    then that connection is ended.
    """
    for member in list(Chat.members):
        try:
            member.ws.send(line)
        except WebSocketError:
            pass  # disconnected; its own on_close() follows


def page(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [b"The chat is at /chat, over a WebSocket.\n"]


application = Resource([("^/chat$", Chat), ("^/", page)])
