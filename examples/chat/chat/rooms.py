"""The members of each room, and the delivery of events to them. Each worker process has its own.

``offer()`` puts a frame into the outbox of a connection and never waits for the peer; a connection whose outbox is full
is ended. So a broadcast does not switch to another greenlet. A query does: hence the lock.
"""

from __future__ import annotations

import json
from collections import defaultdict
from threading import Lock
from time import monotonic
from typing import Any

from gws_middleware import CloseCode, PreparedMessage, WebSocket, prepare

from .forms import MessageForm
from .models import Message, Room, describe

TYPING_EVERY = 1.0
"""Seconds between two ``typing`` events of one member that are passed on."""


class LiveRoom:
    """The connections to a room."""

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.lock = Lock()
        """Held from the storing of a message until it has been sent to all members, so that all get the same order."""

    def has(self, user: Any) -> bool:
        """Whether the user is in the room, in any number of tabs."""
        return any(member.user == user for member in self.members)

    def people(self) -> list[dict[str, Any]]:
        return [describe(user) for user in {member.user for member in self.members}]

    def broadcast(self, event: dict[str, Any], but: Any = None) -> None:
        """Send an event to all members, except for one user."""
        frame = encode(event)
        for member in self.members:
            if member.user != but:
                member.ws.offer(frame)


_live: defaultdict[int, LiveRoom] = defaultdict(LiveRoom)


class Member:
    """One connection of a user to a room."""

    def __init__(self, room: Room, ws: WebSocket, user: Any) -> None:
        self.room, self.ws, self.user = room, ws, user
        self.live = _live[room.pk]
        self.typed = 0.0

    def enter(self, since: int) -> None:
        """Announce the user to the others, and send the missed messages to this connection."""
        with self.live.lock:  # so that no message is stored between the history and the first live message
            messages, earlier = self.room.history(since)
            if not self.live.has(self.user):
                self.live.broadcast({"type": "join", "user": describe(self.user)})
            self.live.members.add(self)
            self.send(
                {
                    "type": "welcome",
                    "you": describe(self.user),
                    "people": self.live.people(),
                    "messages": [message.as_event() for message in messages],
                    "earlier": earlier,
                }
            )

    def leave(self, ws: WebSocket) -> None:
        """``on_close``: called once, when the connection has ended."""
        self.live.members.remove(self)
        if not self.live.has(self.user):
            self.live.broadcast({"type": "leave", "user": describe(self.user)})

    def receive(self, ws: WebSocket, message: str | bytes) -> None:
        """``on_message``: called for each message, in order."""
        try:
            event = json.loads(message)
        except (ValueError, RecursionError):
            ws.close(CloseCode.INVALID_DATA, "a message is not JSON")
            return
        match event:
            case {"type": "say", "text": str(text)}:
                self.say(text)
            case {"type": "typing"}:
                self.typing()
            case _:
                ws.close(CloseCode.POLICY_VIOLATION, "unknown event")

    def say(self, text: str) -> None:
        form = MessageForm({"text": text}, instance=Message(room=self.room, user=self.user))
        if not form.is_valid():
            self.send({"type": "error", "detail": form.errors["text"][0]})
            return
        with self.live.lock:
            message = form.save()
            self.live.broadcast(message.as_event())
        self.typed = 0.0

    def typing(self) -> None:
        now = monotonic()
        if now - self.typed >= TYPING_EVERY:
            self.typed = now
            self.live.broadcast({"type": "typing", "user": describe(self.user)}, but=self.user)

    def send(self, event: dict[str, Any]) -> None:
        """Send an event to this connection."""
        self.ws.offer(encode(event))


def enter(room: Room, ws: WebSocket, user: Any, since: int) -> None:
    """Add an accepted WebSocket to the room, which owns it from then on instead of the view."""
    member = Member(room, ws, user)
    member.enter(since)
    ws.detach(on_message=member.receive, on_close=member.leave)


def encode(event: dict[str, Any]) -> PreparedMessage:
    """Encode an event once for all connections."""
    return prepare(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
