"""The project of ``accounts``, with a view for clients of Centrifuge's protocol.

They cannot send a cookie from a process without a browser: the key of their session is in the query.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from . import accounts  # isort: skip - it sets Django up

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import connections, transaction
from django.http import HttpRequest
from django.urls import path

from gws_middleware import WebSocketMiddleware
from gws_middleware.django.centrifuge import CentrifugeError, CentrifugeView
from gws_middleware.groups import Groups, History
from gws_middleware.typing import Environ, StartResponse

from .common import query

__all__ = ["app", "wrapped"]


class Live(CentrifugeView):
    """The channel of one's user, and methods that use the database."""

    groups = Groups("memory://", history={"user": History()})

    def connected(self, request: HttpRequest) -> None:
        if not request.user.is_authenticated:
            raise PermissionDenied

    def may_join(self, request: HttpRequest, name: str) -> bool:
        return name == f"user.{request.user.pk}"

    def may_publish(self, request: HttpRequest, name: str, data: Any) -> bool:
        return User.objects.filter(pk=name.removeprefix("user.")).exists()

    def rpc(self, request: HttpRequest, method: str, data: Any) -> Any:
        if method == "pk":
            return request.user.pk
        if method == "rename":
            with transaction.atomic():
                User.objects.filter(pk=request.user.pk).update(first_name=data)
            return User.objects.get(pk=request.user.pk).first_name
        if method == "open files":
            return _open_databases()
        raise CentrifugeError(104)


def _open_databases() -> int:
    """Connections of this worker to the database."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass  # the descriptor with which the directory was read
    return links.count(os.environ["DATABASE_FILE"])


accounts.urlpatterns.append(path("live/", Live.as_view()))
connections.close_all()  # that of the migration


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The project; the query may have the key of a session."""
    key = query(environ, "session")
    if key:
        environ["HTTP_COOKIE"] = f"sessionid={key}"
    response: Iterable[bytes] = accounts.app(environ, start_response)
    return response


wrapped = WebSocketMiddleware(app)
