"""The pages, and the socket of the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseForbidden
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_POST

from gws_middleware.django import groups
from gws_middleware.django.decorators import require_websocket
from gws_middleware.groups import Position, Publication

from .forms import NotificationForm
from .live import DASHBOARD, session_group
from .models import Notification

SHOWN = 50
"""Notifications on a page."""
RELOAD = 4000
"""The close code after which the dashboard loads itself again."""


View = Callable[[HttpRequest], HttpResponse | None]


def staff_required(view: View) -> View:
    """Other users get a 403: the login page would only redirect a user who is logged in."""

    @login_required
    @wraps(view)
    def checked(request: HttpRequest) -> HttpResponse | None:
        if not request.user.is_staff:
            return HttpResponseForbidden("This page is for staff.\n", content_type="text/plain")
        return view(request)

    return checked


@login_required
def home(request: HttpRequest) -> HttpResponse:
    """The notifications of the user."""
    return _home(request, NotificationForm())


@login_required
@require_POST
def send(request: HttpRequest) -> HttpResponse:
    """Store a notification. The signal in ``signals.py`` sends it."""
    form = NotificationForm(request.POST)
    if not form.is_valid():
        return _home(request, form)
    form.save()
    return redirect("home")


@login_required
@require_POST
def mark_read(request: HttpRequest) -> HttpResponse:
    """Mark all as read, and send that to the other pages of the user. ``update()`` calls no signal."""
    unread = list(request.user.notifications.filter(read=False).select_related("user"))
    request.user.notifications.filter(pk__in=[each.pk for each in unread]).update(read=True)
    groups.send(groups.user_group(request.user), {"read": [each.pk for each in unread]})
    groups.send_many([(DASHBOARD, {**each.as_row(), "read": True}) for each in unread])
    return redirect("home")


def _home(request: HttpRequest, form: NotificationForm) -> HttpResponse:
    group = groups.user_group(request.user)
    position = groups.position(group)  # before the query: what is sent after it comes by the WebSocket
    shown = request.user.notifications.all()
    context = {
        "group": group,
        "position": position,
        "notifications": [each.as_event() for each in shown[:SHOWN]],
        "unread": list(shown.filter(read=False).values_list("pk", flat=True)),
        "form": form,
    }
    return render(request, "notifications/home.html", context)


# --- the dashboard ----------------------------------------------------------------------------------------------------


@staff_required
def dashboard(request: HttpRequest) -> HttpResponse:
    """The latest notifications of all users."""
    position = groups.position(DASHBOARD)
    latest = Notification.objects.select_related("user")[:SHOWN]
    return render(
        request, "notifications/dashboard.html", {"rows": [each.as_row() for each in latest], "position": position}
    )


@staff_required
@require_websocket
def dashboard_socket(request: HttpRequest) -> HttpResponse | None:
    """Sends each row as HTML. ``?since=`` is the position that the page has."""
    try:
        since = Position.parse(request.GET.get("since", ""))
    except ValueError as error:
        return HttpResponseBadRequest(f"{error}\n", content_type="text/plain")
    joined = groups.join(DASHBOARD, request.websocket, since=since, wrap=row)
    groups.join(session_group(request), request.websocket)
    if not joined.recovered:
        request.websocket.close(RELOAD, "some rows are no longer kept")
    request.websocket.detach()
    return None


def row(publication: Publication) -> str:
    """The fragment. It is rendered once for each row and worker, however many pages there are."""
    context = {"row": publication.data, "position": publication.position}
    return render_to_string("notifications/row.html", context)
