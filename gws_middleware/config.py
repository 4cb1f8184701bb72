"""The one table of knobs: keyword arguments, ``GWS_*`` environment variables and the docs derive from it.

Each field has its default, what it is counted in, where the default comes from, and its check.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from . import adapter
from .exceptions import ConfigError

__all__ = ["SAME_ORIGIN", "Config", "knob", "seconds"]

PREFIX = "GWS_"
SAME_ORIGIN = "same-origin"
_NOT_KNOBS = {"GWS_SPEEDUPS"}

_ORIGIN = re.compile(r"(?:https?|wss?)://(?:\*\.)?[^\s/?#@*]+|[a-z][a-z0-9+.-]*://[^\s/?#@*]+")


def _count(low: int, high: int = 2**40) -> Any:
    def check(value: object) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"a whole number from {low} to {high}"

    return check


def seconds(value: object) -> str | None:
    """The check of a knob that takes a number of seconds."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
    return None if fits else "a number of seconds above 0"


def _compression(value: object) -> str | None:
    return None if value in ("off", "shared", "dedicated") else '"off", "shared" or "dedicated"'


def _origins(value: object) -> str | None:
    wanted = (
        f'a list of origins: "https://example.com", "https://*.example.com", "{SAME_ORIGIN}", "null", "*" '
        "or compiled patterns"
    )
    if not isinstance(value, (list, tuple)):
        return wanted
    for entry in value:
        if isinstance(entry, re.Pattern) or entry in (SAME_ORIGIN, "null", "*"):
            continue
        if not isinstance(entry, str) or not _ORIGIN.fullmatch(entry):
            return f"{wanted}; {entry!r} is none of these"
    return None


def knob(default: Any, check: Any, doc: str) -> Any:
    """A field of ``Config``; ``check`` tells what was wanted instead of a wrong value, or None."""
    return field(default=default, metadata={"check": check, "doc": " ".join(doc.split())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every knob with its default. ``Config(max_message_size=…)`` raises ConfigError on a wrong value."""

    allowed_origins: tuple[str | re.Pattern[str], ...] = knob(
        (SAME_ORIGIN,),
        _origins,
        """The origins whose pages may connect, against cross-site WebSocket hijacking (RFC 6455 10.2). The default
        is the request's own host (as gorilla and tornado do); a list replaces it. A request without an Origin
        header, which no browser sends, passes.""",
    )
    max_message_size: int = knob(
        2**20,
        _count(1),
        """Bytes of one message, after inflation; a larger one ends the connection with 1009 before it is stored
        (websockets and daphne: 1 MiB).""",
    )
    max_fragments: int = knob(
        2**17,
        _count(1),
        """Fragments of one message, empty ones counted; one more ends the connection with 1008. Pieces are merged as
        they come, so fragments cost no memory, and this bounds the work: at 32 bytes each they fill 4 MiB (ws:
        16384).""",
    )
    inbox_messages: int = knob(
        16,
        _count(1),
        """Messages that wait for the application before reading from the socket pauses and TCP holds the peer back; one
        read beyond it may have been under way (websockets: 16).""",
    )
    send_high_water: int = knob(
        2**16,
        _count(0),
        """Bytes that may wait for the peer before ``send()`` waits too (uWebSockets: 64 KiB).""",
    )
    send_limit: int = knob(
        2**20,
        _count(1),
        """Bytes that may wait for the peer before ``offer()``, which never waits, ends the connection with 1013
        (Centrifugo: 1 MiB).""",
    )
    send_timeout: float = knob(
        30.0,
        seconds,
        """Seconds that ``send()`` waits for a peer that reads nothing before the connection is cut.""",
    )
    close_timeout: float = knob(
        10.0,
        seconds,
        """Seconds that a peer has to answer our close frame before the connection is cut (websockets: 10).""",
    )
    compression: str = knob(
        "off",
        _compression,
        """permessage-deflate (RFC 7692). "shared": no context takeover, one compressor for all connections, messages
        from 1 KiB up; "dedicated": context takeover, about 30 KB for each connection.""",
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            wanted = each.metadata["check"](value)
            if wanted is not None:
                raise ConfigError(f"{each.name} is {value!r}: wanted {wanted}")
        object.__setattr__(self, "allowed_origins", tuple(self.allowed_origins))

    @classmethod
    def load(cls, options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Config:
        """Options over the project's settings (``Adapter.settings``) over ``GWS_*`` environment variables over the
        defaults; a misspelt name names the nearest known one.
        """
        options = {**adapter.current().settings(), **(options or {})}
        cls.check_names(options)
        values = _from_environ(os.environ if environ is None else environ)
        return cls(**{**values, **options})

    @classmethod
    def check_names(cls, options: Iterable[str]) -> None:
        """ConfigError for the first that is no field, with the nearest one that is."""
        known = [each.name for each in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"{name!r} is not a setting{_nearest(str(name), known)}")


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    variables = {PREFIX + each.name.upper(): each for each in fields(Config)}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        known = variables.get(variable)
        if known is not None:
            values[known.name] = _parse(variable, text, known.default)
        elif variable.startswith(PREFIX) and variable not in _NOT_KNOBS and _nearest(variable, variables):
            # Not ours unless it is almost one of ours: other software may use the prefix too.
            raise ConfigError(f"the environment variable {variable} is not a setting{_nearest(variable, variables)}")
    return values


def _parse(variable: str, text: str, default: object) -> object:
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(default, str):
        return text
    try:
        return type(default)(text)  # type: ignore[call-arg]
    except ValueError:
        raise ConfigError(f"the environment variable {variable} is {text!r}: wanted a number") from None


def _nearest(name: str, known: Any) -> str:
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f": did you mean {match[0]!r}?" if match else ""
