"""``settings.GWS``: one dict, with the settings of ``Config`` and those that only Django has.

Rule: a setting with a wrong name, a wrong value, or in a place that is not read is a ConfigError with the nearest known
name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.signals import setting_changed
from django.http import HttpRequest

from ..config import SAME_ORIGIN, Config, closest, is_ours, optional, seconds, setting
from ..connection import control
from ..connection.websocket import WebSocket
from ..exceptions import ConfigError
from ..groups.client import Groups
from ..groups.position import History
from ..groups.presence import Presence
from ..protocol.handshake import origin_allowed

__all__ = [
    "DjangoConfig",
    "GroupSettings",
    "accept_all",
    "connect",
    "host_allowed",
    "load",
    "load_groups",
    "wrapper_settings",
]

LOCAL_HOSTS = (".localhost", "127.0.0.1", "[::1]")
"""The hosts that Django allows when ``ALLOWED_HOSTS`` is empty and ``DEBUG`` is on."""
USER_KEY = "gws_middleware.django.users.user_key"
"""The default of the setting ``user_key``."""
SITE_LIMITS = "gws_middleware.django.instance.site_limits"
"""What the setting ``site_limits`` is where it is True."""


def _switch(value: object) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _groups(value: object) -> str | None:
    wanted = (
        '"auto", "sqlite:///directory", "memory://", a URL of Redis, or a dict with "url" (one of these), "history", '
        '"presence", "prefix"'
    )
    if not isinstance(value, (str, Mapping)):
        return wanted
    try:
        Groups(**_group_arguments(value))  # nothing is opened by that
    except (TypeError, ValueError, ImportError) as error:
        return f"{wanted}; {error}"
    return None


def _group_arguments(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``Groups`` that the setting ``groups`` stands for.

    Args:
        value: A URL, or a dict with ``"url"``, ``"history"``, ``"presence"`` and ``"prefix"``, each of which may be
            missing.

    Returns:
        Values for these.

    Raises:
        ValueError: A key is unknown, or a value is wrong.

    """
    given: Mapping[str, Any] = {"url": value} if isinstance(value, str) else value
    wanted: dict[str, Any] = {"url": "auto", "history": {}, "presence": {}, "prefix": "gws"}
    _check_keys(given, list(wanted), "a key of groups")
    arguments = {**wanted, **given}
    for key, default in wanted.items():
        kind = Mapping if isinstance(default, dict) else str
        if not isinstance(arguments[key], kind):
            raise ValueError(f"{key} is {arguments[key]!r}: wanted a {'str' if kind is str else 'dict'}")
    kinds: dict[str, type] = {"history": History, "presence": Presence}
    for key, of in kinds.items():
        arguments[key] = {prefix: _of_prefix(key, prefix, each, of) for prefix, each in arguments[key].items()}
    return arguments


def _of_prefix(key: str, prefix: object, given: object, kind: type) -> Any:
    """What ``history`` or ``presence`` has for the groups of a prefix."""
    known = [each.name for each in fields(kind)]
    if not isinstance(given, Mapping):
        raise ValueError(f"{key} has {prefix!r}: {given!r}; wanted is a dict with {known[0]}, {known[1]}, or both")
    _check_keys(given, known, f"a key of the {key} of {prefix!r}")
    return kind(**given)


def _check_keys(given: Mapping[Any, Any], known: Sequence[str], what: str) -> None:
    for key in given:
        if key not in known:
            nearest = closest(str(key), known)
            raise ValueError(f"{key!r} is not {what}" + (f": did you mean {nearest!r}?" if nearest else ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class DjangoConfig(Config):
    """The settings of ``Config``, and three that only Django has."""

    database_grace: float | None = setting(
        1.0,
        optional(seconds),
        """Seconds that a WebSocket's greenlet waits, for a message or for the peer to read, before its database
        connections that are in no transaction are closed; the next query opens one again. None: they are closed only
        at the end, for views that keep something in the connection, e.g. a cursor or LISTEN.""",
    )
    close_on_logout: bool = setting(
        True,
        _switch,
        """Whether a logout closes the WebSockets of its session with 4401, and the deactivation or deletion of a user
        all WebSockets of that user.""",
    )
    groups: str | Mapping[str, Any] = setting(
        "auto",
        _groups,
        """How messages of groups get to all processes, and what groups keep: ``{"url": "auto", "history": {"room":
        {"size": 100, "age": 600}}}``, or the URL alone. "auto": a file on this host, for the processes of this user
        that have the project in the same directory. "history": by prefix, which is what precedes the first dot of a
        name, the number of messages (100 unless set) and the seconds (300 unless set) that each group keeps; groups
        with other prefixes keep nothing. "presence": by prefix the groups whose members are visible, e.g. ``{"room":
        {"events": True, "leave_delay": 10}}``; each key may be missing, and "events" is False unless set. "prefix":
        what the keys of a Redis server begin with, "gws" unless set. In tests "auto" is "memory://".""",
    )


DJANGO_ONLY = [each.name for each in fields(DjangoConfig) if each.name not in Config.__dataclass_fields__]
"""The names of the settings that only Django has."""


def connect() -> None:
    """Register the receiver that makes ``override_settings`` take effect."""
    setting_changed.connect(_changed, dispatch_uid="gws_middleware")


def _changed(*, setting: str, **arguments: Any) -> None:
    if setting == "GWS":
        load.cache_clear()
        load_groups.cache_clear()


@lru_cache(maxsize=1)
def load() -> DjangoConfig:
    """Read ``settings.GWS``.

    Returns:
        All settings, with defaults for those that are not set.

    Raises:
        ConfigError: A name is unknown or a value is wrong.

    """
    given = _project_settings()
    DjangoConfig.check_names(given)
    return DjangoConfig(**{"user_key": USER_KEY, **given})


class GroupSettings(NamedTuple):
    """The setting ``groups``."""

    url: str
    history: tuple[tuple[str, History], ...]
    """What groups keep, by prefix."""
    presence: tuple[tuple[str, Presence], ...]
    """What is visible of their members, by prefix."""
    project: Path | None
    """The directory that "auto" has a file for; None for the working directory."""
    prefix: str = "gws"
    """What the keys of a Redis server begin with."""


@lru_cache(maxsize=1)
def load_groups() -> GroupSettings:
    """Read the setting ``groups``.

    Raises:
        ConfigError: As ``load()``.

    """
    arguments = _group_arguments(load().groups)
    history, presence = tuple(arguments["history"].items()), tuple(arguments["presence"].items())
    return GroupSettings(arguments["url"], history, presence, _project_directory(), arguments["prefix"])


def _project_directory() -> Path | None:
    """``BASE_DIR`` of the settings, else the directory of the package that has the settings module.

    Not the working directory: a service, a command and a task may have different ones.
    """
    base = getattr(settings, "BASE_DIR", None)
    if isinstance(base, (str, os.PathLike)):
        return Path(base)
    name = getattr(settings, "SETTINGS_MODULE", None)
    if name is None:  # settings.configure()
        return None
    package = import_module(name.partition(".")[0])
    paths = list(getattr(package, "__path__", ())) or [os.path.dirname(str(package.__file__))]
    return Path(paths[0])


def _project_settings() -> Mapping[str, Any]:
    given = getattr(settings, "GWS", {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"settings.GWS is {given!r}: wanted a dict")
    if "site_limits" not in given:
        return given
    counts_site = given["site_limits"]
    wanted = _switch(counts_site)
    if wanted is not None:
        raise ConfigError(f"site_limits is {counts_site!r}: wanted {wanted}")
    return {**given, "site_limits": SITE_LIMITS if counts_site else None}


def wrapper_settings() -> dict[str, Any]:
    """The settings for the package's ``WebSocketMiddleware``.

    Returns:
        Values for fields of ``Config``, without those that only Django has.

    Raises:
        ConfigError: A name is unknown, a value is wrong, or a setting is in a place that is not read.

    """
    _check_places()
    load()
    given = _project_settings()
    values = {each.name: given[each.name] for each in fields(Config) if each.name in given}
    if "GWS_USER_KEY" not in os.environ:
        values.setdefault("user_key", USER_KEY)
    if "allowed_origins" not in values and "GWS_ALLOWED_ORIGINS" not in os.environ:
        values["allowed_origins"] = [SAME_ORIGIN, *_trusted_origins()]
    return values


def _check_places() -> None:
    """Refuse settings that would have no effect: Django's own are read only from ``settings.GWS``, and no setting is
    read from an attribute of ``settings`` other than ``GWS``.
    """
    for variable in filter(is_ours, os.environ):
        name = closest(variable, [each.name for each in fields(DjangoConfig)])
        if name in DJANGO_ONLY:
            raise ConfigError(f"the environment variable {variable} is not read: set {name!r} in settings.GWS")
    for attribute in filter(is_ours, dir(settings)):
        name = closest(attribute, [each.name for each in fields(DjangoConfig)])
        if name is not None:
            raise ConfigError(f"settings.{attribute} is not read: set {name!r} in the dict settings.GWS")


def _trusted_origins() -> Iterator[str | re.Pattern[str]]:
    """The origins in ``CSRF_TRUSTED_ORIGINS`` and those of the hosts in ``ALLOWED_HOSTS``.

    ``*`` in ``ALLOWED_HOSTS`` means that the Host header is checked elsewhere. It does not mean that every page may
    connect. So it is taken literally, as a host name that no page has.
    """
    try:
        yield from Config(allowed_origins=tuple(settings.CSRF_TRUSTED_ORIGINS)).allowed_origins
    except ConfigError as error:
        raise ConfigError(f"settings.CSRF_TRUSTED_ORIGINS: {error}") from None
    for host in settings.ALLOWED_HOSTS or (LOCAL_HOSTS if settings.DEBUG else ()):
        subdomains = r"(?:[a-z0-9_-]+\.)*" if host.startswith(".") else ""
        yield re.compile(rf"https?://{subdomains}{re.escape(host.removeprefix('.'))}(?::\d{{1,5}})?", re.IGNORECASE)


def host_allowed(request: HttpRequest, ws: WebSocket) -> bool:
    """Whether the origin of the page is allowed although the Host header may be wrong.

    The same origin counts only where ``ALLOWED_HOSTS`` names the host. Otherwise a page of any host name could connect,
    because its owner can let that name resolve to the address of this server (DNS rebinding).

    Args:
        request: The handshake.
        ws: Its WebSocket.

    Returns:
        False if only the rule of the same origin admits the page, and ``ALLOWED_HOSTS`` does not name the host.

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
    """Whether ``WEBSOCKET_ACCEPT_ALL`` (django-websocket's setting) is true: undecorated views get WebSockets too."""
    return bool(getattr(settings, "WEBSOCKET_ACCEPT_ALL", False))
