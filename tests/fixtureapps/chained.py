"""The application of ``behaviours`` in a process that has put a SIGTERM handler of its own before gunicorn's."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from .behaviours import app, wrapped

__all__ = ["app", "wrapped"]

_before: Any = signal.getsignal(signal.SIGTERM)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _before(number, frame)


signal.signal(signal.SIGTERM, _on_sigterm)
