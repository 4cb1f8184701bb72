"""``python manage.py notify ada "Your parcel has arrived"``."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from notifications.models import Notification


class Command(BaseCommand):
    help = "Store a notification for a user, which sends it to the open pages of that user."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="the name of the user")
        parser.add_argument("text", help="at most 200 characters")

    def handle(self, *args: Any, user: str, text: str, **options: Any) -> None:
        users = get_user_model().objects
        try:
            notification = Notification(user=users.get_by_natural_key(user), text=text)
            notification.full_clean()
        except get_user_model().DoesNotExist:
            names = ", ".join(users.order_by("pk").values_list("username", flat=True)[:10])
            raise CommandError(f"there is no user {user!r}; wanted is one of {names}") from None
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        notification.save()
