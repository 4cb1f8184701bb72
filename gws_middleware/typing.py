"""Shapes that more than one module speaks of. Rule: nothing of ours is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

__all__ = ["Environ", "Headers", "Message", "Sink", "StartResponse", "WSGIApp", "Write"]

Message: TypeAlias = "str | bytes"
"""A whole message: text is ``str``, binary is ``bytes`` (RFC 6455 5.6)."""

Headers: TypeAlias = "list[tuple[str, str]]"
Environ: TypeAlias = "dict[str, Any]"
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]
"""A WSGI application (PEP 3333)."""


class Sink(Protocol):
    """What a group asks of a member."""

    @property
    def environ(self) -> Mapping[str, Any]:
        """The request that the member came with."""

    def offer(self, message: Any) -> bool:
        """Queue one message without ever waiting for the peer; False when the member could not take it."""
