"""Rooms to begin with."""

from __future__ import annotations

from typing import Any

from django.db import migrations

ROOMS = (
    ("lobby", "Lobby", "Everybody arrives here"),
    ("coffee", "Coffee break", "Weekends, pets, and bread that did not rise"),
    ("help", "Help desk", "Somebody has had the same problem before"),
)


def create(apps: Any, schema_editor: Any) -> None:
    room = apps.get_model("chat", "Room")
    for slug, name, topic in ROOMS:
        room.objects.create(slug=slug, name=name, topic=topic)


class Migration(migrations.Migration):
    dependencies = (("chat", "0001_initial"),)
    operations = (migrations.RunPython(create, migrations.RunPython.noop),)
