"""A page and its WebSocket: two ordinary views."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def index(request: HttpRequest) -> HttpResponse:
    return render(request, "index.html")


def echo(request: HttpRequest) -> HttpResponse:
    """Echo each message. The response at the end is required by Django and is not sent."""
    ws = request.META.get("wsgi.websocket")
    if ws is None:
        return HttpResponse("This address serves only WebSockets.\n", status=400, content_type="text/plain")
    for message in ws:
        ws.send(message)
    return HttpResponse()
