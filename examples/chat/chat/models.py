from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models

HISTORY = 50


class Room(models.Model):
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=40)
    topic = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return self.name

    def history(self, since: int = 0) -> tuple[list[Message], bool]:
        """The newest messages after the one with this id, in order, and whether there are more between them and it."""
        newest = self.messages.filter(pk__gt=since).select_related("user").order_by("-pk")[: HISTORY + 1]
        messages = list(newest)
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


def describe(user: Any) -> dict[str, Any]:
    """A user in the events for the page."""
    return {"id": user.pk, "name": user.get_username()}
