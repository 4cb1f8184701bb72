"""Strings of a request that many requests have: an open WebSocket keeps its request, and shares them with the others.

Rule: what may be secret is not shared, because what is shared stays in memory after its connection has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ..typing import Environ, Headers

__all__ = ["share"]

_REPEATED = {
    *("HOST", "ORIGIN", "USER-AGENT", "CONNECTION", "UPGRADE", "CACHE-CONTROL", "PRAGMA", "DNT", "VIA"),
    *("ACCEPT", "ACCEPT-ENCODING", "ACCEPT-LANGUAGE", "SEC-FETCH-DEST", "SEC-FETCH-MODE", "SEC-FETCH-SITE"),
    *("SEC-WEBSOCKET-VERSION", "SEC-WEBSOCKET-EXTENSIONS", "X-FORWARDED-PROTO", "X-FORWARDED-HOST", "X-FORWARDED-PORT"),
}
"""Headers of browsers and proxies whose values are no secrets, and the same in many requests."""
_REPEATED.update(["HTTP_" + header.replace("-", "_") for header in _REPEATED])
_REPEATED.update(["REQUEST_METHOD", "PATH_INFO", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"])
_LATEST = 1000
_MAX_SIZE = 500
"""Characters of a string that is shared, so that clients cannot fill the memory with them."""


@lru_cache(_LATEST)
def _shared(*strings: str) -> tuple[str, ...]:
    """The same tuple for equal strings, as long as they are among the latest."""
    return strings


def _item(name: str, value: str) -> tuple[str, str]:
    """A header or an environ variable, as far as possible of shared strings, or a shared tuple."""
    if len(name) > _MAX_SIZE:
        return name, value
    if len(value) <= _MAX_SIZE and name in _REPEATED:
        return _shared(name, value)  # type: ignore[return-value]
    return _shared(name)[0], value


def share(environ: Environ, headers: Iterable[tuple[str, str]] = ()) -> Headers:
    """Replace strings of an environ that are equal in many requests by the same objects.

    Args:
        environ: Is changed in place; what is in it stays equal.
        headers: What the server made the environ of.

    Returns:
        The headers, in the same strings as the environ.

    """
    headers = [_item(name, value) for name, value in headers]
    known = {value: value for _, value in headers}
    items = []
    for key, value in environ.items():
        if type(value) is str:
            name, shared = _item(key, value)
            items.append((name, known.get(value, shared)))
        else:
            items.append((key, value))
    environ.clear()
    environ.update(items)
    return headers
