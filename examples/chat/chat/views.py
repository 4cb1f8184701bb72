from __future__ import annotations

from copy import copy

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render

from gws_middleware.django.decorators import require_websocket

from . import rooms
from .forms import MessageForm, SinceForm
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
    """The WebSocket of the page. ``?since=`` is the id of the last message that a reconnecting page has.

    Before ``accept()`` an answer is plain HTTP: a redirect to the login page, a 404 or a 400. When this view returns,
    the connection stays open without a greenlet.
    """
    room = get_object_or_404(Room, slug=slug)
    form = SinceForm(request.GET)
    if not form.is_valid():
        return HttpResponseBadRequest(form.errors.as_text(), content_type="text/plain")
    request.websocket.accept()
    # The user, and not the lazy object around it, which keeps the whole request.
    rooms.enter(room, request.websocket, copy(request.user), form.cleaned_data["since"] or 0)
    return None
