"""The Django project of ``tests.django.project`` with a database of its own, and views that log people in and out, or
withdraw what they may.

DATABASE_FILE names the database; it is made when the worker loads the application. A request that is held waits at the
point that it names until ``/release/`` is requested with its token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

from tests.django.project import settings as project

settings.configure(
    **{
        **{name: getattr(project, name) for name in dir(project) if name.isupper()},
        "ROOT_URLCONF": __name__,
        "MIDDLEWARE": [*project.MIDDLEWARE, f"{__name__}.reading"],
        "AUTHENTICATION_BACKENDS": [f"{__name__}.HoldingBackend"],
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE_FILE"]}},
    }
)
django.setup()

from django.contrib.auth import login, logout  # noqa: E402 - models need the settings
from django.contrib.auth.backends import ModelBackend  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.auth.signals import user_logged_out  # noqa: E402
from django.db import transaction  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import include, path  # noqa: E402
from gevent import getcurrent  # noqa: E402
from gevent.event import Event  # noqa: E402

from gws_middleware import WebSocketMiddleware  # noqa: E402
from gws_middleware.django import groups  # noqa: E402
from gws_middleware.django.decorators import require_websocket  # noqa: E402
from gws_middleware.django.users import close_user_sockets  # noqa: E402

# --- requests that are held ----------------------------------------------------------------------------------------

HELD: dict[str, Event] = {}
"""What each held request waits for, by its token."""
_points: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()
"""Where the request of this greenlet is to be held, and its token."""


def hold(point: str) -> None:
    """Wait, once, if the request of this greenlet is to be held here."""
    wanted, token = _points.get(getcurrent(), ("", ""))
    if wanted == point:
        del _points[getcurrent()]
        HELD[token] = Event()
        HELD[token].wait(timeout=60)


class HoldingBackend(ModelBackend):
    """May hold a request that has read its user's row, and has not returned it yet."""

    def get_user(self, user_id: Any) -> Any:
        user = super().get_user(user_id)
        hold("query")
        return user


def reading(get_response: Any) -> Any:
    """A middleware that may read the user before the view, as one that requires a login does."""

    def middleware(request: Any) -> Any:
        if request.path.startswith("/held/middleware/"):
            _points[getcurrent()] = "query", request.path.split("/")[3]
            bool(request.user)
        return get_response(request)

    return middleware


def _headers() -> Iterator[tuple[str, str]]:
    """May hold ``accept()``."""
    hold("accept")
    yield "X-Held", "no more"


@require_websocket
def held(request: Any, point: str, token: str) -> None:
    """A handshake that reads its user and accepts, in this order unless the point is "late": then the other way."""
    ws = request.websocket
    if point != "middleware":
        _points[getcurrent()] = point.replace("late", "query"), token
    if point == "late":
        ws.accept()
    name = str(request.user)
    hold("view")
    if point != "late":
        ws.accept(headers=_headers())
    ws.send(name)
    ws.receive()


def is_held(request: HttpRequest, token: str) -> HttpResponse:
    return HttpResponse(str(token in HELD))


def release(request: HttpRequest, token: str) -> HttpResponse:
    HELD[token].set()
    return HttpResponse(token)


def _logged_out(**arguments: Any) -> None:
    """Every receiver of ours has been called; the session has not been deleted yet."""
    hold("signal")


user_logged_out.connect(_logged_out)


def log_out_slowly(request: HttpRequest, token: str) -> HttpResponse:
    _points[getcurrent()] = "signal", token
    logout(request)
    return HttpResponse("done")


def log_in_slowly(request: HttpRequest, name: str, token: str) -> HttpResponse:
    """In a transaction, as with ATOMIC_REQUESTS."""
    _points[getcurrent()] = "transaction", token
    user = User.objects.get(username=name)
    with transaction.atomic():
        login(request, user)
        hold("transaction")
    return HttpResponse(name)


# --- logging in and out --------------------------------------------------------------------------------------------


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    """Without a password."""
    login(request, User.objects.get_or_create(username=name)[0])
    return HttpResponse(name)


def log_out(request: HttpRequest) -> HttpResponse:
    """The end of the session."""
    logout(request)
    return HttpResponse("done")


def withdraw(request: HttpRequest, name: str) -> HttpResponse:
    """An administrator's one call."""
    return HttpResponse(str(close_user_sockets(User.objects.get(username=name))))


def withdraw_key(request: HttpRequest, name: str) -> HttpResponse:
    """The same with the text of a primary key, e.g. one of a URL."""
    return HttpResponse(str(close_user_sockets(str(User.objects.get(username=name).pk))))


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
    """The session was deleted from the store, and no signal was sent."""
    type(request.session)(session_key=request.GET["key"]).delete()
    return HttpResponse("done")


@require_websocket
def room(request: Any) -> None:
    """A member of the user's room; each message is answered with the process."""
    name = request.user.get_username()
    groups.join(f"room.{name}", request.websocket, info=name)
    for _ in request.websocket:
        request.websocket.send(str(os.getpid()))


def process(request: HttpRequest) -> HttpResponse:
    """Which worker answers."""
    return HttpResponse(str(os.getpid()))


urlpatterns = [
    path("process/", process),
    path("room/", room),
    path("log-in/<name>/", log_in),
    path("log-out/", log_out),
    path("withdraw/<name>/", withdraw),
    path("withdraw-key/<name>/", withdraw_key),
    path("deactivate/<name>/", deactivate),
    path("delete/<name>/", delete),
    path("forget/", forget),
    path("held/<point>/<token>/", held),
    path("is-held/<token>/", is_held),
    path("release/<token>/", release),
    path("log-out-slowly/<token>/", log_out_slowly),
    path("log-in-slowly/<name>/<token>/", log_in_slowly),
    path("", include("tests.django.project.urls")),
]

app = get_wsgi_application()
wrapped = WebSocketMiddleware(app)
call_command("migrate", verbosity=0)
