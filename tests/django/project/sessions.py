"""Session middlewares of a project's own, each with something that Django's does in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.middleware import SessionMiddleware as DjangosSessionMiddleware
from django.http import HttpRequest, HttpResponse
from django.test import override_settings

STAFF = "staffid"


def is_staff(request: HttpRequest) -> bool:
    return request.path.startswith("/staff/")


class ByMethods(DjangosSessionMiddleware):
    """Keeps the sessions under /staff/ in another cookie, by the two methods of Django's class."""

    def process_request(self, request: HttpRequest) -> None:
        if not is_staff(request):
            return super().process_request(request)
        request.session = self.SessionStore(request.COOKIES.get(STAFF))
        return None

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        if not is_staff(request):
            return super().process_response(request, response)
        if request.session.modified:
            request.session.save()
            response.set_cookie(STAFF, request.session.session_key, path="/staff/", domain="testserver", secure=True)
        return response


class ByCall(DjangosSessionMiddleware):
    """The same by what is around them: it renames the cookie."""

    def __call__(self, request: HttpRequest) -> Any:
        if is_staff(request):
            request.COOKIES = {**request.COOKIES, "sessionid": request.COOKIES.get(STAFF, "")}
        response: Any = super().__call__(request)
        if is_staff(request) and "sessionid" in response.cookies:
            response.set_cookie(STAFF, response.cookies.pop("sessionid").value, path="/staff/", secure=True)
        return response


class Inner(ByMethods):
    """Stands under Django's own, and serves /staff/ alone; what is above it finds the shop's session again."""

    def process_request(self, request: HttpRequest) -> None:
        if is_staff(request):
            request.shop = request.session  # type: ignore[attr-defined]
            super().process_request(request)

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        if is_staff(request):
            response = super().process_response(request, response)
            request.session = request.shop  # type: ignore[attr-defined]
        return response


class SessionMiddleware:
    """No child of Django's, but its name."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.own = ByMethods(get_response)

    def __call__(self, request: HttpRequest) -> Any:
        return self.own(request)


class NeverSaves(DjangosSessionMiddleware):
    """Visitors of this site are only read."""

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        return response


class NotingStore(SessionStore):
    """A store with a method of its own; what it signs is signed as by Django's."""

    key_salt = SessionStore().key_salt

    def note(self) -> str:
        return "noted"


class AnotherStore(DjangosSessionMiddleware):
    """Has the sessions in a class of its own, and asks it something at the end."""

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        self.SessionStore = NotingStore

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        assert request.session.note() == "noted"  # type: ignore[attr-defined]
        return super().process_response(request, response)


def using(*names: str) -> override_settings:
    """Settings in which these stand for Django's own ("" is that itself)."""
    from .settings import MIDDLEWARE

    djangos = "django.contrib.sessions.middleware.SessionMiddleware"
    place = MIDDLEWARE.index(djangos)
    chosen = [f"{__name__}.{name}" if name else djangos for name in names]
    return override_settings(MIDDLEWARE=[*MIDDLEWARE[:place], *chosen, *MIDDLEWARE[place + 1 :]])
