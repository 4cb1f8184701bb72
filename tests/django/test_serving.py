"""Undecorated views, with the app in ``INSTALLED_APPS``: they are served like decorated ones (same tests).

Their sessions are tested in test_sessions.py, their transactions in test_databases.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import wraps
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.views.decorators.cache import cache_page

from gws_middleware import ConnectionClosed, testing
from gws_middleware.django.decorators import accept_websocket
from gws_middleware.django.serving import attach, connect
from gws_middleware.django.test import WebSocketClient
from gws_middleware.typing import Environ, StartResponse
from tests.support.inprocess import problems

from .project import views
from .support import answer, disconnected_request, refusal


def prepared(view: Any) -> Any:
    """The function that Django's handler calls for the view."""
    return WSGIHandler().make_view_atomic(view)


def test_view_has_the_attributes_and_may_return_none(client: WebSocketClient) -> None:
    """For a WebSocket and for plain HTTP."""
    assert client.get("/undecorated/").content == b"http False"
    with client.websocket("/undecorated/") as ws:
        assert answer(ws, "x") == "x"


def test_page_without_websockets_answers_a_handshake_with_http(client: WebSocketClient) -> None:
    """Its response goes out instead of the 101."""
    response = refusal(client, "/")
    assert (response.status_code, response.content) == (200, b"plain")


def test_patch_of_another_package_is_kept(client: WebSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper around each view, e.g. that of sentry-sdk, is called for WebSockets and for plain HTTP."""
    seen: list[str] = []
    make_view_atomic = BaseHandler.make_view_atomic

    def of_another_package(handler: BaseHandler, view: Any) -> Any:
        made = make_view_atomic(handler, view)

        @wraps(view)
        def called(*args: Any, **kwargs: Any) -> Any:
            seen.append(view.__name__)
            return made(*args, **kwargs)

        return called

    monkeypatch.setattr(BaseHandler, "make_view_atomic", of_another_package)
    connect()
    with client.websocket("/undecorated/") as ws:
        assert answer(ws, "x") == "x"
    assert client.get("/undecorated/").content == b"http False"
    assert seen == ["undecorated"] * 2


def test_view_in_no_transaction_is_called_as_it_is(client: WebSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``ATOMIC_REQUESTS`` no function of ours around it is kept for as long as it runs."""
    prepared: list[Any] = []
    make_view_atomic = BaseHandler.make_view_atomic

    def recorded(handler: BaseHandler, view: Any) -> Any:
        prepared.append(view)
        return make_view_atomic(handler, view)

    monkeypatch.setattr(BaseHandler, "make_view_atomic", recorded)
    connect()
    with client.websocket("/undecorated/") as ws:
        assert answer(ws, "x") == "x"
    assert prepared == [views.undecorated]


def test_requests_have_one_function_for_what_they_are() -> None:
    """``request.is_websocket``, which an open WebSocket keeps."""
    functions = []
    for _ in range(2):
        request: Any = RequestFactory().get("/")
        attach(request)
        functions.append(request.is_websocket)
    assert functions[0] is functions[1]


def accepted_before(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Django, called with a WebSocket that is accepted already, as gevent-websocket's server does."""
    environ["wsgi.websocket"].accept()
    response: Iterable[bytes] = WSGIHandler()(environ, start_response)
    return response


@override_settings(ROOT_URLCONF="tests.django.dbproject.urls")
def test_view_of_an_open_websocket_is_in_no_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction of ``ATOMIC_REQUESTS``, because no ``accept()`` would end it."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    with testing.connect(accepted_before, "/accepts/?name=early") as ws:
        assert ws.receive_json() == [False]
    assert User.objects.filter(username="early").delete()[0] == 1


@override_settings(MIDDLEWARE=[], ALLOWED_HOSTS=["example.com"])
def test_open_websocket_of_a_host_that_is_not_allowed_closes(caplog: pytest.LogCaptureFixture) -> None:
    """With 1008. A handshake would be answered with 403."""
    headers = {"Host": "evil.test"}
    with testing.connect(accepted_before, "/undecorated/", origin="http://evil.test", headers=headers) as ws:
        assert ws.receive() is None
        assert (ws.close_code, ws.close_reason) == (1008, "this host is not allowed")
    assert [record.getMessage() for record in problems(caplog)] == []


@pytest.mark.parametrize("path", ["/forgets/", "/answers/nothing/"])
def test_none_without_an_answer_is_an_error(client: WebSocketClient, path: str) -> None:
    """The view, decorated or not, has neither accepted nor closed the WebSocket."""
    with pytest.raises(ValueError, match="neither accepted nor closed"), client.websocket(path):
        pass


def test_none_without_a_websocket_is_an_error(client: WebSocketClient) -> None:
    """That of Django."""
    with pytest.raises(ValueError, match="didn't return an HttpResponse object"):
        client.get("/forgets/")


@pytest.mark.parametrize("path", ["/raises/", "/undecorated/raises/"])
def test_exception_closes_with_1011(client: WebSocketClient, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """In a decorated view and in another one. There is one log record, that of Django, with its traceback."""
    client.raise_request_exception = False
    with client.websocket(path) as ws:
        assert ws.receive() is None
        assert ws.close_code == 1011
    [record] = problems(caplog)
    assert (record.name, record.levelname, bool(record.exc_info)) == ("django.request", "ERROR", True)


@pytest.mark.parametrize("path", ["/chatter/", "/undecorated/chatter/"])
def test_end_seen_while_sending_is_no_error(
    client: WebSocketClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """A client cannot make the log grow by disconnecting."""
    with client.websocket(path) as ws:
        assert ws.receive()
    assert problems(caplog) == []


@pytest.mark.parametrize("view", [views.echo, views.chatter, views.by_meta, views.undecorated_chatter])
def test_disconnect_before_the_101_is_no_error(view: Any) -> None:
    """Whether the view sees it in ``receive`` or in ``send``. No 403 is logged, because it cannot be sent."""
    assert prepared(view)(disconnected_request()).status_code == 101


def test_decorated_view_is_served_once() -> None:
    """A decorated view is not wrapped again."""

    @accept_websocket
    def view(request: Any) -> HttpResponse:
        return HttpResponse()

    assert prepared(view) is view


def test_async_view_is_not_wrapped(client: Client) -> None:
    """Django checks whether the function that it gets is a coroutine function."""
    assert prepared(views.asynchronous) is views.asynchronous
    assert client.get("/async/").content == b"async"


def test_websocket_of_another_package_is_passed_on() -> None:
    """E.g. that of gevent-websocket's own server."""
    request: Any = RequestFactory().get("/")
    request.META["wsgi.websocket"] = foreign = object()
    assert prepared(lambda request: request.META["wsgi.websocket"])(request) is foreign


def test_view_under_cache_page_is_decorated_below_it() -> None:
    """As docs/django.md says. Otherwise the response that follows a WebSocket is cached as the page."""
    kept = {}
    for name, decorate in (("bare", lambda view: view), ("decorated", accept_websocket)):

        @cache_page(60, key_prefix=name)
        @decorate
        def view(request: Any) -> HttpResponse:
            if request.websocket is None:
                return HttpResponse("page")
            with suppress(ConnectionClosed):
                request.websocket.accept()
            return HttpResponse("after the WebSocket")

        prepared(view)(disconnected_request())
        kept[name] = prepared(view)(RequestFactory().get("/")).content
    assert kept == {"bare": b"after the WebSocket", "decorated": b"page"}
