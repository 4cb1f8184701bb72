"""The Django views of the application under test: each message is stored with the ORM and read again."""

from __future__ import annotations

import os
from typing import Any

from django.db import models
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse
from django.urls import path

from gws_middleware.django.decorators import require_websocket

from .app import WORKER

HEADERS = [(WORKER, str(os.getpid()))]


class Note(models.Model):
    """One message."""

    id = models.AutoField(primary_key=True)
    text = models.TextField()

    class Meta:
        """Not of an installed application."""

        app_label = "stress"
        db_table = "stress_note"  # make_database() creates it

    def __str__(self) -> str:
        return self.text


def do_not_wait_for_the_disk(sender: Any, connection: Any, **kwargs: Any) -> None:
    """The event loop of a worker is blocked while SQLite waits for the disk, and a test needs no durability."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous = OFF")


connection_created.connect(do_not_wait_for_the_disk, dispatch_uid="stress")


def through_the_database(message: str) -> str:
    """The message, as the database has it."""
    number = Note.objects.create(text=message).pk
    return Note.objects.get(pk=number).text


def page(request: HttpRequest) -> HttpResponse:
    """HTTP: one row."""
    return HttpResponse(through_the_database("page"), headers=dict(HEADERS))


@require_websocket
def echo(request: Any) -> None:
    """A view that runs as long as the connection is open."""
    ws = request.websocket
    ws.accept(headers=HEADERS)
    for message in ws:
        ws.send(through_the_database(message))


@require_websocket
def detached(request: Any) -> None:
    """A view that detaches and returns."""
    ws = request.websocket
    ws.accept(headers=HEADERS)
    ws.detach(on_message=lambda ws, message: ws.send(through_the_database(message)))


urlpatterns = [path("db/page", page), path("db/echo", echo), path("db/detached", detached)]
