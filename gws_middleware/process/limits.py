"""Who may come in, before the application is asked: how many WebSockets this worker and each address may have."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from ..config import Config, hashable
from ..protocol.handshake import Refusal
from ..typing import Environ

__all__ = ["Full", "full"]

RETRY = (("Retry-After", "5"),)
"""Seconds after which a client may try again (RFC 9110 10.2.3)."""


class Full(NamedTuple):
    """There is no place for one more."""

    reason: str
    """The setting that says so."""
    refusal: Refusal


def full(config: Config, environ: Environ, reserve: Callable[[Hashable, int], bool]) -> Full | None:
    """Reserve the slots that the settings limit; what to answer where none is free. Raises what ``client_address``
    raises, and TypeError where that returns something that is not hashable.
    """
    most, each = config.max_connections, config.max_connections_per_address
    if most is not None and not reserve("worker", most):
        sentence = f"This worker has {most} WebSockets, and takes no more for now."
        return Full("max_connections", Refusal("503 Service Unavailable", RETRY, sentence))
    address = None if each is None else _address(config, environ)
    if each is not None and address is not None and not reserve(("address", address), each):
        sentence = f"Your address has {each} WebSockets here, and may have no more."
        return Full("max_connections_per_address", Refusal("429 Too Many Requests", RETRY, sentence))
    return None


def _address(config: Config, environ: Environ) -> Hashable:
    if config.client_address is None:
        return environ.get("REMOTE_ADDR") or None  # a unix socket's peer has none
    return hashable(config.client_address(environ), "client_address")
