"""Writes docs/settings.md from the fields of ``Config`` and ``DjangoConfig``: ``python docs/generate.py``."""

from __future__ import annotations

from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from gws_middleware.config import PREFIX, Config
from gws_middleware.django.conf import DjangoConfig

CORE = {knob.name for knob in fields(Config)}
SETTINGS = Path(__file__).parent / "settings.md"

HEAD = """\
<!-- Written by docs/generate.py from gws_middleware/config.py and gws_middleware/django/conf.py: change it there. -->
# Settings

Each can be given in four ways:

- as a keyword argument of the wrapper: `WebSocketMiddleware(app, max_message_size=65536)`;
- as an environment variable, which is the worker class' way: `GWS_MAX_MESSAGE_SIZE=65536`, a list with commas between,
  `none` for None;
- as the `options` of a worker class of your own:

      from gws_middleware.worker import GeventWebSocketWorker

      class Worker(GeventWebSocketWorker):
          options = {"max_message_size": 65536}

- in Django's settings, with `"gws_middleware.django"` in `INSTALLED_APPS`: `GWS = {"max_message_size": 65536}`.

An argument wins over Django's settings, those over a variable, and a variable over the default. A misspelt name or a
wrong value raises `gws_middleware.ConfigError` when the application is wrapped, so that a worker with one does not
start; in Django's settings it is an error of `manage.py check`, too.

What is marked "Per view" can be set for one connection too, before it is accepted:
`request.websocket.limits(max_message_size=2**24, message_rate=5)`.

"""

DJANGO = """
## In Django

What follows is in `GWS` alone: as an environment variable, or as one of Django's settings beside `GWS`, it is an error.
In a Django project `allowed_origins` has another default: the same origin, the hosts of
`ALLOWED_HOSTS` (but not `"*"`, which says that the Host header is checked elsewhere) and `CSRF_TRUSTED_ORIGINS`.
`WEBSOCKET_ACCEPT_ALL = True` stands beside `GWS`: with the middleware class, undecorated views take WebSockets too.

"""


def settings() -> str:
    """The page."""
    core = fields(Config)
    django = fields(DjangoConfig)[len(core) :]
    return HEAD + "\n".join(map(_section, core)) + DJANGO + "\n".join(map(_section, django))


def _section(knob: Field[Any]) -> str:
    name, default, metadata = knob.name, knob.default, knob.metadata
    wanted = metadata["check"](object()).replace("*", "\\*")  # what no knob takes is answered with what it does take
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
