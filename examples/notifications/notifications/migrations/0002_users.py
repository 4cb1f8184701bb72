"""The users of the example."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.hashers import make_password
from django.db import migrations


def create(apps: Any, schema_editor: Any) -> None:
    user = apps.get_model("auth", "User")
    for name, is_staff in (("ada", True), ("grace", False)):
        user.objects.get_or_create(username=name, defaults={"password": make_password("demo"), "is_staff": is_staff})


class Migration(migrations.Migration):
    dependencies = (("notifications", "0001_initial"), ("auth", "0012_alter_user_first_name_max_length"))
    operations = (migrations.RunPython(create, migrations.RunPython.noop),)
