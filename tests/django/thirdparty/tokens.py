"""The usual middleware that takes a user from a JSON Web Token, beside Django's that takes one from the session."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from rest_framework.exceptions import AuthenticationFailed
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import InvalidToken


class TokenMiddleware:
    """``Authorization: Bearer …``, or ``?token=…`` from browsers, whose WebSockets cannot set headers."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            token = request.GET.get("token", "")
        if token:
            authentication = JWTAuthentication()
            try:
                request.user = authentication.get_user(authentication.get_validated_token(token.encode()))
            except (InvalidToken, AuthenticationFailed):
                return HttpResponse("no such token\n", status=401)
        return self.get_response(request)
