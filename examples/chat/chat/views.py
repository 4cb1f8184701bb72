from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render

from gws_middleware.django.decorators import require_websocket
from gws_middleware.groups import Position

from . import rooms
from .forms import MessageForm
from .models import Room


def home(request: HttpRequest) -> HttpResponse:
    return redirect("room", Room.objects.values_list("slug", flat=True)[0])


@login_required
def room(request: HttpRequest, slug: str) -> HttpResponse:
    """The page. Messages and members come over its WebSocket."""
    room = get_object_or_404(Room, slug=slug)
    return render(request, "chat/room.html", {"room": room, "rooms": Room.objects.all(), "form": MessageForm()})


@login_required
@require_websocket
def socket(request: HttpRequest, slug: str) -> HttpResponse | None:
    """The WebSocket of the page. ``?since=`` is the position that a reconnecting page has.

    Before ``groups.join()`` accepts it, an answer is plain HTTP: a redirect to the login page, a 404 or a 400. When
    this view returns, the connection stays open without a greenlet.
    """
    room = get_object_or_404(Room, slug=slug)
    since = request.GET.get("since")
    try:
        position = None if since is None else Position.parse(since)
    except ValueError as error:
        return HttpResponseBadRequest(f"{error}\n", content_type="text/plain")
    rooms.enter(room, request, position)
    return None
