"""How the tests measure memory."""

from __future__ import annotations

import gc
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["Memory", "bomb", "measured"]


@cache
def bomb() -> bytes:
    """A message that inflates to 64 MiB, as RFC 7692 7.2.1 compresses it. Not made where tests are only collected."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(bytes(2**26)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


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
