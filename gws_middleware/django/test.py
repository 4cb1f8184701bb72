"""Django's test client, with WebSockets.

::

    class ChatTest(WebSocketTestMixin, TestCase):
        def test_echo(self):
            self.client.force_login(self.user)
            with self.client.websocket("/ws/chat/1/") as ws:
                ws.send("x")
                self.assertEqual(ws.receive(), "x")

With pytest-django, its fixtures ``client`` and ``admin_client`` have ``websocket()`` too (``pytest_plugin``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any
from unittest.mock import patch

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.test import Client, RequestFactory
from django.test.client import store_rendered_templates  # type: ignore[attr-defined]
from django.test.signals import template_rendered
from gevent.monkey import get_original

from .. import testing
from ..exceptions import HandshakeRefused
from ..middleware import WebSocketMiddleware
from ..typing import Environ

__all__ = ["WebSocketClient", "WebSocketRefused", "WebSocketTestMixin"]


class WebSocketRefused(HandshakeRefused):
    """The view, or something in front of it, answered with HTTP."""

    def __init__(self, refused: HandshakeRefused, response: HttpResponse) -> None:
        super().__init__(refused.status, refused.headers, refused.body)
        self.response = response
        """The answer, for ``assertContains``, ``assertRedirects`` and the like: it has ``context``, ``templates``,
        ``json()`` and so on, as those of ``django.test.Client`` do."""

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
    ) -> AbstractContextManager[testing.Client]:
        """A context manager around one connection, whose value is a ``gws_middleware.testing.Client``.

        ``path``, ``secure``, ``headers`` and ``extra`` are those of ``get()``. The view runs in a greenlet and sees
        this test's database transaction. ``timeout`` (s) bounds each wait, so that no test hangs. WebSocketRefused: the
        answer was HTTP. An exception of the view's comes out of the ``with`` block, unless ``raise_request_exception``
        is False.
        """
        fields = {**(headers or {}), **({} if origin is None else {"Origin": origin})}
        environ: Any = _EnvironFactory(self).get(path, secure=secure, headers=fields, **extra)
        environ.setdefault("HTTP_HOST", _host(environ))
        return self._websocket(environ, tuple(subprotocols), timeout)

    @contextmanager
    def _websocket(self, environ: Environ, subprotocols: tuple[str, ...], timeout: float) -> Iterator[testing.Client]:
        handler = _Handler()
        error: Exception | None = None
        with _shared_connections, handler.listening():
            try:
                connection = testing.connect(
                    WebSocketMiddleware(handler), subprotocols=subprotocols, environ=environ, timeout=timeout
                )
                with connection as ws:
                    for name, value in ws.headers:
                        if name.lower() == "set-cookie":
                            self.cookies.load(value)
                    yield ws
            except Exception as caught:
                error = caught
        # Here and not where it was caught, so that Python gives no exception a context but its own.
        if handler.exc_info is not None and self.raise_request_exception:
            raise _with_cause(handler.exc_info[1], error)
        if isinstance(error, HandshakeRefused):
            raise WebSocketRefused(error, self._response(handler, error, environ))
        if error is not None:
            raise error

    def _response(self, handler: _Handler, refused: HandshakeRefused, environ: Environ) -> Any:
        """Django's own response, or one like it where Django was not asked, e.g. for a foreign origin."""
        response: Any = handler.response
        if response is None:
            status, _, reason = refused.status.partition(" ")
            response = HttpResponse(refused.body, status=int(status), reason=reason, headers=dict(refused.headers))
        self.cookies.update(response.cookies)
        response.client, response.request, response.wsgi_request = self, environ, handler.request
        response.resolver_match = getattr(handler.request, "resolver_match", None)
        response.templates = handler.rendered.get("templates", [])
        response.context = handler.rendered.get("context")
        response.exc_info = handler.exc_info
        response.json = partial(self._parse_json, response)  # type: ignore[attr-defined]
        return response


class WebSocketTestMixin:
    """In front of ``TestCase`` or ``TransactionTestCase``: ``self.client`` is a ``WebSocketClient``."""

    client_class: type[Client] = WebSocketClient


class _EnvironFactory(RequestFactory):
    """Makes what Django's client makes of the same arguments, up to the environ."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.cookies, self.defaults = client.cookies, client.defaults

    def request(self, **request: Any) -> Any:
        return self._base_environ(**request)  # type: ignore[attr-defined]


def _host(environ: Environ) -> str:
    """What a browser would send for this address. Django's client sends none, which no handshake may do."""
    usual = {"http": "80", "https": "443"}[environ["wsgi.url_scheme"]]
    name, port = environ["SERVER_NAME"], environ["SERVER_PORT"]
    return str(name if port == usual else f"{name}:{port}")


def _with_cause(raised: BaseException, error: BaseException | None) -> BaseException:
    """The view's exception and, before all that led to it, the test's error: mostly one has brought about the other,
    and both are to be read.
    """
    if error is not None and error is not raised and not isinstance(error, HandshakeRefused):
        first = raised
        while earlier := first.__cause__ or (None if first.__suppress_context__ else first.__context__):
            first.__cause__ = earlier  # explicitly: a context is replaced when the exception is raised once more
            first = earlier
        first.__cause__ = error
    return raised


class _Handler(WSGIHandler):
    """Serves one request, and keeps what a test wants to know."""

    request: HttpRequest | None = None
    response: HttpResponseBase | None = None
    exc_info: tuple[type[BaseException], BaseException, TracebackType] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.rendered: dict[str, Any] = {}

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        self.request = request
        self.response = response = super().get_response(request)
        return response

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the view's exception, and what is rendered."""
        rendered = partial(store_rendered_templates, self.rendered)
        got_request_exception.connect(self._raised)
        template_rendered.connect(rendered)
        try:
            yield
        finally:
            got_request_exception.disconnect(self._raised)
            template_rendered.disconnect(rendered)

    def _raised(self, *, request: HttpRequest | None = None, **arguments: Any) -> None:
        if request is self.request:
            self.exc_info = sys.exc_info()  # type: ignore[assignment]


class _SharedConnections:
    """While a WebSocket is open, the test's database connections are those of all greenlets, and nobody closes them:
    the test's transaction is in them.

    Greenlets have database connections of their own where gevent has patched the standard library.
    """

    def __init__(self) -> None:
        self._users = 0
        self._stack = ExitStack()

    def __enter__(self) -> None:
        if not self._users:
            self._share()
        self._users += 1

    def __exit__(self, *error: object) -> None:
        self._users -= 1
        if not self._users:
            self._stack.close()

    def _share(self) -> None:
        ours = {connection.alias: connection for connection in connections.all()}
        for connection in ours.values():
            connection.inc_thread_sharing()
            self._stack.callback(connection.dec_thread_sharing)
            for method in ("close", "close_if_unusable_or_obsolete"):  # the latter may open one to look at it
                self._stack.enter_context(patch.object(connection, method, _leave_open))
        create, thread = connections.create_connection, _thread()

        def connect(alias: str) -> Any:
            return ours[alias] if _thread() == thread else create(alias)

        self._stack.enter_context(patch.object(connections, "create_connection", connect))


def _leave_open() -> None:
    """In place of a connection's ``close()`` and the like."""


_thread = get_original("_thread", "get_ident")
"""The thread and not the greenlet."""
_shared_connections = _SharedConnections()
