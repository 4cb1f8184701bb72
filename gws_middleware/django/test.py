"""Django's test client with WebSockets.

Rule: the view runs in the process, the database transaction and the session of the test, with the real middleware and
engine. An exception of the view is raised in the test.

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
from . import commits, instance

__all__ = ["WebSocketClient", "WebSocketRefused", "WebSocketTestMixin"]

UNSENT = (
    "messages to groups that wait for a commit: {}. A TestCase does not commit: send and receive inside "
    "self.captureOnCommitCallbacks(execute=True), use a TransactionTestCase, or send with on_commit=False"
)
"""What a TimeoutError of the test client has in addition, where this may be why no message came."""


class WebSocketRefused(HandshakeRefused):
    """The handshake was answered with HTTP, by the view, a decorator, a middleware or the package.

    Args:
        refused: The error of ``gws_middleware.testing``.
        response: Django's response.

    """

    def __init__(self, refused: HandshakeRefused, response: HttpResponse) -> None:
        super().__init__(refused.status, refused.headers, refused.body)
        self.response = response
        """The response, for ``assertContains``, ``assertRedirects`` and so on. It has ``context``, ``templates``,
        ``json()`` and the other attributes of a response of ``django.test.Client``."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        return self.response.status_code


class WebSocketClient(Client):
    """``django.test.Client`` with the method ``websocket()``, which uses the client's cookies, login and defaults."""

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
        """Open a WebSocket, for one ``with`` block.

        The view runs in a greenlet and sees the database transaction of the test. An exception of the view is raised at
        the end of the ``with`` block, unless ``raise_request_exception`` of the client is False.

        Args:
            path: The path, with a query if there is one, as for ``get()``.
            subprotocols: The subprotocols to offer, the preferred one first. Default: none.
            origin: The header ``Origin``. Default: none.
            secure: Whether the request is made by ``https``, as for ``get()``.
            headers: More headers, as for ``get()``.
            timeout: Seconds that each wait may take. Default: 5.
            **extra: Values of the WSGI environ, as for ``get()``.

        Returns:
            A context manager, whose value is a ``gws_middleware.testing.Client``.

        Raises:
            WebSocketRefused: The ``with`` statement raises it where the answer was HTTP.
            TimeoutError: A wait took more than ``timeout`` seconds.

        """
        fields = {**(headers or {}), **({} if origin is None else {"Origin": origin})}
        environ: Any = _EnvironFactory(self).get(path, secure=secure, headers=fields, **extra)
        environ.setdefault("HTTP_HOST", _host(environ))
        return self._websocket(environ, tuple(subprotocols), timeout)

    @contextmanager
    def _websocket(self, environ: Environ, subprotocols: tuple[str, ...], timeout: float) -> Iterator[testing.Client]:
        handler = _Handler()
        error: Exception | None = None
        with _shared_connections, handler.recording():
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
                if isinstance(error, TimeoutError) and (waiting := commits.unsent()):
                    error.args = (f"{error}; {UNSENT.format(waiting)}",)
        # Raised here and not in the "except" block, where Python would set the context of the exception.
        if handler.exc_info is not None and self.raise_request_exception:
            raise _with_cause(handler.exc_info[1], error)
        if isinstance(error, HandshakeRefused):
            raise WebSocketRefused(error, self._response(handler, error, environ))
        if error is not None:
            raise error

    def _response(self, handler: _Handler, refused: HandshakeRefused, environ: Environ) -> Any:
        """Django's response, or an equal one where the package refused before Django, e.g. because of the origin."""
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
    """A mixin for ``TestCase`` and ``TransactionTestCase``: ``self.client`` is a ``WebSocketClient``, and groups are
    empty when a test begins.
    """

    client_class: type[Client] = WebSocketClient

    def run(self, result: Any = None) -> Any:
        """Run one test; unittest calls this."""
        instance.begin_test()
        return super().run(result)  # type: ignore[misc]


class _EnvironFactory(RequestFactory):
    """Makes the environ that Django's client makes of the same arguments."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.cookies, self.defaults = client.cookies, client.defaults

    def request(self, **request: Any) -> Any:
        return self._base_environ(**request)  # type: ignore[attr-defined]


def _host(environ: Environ) -> str:
    """The Host header of a browser for this address. Django's client sends none, but a handshake has to have one."""
    usual = {"http": "80", "https": "443"}[environ["wsgi.url_scheme"]]
    name, port = environ["SERVER_NAME"], environ["SERVER_PORT"]
    return str(name if port == usual else f"{name}:{port}")


def _with_cause(raised: BaseException, error: BaseException | None) -> BaseException:
    """The view's exception, with the test's error as the cause at the end of its chain. Often one of them is a
    consequence of the other, so both are shown.
    """
    if error is not None and error is not raised and not isinstance(error, HandshakeRefused):
        first = raised
        while earlier := first.__cause__ or (None if first.__suppress_context__ else first.__context__):
            first.__cause__ = earlier  # as a cause, because a context is replaced when the exception is raised again
            first = earlier
        first.__cause__ = error
    return raised


class _Handler(WSGIHandler):
    """Serves one request, and keeps the request, the response, the exception and the rendered templates."""

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
    def recording(self) -> Iterator[None]:
        """Record the view's exception and the rendered templates during the block."""
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
    """Makes all greenlets use the test's database connections while a WebSocket is open, and keeps them open, because
    they have the test's transaction.

    Without this, each greenlet has connections of its own where gevent has patched the standard library.
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
            for method in ("close", "close_if_unusable_or_obsolete"):  # the second may open a connection
                self._stack.enter_context(patch.object(connection, method, _leave_open))
        create, thread = connections.create_connection, _thread()

        def connect(alias: str) -> Any:
            return ours[alias] if _thread() == thread else create(alias)

        self._stack.enter_context(patch.object(connections, "create_connection", connect))


def _leave_open() -> None:
    """Replaces the methods of a connection that close it."""


_thread = get_original("_thread", "get_ident")
"""Returns the native thread, and not the greenlet as the patched function does."""
_shared_connections = _SharedConnections()
