"""A connection to a room: what it receives, and what it sends to the others, whichever worker they are connected to.

A room has two groups. ``room.7`` carries the messages and has a history, so that a page that reconnects gets what it
has missed. ``live.7`` carries what is of no use later: joins, leaves, and who is typing. The connections of one user to
a room are a third one, whose number of members says whether the user is in the room.
"""

from __future__ import annotations

import json
from copy import copy
from time import monotonic
from typing import Any

from django.http import HttpRequest

from gws_middleware import CloseCode, WebSocket
from gws_middleware.django import groups
from gws_middleware.groups import Position, Publication

from . import workers
from .forms import MessageForm
from .models import Message, Room, Visit, describe
from .sessions import session_group

TYPING_EVERY = 1.0
"""Seconds between two ``typing`` events of one connection that are passed on."""


def enter(room: Room, request: HttpRequest, since: Position | None) -> None:
    """Make a connection a member of the room. When this returns, it has no greenlet until a message comes.

    Args:
        room: The room.
        request: The handshake, which is accepted, of a user who is logged in.
        since: The position that the page has, if any: what came after it is sent.

    """
    ws = request.websocket
    member = Member(room, ws, copy(request.user))  # the user, and not the lazy object that keeps the whole request
    groups.join(session_group(request), ws)
    # The messages after the position are sent first. If it is too old, or there is none, the page gets the newest ones
    # of the database. Nothing is between both: a message is stored before it is sent to the group.
    joined = groups.join(room.messages_group, ws, since=since, wrap=with_position)
    groups.join(room.live_group, ws)
    groups.join(member.presence, ws)  # nothing is sent to it; it is counted
    messages, earlier = ([], False) if joined.recovered else room.history()
    Visit.record(room, member.user)
    member.announce()
    member.send(
        {
            "type": "welcome",
            "people": present(room),
            "messages": [message.as_event() for message in messages],
            "earlier": earlier,
            "position": str(joined.position),
            "worker": workers.rank(),
        }
    )
    ws.detach(on_message=member.receive, on_close=member.leave)


def with_position(publication: Publication) -> str:
    """What members get: the event with the position after it. Called once for each message and worker."""
    return encode({**publication.data, "position": str(publication.position)})


def presence_group(room: Room, user: Any) -> str:
    """The name of the group of a user's connections to a room."""
    return f"presence.{room.pk}.{user.pk}"


def present(room: Room) -> list[dict[str, Any]]:
    """The users who are connected to the room, in any worker. The kernel knows when a worker has ended."""
    return [describe(user) for user in Visit.users(room) if groups.count(presence_group(room, user))]


class Member:
    """One connection of a user to a room."""

    def __init__(self, room: Room, ws: WebSocket, user: Any) -> None:
        self.room, self.ws, self.user = room, ws, user
        self.presence = presence_group(room, user)
        self.typed = 0.0

    def announce(self) -> None:
        """Send to the others whether the user is in the room now.

        Other workers may do the same for other tabs of the user, and the last event has to be the right one. So each
        reads the number again after it has sent, until it is what was sent.
        """
        sent = None
        while (now := groups.count(self.presence) > 0) is not sent:
            event = {"type": "join" if now else "leave", "user": describe(self.user)}
            groups.send(self.room.live_group, event, exclude=self.ws)
            sent = now

    def leave(self, ws: WebSocket) -> None:
        """``on_close``: called once, when the connection has ended and is no member any more."""
        if not groups.count(self.presence):
            self.announce()

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
            case {"type": "typing", "after": int(after)}:
                self.typing(after)
            case {"type": "people"}:
                self.send({"type": "people", "people": present(self.room)})
            case _:
                ws.close(CloseCode.POLICY_VIOLATION, "unknown event")

    def say(self, text: str) -> None:
        form = MessageForm({"text": text}, instance=Message(room=self.room, user=self.user))
        if not form.is_valid():
            self.send({"type": "error", "detail": form.errors["text"][0]})
            return
        groups.send(self.room.messages_group, form.save().as_event())
        self.typed = 0.0

    def typing(self, after: int) -> None:
        """Pass it on, with the id of the latest message on the page: other pages may have a later one of the user."""
        now = monotonic()
        if now - self.typed >= TYPING_EVERY:
            self.typed = now
            event = {"type": "typing", "user": describe(self.user), "after": after}
            groups.send(self.room.live_group, event, exclude=self.ws)

    def send(self, event: dict[str, Any]) -> None:
        """Send an event to this connection alone."""
        self.ws.offer(encode(event))


def encode(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
