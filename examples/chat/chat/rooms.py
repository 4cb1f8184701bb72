"""The rooms as they are now: who is in them, and how they hear each other. Each worker process has its own.

Nobody waits for a slow reader: ``offer()`` puts a frame into the connection's outbox, and ends the connection when too
much is in there. So telling all never gives way to another greenlet, only the database does: hence the lock.
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
"""Seconds between two signs of typing that others are told of."""


class LiveRoom:
    """The connections in a room."""

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.lock = Lock()
        """Held from storing a message until all have been told: everybody hears the same in the same order."""

    def has(self, user: Any) -> bool:
        """Whether the user is here, in however many tabs."""
        return any(member.user == user for member in self.members)

    def people(self) -> list[dict[str, Any]]:
        return [describe(user) for user in {member.user for member in self.members}]

    def tell(self, event: dict[str, Any], but: Any = None) -> None:
        """Send an event to everybody, except for one user."""
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
        """Tell the others of a user who is new here, and this connection of all that it has missed."""
        with self.live.lock:  # nothing is said between the history and the first message that is heard
            messages, earlier = self.room.history(since)
            if not self.live.has(self.user):
                self.live.tell({"type": "join", "user": describe(self.user)})
            self.live.members.add(self)
            self.tell(
                {
                    "type": "welcome",
                    "you": describe(self.user),
                    "people": self.live.people(),
                    "messages": [message.as_event() for message in messages],
                    "earlier": earlier,
                }
            )

    def leave(self, ws: WebSocket) -> None:
        """``on_close``: called once, however the connection has ended."""
        self.live.members.remove(self)
        if not self.live.has(self.user):
            self.live.tell({"type": "leave", "user": describe(self.user)})

    def receive(self, ws: WebSocket, message: str | bytes) -> None:
        """``on_message``: called for one message after the other."""
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
            self.tell({"type": "error", "detail": form.errors["text"][0]})
            return
        with self.live.lock:
            message = form.save()
            self.live.tell(message.as_event())
        self.typed = 0.0

    def typing(self) -> None:
        now = monotonic()
        if now - self.typed >= TYPING_EVERY:
            self.typed = now
            self.live.tell({"type": "typing", "user": describe(self.user)}, but=self.user)

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to this connection alone."""
        self.ws.offer(encode(event))


def enter(room: Room, ws: WebSocket, user: Any, since: int) -> None:
    """Let an accepted WebSocket into the room; from then on the room has it, and not the view."""
    member = Member(room, ws, user)
    member.enter(since)
    ws.detach(on_message=member.receive, on_close=member.leave)


def encode(event: dict[str, Any]) -> PreparedMessage:
    """A message, encoded once and sent to many."""
    return prepare(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
