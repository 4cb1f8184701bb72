"""How the tests measure memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Memory", "measured"]


class Memory:
    """Bytes that Python, and zlib through it, allocated inside a ``measured()`` block."""

    peak = held = 0


@contextmanager
def measured() -> Iterator[Memory]:
    """Measure the block: the most that was allocated at once, and what is still held when it ends."""
    memory = Memory()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield memory
        now, peak = tracemalloc.get_traced_memory()
        memory.peak, memory.held = peak - before, now - before
    finally:
        tracemalloc.stop()
