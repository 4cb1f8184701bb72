"""The Django project of ``tests.django.project`` with a database of its own, and views that log people in and out, or
withdraw what they may.

DATABASE_FILE names the database; it is made when the worker loads the application.
"""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

from tests.django.project import settings as project

settings.configure(
    **{
        **{name: getattr(project, name) for name in dir(project) if name.isupper()},
        "ROOT_URLCONF": __name__,
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE_FILE"]}},
    }
)
django.setup()

from django.contrib.auth import login, logout  # noqa: E402 - models need the settings
from django.contrib.auth.models import User  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import include, path  # noqa: E402

from gws_middleware.django.users import close_user_sockets  # noqa: E402


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    """Who says so, is."""
    login(request, User.objects.get_or_create(username=name)[0])
    return HttpResponse(name)


def log_out(request: HttpRequest) -> HttpResponse:
    """The end of the session."""
    logout(request)
    return HttpResponse("gone")


def withdraw(request: HttpRequest, name: str) -> HttpResponse:
    """An administrator's one call."""
    return HttpResponse(str(close_user_sockets(User.objects.get(username=name))))


def deactivate(request: HttpRequest, name: str) -> HttpResponse:
    """The same by Django's own means."""
    user = User.objects.get(username=name)
    user.is_active = False
    user.save()
    return HttpResponse(name)


def delete(request: HttpRequest, name: str) -> HttpResponse:
    """And for good."""
    User.objects.get(username=name).delete()
    return HttpResponse(name)


def forget(request: Any) -> HttpResponse:
    """The session is gone from the store, and nobody has been told."""
    type(request.session)(session_key=request.GET["key"]).delete()
    return HttpResponse("gone")


urlpatterns = [
    path("log-in/<name>/", log_in),
    path("log-out/", log_out),
    path("withdraw/<name>/", withdraw),
    path("deactivate/<name>/", deactivate),
    path("delete/<name>/", delete),
    path("forget/", forget),
    path("", include("tests.django.project.urls")),
]

app = get_wsgi_application()
call_command("migrate", verbosity=0)
