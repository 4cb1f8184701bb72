"""Write docs/settings.md from the fields of ``Config`` and ``DjangoConfig``: ``python docs/generate.py``."""

from __future__ import annotations

from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from gws_middleware.config import PREFIX, Config
from gws_middleware.django.conf import DjangoConfig

CORE = {each.name for each in fields(Config)}
SETTINGS = Path(__file__).parent / "settings.md"

HEAD = """\
<!-- Written by docs/generate.py from gws_middleware/config.py and gws_middleware/django/conf.py: change it there. -->
# Settings

A setting has a value from one of four sources:

- a keyword argument of the wrapper: `WebSocketMiddleware(app, max_message_size=65536)`;
- an environment variable, for the worker class: `GWS_MAX_MESSAGE_SIZE=65536`; the entries of a list are separated by
  commas, and `none` is None;
- `options` of a subclass of the worker class:

      from gws_middleware.worker import GeventWebSocketWorker

      class Worker(GeventWebSocketWorker):
          options = {"max_message_size": 65536}

- in Django, with `"gws_middleware.django"` in `INSTALLED_APPS`: `GWS = {"max_message_size": 65536}`.

A keyword argument wins over Django's settings, those over an environment variable, and that over the default. A misspelt
name or a wrong value raises `gws_middleware.ConfigError` when the application is wrapped, so that a worker does not start
with it; in Django's settings it is an error of `manage.py check`, too. Type checkers and editors know the names and the
types of all keyword arguments (`gws_middleware.config.Options`), and of Django's settings where they are declared with
their type: `from gws_middleware.django import Settings`, `GWS: Settings = {…}`.

A setting that is marked "Per view" can also be set for one connection, before it is accepted:
`request.websocket.limits(max_message_size=2**24, message_rate=5)`.

"""

DJANGO = """
## In Django

These settings are read from `GWS` alone; as an environment variable, or as a Django setting outside of `GWS`, each is an
error. In a Django project the default of `allowed_origins` is: the same origin, the hosts of `ALLOWED_HOSTS` (but not
`"*"`, which means that the Host header is checked elsewhere) and `CSRF_TRUSTED_ORIGINS`. `WEBSOCKET_ACCEPT_ALL = True` is
a setting outside of `GWS`: with the middleware class, undecorated views take WebSockets too.

"""


def settings() -> str:
    """The page."""
    core = fields(Config)
    django = fields(DjangoConfig)[len(core) :]
    return HEAD + "\n".join(map(_section, core)) + DJANGO + "\n".join(map(_section, django))


def _section(setting: Field[Any]) -> str:
    name, default, metadata = setting.name, setting.default, setting.metadata
    # No setting takes this value, so the check returns what it wants.
    wanted = metadata["check"](object()).replace("*", "\\*")
    doc: str = metadata["doc"]
    environment = f" Environment: `{PREFIX}{name.upper()}`." if name in CORE else ""
    per_view = " Per view." if metadata["per_view"] else ""
    facts = f"Default: {_shown(default, doc)}.{environment} Value: {wanted}.{per_view}"
    return "\n\n".join([f"## `{name}`", facts, doc.replace("``", "`")]) + "\n"


def _shown(value: object, doc: str) -> str:
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{entry}"' for entry in value) + "]`"
    if isinstance(value, int) and doc.startswith("Bytes"):
        return f"`{value}` ({value >> 20} MiB)" if value >= 2**20 else f"`{value}` ({value >> 10} KiB)"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


if __name__ == "__main__":
    SETTINGS.write_text(settings(), encoding="utf-8")
