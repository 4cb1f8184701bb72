"""A Django project's views that type-check."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.urls import path

from gws_middleware.django import Settings, WebSocketView, accept_websocket, groups, require_websocket
from gws_middleware.django.serving import WebSocketRequest
from gws_middleware.typing import Message

GWS: Settings = {
    "max_message_size": 65_536,
    "site_limits": True,
    "groups": {"url": "redis://valkey", "history": {"room": {"age": 60}}, "presence": {"room": {"events": True}}},
}


@login_required
@require_websocket
def chat(request: WebSocketRequest, room: str) -> None:
    """A view without an answer."""
    assert request.websocket is not None
    for message in request.websocket:
        request.websocket.send(f"{request.user} in {room}: {message!r}")


@accept_websocket
def either(request: WebSocketRequest) -> HttpResponse | None:
    """A view for HTTP as well."""
    if request.websocket is None:
        return HttpResponse("plain")
    request.websocket.send("x")
    return None


@login_required
@require_websocket
def inbox(request: WebSocketRequest) -> None:
    """A member of a group, which the page left at a position."""
    assert request.websocket is not None
    joined = groups.join(groups.user_group(request.user), request.websocket, since=request.GET.get("since"))
    groups.join("room.1", request.websocket, info={"user": request.user.pk})
    request.websocket.send_json([member.info for member in groups.members("room.1")])
    groups.send("all", {"joined": str(joined.position)}, exclude=request.websocket, on_commit=False)
    groups.send_many([("all", "text"), ("all", b"bytes")], using="default")
    for publication in groups.listen("all", timeout=1.0):
        request.websocket.send(publication.message)


class Echo(WebSocketView):
    """A class-based view."""

    subprotocols = ("json.v1",)

    def connect(self, room: str = "") -> HttpResponse | None:
        """Refuse, or accept."""
        return None if room else HttpResponse(status=403)

    def receive(self, message: Message) -> None:
        """Send a message back."""
        self.websocket.send(message)

    def disconnect(self, code: int | None) -> None:
        """Count the end."""


def plain(request: HttpRequest) -> HttpResponse:
    """An ordinary view."""
    return HttpResponse()


urlpatterns = [path("chat/<str:room>/", chat), path("either/", either), path("echo/", Echo.as_view()), path("", plain)]
