"""The functions of the settings ``client_address`` and ``user_key``, which do what a header of the request says."""

from __future__ import annotations

from typing import Any

from gws_middleware.typing import Environ

__all__ = ["client_address", "user_key"]


def _odd(environ: Environ, header: str) -> Any:
    """What the request's header says that a function of the settings does."""
    wanted = environ.get(header)
    if wanted == "raise":
        raise LookupError("the reason")
    return ["a list"] if wanted == "list" else wanted


def client_address(environ: Environ) -> Any:
    """The setting ``client_address``."""
    return _odd(environ, "HTTP_X_ADDRESS")


def user_key(ws: Any) -> Any:
    """The setting ``user_key``."""
    return _odd(ws.environ, "HTTP_X_USER")
