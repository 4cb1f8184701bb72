"""Writes docs/settings.md from the fields of ``gws_middleware.Config``: ``python docs/generate.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gws_middleware.config import PREFIX, Config

SETTINGS = Path(__file__).parent / "settings.md"

HEAD = """\
<!-- Written by docs/generate.py from gws_middleware/config.py: change it there. -->
# Settings

Each can be given in three ways:

- as a keyword argument of the wrapper: `WebSocketMiddleware(app, max_message_size=65536)`;
- as an environment variable, which is the worker class' way: `GWS_MAX_MESSAGE_SIZE=65536`, a list with commas between;
- as the `options` of a worker class of your own:

      from gws_middleware.worker import GeventWebSocketWorker

      class Worker(GeventWebSocketWorker):
          options = {"max_message_size": 65536}

An argument wins over a variable, a variable over the default. A misspelt name or a wrong value raises
`gws_middleware.ConfigError` when the application is wrapped, so that a worker with one does not start.

"""


def settings() -> str:
    """The page."""
    return HEAD + "\n".join(_section(knob.name, knob.default, knob.metadata) for knob in fields(Config))


def _section(name: str, default: object, metadata: Mapping[str, Any]) -> str:
    wanted = metadata["check"](object()).replace("*", "\\*")  # what no knob takes is answered with what it does take
    doc: str = metadata["doc"]
    facts = f"Default: {_shown(default, doc)}. Environment: `{PREFIX}{name.upper()}`. Value: {wanted}."
    return "\n\n".join([f"## `{name}`", facts, doc.replace("``", "`")]) + "\n"


def _shown(value: object, doc: str) -> str:
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{entry}"' for entry in value) + "]`"
    if isinstance(value, int) and doc.startswith("Bytes"):
        return f"`{value}` ({value >> 20} MiB)" if value >= 2**20 else f"`{value}` ({value >> 10} KiB)"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


if __name__ == "__main__":
    SETTINGS.write_text(settings(), encoding="utf-8")
