from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models


class Notification(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="notifications")
    text = models.CharField(max_length=200)
    created = models.DateTimeField(auto_now_add=True)
    read = models.BooleanField(default=False)

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return self.text

    def as_event(self) -> dict[str, Any]:
        """What the page of the user gets."""
        return {"id": self.pk, "text": self.text, "created": self.created.isoformat(), "read": self.read}

    def as_row(self) -> dict[str, Any]:
        """What the dashboard shows."""
        return {**self.as_event(), "user": self.user.get_username()}
