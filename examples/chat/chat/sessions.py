"""A logout ends the WebSockets of its session, in all workers. (gws_middleware does so in the worker of the logout.)"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from django.contrib.auth.signals import user_logged_out
from django.dispatch import receiver
from django.http import HttpRequest

from gws_middleware.django import groups

LOGGED_OUT = 4401
"""The close code, which gws_middleware uses, too."""


def session_group(request: HttpRequest) -> str:
    """The name of the group of a session's connections. Not its key: with that one could log in."""
    return f"session.{sha256(str(request.session.session_key).encode()).hexdigest()}"


@receiver(user_logged_out)
def close_session(request: HttpRequest, **arguments: Any) -> None:
    groups.close(session_group(request), LOGGED_OUT, "logged out")
