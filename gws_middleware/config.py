"""The one table of knobs: keyword arguments, ``GWS_*`` environment variables and the docs derive from it.

Each field has its default, what it is counted in, where the default comes from, and its check.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import Any

from . import hooks
from .codes import CloseCode, may_travel
from .exceptions import ConfigError

__all__ = ["PREFIX", "SAME_ORIGIN", "Config", "closest", "hashable", "is_ours", "knob", "optional", "seconds"]

PREFIX = "GWS_"
SAME_ORIGIN = "same-origin"
_NOT_KNOBS = {"GWS_SPEEDUPS"}

_ORIGIN = re.compile(
    r"(?i:https?|wss?)://\*\.[^\s/?#@*,]+"
    # Any other one matches literally. Refused: what no client sends, because it is a misspelt one of the others.
    r"|(?!(?i:(?:https?|wss?)://(?:[^/]+/)?$|same.origin$|null$))[!-)+\--~\x80-\xff]+"
)


def _count(low: int, high: int = 2**40) -> Any:
    def check(value: object) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"a whole number from {low} to {high}"

    return check


def seconds(value: object) -> str | None:
    """The check of a knob that takes a number of seconds."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
    return None if fits else "a number of seconds above 0"


def optional(check: Any) -> Any:
    """The check of a knob that may be None, too: that there is no such limit."""

    def check_or_none(value: object) -> str | None:
        wanted = None if value is None else check(value)
        if wanted is None:
            return None
        wanted, semicolon, because = wanted.partition("; ")
        return f"{wanted}, or None{semicolon}{because}"

    return check_or_none


def _rate(value: object) -> str | None:
    return None if seconds(value) is None else "a number above 0"


def _close_code(value: object) -> str | None:
    fits = isinstance(value, int) and not isinstance(value, bool) and may_travel(value)
    return None if fits else "a close code that may be sent: 1012, 1001, 1013, or one from 3000 to 4999"


def _function(value: object) -> str | None:
    try:
        fits = callable(load(value) if isinstance(value, str) else value)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return f'a function or its "package.module.name"; {error}'
    return None if fits else 'a function or its "package.module.name"'


def load(name: str) -> Any:
    """What ``package.module.name`` names."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def hashable(value: object, name: str) -> Hashable:
    """``value``, which the function of the setting ``name`` has returned. TypeError if nothing can be counted by it."""
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{name} returned {value!r}: wanted something hashable, or None") from None
    return value


def _compression(value: object) -> str | None:
    return None if value in ("off", "shared", "dedicated") else '"off", "shared" or "dedicated"'


def _origins(value: object) -> str | None:
    wanted = (
        'a list of origins: "https://example.com", "https://*.example.com", a program\'s own ("file://"), '
        f'"{SAME_ORIGIN}", "null", "*" or compiled patterns'
    )
    if not isinstance(value, (list, tuple)):
        return wanted
    for entry in value:
        if isinstance(entry, re.Pattern) or entry in (SAME_ORIGIN, "null", "*"):
            continue
        mistake = _mistake_in(entry) if isinstance(entry, str) else None
        if mistake is not None:
            return f"{wanted}; {entry!r} {mistake}"
        if not isinstance(entry, str) or not _ORIGIN.fullmatch(entry):
            return f"{wanted}; {entry!r} is none of these"
    return None


def _mistake_in(entry: str) -> str | None:
    """What is wrong with an entry that can be no origin, and what was probably meant."""
    if entry.lower() in ("off", "none", "any", "all"):
        return 'is no origin: "*" admits the pages of every origin, an empty list those of none'
    address = re.fullmatch(r"((?:https?|wss?)://[^\s,/?#]+)[/?#]\S*", entry, re.IGNORECASE)
    if address is not None and not _ORIGIN.fullmatch(entry):
        return f"has a path, and an origin has none: did you mean {address[1].lower()!r}?"
    return None


def knob(default: Any, check: Any, doc: str, *, kind: Any = None, per_view: bool = False) -> Any:
    """A field of ``Config``; ``check`` tells what was wanted instead of a wrong value, or None. ``kind`` makes a value
    of an environment variable's text, where the default's type does not. ``per_view``: ``WebSocket.limits`` takes it.
    """
    doc = " ".join(doc.split())
    kind = type(default) if kind is None else kind
    return field(default=default, metadata={"check": check, "doc": doc, "kind": kind, "per_view": per_view})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every knob with its default. ``Config(max_message_size=…)`` raises ConfigError on a wrong value."""

    allowed_origins: tuple[str | re.Pattern[str], ...] = knob(
        (SAME_ORIGIN,),
        _origins,
        """The origins whose pages may connect, against cross-site WebSocket hijacking (RFC 6455 10.2). The default
        is the request's own host (as gorilla and tornado do); a list replaces it. A request without an Origin
        header, which no browser sends, passes. Programs that are no browsers send anything as their Origin ("file://",
        "localhost:8025"): such an entry allows the same text.""",
    )
    max_message_size: int = knob(
        2**20,
        _count(1),
        """Bytes of one message, after inflation; a larger one ends the connection with 1009 before it is stored
        (websockets and daphne: 1 MiB).""",
        per_view=True,
    )
    max_fragments: int = knob(
        2**17,
        _count(1),
        """Fragments of one message, empty ones counted; one more ends the connection with 1008. Pieces are merged as
        they come, so fragments cost no memory, and this bounds the work: at 32 bytes each they fill 4 MiB (ws:
        16384).""",
        per_view=True,
    )
    inbox_messages: int = knob(
        16,
        _count(1),
        """Messages that wait for the application before reading from the socket pauses and TCP holds the peer back; 256
        that came in the same read may wait beyond it. It also pauses when they take as many bytes of memory as one
        message may have (websockets: 16).""",
        per_view=True,
    )
    send_high_water: int = knob(
        2**16,
        _count(0),
        """Bytes that may wait for the peer before ``send()`` waits too (uWebSockets: 64 KiB).""",
        per_view=True,
    )
    send_limit: int = knob(
        2**20,
        _count(1),
        """Bytes that may wait for the peer before ``offer()``, which never waits, ends the connection with 1013
        (Centrifugo: 1 MiB).""",
        per_view=True,
    )
    send_timeout: float = knob(
        30.0,
        seconds,
        """Seconds that ``send()`` waits for a peer that reads nothing before the connection is cut; also each write of
        the 101, or of an answer by HTTP in its place.""",
        per_view=True,
    )
    close_timeout: float = knob(
        10.0,
        seconds,
        """Seconds that a peer has to answer our close frame before the connection is cut (websockets: 10).""",
        per_view=True,
    )
    shutdown_close_code: int = knob(
        int(CloseCode.SERVICE_RESTART),
        _close_code,
        """The code of the close frame that each WebSocket is sent when its worker or server stops, at a restart as at a
        stop: no server can know whether another one follows. After 1012 (service restart) clients reconnect, some of
        which (htmx 2) do not after 1001 (going away). For a server that stops for good: 1001.""",
    )
    ping_interval: float | None = knob(
        20.0,
        optional(seconds),
        """Seconds of silence after which the peer is sent a ping, whatever the view does; up to an eighth more. Proxies
        cut silent connections, often after 60 s (websockets and uvicorn: 20). None: no pings.""",
        kind=float,
        per_view=True,
    )
    ping_timeout: float | None = knob(
        20.0,
        optional(seconds),
        """Seconds that the peer then has to show life, by a pong or any other byte, before the connection ends with
        1011; up to an eighth more (websockets and uvicorn: 20). None: it may stay silent, and is sent pings all the
        same.""",
        kind=float,
        per_view=True,
    )
    message_timeout: float | None = knob(
        60.0,
        optional(seconds),
        """Seconds between the first byte of a message and its last, before the connection ends with 1008; up to an
        eighth more. None: as long as it takes.""",
        kind=float,
        per_view=True,
    )
    message_rate: float | None = knob(
        None,
        optional(_rate),
        """Messages a second that the peer may send, in the long run; above it the connection ends with 1008.""",
        kind=float,
        per_view=True,
    )
    byte_rate: float | None = knob(
        None,
        optional(_rate),
        """Bytes a second that the peer may send, in the long run, frame headers and control frames counted; above it
        the connection ends with 1008.""",
        kind=float,
        per_view=True,
    )
    rate_burst: float = knob(
        10.0,
        seconds,
        """Seconds for which a peer that was quiet may save up its two rates: so much it may send at once.""",
        per_view=True,
    )
    accept_timeout: float | None = knob(
        None,
        optional(seconds),
        """Seconds that the application has to accept or refuse a handshake. Then it gets a gevent.Timeout, and the
        client a 503. Without it nothing ends a view that waits for something else before it accepts: that the client
        has disconnected it learns when it accepts.""",
        kind=float,
    )
    max_connections: int | None = knob(
        None,
        optional(_count(1)),
        """WebSockets of one worker process; one more is answered with 503 and Retry-After, while plain HTTP is served
        on. Keep it below gunicorn's worker_connections, at which a worker stops accepting without a word.""",
        kind=int,
    )
    max_connections_per_address: int | None = knob(
        None,
        optional(_count(1)),
        """WebSockets of one worker process that come from one address; one more is answered with 429 and
        Retry-After.""",
        kind=int,
    )
    client_address: Callable[..., Hashable] | None = knob(  # noqa: RUF009
        None,
        optional(_function),
        """A function of the WSGI environ that returns the client's address, or None for one that is not counted. The
        default is REMOTE_ADDR, which behind a proxy is the proxy: there name a function that reads the header which the
        proxy sets.""",
        kind=str,
    )
    max_connections_per_user: int | None = knob(
        None,
        optional(_count(1)),
        """WebSockets of one worker process that ``user_key`` gives the same key; one more is accepted and ends at once
        with 1008, which a page can read. Needs ``user_key``; in Django that is the user, once something has looked at
        ``request.user``.""",
        kind=int,
    )
    user_key: Callable[..., Hashable] | None = knob(  # noqa: RUF009
        None,
        optional(_function),
        """A function of the WebSocket, called when it is accepted, that returns whose it is: anything hashable, or None
        for one that is not counted.""",
        kind=str,
    )
    compression: str = knob(
        "off",
        _compression,
        """permessage-deflate (RFC 7692). "shared": no context takeover, one compressor for all connections, messages
        from 1 KiB up; "dedicated": context takeover, about 40 KB for each connection.""",
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            wanted = each.metadata["check"](value)
            if wanted is not None:
                raise ConfigError(f"{each.name} is {value!r}: wanted {wanted}")
        for name in ("client_address", "user_key"):
            function = getattr(self, name)
            if isinstance(function, str):
                object.__setattr__(self, name, load(function))
        object.__setattr__(self, "allowed_origins", tuple(self.allowed_origins))
        if self.max_connections_per_user is not None and self.user_key is None:
            raise ConfigError("max_connections_per_user is set, but no user_key that tells whose a WebSocket is")

    def for_view(self, options: Mapping[str, Any]) -> Config:
        """This with other values for one view. ConfigError for those that are decided before a view is called."""
        self.check_names(options)
        for each in fields(self):
            if each.name in options and not each.metadata["per_view"]:
                raise ConfigError(f"{each.name} cannot be set for one view: set it for the application")
        return replace(self, **options)

    @classmethod
    def load(cls, options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Config:
        """Options over the project's settings (``Adapter.settings``) over ``GWS_*`` environment variables over the
        defaults; a misspelt name names the nearest known one.
        """
        options = {**hooks.current().settings(), **(options or {})}
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
            values[known.name] = _parse(variable, text, known.metadata)
        elif is_ours(variable) and _nearest(variable, variables):
            # Not ours unless it is almost one of ours: other software may use the prefix too.
            raise ConfigError(f"the environment variable {variable} is not a setting{_nearest(variable, variables)}")
    return values


def _parse(variable: str, text: str, metadata: Mapping[str, Any]) -> object:
    kind = metadata["kind"]
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if text.lower() == "none" and metadata["check"](None) is None:
        return None
    try:
        return kind(text)
    except ValueError:
        wanted = metadata["check"](text).replace(", or None", ', or "none"')
        raise ConfigError(f"the environment variable {variable} is {text!r}: wanted {wanted}") from None


def is_ours(variable: str) -> bool:
    """Whether an environment variable has the prefix of the settings, in whatever case, and may be one of them."""
    return variable.upper().startswith(PREFIX) and variable not in _NOT_KNOBS


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: capitals and the prefix make no difference."""
    forms = {_plain(each): each for each in known}
    match = difflib.get_close_matches(_plain(name), forms, n=1, cutoff=0.75)
    return forms[match[0]] if match else None


def _plain(name: str) -> str:
    return name.upper().removeprefix(PREFIX)


def _nearest(name: str, known: Iterable[str]) -> str:
    match = closest(name, known)
    return f": did you mean {match!r}?" if match else ""
