"""System checks. Their identifiers are stable: ``SILENCED_SYSTEM_CHECKS`` takes them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's own names
from django.core.management import find_commands
from django.db import connections
from gevent import monkey

from ..config import Config
from ..exceptions import ConfigError
from . import conf

__all__ = ["ALL", "warn_about_the_server"]

log = logging.getLogger("gws_middleware")

MIDDLEWARE = "gws_middleware.django.middleware.WebSocketMiddleware"
GEVENT_SERVERS = ("gunicorn.workers.ggevent", "gws_middleware.pywsgi")
NOT_PATCHED = "The standard library is not patched for gevent, so each view that waits blocks all the others."
PATCH = "Call gevent.monkey.patch_all() in the first lines of the program, before Django is imported."


def check_settings(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """E001: ``settings.GWS``."""
    try:
        Config(**conf.for_the_wrapper())
    except ConfigError as error:
        return [Error(str(error), hint=_about(str(error)), id="gws_middleware.E001")]
    return []


def _about(sentence: str) -> str:
    """What the setting is for that the sentence names, or else which there are."""
    known = {each.name: each.metadata["doc"] for each in fields(conf.DjangoConfig)}
    name = sentence.split()[0]
    return f"{name}: {known[name]}" if name in known else f"The settings are {', '.join(known)}."


def check_middleware(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """E002, W001: the place of the middleware class."""
    names = list(settings.MIDDLEWARE)
    if MIDDLEWARE not in names:
        return []
    behind = names[names.index(MIDDLEWARE) + 1 :]
    if "django.contrib.sessions.middleware.SessionMiddleware" in behind:
        sentence = f"{MIDDLEWARE} stands above SessionMiddleware in MIDDLEWARE, so views under it have no session."
        return [Error(sentence, hint="Move it to the end of the list.", id="gws_middleware.E002")]
    if behind:
        sentence = (
            f"{MIDDLEWARE} is not the last in MIDDLEWARE: it stands in for the view, and {behind[0]} comes later."
        )
        return [Warning(sentence, hint="Move it to the end of the list.", id="gws_middleware.W001")]
    return []


def check_runserver(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """W002: another app's ``runserver`` hides ours. The first in ``INSTALLED_APPS`` wins."""
    for app in apps.get_app_configs():
        if app.name == "gws_middleware.django":
            return []
        if "runserver" in find_commands(os.path.join(app.path, "management")):
            sentence = f"{app.name} stands above gws_middleware.django in INSTALLED_APPS, so its runserver is used."
            hint = "Move gws_middleware.django above it: its runserver serves WebSockets, static files too."
            return [Warning(sentence, hint=hint, id="gws_middleware.W002")]
    return []


def check_psycopg2(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """W004: psycopg2 does not give way to gevent by itself."""
    if not any(database["ENGINE"].endswith(("postgresql", "postgis")) for database in connections.settings.values()):
        return []
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    if is_psycopg3 or _psycopg2_gives_way():
        return []
    sentence = "psycopg2 is used without psycogreen: while one query runs, every other request of the worker waits."
    hint = "Install psycopg (version 3), or call psycogreen.gevent.patch_psycopg() when the worker starts."
    return [Warning(sentence, hint=hint, id="gws_middleware.W004")]


def _psycopg2_gives_way() -> bool:
    if not monkey.is_module_patched("threading"):  # no server: what it will do at its start cannot be seen here
        return find_spec("psycogreen") is not None
    from psycopg2.extensions import get_wait_callback

    return get_wait_callback() is not None


def check_monkey_patching(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """W005: a gevent server in this process, and Python's library as it was."""
    if monkey.is_module_patched("threading") or not any(name in sys.modules for name in GEVENT_SERVERS):
        return []
    return [Warning(NOT_PATCHED, hint=PATCH, id="gws_middleware.W005")]


ALL = [
    check_settings,
    check_middleware,
    check_runserver,
    check_psycopg2,
    check_monkey_patching,
]


@cache
def warn_about_the_server(software: str) -> None:
    """The same, once, from a server that has opened a WebSocket: few of them run system checks."""
    if software and not monkey.is_module_patched("threading"):
        log.warning("%s: %s %s", software, NOT_PATCHED, PATCH)
