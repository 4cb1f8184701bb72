"""The first rooms."""

from __future__ import annotations

from typing import Any

from django.db import migrations

ROOMS = (
    ("lobby", "Lobby", "The first room"),
    ("coffee", "Coffee break", "Anything else"),
    ("help", "Help desk", "Questions and answers"),
)


def create(apps: Any, schema_editor: Any) -> None:
    room = apps.get_model("chat", "Room")
    for slug, name, topic in ROOMS:
        room.objects.create(slug=slug, name=name, topic=topic)


class Migration(migrations.Migration):
    dependencies = (("chat", "0001_initial"),)
    operations = (migrations.RunPython(create, migrations.RunPython.noop),)
