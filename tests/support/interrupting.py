"""An exception between two lines, as of a timeout, a signal handler, or too little memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["raised_at_call", "raised_at_line"]


class Interruption(BaseException):
    """As ``gevent.Timeout`` and KeyboardInterrupt, no Exception."""


def raised_at_line(number: int, function: Callable[[], object], *files: str) -> bool:
    """Call it, with an exception at that line, counted from 1, of those that it comes by in files whose names end so;
    whether it has so many.
    """
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if event == "line" and frame.f_code.co_filename.endswith(files):
            left -= 1
            if not left:
                raise Interruption
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


def raised_at_call(number: int, function: Callable[[], object], *files: str) -> bool:
    """Call it, with an exception at the beginning of a function in files whose names end so, or after they have called
    one in C, whichever is the number-th of both, counted from 1; whether there are so many. CPython runs the handlers
    of signals there.
    """
    left = number

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(files):
            left -= 1
            if not left:
                raise Interruption

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    except Interruption:
        return True
    finally:
        sys.setprofile(before)
    return False
