"""The middleware chain: the same calls with less of the C stack.

A greenlet that waits keeps a copy of its C stack. Django calls each middleware as an object, for which CPython enters
its interpreter once more: 0.75 KiB for each middleware and each view that waits. A bound method needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import FunctionType, MethodType
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.core.handlers import base

__all__ = ["connect"]

GetResponse = Callable[[Any], Any]


def connect() -> None:
    """Patch ``convert_exception_to_response`` in the module of Django that makes the chain with it. Chains that are
    made from now on call the ``__call__`` method of each middleware.
    """
    base.convert_exception_to_response = _patched(base.convert_exception_to_response)  # type: ignore[attr-defined]


def _patched(convert: Callable[[GetResponse], GetResponse]) -> Callable[[GetResponse], GetResponse]:
    @wraps(convert)
    def converted(get_response: GetResponse) -> GetResponse:
        handler = convert(get_response)
        call = getattr(type(get_response), "__call__", None)  # noqa: B004
        if isinstance(call, FunctionType) and not iscoroutinefunction(get_response):
            for cell in getattr(handler, "__closure__", None) or ():  # where Django's function keeps the middleware
                if cell.cell_contents is get_response:
                    cell.cell_contents = MethodType(call, get_response)
        return handler

    return converted
