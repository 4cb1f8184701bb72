"""``settings.GWS``: one dict, with the knobs of ``Config`` and those that only Django has."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.signals import setting_changed
from django.http import HttpRequest

from ..config import SAME_ORIGIN, Config, closest, is_ours, optional, seconds, setting
from ..connection import control
from ..connection.websocket import WebSocket
from ..exceptions import ConfigError
from ..protocol.handshake import origin_allowed

__all__ = ["DjangoConfig", "accept_all", "connect", "for_the_wrapper", "host_allowed", "load"]

LOCAL_HOSTS = (".localhost", "127.0.0.1", "[::1]")
"""What Django takes for ``ALLOWED_HOSTS`` when that is empty and ``DEBUG`` is on."""
USER_KEY = "gws_middleware.django.users.user_key"
"""Whose a WebSocket is, unless the project says otherwise."""


def _switch(value: object) -> str | None:
    return None if isinstance(value, bool) else "True or False"


@dataclass(frozen=True, slots=True, kw_only=True)
class DjangoConfig(Config):
    """The knobs of ``Config`` and these."""

    database_grace: float | None = setting(
        1.0,
        optional(seconds),
        """Seconds that a WebSocket's greenlet waits, for a message or for the peer to read, before its database
        connections that are in no transaction are given back; the next query opens one again. None: only at the
        end, for views that keep something in the connection, e.g. a cursor or LISTEN.""",
    )
    close_on_logout: bool = setting(
        True,
        _switch,
        """Whether the sockets of a session close with 4401 when its user logs out, and all of a user's when the user is
        deactivated or deleted.""",
    )


OWN = [each.name for each in fields(DjangoConfig) if each.name not in Config.__dataclass_fields__]
"""Those that only Django has."""


def connect() -> None:
    """Follow ``override_settings``."""
    setting_changed.connect(_changed, dispatch_uid="gws_middleware")


def _changed(*, setting: str, **arguments: Any) -> None:
    if setting == "GWS":
        load.cache_clear()


@lru_cache(maxsize=1)
def load() -> DjangoConfig:
    """``settings.GWS`` over the defaults. ConfigError for a wrong value, or a name with the nearest known one."""
    given = _given()
    DjangoConfig.check_names(given)
    return DjangoConfig(**{"user_key": USER_KEY, **given})


def _given() -> Mapping[str, Any]:
    given = getattr(settings, "GWS", {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"settings.GWS is {given!r}: wanted a dict")
    return given


def for_the_wrapper() -> dict[str, Any]:
    """The part that ``WebSocketMiddleware`` of the package takes. ConfigError for a setting in a place where nothing
    would read it.
    """
    _check_places()
    load()
    given = _given()
    values = {each.name: given[each.name] for each in fields(Config) if each.name in given}
    if "GWS_USER_KEY" not in os.environ:
        values.setdefault("user_key", USER_KEY)
    if "allowed_origins" not in values and "GWS_ALLOWED_ORIGINS" not in os.environ:
        values["allowed_origins"] = [SAME_ORIGIN, *_trusted_origins()]
    return values


def _check_places() -> None:
    """Django's own settings are read from ``settings.GWS`` alone, and nothing from names beside it."""
    for variable in filter(is_ours, os.environ):
        name = closest(variable, [each.name for each in fields(DjangoConfig)])
        if name in OWN:
            raise ConfigError(f"the environment variable {variable} is not read: set {name!r} in settings.GWS")
    for attribute in filter(is_ours, dir(settings)):
        name = closest(attribute, [each.name for each in fields(DjangoConfig)])
        if name is not None:
            raise ConfigError(f"settings.{attribute} is not read: set {name!r} in the dict settings.GWS")


def _trusted_origins() -> Iterator[str | re.Pattern[str]]:
    """Origins of the hosts that Django serves, and those that may send it forms.

    ``*`` in ``ALLOWED_HOSTS`` says that the Host header is checked elsewhere, not that every page may connect: it is
    taken as a name, which no page has.
    """
    try:
        yield from Config(allowed_origins=tuple(settings.CSRF_TRUSTED_ORIGINS)).allowed_origins
    except ConfigError as error:
        raise ConfigError(f"settings.CSRF_TRUSTED_ORIGINS: {error}") from None
    for host in settings.ALLOWED_HOSTS or (LOCAL_HOSTS if settings.DEBUG else ()):
        subdomains = r"(?:[a-z0-9_-]+\.)*" if host.startswith(".") else ""
        yield re.compile(rf"https?://{subdomains}{re.escape(host.removeprefix('.'))}(?::\d{{1,5}})?", re.IGNORECASE)


def host_allowed(request: HttpRequest, ws: WebSocket) -> bool:
    """False for a page that may connect only because it has the same origin, where that is not one of
    ``ALLOWED_HOSTS``: a page of any name reaches this server if its name is made to lead here (DNS rebinding).
    """
    if ws.origin is None:
        return True
    try:
        request.get_host()
    except DisallowedHost:
        others = [entry for entry in control.config_of(ws).allowed_origins if entry != SAME_ORIGIN]
        return origin_allowed(ws.origin, "", others)
    return True


def accept_all() -> bool:
    """django-websocket's setting: undecorated views take WebSockets too."""
    return bool(getattr(settings, "WEBSOCKET_ACCEPT_ALL", False))
