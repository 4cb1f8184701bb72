"""The application of ``behaviours`` below WSGI wrappers of other people's kind, inside and outside of our middleware.

The first segment of the path names the composition: ``/outside-generator/echo``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import sentry_sdk
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.profiler import ProfilerMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from gws_middleware import WebSocketMiddleware
from gws_middleware.typing import Environ, StartResponse, WSGIApp

from . import behaviours
from .common import json_response, text_response

Wrapper = Callable[[WSGIApp], WSGIApp]


# --- wrappers ------------------------------------------------------------------------------------------------------


def iterable(app: WSGIApp) -> WSGIApp:
    """Puts an object of its own around the response, and hands ``close()`` on."""

    class Response:
        def __init__(self, result: Iterable[bytes]) -> None:
            self.result = result

        def __iter__(self) -> Iterator[bytes]:
            yield from self.result

        def close(self) -> None:
            if hasattr(self.result, "close"):
                self.result.close()

    return lambda environ, start_response: Response(app(environ, start_response))


def generator(app: WSGIApp) -> WSGIApp:
    """Is a generator, so that nothing runs before the server iterates."""

    def wrapped(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        result = app(environ, start_response)
        try:
            yield from result
        finally:
            if hasattr(result, "close"):
                result.close()

    return wrapped


def buffering(app: WSGIApp) -> WSGIApp:
    """Takes all of the response before it gives it on, as one that compresses does."""

    def wrapped(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        result = app(environ, start_response)
        try:
            return [b"".join(result)]
        finally:
            if hasattr(result, "close"):
                result.close()

    return wrapped


def hiding(app: WSGIApp) -> WSGIApp:
    """Passes plain functions on, so that it cannot be seen whose methods ``start_response`` and ``write`` are."""

    def wrapped(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Any, *exc_info: Any) -> Any:
            write = start_response(status, headers, *exc_info)
            return lambda data: write(data)

        return app(environ, start)

    return wrapped


def copying(app: WSGIApp) -> WSGIApp:
    """Gives a copy of environ on."""
    return lambda environ, start_response: app(dict(environ), start_response)


def replacing_input(app: WSGIApp) -> WSGIApp:
    """Puts a reader of its own before the request's body."""

    class Input:
        def read(self, size: int = -1) -> bytes:
            return b""

    return lambda environ, start_response: app({**environ, "wsgi.input": Input()}, start_response)


def error_page(app: WSGIApp) -> WSGIApp:
    """Answers an exception with a page of its own."""

    def wrapped(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except LookupError:
            return text_response(start_response, "sorry", "500 Internal Server Error")

    return wrapped


def mounting(app: WSGIApp) -> WSGIApp:
    """Werkzeug's dispatcher."""
    mounted: WSGIApp = DispatcherMiddleware(behaviours.app, {"/mounted": app})
    return mounted


def proxy_fix(app: WSGIApp) -> WSGIApp:
    """Werkzeug's reader of X-Forwarded-*."""
    fixed: WSGIApp = ProxyFix(app, x_host=1, x_prefix=1)
    return fixed


def sentry(app: WSGIApp) -> WSGIApp:
    """The wrapper that sentry-sdk's documentation asks for."""
    watched: WSGIApp = SentryWsgiMiddleware(app)
    return watched


def profiler(app: WSGIApp) -> WSGIApp:
    """Werkzeug's, whose ``write`` is a list's ``append``: what is written before the response is not sent."""
    profiled: WSGIApp = ProfilerMiddleware(app, stream=None)
    return profiled


def own_greenlet(app: WSGIApp) -> WSGIApp:
    """Hides the server, and calls the application on another stack."""
    hidden = hiding_all(app)

    def wrapped(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def call() -> Any:
            try:
                return hidden(environ, start_response)
            except Exception as error:  # gevent would print it
                return error

        result = gevent.spawn(call).get()
        if isinstance(result, Exception):
            raise result
        found: Iterable[bytes] = result
        return found

    return wrapped


def deferring(app: WSGIApp) -> WSGIApp:
    """Starts the response when it has all of the body."""

    def wrapped(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        started: list[Any] = []
        body: list[bytes] = []

        def start(*arguments: Any) -> Any:
            started[:] = arguments
            return body.append

        result = app(environ, start)
        body += result
        if hasattr(result, "close"):
            result.close()
        start_response(*started[:2])
        return body

    return wrapped


def nothing(app: WSGIApp) -> WSGIApp:
    """Does nothing."""
    return app


# --- what sentry received ------------------------------------------------------------------------------------------

_reports: list[str] = []


class Recorder(Transport):
    """Keeps what would be sent."""

    def capture_envelope(self, envelope: Any) -> None:
        """A report: the exception's type and value, or the message."""
        for item in envelope.items:
            event = item.get_event()
            if event is not None:
                exceptions = event.get("exception", {}).get("values", [])
                texts = [f"{one['type']}: {one['value']}" for one in exceptions]
                _reports.append(" / ".join(texts) or str(event.get("logentry")))


sentry_sdk.init("https://key@sentry.invalid/1", transport=Recorder)


def _tell_reports(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """``/reports``: what was reported since the last call."""
    reports, _reports[:] = _reports[:], []
    return json_response(start_response, reports)


# --- compositions --------------------------------------------------------------------------------------------------


def hiding_generator(app: WSGIApp) -> WSGIApp:
    """Both at once."""
    return generator(hiding(app))


def hiding_all(app: WSGIApp) -> WSGIApp:
    """The server's ``start_response``, ``write`` and ``wsgi.input``."""
    return hiding(replacing_input(app))


def hiding_all_generator(app: WSGIApp) -> WSGIApp:
    """Both at once."""
    return generator(hiding_all(app))


def hiding_buffering(app: WSGIApp) -> WSGIApp:
    """Both at once."""
    return buffering(hiding(app))


WRAPPERS: dict[str, Wrapper] = {
    "nothing": nothing,
    "iterable": iterable,
    "generator": generator,
    "buffering": buffering,
    "hiding": hiding,
    "hiding-generator": hiding_generator,
    "hiding-buffering": hiding_buffering,
    "hiding-all": hiding_all,
    "hiding-all-generator": hiding_all_generator,
    "copying": copying,
    "replacing-input": replacing_input,
    "error-page": error_page,
    "mounting": mounting,
    "proxy-fix": proxy_fix,
    "sentry": sentry,
    "profiler": profiler,
    "own-greenlet": own_greenlet,
    "deferring": deferring,
    "twice": WebSocketMiddleware,
}
MOUNTS: dict[str, WSGIApp] = {"/reports": _tell_reports}
for _name, _wrapper in WRAPPERS.items():
    MOUNTS[f"/outside-{_name}"] = _wrapper(WebSocketMiddleware(behaviours.app))
    MOUNTS[f"/inside-{_name}"] = WebSocketMiddleware(_wrapper(behaviours.app))


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Dispatches by the first segment, and does nothing else."""
    head, slash, tail = environ["PATH_INFO"][1:].partition("/")
    mounted = MOUNTS.get(f"/{head}")
    if mounted is None:
        return behaviours.app(environ, start_response)
    environ["SCRIPT_NAME"], environ["PATH_INFO"] = f"{environ['SCRIPT_NAME']}/{head}", slash + tail
    return mounted(environ, start_response)
