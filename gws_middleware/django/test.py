"""Django's test client, with WebSockets.

::

    class ChatTest(WebSocketTestMixin, TestCase):
        def test_echo(self):
            self.client.force_login(self.user)
            with self.client.websocket("/ws/chat/1/") as ws:
                ws.send("x")
                self.assertEqual(ws.receive(), "x")

pytest-django: ``@pytest.fixture`` ``def client(): return WebSocketClient()``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception, request_finished, request_started
from django.db import close_old_connections, connections
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.test import Client

from .. import testing
from ..exceptions import HandshakeRefused
from ..middleware import WebSocketMiddleware
from ..typing import Environ, StartResponse

__all__ = ["WebSocketClient", "WebSocketRefused", "WebSocketTestMixin"]


class WebSocketRefused(HandshakeRefused):
    """The view, or something in front of it, answered with HTTP."""

    def __init__(self, refused: HandshakeRefused, response: HttpResponse) -> None:
        super().__init__(refused.status, refused.headers, refused.body)
        self.response = response
        """The answer, for ``assertContains``, ``assertRedirects`` and the like."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        return self.response.status_code


class WebSocketClient(Client):
    """``django.test.Client`` and ``websocket()``; cookies, ``force_login`` and defaults are shared by both."""

    def websocket(
        self,
        path: str = "/",
        subprotocols: Iterable[str] = (),
        *,
        origin: str | None = None,
        secure: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        **extra: Any,
    ) -> Any:
        """A context manager around one connection, whose value is a ``gws_middleware.testing.Client``.

        The view runs in a greenlet and sees this test's database transaction. ``timeout`` (s) bounds each wait, so that
        no test hangs. WebSocketRefused: the answer was HTTP. An exception of the view's comes out of the ``with``
        block, unless ``raise_request_exception`` is False.
        """
        path, _, query = path.partition("?")
        request: dict[str, Any] = {"PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "QUERY_STRING": query}
        if secure:
            request.update({"wsgi.url_scheme": "https", "SERVER_PORT": "443"})
        environ = self._base_environ(**request, **extra)  # type: ignore[attr-defined]
        return self._websocket(environ, tuple(subprotocols), origin, dict(headers or {}), timeout)

    @contextmanager
    def _websocket(
        self,
        environ: Environ,
        subprotocols: tuple[str, ...],
        origin: str | None,
        headers: Mapping[str, str],
        timeout: float,
    ) -> Iterator[testing.Client]:
        handler = _Handler()
        app = WebSocketMiddleware(handler.with_the_connections_of_the_test())
        connection = testing.connect(
            app, subprotocols=subprotocols, origin=origin, headers=headers, environ=environ, timeout=timeout
        )
        with handler.listening():
            try:
                with connection as ws:
                    for name, value in ws.headers:
                        if name == "Set-Cookie":
                            self.cookies.load(value)
                    yield ws
            except HandshakeRefused as refused:
                self._raise(handler)
                raise WebSocketRefused(refused, self._response(handler, refused, environ)) from None
            except Exception as error:
                self._raise(handler, error)
                raise
            self._raise(handler)

    def _raise(self, handler: _Handler, cause: Exception | None = None) -> None:
        if handler.exception is not None and self.raise_request_exception:
            raise handler.exception from cause

    def _response(self, handler: _Handler, refused: HandshakeRefused, environ: Environ) -> Any:
        """Django's own response, or one like it where Django was not asked, e.g. for a foreign origin."""
        response: Any = handler.response
        if response is None:
            status, _, reason = refused.status.partition(" ")
            response = HttpResponse(refused.body, status=int(status), reason=reason, headers=dict(refused.headers))
        self.cookies.update(response.cookies)
        response.client, response.request, response.wsgi_request = self, environ, handler.request
        return response


class WebSocketTestMixin:
    """In front of ``TestCase`` or ``TransactionTestCase``: ``self.client`` is a ``WebSocketClient``."""

    client_class = WebSocketClient


def _close(close: Callable[[], None]) -> None:
    """The end of a request, which closes no database connection: it is the test's, and may be in its transaction."""
    connected = request_finished.disconnect(close_old_connections)
    try:
        close()
    finally:
        if connected:
            request_finished.connect(close_old_connections)


class _Handler(WSGIHandler):
    """Serves one request, and keeps what a test wants to know."""

    request: HttpRequest | None = None
    response: HttpResponseBase | None = None
    exception: BaseException | None = None
    _connected = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        # Django sends the first of its two signals here, and comes to get_response() next.
        self._connected = request_started.disconnect(close_old_connections)
        try:
            return super().__call__(environ, start_response)
        finally:
            self._connect_again()

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        self._connect_again()
        self.request = request
        self.response = response = super().get_response(request)
        response.close = partial(_close, response.close)  # type: ignore[method-assign]
        return response

    def _connect_again(self) -> None:
        if self._connected:
            request_started.connect(close_old_connections)
        self._connected = False

    def with_the_connections_of_the_test(self) -> Any:
        """This application in another greenlet, which has database connections of its own where gevent has patched
        the standard library: give it ours, whose transaction it is to see.
        """
        ours = connections.all(initialized_only=True)

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            for connection in ours:
                connections[connection.alias] = connection
            response: Iterable[bytes] = self(environ, start_response)
            return response

        return app

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the view's exception, and share this test's connections with its greenlet."""
        ours = connections.all(initialized_only=True)
        for connection in ours:
            connection.inc_thread_sharing()
        got_request_exception.connect(self._raised)
        try:
            yield
        finally:
            got_request_exception.disconnect(self._raised)
            for connection in ours:
                connection.dec_thread_sharing()

    def _raised(self, *, request: HttpRequest | None = None, **arguments: Any) -> None:
        if request is self.request:
            self.exception = sys.exc_info()[1]
