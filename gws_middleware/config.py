"""The one table of settings: keyword arguments, ``GWS_*`` environment variables and docs/settings.md derive from it.

Rule: each field of ``Config`` has its default, its unit, the precedent of the default and its check in one place.
``Options`` repeats the names and types for type checkers, which cannot read them from the fields; a test compares both.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias, TypedDict

from . import hooks
from .codes import CloseCode, may_travel
from .exceptions import ConfigError

__all__ = [
    "PREFIX",
    "SAME_ORIGIN",
    "ClientOptions",
    "Config",
    "Options",
    "SharedNumbers",
    "SharedOptions",
    "ViewOptions",
    "closest",
    "hashable",
    "is_ours",
    "optional",
    "seconds",
    "setting",
]

PREFIX = "GWS_"
SAME_ORIGIN = "same-origin"
_NOT_SETTINGS = {"GWS_SPEEDUPS"}
"""Variables with the prefix that other modules read."""

Compression: TypeAlias = Literal["off", "shared", "dedicated"]

_ORIGIN = re.compile(
    # The pattern of a name and all of its subdomains.
    r"(?i:https?|wss?)://\*\.[^\s/?#@*,]+"
    # Any other entry matches literally. Refused is what no client sends: it is a misspelt form of another entry.
    r"|(?!(?i:(?:https?|wss?)://(?:[^/]+/)?$|same.origin$|null$))[!-)+\--~\x80-\xff]+"
)


class Origins(Protocol):
    """A list or tuple of origins. ``Sequence`` would also match one string, which is the most likely mistake."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex, /) -> str | re.Pattern[str]: ...

    def __contains__(self, value: object, /) -> bool:
        """``str`` has this with another argument, so it does not match."""


class SharedNumbers(Protocol):
    """Numbers that all workers of a site add up: ``gws_middleware.groups.Groups`` has them."""

    def exchange_number(self, name: str, number: int) -> int:
        """Set a number of this process, and add up those of all processes, in one step.

        Args:
            name: At most 50 letters, digits and ``:``.
            number: 0 for none.

        Returns:
            The sum.

        Raises:
            Exception: It was not set, or that is not known.

        """

    def put_numbers(self, numbers: Mapping[str, int]) -> None:
        """Set numbers of this process, by name. They end with the process, however it ends.

        Raises:
            Exception: They were not set, or that is not known.

        """


class ViewOptions(TypedDict, total=False):
    """The keyword arguments of ``WebSocket.limits``: the settings that one connection may have for itself."""

    max_message_size: int
    max_fragments: int
    inbox_messages: int
    send_high_water: int
    send_limit: int
    send_timeout: float
    close_timeout: float
    ping_interval: float | None
    ping_timeout: float | None
    message_timeout: float | None
    message_rate: float | None
    byte_rate: float | None
    rate_burst: float


class SharedOptions(ViewOptions, total=False):
    """The settings that have the same name and type wherever they are set, Django's settings too."""

    allowed_origins: Origins
    shutdown_close_code: int
    accept_timeout: float | None
    max_connections: int | None
    max_connections_per_address: int | None
    client_address: Callable[..., Hashable] | str | None
    max_connections_per_user: int | None
    user_key: Callable[..., Hashable] | str | None


class ClientOptions(SharedOptions, total=False):
    """The settings that ``testing.connect`` takes: all but ``compression``, which there is what the client offers."""

    site_limits: SharedNumbers | str | None


class Options(ClientOptions, total=False):
    """The keyword arguments of ``WebSocketMiddleware``, and ``options`` of a worker class: all settings."""

    compression: Compression


def _count(low: int, high: int = 2**40) -> Any:
    def check(value: object) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"a whole number from {low} to {high}"

    return check


def seconds(value: object) -> str | None:
    """The check of a setting that is a number of seconds.

    Args:
        value: What the setting is given.

    Returns:
        What is wanted instead, or None if the value is right.
    """
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
    return None if fits else "a number of seconds above 0"


def optional(check: Any) -> Any:
    """The check of a setting that may also be None, which means that there is no such limit.

    Args:
        check: The check of any other value.

    Returns:
        The check of both.
    """

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


def _shared_numbers(value: object) -> str | None:
    wanted = 'a Groups or its "package.module.name"'
    try:
        found = load(value) if isinstance(value, str) else value
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return f"{wanted}; {error}"
    names = ("exchange_number", "put_numbers")
    fits = not isinstance(found, type) and all(callable(getattr(found, name, None)) for name in names)
    return None if fits else wanted


def load(name: str) -> Any:
    """Import what ``name`` names.

    Args:
        name: "package.module.name".

    Returns:
        The attribute of the module.

    Raises:
        ImportError: There is no such module.
        AttributeError: The module has no such attribute.
    """
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def hashable(value: object, name: str) -> Hashable:
    """Check a key by which connections are counted.

    Args:
        value: What the function of a setting has returned.
        name: The name of the setting.

    Returns:
        ``value``.

    Raises:
        TypeError: It is not hashable.
    """
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


def setting(default: Any, check: Any, doc: str, *, kind: Any = None, per_view: bool = False) -> Any:
    """Declare a field of ``Config``.

    Args:
        default: Its default.
        check: Called with a value; returns what is wanted instead of a wrong one, or None.
        doc: Its text in docs/settings.md.
        kind: Makes a value of an environment variable's text; the type of the default unless given.
        per_view: Whether ``WebSocket.limits`` takes it.

    Returns:
        The field of the dataclass.
    """
    doc = " ".join(doc.split())
    kind = type(default) if kind is None else kind
    return field(default=default, metadata={"check": check, "doc": doc, "kind": kind, "per_view": per_view})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting with its default. The arguments are the fields, by name.

    Raises:
        ConfigError: A value is wrong.
    """

    allowed_origins: tuple[str | re.Pattern[str], ...] = setting(
        (SAME_ORIGIN,),
        _origins,
        """The origins whose pages may connect, against cross-site WebSocket hijacking (RFC 6455 10.2). The default
        is the request's own host (as in gorilla and tornado); a list replaces it. A request without an Origin header
        is allowed, because every browser sends one. Programs that are not browsers may send any text as their Origin
        ("file://", "localhost:8025"): an entry with the same text allows them.""",
    )
    max_message_size: int = setting(
        2**20,
        _count(1),
        """Bytes of one message, after inflation; a larger one ends the connection with 1009 before it is stored
        (websockets and daphne: 1 MiB).""",
        per_view=True,
    )
    max_fragments: int = setting(
        2**17,
        _count(1),
        """Fragments of one message, empty ones counted; one more ends the connection with 1008. Pieces are merged as
        they come, so fragments cost no memory, and this bounds the work: at 32 bytes each they fill 4 MiB (ws:
        16384).""",
        per_view=True,
    )
    inbox_messages: int = setting(
        16,
        _count(1),
        """Messages that wait for the application before reading from the socket pauses, so that TCP flow control stops
        the peer. Up to 256 more that came in the same read may wait. Reading also pauses when the messages take as many
        bytes of memory as one message may have (websockets: 16).""",
        per_view=True,
    )
    send_high_water: int = setting(
        2**16,
        _count(0),
        """Bytes that may wait in the outbox before ``send()`` waits for the peer to read (uWebSockets: 64 KiB).""",
        per_view=True,
    )
    send_limit: int = setting(
        2**20,
        _count(1),
        """Bytes that may wait in the outbox before ``offer()``, which never waits, ends the connection with 1013
        (Centrifugo: 1 MiB).""",
        per_view=True,
    )
    send_timeout: float = setting(
        30.0,
        seconds,
        """Seconds that ``send()`` waits for a peer that reads nothing before the connection is aborted; also the
        deadline of each write of the 101, or of an HTTP response in its place.""",
        per_view=True,
    )
    close_timeout: float = setting(
        10.0,
        seconds,
        """Seconds that a peer has to answer our close frame before the connection is aborted (websockets: 10).""",
        per_view=True,
    )
    shutdown_close_code: int = setting(
        int(CloseCode.SERVICE_RESTART),
        _close_code,
        """The code of the close frame that is sent on each WebSocket when its worker or server stops. A restart and a
        stop have the same code, because a server cannot know whether another one follows. Clients reconnect after 1012
        (service restart); some of them (htmx 2) do not after 1001 (going away). For a server that stops for good:
        1001.""",
    )
    ping_interval: float | None = setting(
        20.0,
        optional(seconds),
        """Seconds without activity after which a ping is sent, whatever the view does; up to an eighth more. Proxies
        close inactive connections, often after 60 s (websockets and uvicorn: 20). None: no pings.""",
        kind=float,
        per_view=True,
    )
    ping_timeout: float | None = setting(
        20.0,
        optional(seconds),
        """Seconds after a ping in which a pong or any other byte must come from the peer, before the connection ends
        with 1011; up to an eighth more (websockets and uvicorn: 20). None: there is no such deadline, and pings are
        still sent.""",
        kind=float,
        per_view=True,
    )
    message_timeout: float | None = setting(
        60.0,
        optional(seconds),
        """Seconds between the first byte of a message and its last, before the connection ends with 1008; up to an
        eighth more. None: no deadline.""",
        kind=float,
        per_view=True,
    )
    message_rate: float | None = setting(
        None,
        optional(_rate),
        """Messages per second that the peer may send, on average; above it the connection ends with 1008.""",
        kind=float,
        per_view=True,
    )
    byte_rate: float | None = setting(
        None,
        optional(_rate),
        """Bytes per second that the peer may send, on average, frame headers and control frames counted; above it
        the connection ends with 1008.""",
        kind=float,
        per_view=True,
    )
    rate_burst: float = setting(
        10.0,
        seconds,
        """Seconds of ``message_rate`` and ``byte_rate`` that a peer may send at once after it has sent nothing: the
        size of the token bucket, as a time.""",
        per_view=True,
    )
    accept_timeout: float | None = setting(
        None,
        optional(seconds),
        """Seconds that the application has to accept or refuse a handshake. After that a gevent.Timeout is raised in
        it, and the client is sent a 503. None: a view that waits for something else before it accepts waits without a
        deadline, also for a client that has disconnected, which is noticed when the view accepts.""",
        kind=float,
    )
    max_connections: int | None = setting(
        None,
        optional(_count(1)),
        """WebSockets of one worker process, or with ``site_limits`` of all workers; one more is answered with 503 and
        Retry-After, and plain HTTP is still served. Of one worker: keep it below gunicorn's worker_connections, because
        a worker that reaches that one stops accepting and logs nothing.""",
        kind=int,
    )
    max_connections_per_address: int | None = setting(
        None,
        optional(_count(1)),
        """WebSockets of one worker process, or with ``site_limits`` of all workers, that come from one address; one
        more is answered with 429 and Retry-After. IPv6 addresses with the same first 64 bits count as one.""",
        kind=int,
    )
    client_address: Callable[..., Hashable] | None = setting(  # noqa: RUF009
        None,
        optional(_function),
        """A function of the WSGI environ that returns the client's address, or None for a request that is not counted.
        The default is REMOTE_ADDR, which is the proxy's address behind a proxy: there use a function that reads the
        header which the proxy sets.""",
        kind=str,
    )
    max_connections_per_user: int | None = setting(
        None,
        optional(_count(1)),
        """WebSockets of one worker process, or with ``site_limits`` of all workers, for which ``user_key`` returns the
        same key; one more is accepted and ends at once with 1008, which a page can read. Needs ``user_key``; in Django
        the key is the user, if something has read ``request.user``.""",
        kind=int,
    )
    user_key: Callable[..., Hashable] | None = setting(  # noqa: RUF009
        None,
        optional(_function),
        """A function of the WebSocket, called when it is accepted, that returns the key of its user: anything hashable,
        or None for a WebSocket that is not counted.""",
        kind=str,
    )
    site_limits: SharedNumbers | None = setting(  # noqa: RUF009
        None,
        optional(_shared_numbers),
        """Whether ``max_connections``, ``max_connections_per_address`` and ``max_connections_per_user`` count the
        WebSockets of all workers: those that have the same groups, over several hosts with Redis. In Django True or
        False; else the groups: ``WebSocketMiddleware(app, max_connections=5000, site_limits=groups)``. It costs each
        handshake that has such a limit a round trip to the groups, and one more for the limit of a user. While the
        groups cannot be used, each worker has the limits for itself, which is logged once, and handshakes do not wait;
        the first ones wait for a second. Addresses and keys of users are counted by their ``repr()``, of which the
        groups get a hash: it has to be the same in all workers.""",
        kind=str,
    )
    compression: Compression = setting(  # noqa: RUF009
        "off",
        _compression,
        """permessage-deflate (RFC 7692). "shared": no context takeover, one compressor for all connections, messages
        from 1 KiB up; "dedicated": context takeover, about 51 KB for each connection.""",
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            wanted = each.metadata["check"](value)
            if wanted is not None:
                raise ConfigError(f"{each.name} is {value!r}: wanted {wanted}")
        for name in ("client_address", "user_key", "site_limits"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, load(value))
        object.__setattr__(self, "allowed_origins", tuple(self.allowed_origins))
        if self.max_connections_per_user is not None and self.user_key is None:
            raise ConfigError(
                "max_connections_per_user is set, but user_key is not: it returns the user of a WebSocket"
            )

    def for_view(self, options: Mapping[str, Any]) -> Config:
        """A copy with other values for one view.

        Args:
            options: Values of the settings that may be set for one view.

        Returns:
            The copy.

        Raises:
            ConfigError: A value or a name is wrong, or the setting is used before a view is called.
        """
        self.check_names(options)
        for each in fields(self):
            if each.name in options and not each.metadata["per_view"]:
                raise ConfigError(f"{each.name} cannot be set for one view: set it for the application")
        return replace(self, **options)

    @classmethod
    def load(cls, options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Config:
        """The settings of an application.

        An option wins over a setting of the project (``Adapter.settings``), that over a ``GWS_*`` environment variable,
        and that over the default.

        Args:
            options: Keyword arguments; none by default.
            environ: Environment variables; those of the process by default.

        Returns:
            The settings.

        Raises:
            ConfigError: A value or a name is wrong; for a misspelt name it names the nearest known one.
        """
        options = {**hooks.current().settings(), **(options or {})}
        cls.check_names(options)
        values = _from_environ(os.environ if environ is None else environ)
        return cls(**{**values, **options})

    @classmethod
    def check_names(cls, options: Iterable[str]) -> None:
        """Refuse names that are no settings.

        Args:
            options: The names.

        Raises:
            ConfigError: For the first name that is no field; it names the nearest one.
        """
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
            # Other software may use the prefix too: only a name that is almost one of ours is refused.
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
    """Whether an environment variable has the prefix of the settings, in any case, and may be one of them."""
    return variable.upper().startswith(PREFIX) and variable not in _NOT_SETTINGS


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant.

    Args:
        name: A name that is not known; capitals and the prefix make no difference.
        known: The names that are known.

    Returns:
        One of ``known``, or None if none is near.
    """
    forms = {_plain(each): each for each in known}
    match = difflib.get_close_matches(_plain(name), forms, n=1, cutoff=0.75)
    return forms[match[0]] if match else None


def _plain(name: str) -> str:
    return name.upper().removeprefix(PREFIX)


def _nearest(name: str, known: Iterable[str]) -> str:
    match = closest(name, known)
    return f": did you mean {match!r}?" if match else ""
