"""What is sent without a call in the views: each notification that is stored, and the end of a session."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_out
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.http import HttpRequest

from gws_middleware.django import groups

from .live import DASHBOARD, LOGGED_OUT, session_group
from .models import Notification


@receiver(post_save, sender=Notification)
def push(instance: Notification, **arguments: Any) -> None:
    """Whatever stores it, in whatever process: a view, a command, a task, the admin site. If that is in a transaction,
    the message leaves with the commit.
    """
    groups.send(groups.user_group(instance.user_id), {"notification": instance.as_event()})
    groups.send(DASHBOARD, instance.as_row())


@receiver(user_logged_out)
def close_session(request: HttpRequest, **arguments: Any) -> None:
    """Close the connections of the session, in all workers. (gws_middleware does so in the worker of the logout.)"""
    groups.close(session_group(request), LOGGED_OUT, "logged out")
