"""System checks.

Rule: an identifier is unique, keeps its meaning for good (``SILENCED_SYSTEM_CHECKS`` names it) and is never used again;
``W003`` is not in use. Each message says what is wrong, and its hint says what to do.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's own names
from django.core.exceptions import ImproperlyConfigured
from django.core.management import find_commands
from django.db import connections
from gevent import events, monkey

from ..config import Config
from ..exceptions import ConfigError
from ..groups.backends import directory
from ..groups.errors import GroupsUnavailable
from . import conf

__all__ = ["ALL", "connect", "loaded_unpatched", "warn_separate_workers", "warn_unpatched_server"]

log = logging.getLogger("gws_middleware")

MIDDLEWARE = "gws_middleware.django.middleware.WebSocketMiddleware"
GEVENT_SERVERS = ("gunicorn.workers.ggevent", "gws_middleware.pywsgi")
NOT_PATCHED = "The standard library is not patched for gevent, so a view that waits blocks all other views."
PATCH = "Call gevent.monkey.patch_all() in the first lines of the program, before Django is imported."
PATCHED_LATE = (
    "Django was loaded before gevent patched the standard library, so all greenlets share the same database "
    "connections and thread-local data, and queries of two requests at the same time fail."
)
SEPARATE = (
    'The groups of settings.GWS are "memory://", which each process has for itself, and there are several workers: a '
    "message reaches only the members in the worker that sends it."
)
SHARE = 'Use "auto", or "sqlite:///directory" with a directory that all processes see.'
ALONE = (
    'settings.GWS has "site_limits", and its groups are "memory://", which each process has for itself: the limits '
    "count the WebSockets of one worker."
)
DIRECTORY = (
    'Set "sqlite:///directory" in settings.GWS["groups"]: a directory on a disk of this host that belongs to the user '
    "of the server, of its commands and of its tasks, e.g. systemd's RuntimeDirectory."
)
PRELOADED = (
    "Run gunicorn without --preload (preload_app), or call gevent.monkey.patch_all() in the first lines of its "
    "configuration file."
)


def check_settings(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """E001: ``settings.GWS`` has an unknown name, a wrong value, or a setting is in a place that is not read."""
    try:
        Config(**conf.wrapper_settings())
    except ConfigError as error:
        return [Error(str(error), hint=_settings_hint(str(error)), id="gws_middleware.E001")]
    return []


def _settings_hint(sentence: str) -> str:
    """The documentation of the setting that the sentence names first, or else the names of all settings."""
    known = {each.name: each.metadata["doc"] for each in fields(conf.DjangoConfig)}
    name = sentence.split()[0]
    return f"{name}: {known[name]}" if name in known else f"The settings are {', '.join(known)}."


def check_middleware(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """E002, W001: the middleware class is not the last in ``MIDDLEWARE``, or even above the sessions."""
    names = list(settings.MIDDLEWARE)
    if MIDDLEWARE not in names:
        return []
    below = names[names.index(MIDDLEWARE) + 1 :]
    hint = f"Move {MIDDLEWARE} to the end of MIDDLEWARE."
    if "django.contrib.sessions.middleware.SessionMiddleware" in below:
        sentence = f"{MIDDLEWARE} is above SessionMiddleware in MIDDLEWARE, so WebSocket views have no session."
        return [Error(sentence, hint=hint, id="gws_middleware.E002")]
    if below:
        sentence = (
            f"{MIDDLEWARE} is not the last in MIDDLEWARE: it answers in place of some views, and process_view() of "
            f"{below[0]} is not called then."
        )
        return [Warning(sentence, hint=hint, id="gws_middleware.W001")]
    return []


def check_runserver(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """W002: another app's ``runserver`` is used. Django takes that of the first app in ``INSTALLED_APPS``."""
    for app in apps.get_app_configs():
        if app.name == "gws_middleware.django":
            return []
        if "runserver" in find_commands(os.path.join(app.path, "management")):
            sentence = (
                f"{app.name} is above gws_middleware.django in INSTALLED_APPS, so its runserver is used instead of the "
                "one that serves WebSockets."
            )
            hint = (
                f"Move gws_middleware.django above {app.name} in INSTALLED_APPS: its runserver serves WebSockets and "
                "static files."
            )
            return [Warning(sentence, hint=hint, id="gws_middleware.W002")]
    return []


def check_psycopg2(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """W004: psycopg2 without psycogreen waits without gevent."""
    if not any(database["ENGINE"].endswith(("postgresql", "postgis")) for database in connections.settings.values()):
        return []
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    if is_psycopg3 or _has_psycogreen():
        return []
    sentence = "psycopg2 is used without psycogreen: while one query runs, all other requests of the worker wait."
    hint = "Install psycopg (version 3), or call psycogreen.gevent.patch_psycopg() when the worker starts."
    return [Warning(sentence, hint=hint, id="gws_middleware.W004")]


def _has_psycogreen() -> bool:
    if not monkey.is_module_patched("threading"):  # not in a server, so what the server calls at its start is unknown
        return find_spec("psycogreen") is not None
    from psycopg2.extensions import get_wait_callback

    return get_wait_callback() is not None


def check_monkey_patching(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """E003, W005: gevent has patched the standard library after Django was loaded, or not at all in a gevent server."""
    if monkey.is_module_patched("threading") and loaded_unpatched():
        return [Error(PATCHED_LATE, hint=PATCH, id="gws_middleware.E003")]
    if monkey.is_module_patched("threading") or not any(name in sys.modules for name in GEVENT_SERVERS):
        return []
    return [Warning(NOT_PATCHED, hint=PATCH, id="gws_middleware.W005")]


def check_group_workers(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """W006: groups in memory, and the environment asks gunicorn for more than one worker."""
    if _has_valid_settings() and conf.load_groups().url == "memory://" and _workers() > 1:
        return [Warning(SEPARATE, hint=SHARE, id="gws_middleware.W006")]
    return []


def check_site_limits(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """W008: limits are to count the site, and the groups have one process."""
    if _has_valid_settings() and conf.load().site_limits is not None and conf.load_groups().url == "memory://":
        return [Warning(ALONE, hint=SHARE, id="gws_middleware.W008")]
    return []


def check_group_directory(app_configs: Any, **arguments: Any) -> Sequence[CheckMessage]:
    """W007: this process cannot use the directory of the groups.

    It is no error, because the server may run as another user than this command. The directory is not made here, so
    that it belongs to the user of the server.
    """
    if not _has_valid_settings():
        return []
    groups = conf.load_groups()
    url = groups.url
    try:
        if url == "auto":
            _examine(directory.automatic(groups.project or os.getcwd()))
        elif url.startswith("sqlite://"):
            _examine(Path(url.removeprefix("sqlite://")))
    except GroupsUnavailable as error:
        return [Warning(f"{error}.", hint=DIRECTORY, id="gws_middleware.W007")]
    return []


def _examine(path: Path) -> None:
    if os.path.lexists(path) or not path.is_absolute():
        directory.prepare(path)
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        raise GroupsUnavailable(f"groups cannot make the directory {path}: this user cannot write in {path.parent}")


def _has_valid_settings() -> bool:
    try:
        conf.load()
    except ConfigError:  # E001 reports it
        return False
    return True


def _workers() -> int:
    """The workers that gunicorn starts, as far as the environment has it."""
    options = re.findall(r"(?:^|\s)(?:-w|--workers)[\s=]*(\d+)", os.environ.get("GUNICORN_CMD_ARGS", ""))
    number = options[-1] if options else os.environ.get("WEB_CONCURRENCY", "")
    return int(number) if number.isdecimal() else 1


@cache
def warn_separate_workers(software: str, several: bool) -> None:
    """Log W006 once in a server whose groups are in memory and that has several workers.

    Args:
        software: ``SERVER_SOFTWARE`` of the request; nothing is logged where it is empty, as in tests.
        several: ``wsgi.multiprocess`` of the request.

    """
    if software and several and conf.load_groups().url == "memory://":
        log.warning("%s: %s %s", software, SEPARATE, SHARE)


ALL = [
    check_settings,
    check_group_workers,
    check_group_directory,
    check_site_limits,
    check_middleware,
    check_runserver,
    check_psycopg2,
    check_monkey_patching,
]


@cache
def warn_unpatched_server(software: str) -> None:
    """Log W005 once in a server that has opened a WebSocket, because few servers run system checks.

    Args:
        software: ``SERVER_SOFTWARE`` of the request; nothing is logged where it is empty, as in tests.

    """
    if software and not monkey.is_module_patched("threading"):
        log.warning("%s: %s %s", software, NOT_PATCHED, PATCH)


_loaded_unpatched = False


def connect() -> None:
    """Record whether gevent has patched already, and watch for a later patch if it has not; ``ready()`` calls this."""
    global _loaded_unpatched  # one value for each process
    _loaded_unpatched = not monkey.is_module_patched("threading")
    if _loaded_unpatched:
        events.subscribers.append(_patched)


def loaded_unpatched() -> bool:
    """Whether Django was set up in a process that gevent had not patched."""
    return _loaded_unpatched


def _patched(event: object) -> None:
    """Refuse to start a worker of gunicorn, which patches after ``--preload`` has loaded the project. Any other program
    only gets a warning, because it may use Django outside of greenlets. gevent calls this.
    """
    if not isinstance(event, events.GeventDidPatchAllEvent):
        return
    if "gunicorn.workers.ggevent" in sys.modules:
        raise ImproperlyConfigured(f"{PATCHED_LATE} {PRELOADED}")
    log.warning("%s %s", PATCHED_LATE, PATCH)
