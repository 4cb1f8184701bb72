"""A page, and the WebSocket that it opens: ordinary views in an ordinary URLconf."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def index(request: HttpRequest) -> HttpResponse:
    return render(request, "index.html")


def echo(request: HttpRequest) -> HttpResponse:
    """Send back what comes. The response that the view returns at the end is not sent: the WebSocket was the answer."""
    ws = request.META.get("wsgi.websocket")
    if ws is None:
        return HttpResponse("This address speaks WebSocket.\n", status=400, content_type="text/plain")
    for message in ws:
        ws.send(message)
    return HttpResponse()
