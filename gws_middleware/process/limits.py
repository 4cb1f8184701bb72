"""The limits on the number of connections: of a worker process, of an address, and of a user.

Rule 1: a slot is the entry of its holder in a table, not a counter that goes up and down. So nothing is counted twice,
releasing twice does nothing, and ``Slots.release()`` releases all slots of a holder, whatever exception was raised
between two lines.

Rule 2: the slots of the worker and of the address are reserved before the application is called, so a client over these
limits gets an HTTP status. The user is known when the application accepts, which in most frameworks is too late for
HTTP: a connection over that limit is accepted and closed.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from ..config import Config, hashable
from ..protocol.handshake import Refusal
from ..typing import Environ

__all__ = ["LimitReached", "Slots", "reserve_request_slots", "reserve_user_slot"]

RETRY = (("Retry-After", "5"),)
"""Seconds after which a client may try again (RFC 9110 10.2.3)."""


class Slots:
    """The slots that are reserved in this process."""

    def __init__(self) -> None:
        self._holders: dict[Hashable, dict[Any, None]] = {}
        self._keys: dict[Any, list[Hashable]] = {}

    def __len__(self) -> int:
        """How many holders have a slot."""
        return len(self._keys)

    def reserve(self, holder: Any, key: Hashable, limit: int) -> bool:
        """Reserve one slot of ``key``.

        Args:
            holder: What the slot is reserved for, until ``release()``.
            key: What the slots are counted for: the worker, an address, a user.
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
            holders = self._holders.get(key, {})
            holders.pop(holder, None)
            if not holders:
                self._holders.pop(key, None)
        self._keys.pop(holder, None)

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


def reserve_request_slots(slots: Slots, holder: Any, config: Config, environ: Environ) -> LimitReached | None:
    """Reserve a slot of the worker and one of the request's address, where there are such limits.

    Args:
        slots: The slots of this process.
        holder: The WebSocket of the request. The caller releases its slots, also where this function raises or returns
            a limit.
        config: The settings.
        environ: The request's WSGI environ.

    Returns:
        The limit that is reached, or None.

    Raises:
        TypeError: ``client_address`` returns something that is not hashable. What it raises itself is passed on.

    """
    limit = config.max_connections
    if limit is not None and not slots.reserve(holder, "worker", limit):
        sentence = f"This worker has {limit} WebSockets, and takes no more for now."
        return LimitReached("max_connections", Refusal("503 Service Unavailable", RETRY, sentence))
    limit = config.max_connections_per_address
    address = None if limit is None else _address(config, environ)
    if limit is not None and address is not None and not slots.reserve(holder, ("address", address), limit):
        sentence = f"Your address has {limit} WebSockets here, and may have no more."
        return LimitReached("max_connections_per_address", Refusal("429 Too Many Requests", RETRY, sentence))
    return None


def reserve_user_slot(slots: Slots, ws: Any, config: Config) -> bool:
    """Reserve a slot of the WebSocket's user, where there is such a limit.

    Args:
        slots: The slots of this process.
        ws: The WebSocket, which is the holder and what ``user_key`` is called with.
        config: The settings of this WebSocket.

    Returns:
        False if all slots of the user are reserved.

    Raises:
        TypeError: ``user_key`` returns something that is not hashable. What it raises itself is passed on.

    """
    limit, user_key = config.max_connections_per_user, config.user_key
    if limit is None or user_key is None:
        return True
    user = hashable(user_key(ws), "user_key")
    return user is None or slots.reserve(ws, ("user", user), limit)


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
