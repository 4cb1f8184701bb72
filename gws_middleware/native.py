"""The loader of the extension modules in C. Rule: nothing of ours is imported here, and only this module reads
``GWS_SPEEDUPS``.

================  =============================================================
``GWS_SPEEDUPS``  what is used
================  =============================================================
not set           the C modules where they were built, pure Python elsewhere
``1``             the C modules; ImportError where one was not built
``0``             pure Python
================  =============================================================
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__all__ = ["MODULES", "load"]

MODULES = (
    "gws_middleware.protocol._speedups",
    "gws_middleware.connection._channel",
    "gws_middleware.connection._fastpath",
)
"""All that there are; pure Python does the same work without them."""

_CHOICE = os.environ.get("GWS_SPEEDUPS", "")


def load(name: str, choice: str = _CHOICE) -> Any:
    """Import one of ``MODULES``.

    Args:
        name: The module's full name.
        choice: The value of ``GWS_SPEEDUPS``.

    Returns:
        The module, or None where pure Python is to do its work.

    Raises:
        ImportError: ``choice`` is none of the three values, or it is ``"1"`` and the module was not built.

    """
    if choice not in ("", "0", "1"):
        raise ImportError(f"GWS_SPEEDUPS is {choice!r}: set it to 1 (C or nothing), 0 (pure Python) or leave it unset")
    if choice == "0":
        return None
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if choice == "1":
            raise ImportError(
                f"GWS_SPEEDUPS is 1, but the C extension {name} cannot be imported: install with a C compiler at "
                "hand, or leave GWS_SPEEDUPS unset to run in pure Python"
            ) from error
        return None
