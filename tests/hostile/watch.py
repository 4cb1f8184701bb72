"""What tests of hostile peers check: an honest connection beside the attack, and the memory of the worker."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ..support.rawclient import TEXT, Frame
from ..support.servers import Server

SETTINGS: dict[str, Any] = {
    "max_message_size": 2**20,
    "max_fragments": 4096,
    "send_limit": 2**20,
    "close_timeout": 0.5,
    "send_timeout": 1.0,
    "compression": "shared",
}
"""Limits that a test can reach, and deadlines that it can wait for."""

KEEP_ALIVE = 1
"""gunicorn's option: seconds that a client has for the head of a request."""

TIMEOUT = 5.0
"""Seconds that an honest peer may wait for its echo while others attack; it mostly is a few milliseconds, but the
machine may have other things to do.
"""
PAUSE = 0.005


class Bystander:
    """An honest peer in a thread of its own: it is answered from the beginning of the block to its end."""

    def __init__(self, server: Server) -> None:
        self._client = server.connect(timeout=TIMEOUT)
        self._client.upgrade("/echo")
        self._over = threading.Event()
        self._answered = threading.Condition()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._echoes = 0
        self._error: BaseException | None = None

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._client:
            if self._error is None:
                assert [one.code for one in self._client.close_handshake()] == [1000]

    def check(self) -> None:
        """The honest peer has got every echo so far, and gets one more."""
        with self._answered:
            echoes = self._echoes
            self._answered.wait_for(lambda: self._echoes > echoes or self._error is not None, 2 * TIMEOUT)
            assert self._error is None, f"the honest peer after {self._echoes} echoes: {self._error!r}"
            assert self._echoes > echoes

    def _talk(self) -> None:
        try:
            while not self._over.wait(PAUSE):
                self._client.text(f"message {self._echoes}")
                assert self._client.read_frame() == Frame(TEXT, b"message %d" % self._echoes)
                self._count(None)
        except (AssertionError, OSError, EOFError) as error:
            self._count(error)

    def _count(self, error: BaseException | None) -> None:
        with self._answered:
            self._echoes += error is None
            self._error = error
            self._answered.notify_all()


class Memory:
    """The resident memory of a worker process, of which the kernel keeps the peak."""

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")

    def _bytes(self, name: str) -> int:
        match = re.search(rf"^{name}:\s+(\d+) kB$", (self._process / "status").read_text(), re.MULTILINE)
        assert match is not None, name
        return int(match[1]) * 1024

    @contextmanager
    def grows_by_less_than(self, limit: int) -> Iterator[None]:
        """The peak inside of the block is less than ``limit`` bytes above what the worker had before."""
        (self._process / "clear_refs").write_text("5")  # the peak begins afresh (proc(5))
        before = self._bytes("VmRSS")
        yield
        grown = self._bytes("VmHWM") - before
        assert grown < limit, f"the worker's memory grew by {grown} bytes, {limit} were allowed"
