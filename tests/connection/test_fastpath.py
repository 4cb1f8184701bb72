"""The fast path exists in C and in Python. ``tests/test_parity.py`` compares the two, and ``make test-pure`` runs the
whole suite on Python. This file has which of them is chosen, and what the types in C owe to the interpreter.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from importlib.util import find_spec
from typing import Any

import pytest

from gws_middleware.connection.fastpath import FastTransport, FastWebSocket, Turn
from gws_middleware.protocol.connection import Connection

from ..support.notices import EXTENSIONS

FastEngine: type[Any] = Connection.__bases__[0]
TYPES: list[type[Any]] = [FastTransport, FastWebSocket, Turn, FastEngine]
IN_C = [kind for kind in TYPES if kind.__module__.rpartition(".")[2].startswith("_")]
PROGRAM = """
from gws_middleware.connection.fastpath import FastTransport, FastWebSocket, Turn
from gws_middleware.protocol.connection import Connection
for kind in (FastTransport, FastWebSocket, Turn, Connection.__bases__[0]):
    print(kind.__module__)
"""


@pytest.mark.parametrize(
    ("choice", "modules"),
    [
        ("0", ["gws_middleware.connection.fastpath"] * 3 + ["gws_middleware.protocol.frames"]),
        (None, ["gws_middleware.connection._fastpath"] * 3 + ["gws_middleware.protocol._speedups"]),
    ],
)
def test_setting_chooses_the_classes(choice: str | None, modules: list[str]) -> None:
    """With GWS_SPEEDUPS=0 they are those in Python; without it those in C, where that was built."""
    if choice is None and not all(map(find_spec, EXTENSIONS)):
        pytest.skip("the C extensions are not built")
    environ = {name: value for name, value in os.environ.items() if name != "GWS_SPEEDUPS"}
    environ |= {} if choice is None else {"GWS_SPEEDUPS": choice}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == modules


@pytest.mark.skipif(not IN_C, reason="the C extensions are not in use")
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_type_in_c_cannot_be_changed(kind: type[Any]) -> None:
    """All connections share it."""
    assert kind in IN_C
    with pytest.raises(TypeError):
        kind.extra = 1


@pytest.mark.parametrize(("base", "attribute"), [(FastTransport, "_outbox"), (FastWebSocket, "_inbox")])
def test_cycle_through_an_attribute_is_collected(base: type[Any], attribute: str) -> None:
    """The garbage collector sees what the attributes refer to."""

    class Kind(base):  # type: ignore[misc]
        __slots__ = ("__weakref__",)

    it = Kind()
    setattr(it, attribute, [it])
    reference = weakref.ref(it)
    del it
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("end", [3, 2**70])
def test_feed_beyond_the_data_is_refused(end: int) -> None:
    """A caller that passes a larger size than that of the data."""
    with pytest.raises(ValueError, match="lie"):
        Connection().feed(b"\x81\x00", end)
