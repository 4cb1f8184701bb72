"""The limits on the number of connections: of a worker process or of the site, of an address, and of a user.

Rule 1: a slot is the entry of its holder in a table, not a counter that goes up and down. So nothing is counted twice,
releasing twice does nothing, and ``Slots.release()`` releases all slots of a holder, whatever exception was raised
between two lines.

Rule 2: the slots of the worker and of the address are reserved before the application is called, so a client over these
limits gets an HTTP status. The user is known when the application accepts, which in most frameworks is too late for
HTTP: a connection over that limit is accepted and closed.

Rule 3: where a limit counts the whole site (``site``), a slot is reserved in this process first. So each worker keeps
the limit for itself, whether the other workers can be asked or not.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from ..config import Config, SharedNumbers, hashable
from ..protocol.handshake import Refusal
from ..typing import Environ
from .site import Site

__all__ = ["LimitReached", "Slots", "reserve_request_slots", "reserve_user_slot"]

RETRY = (("Retry-After", "5"),)
"""Seconds after which a client may try again (RFC 9110 10.2.3)."""


class Slots:
    """The slots that are reserved in this process."""

    def __init__(self) -> None:
        self._holders: dict[Hashable, dict[Any, None]] = {}
        self._keys: dict[Any, list[Hashable]] = {}
        self._sites: dict[SharedNumbers, Site] = {}

    def __len__(self) -> int:
        """How many holders have a slot."""
        return len(self._keys)

    def reserve(self, holder: Any, key: Hashable, limit: int) -> bool:
        """Reserve one slot of ``key``.

        Args:
            holder: What the slot is reserved for, until ``release()``.
            key: What the slots are counted for: the worker or the site, an address, a user.
            limit: How many holders may have a slot of this key.

        Returns:
            False if all are reserved.

        """
        holders = self._holders.get(key, ())
        if len(holders) >= limit:
            return False
        # First in the list of the holder, which release() goes through: an exception may come after this line.
        self._keys.setdefault(holder, []).append(key)
        self._holders.setdefault(key, {})[holder] = None
        return True

    def release(self, holder: Any) -> None:
        """Release all slots of ``holder``; a second call does nothing."""
        for key in self._keys.get(holder, ()):
            self._release(holder, key)
        self._keys.pop(holder, None)

    def release_one(self, holder: Any, key: Hashable) -> None:
        """Release the slot of ``key`` that ``holder`` has."""
        keys = self._keys.get(holder, [])
        if key in keys:
            self._release(holder, key)
            keys.remove(key)

    def _release(self, holder: Any, key: Hashable) -> None:
        holders = self._holders.get(key, {})
        holders.pop(holder, None)
        if not holders:
            self._holders.pop(key, None)
        for site in self._sites.values():
            site.released(key)

    def number(self, key: Hashable) -> int:
        """How many slots of a key are reserved."""
        return len(self._holders.get(key, ()))

    def rank(self, holder: Any, key: Hashable) -> int:
        """Which of the slots of a key is that of a holder, in the order of their reservations: 1 for the oldest, 0
        where it has none.
        """
        holders = self._holders.get(key, {})
        return list(holders).index(holder) + 1 if holder in holders else 0

    def site(self, numbers: SharedNumbers) -> Site:
        """The slots of all workers that have these numbers."""
        found = self._sites.get(numbers)
        if found is None:
            found = self._sites[numbers] = Site(numbers, self)
        return found

    def flush(self, timeout: float) -> None:
        """Let the other workers have the slots that were released, before this process ends.

        Args:
            timeout: Seconds to wait at most.

        """
        for site in self._sites.values():
            site.flush(timeout)

    @property
    def reserved(self) -> dict[Hashable, int]:
        """How many slots of each key are reserved."""
        return {key: len(holders) for key, holders in self._holders.items() if holders}


class LimitReached(NamedTuple):
    """All slots of a limit are reserved."""

    setting: str
    """The limit's name in ``Config``."""
    refusal: Refusal
    """The HTTP response."""


class _Wanted(NamedTuple):
    """A slot that a request needs."""

    key: Hashable
    limit: int
    reached: LimitReached
    """What it is where there is none."""


def reserve_request_slots(slots: Slots, holder: Any, config: Config, environ: Environ) -> LimitReached | None:
    """Reserve a slot of the worker or of the site, and one of the request's address, where there are such limits. Waits
    where they count the site.

    Args:
        slots: The slots of this process.
        holder: The WebSocket of the request. The caller releases its slots, also where this function raises or returns
            a limit.
        config: The settings.
        environ: The request's WSGI environ.

    Returns:
        The limit that is reached, or None.

    Raises:
        TypeError: ``client_address`` returns something that is not hashable, or that cannot be counted over all
            workers. What it raises itself is passed on.

    """
    reserved: list[_Wanted] = []
    for one in _wanted(config, environ):
        if not slots.reserve(holder, one.key, one.limit):
            return one.reached
        reserved.append(one)
    key = _reached_in_site(slots, holder, config, reserved)
    return next((one.reached for one in reserved if one.key == key), None)


def _wanted(config: Config, environ: Environ) -> Iterator[_Wanted]:
    """The slots that a request needs, each before what the next one is for is found out."""
    limit = config.max_connections
    if limit is not None:
        whose = "worker" if config.site_limits is None else "site"
        sentence = f"This {whose} has {limit} WebSockets, and takes no more for now."
        reached = LimitReached("max_connections", Refusal("503 Service Unavailable", RETRY, sentence))
        yield _Wanted(whose, limit, reached)
    limit = config.max_connections_per_address
    address = None if limit is None else _address(config, environ)
    if limit is not None and address is not None:
        sentence = f"Your address has {limit} WebSockets here, and may have no more."
        reached = LimitReached("max_connections_per_address", Refusal("429 Too Many Requests", RETRY, sentence))
        yield _Wanted(_key(config, "address", address, "client_address"), limit, reached)


def reserve_user_slot(slots: Slots, ws: Any, config: Config) -> bool:
    """Reserve a slot of the WebSocket's user, where there is such a limit. Waits where it counts the site.

    Args:
        slots: The slots of this process.
        ws: The WebSocket, which is the holder and what ``user_key`` is called with.
        config: The settings of this WebSocket.

    Returns:
        False if all slots of the user are reserved.

    Raises:
        TypeError: ``user_key`` returns something that is not hashable, or that cannot be counted over all workers. What
            it raises itself is passed on.

    """
    limit, user_key = config.max_connections_per_user, config.user_key
    if limit is None or user_key is None:
        return True
    user = hashable(user_key(ws), "user_key")
    if user is None:
        return True
    key = _key(config, "user", user, "user_key")
    if not slots.reserve(ws, key, limit):
        return False
    return _reached_in_site(slots, ws, config, [(key, limit)]) is None


def _reached_in_site(
    slots: Slots, holder: Any, config: Config, reserved: Sequence[tuple[Hashable, int] | _Wanted]
) -> str | None:
    """The key of the first of these limits that is reached, where they count the site. That slot is released."""
    if config.site_limits is None or not reserved:
        return None
    key = slots.site(config.site_limits).reached(holder, [(str(one[0]), one[1]) for one in reserved])
    if key is not None:
        slots.release_one(holder, key)
    return key


def _key(config: Config, kind: str, value: Hashable, setting: str) -> Hashable:
    """What the slots of an address or a user are counted for. Where they are counted over all workers, it is a text
    that each of them makes of the same value: of the characters of a ``str``, or of type and ``repr()``. It is short
    whatever the value is.
    """
    if config.site_limits is None:
        return kind, value
    if isinstance(value, str):
        text = f"str {value}"
    elif type(value).__repr__ is object.__repr__:
        raise TypeError(f"{setting} returned {value!r}: wanted something with the same repr() in all workers, or None")
    else:
        text = f"{type(value).__module__}.{type(value).__qualname__} {value!r}"
    return f"{kind}:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _address(config: Config, environ: Environ) -> Hashable:
    if config.client_address is None:
        given: Hashable = environ.get("REMOTE_ADDR") or None  # the peer of a unix socket has no address
    else:
        given = hashable(config.client_address(environ), "client_address")
    return _network(given) if isinstance(given, str) and ":" in given else given


def _network(address: str) -> str:
    """What an IPv6 address counts as: its first 64 bits, of which a host may have all that follow (RFC 4291 2.5.4).

    An IPv4 address in the form of IPv6 counts as that. What is no address is returned as it is.
    """
    try:
        found = IPv6Address(address.partition("%")[0])  # without the interface of a link-local address
    except ValueError:
        return address
    mapped = found.ipv4_mapped
    return str(IPv6Address(int(found) >> 64 << 64)) + "/64" if mapped is None else str(mapped)
