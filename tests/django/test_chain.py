"""The middleware chain: middlewares are called as methods, and see what they see without the app."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import greenlet
import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.handlers import base
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.utils.deprecation import MiddlewareMixin

from gws_middleware.django import chain

from ..support.seam import middlewares_of

Handler = Callable[[Any], Any]


class Middleware(MiddlewareMixin):
    """Of the usual kind."""


@contextmanager
def of_django(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Django's own function, without our patch."""
    with monkeypatch.context() as context:
        context.setattr(base, "convert_exception_to_response", convert_exception_to_response)
        yield


def called_by(handler: Any) -> list[Any]:
    """What Django's function for a middleware keeps in its closure."""
    return [cell.cell_contents for cell in handler.__closure__]


def chain_of(number: int) -> Handler:
    """A view in so many middlewares, as ``load_middleware()`` makes it; the view waits in another greenlet."""

    def view(request: Any) -> Any:
        greenlet.getcurrent().parent.switch()
        return HttpResponse()

    handler: Handler = view
    for _ in range(number):
        handler = base.convert_exception_to_response(Middleware(base.convert_exception_to_response(handler)))
    return handler


def waiting_bytes(handler: Handler) -> int:
    """What greenlet copies of the C stack of a greenlet whose view waits in ``handler``."""
    waiting = greenlet.greenlet(handler)
    tracemalloc.start()
    try:
        waiting.switch(None)
        snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__)])
        return max(trace.size for trace in snapshot.traces)
    finally:
        tracemalloc.stop()
        waiting.switch()


def test_middlewares_of_the_project_are_called_as_methods() -> None:
    """Of all that are classes with a ``__call__``, which Django's own are."""
    handler: Any = middlewares_of(WSGIHandler())
    for _ in settings.MIDDLEWARE:
        [method] = called_by(handler)
        assert method.__name__ == "__call__"
        handler = method.__self__.get_response
    assert called_by(handler)[0].__name__ == "_get_response"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="each call of Python has a frame on the C stack")
def test_waiting_view_has_no_c_frame_for_a_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django alone has half a KiB or more for each."""
    ours = waiting_bytes(chain_of(20)) - waiting_bytes(chain_of(10))
    with of_django(monkeypatch):
        djangos = waiting_bytes(chain_of(20)) - waiting_bytes(chain_of(10))
    assert (ours, djangos > 5000) == (0, True)


def test_handler_of_a_middleware_has_the_attributes_that_django_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The middleware around it may read them."""
    middleware = Middleware(HttpResponse)
    ours = base.convert_exception_to_response(middleware)
    with of_django(monkeypatch):
        djangos = base.convert_exception_to_response(middleware)
    assert called_by(ours) != called_by(djangos)
    assert (ours.__qualname__, vars(ours)) == (djangos.__qualname__, vars(djangos))


def test_function_is_called_as_it_is() -> None:
    """A middleware may be a function, and the view handler is a method."""

    def middleware(request: Any) -> Any: ...

    assert called_by(base.convert_exception_to_response(middleware)) == [middleware]


def test_async_middleware_is_called_as_it_is() -> None:
    """Its object is marked as a coroutine function; its method is not."""
    middleware = markcoroutinefunction(Middleware(HttpResponse))
    handler = base.convert_exception_to_response(middleware)
    assert iscoroutinefunction(handler)
    assert called_by(handler) == [middleware]


def test_patch_of_another_package_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may return any callable."""
    handlers: list[Any] = []

    def of_another_package(get_response: Handler) -> Any:
        handlers.append(MiddlewareMixin(get_response))
        return handlers[-1]

    monkeypatch.setattr(base, "convert_exception_to_response", of_another_package)
    chain.connect()
    middleware = Middleware(HttpResponse)
    assert base.convert_exception_to_response(middleware) is handlers[0]
    assert handlers[0].get_response is middleware
