"""Both implementations of what exists in C and in Python, in one process.

A module chooses between C and Python when it is imported (``native.load``). So each implementation is a second copy of
the modules, executed with the other choice and not entered in ``sys.modules``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec, module_from_spec
from typing import Any, NamedTuple

from gws_middleware import native

__all__ = ["NAMES", "Implementation", "implementation"]

NAMES = ("python", "c") if all(map(find_spec, native.MODULES)) else ("python",)
"""The implementations that this installation has. The last lines of a run say so where C was not built."""

MODULES = (
    "gws_middleware.protocol.masking",
    "gws_middleware.protocol.frames",
    "gws_middleware.protocol.payload",
    "gws_middleware.protocol.connection",
    "gws_middleware.connection.fastpath",
    "gws_middleware.connection.channel",
)


class Implementation(NamedTuple):
    """The modules that exist twice, and the engine above them."""

    masking: Any
    frames: Any
    payload: Any
    connection: Any
    fastpath: Any
    channel: Any


@lru_cache
def implementation(name: str) -> Implementation:
    """Load the modules with one choice.

    Args:
        name: ``"python"`` or ``"c"``.

    Returns:
        Copies of the modules; what they import beside each other is the same for both.

    """
    for module in MODULES:
        importlib.import_module(module)  # before `load` is replaced: these keep the choice of this process
    original = native.load
    in_c = {module: importlib.import_module(module) for module in native.MODULES if name == "c"}
    native.load = in_c.get  # type: ignore[assignment]
    try:
        # fastpath is not loaded with the copy of the engine: `_fastpath.c` knows PreparedMessage of the original.
        return Implementation(*_copies(MODULES[:4]), *_copies(MODULES[4:]))
    finally:
        native.load = original


def _copies(names: Sequence[str]) -> list[Any]:
    """Execute modules once more, in order; a later one imports the copies of the earlier ones."""
    kept = {name: sys.modules[name] for name in names}
    copies = []
    try:
        for name in names:
            spec = find_spec(name)
            assert spec is not None
            assert spec.loader is not None
            copy = module_from_spec(spec)
            sys.modules[name] = copy
            spec.loader.exec_module(copy)
            copies.append(copy)
    finally:
        sys.modules.update(kept)
    return copies
