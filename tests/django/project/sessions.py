"""Session middlewares of a project, each of which differs from Django's in one point."""

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
    """Has another cookie for paths below /staff/, by overriding the two methods of Django's class."""

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
    """The same by overriding ``__call__``: it renames the cookie."""

    def __call__(self, request: HttpRequest) -> Any:
        if is_staff(request):
            request.COOKIES = {**request.COOKIES, "sessionid": request.COOKIES.get(STAFF, "")}
        response: Any = super().__call__(request)
        if is_staff(request) and "sessionid" in response.cookies:
            response.set_cookie(STAFF, response.cookies.pop("sessionid").value, path="/staff/", secure=True)
        return response


class Inner(ByMethods):
    """Below Django's class in MIDDLEWARE, and only for /staff/. It restores the shop session in the response phase."""

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
    """No subclass of Django's class, but with its name."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.own = ByMethods(get_response)

    def __call__(self, request: HttpRequest) -> Any:
        return self.own(request)


class NeverSaves(DjangosSessionMiddleware):
    """Never saves a session."""

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        return response


class NotingStore(SessionStore):
    """A session class with an additional method, and the signatures of Django's class."""

    key_salt = SessionStore().key_salt

    def note(self) -> str:
        return "noted"


class AnotherStore(DjangosSessionMiddleware):
    """Has another session class, and calls its method at the end."""

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        self.SessionStore = NotingStore

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        assert request.session.note() == "noted"  # type: ignore[attr-defined]
        return super().process_response(request, response)


def using(*names: str) -> override_settings:
    """Settings with these middlewares in index of Django's ("" is Django's)."""
    from .settings import MIDDLEWARE

    djangos = "django.contrib.sessions.middleware.SessionMiddleware"
    index = MIDDLEWARE.index(djangos)
    chosen = [f"{__name__}.{name}" if name else djangos for name in names]
    return override_settings(MIDDLEWARE=[*MIDDLEWARE[:index], *chosen, *MIDDLEWARE[index + 1 :]])
