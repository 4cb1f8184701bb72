from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.conf import settings
from django.db import IntegrityError, models
from django.utils import timezone

HISTORY = 50
"""Messages that a page gets when it is opened."""
VISITS = 100
"""Users that the list of a room has at most."""


class Room(models.Model):
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=40)
    topic = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return self.name

    @property
    def messages_group(self) -> str:
        """The name of the group of the messages; settings.GWS says what it keeps."""
        return f"room.{self.pk}"

    @property
    def live_group(self) -> str:
        """The name of the group of joins, leaves and typing, which keeps nothing."""
        return f"live.{self.pk}"

    def history(self) -> tuple[list[Message], bool]:
        """The newest messages, in order, and whether there are earlier ones."""
        messages = list(self.messages.select_related("user").order_by("-pk")[: HISTORY + 1])
        return messages[:HISTORY][::-1], len(messages) > HISTORY


class Message(models.Model):
    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="messages")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    text = models.TextField(max_length=2000)
    sent = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = (models.Index(fields=("room", "id")),)

    def __str__(self) -> str:
        return self.text[:40]

    def as_event(self) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self.pk,
            "user": describe(self.user),
            "text": self.text,
            "sent": self.sent.isoformat(),
        }


class Visit(models.Model):
    """When a user has connected to a room for the last time: the users that may be in it now."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("room", "user"), name="one_visit"),)
        indexes = (models.Index(fields=("room", "-at"), name="latest_visits"),)

    def __str__(self) -> str:
        return f"{self.user} in {self.room}"

    @classmethod
    def record(cls, room: Room, user: Any) -> None:
        # Not update_or_create(), which is a transaction: with SQLite another greenlet of the worker could wait for its
        # end in C code, and so keep it from ending.
        if not cls.objects.filter(room=room, user=user).update(at=timezone.now()):
            with suppress(IntegrityError):  # another tab was faster
                cls.objects.create(room=room, user=user)

    @classmethod
    def users(cls, room: Room) -> list[Any]:
        """The users of the latest visits, the latest first."""
        return [visit.user for visit in cls.objects.filter(room=room).select_related("user").order_by("-at")[:VISITS]]


def describe(user: Any) -> dict[str, Any]:
    """A user in the events for the page."""
    return {"id": user.pk, "name": user.get_username()}
