"""Undecorated views with the app in ``INSTALLED_APPS`` and nothing else of ours: they are served like the others.

(Their sessions: test_sessions.py. Their transactions: test_databases.py.)
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
from gws_middleware.django.serving import connect
from gws_middleware.django.test import WebSocketClient
from gws_middleware.typing import Environ, StartResponse
from tests.support.inprocess import problems

from .project import views
from .test_decorators import refusal, request_with_nobody_behind


def prepared(view: Any) -> Any:
    """The view as Django's handler calls it."""
    return WSGIHandler().make_view_atomic(view)


def test_view_finds_the_names_and_may_return_none(client: WebSocketClient) -> None:
    """On WebSockets and on plain HTTP."""
    assert client.get("/undecorated/").content == b"http False"
    with client.websocket("/undecorated/") as ws:
        ws.send("x")
        assert ws.receive() == "x"


def test_page_that_knows_of_no_websocket_answers_a_handshake(client: WebSocketClient) -> None:
    """As ever: with HTTP."""
    response = refusal(client, "/")
    assert (response.status_code, response.content) == (200, b"plain")


def test_step_of_another_package_is_kept(client: WebSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around each view, e.g. the span that sentry-sdk opens; it sees no transaction of Django's around a WebSocket."""
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
        ws.send("x")
        assert ws.receive() == "x"
    assert client.get("/undecorated/").content == b"http False"
    assert seen == ["undecorated"] * 2


def accepted_before(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Django, under something that accepts, as gevent-websocket's server does."""
    environ["wsgi.websocket"].accept()
    response: Iterable[bytes] = WSGIHandler()(environ, start_response)
    return response


@override_settings(ROOT_URLCONF="tests.django.dbproject.urls")
def test_view_of_an_open_websocket_is_in_no_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ``ATOMIC_REQUESTS``: there is no ``accept()`` left that could end it."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    with testing.connect(accepted_before, "/accepts/?name=early") as ws:
        assert ws.receive_json() == [False]
    assert User.objects.filter(username="early").delete()[0] == 1


@override_settings(MIDDLEWARE=[], ALLOWED_HOSTS=["example.com"])
def test_open_websocket_of_a_host_that_is_not_allowed_closes(caplog: pytest.LogCaptureFixture) -> None:
    """With 1008, where a handshake would be answered with 403."""
    headers = {"Host": "evil.test"}
    with testing.connect(accepted_before, "/undecorated/", origin="http://evil.test", headers=headers) as ws:
        assert ws.receive() is None
        assert (ws.close_code, ws.close_reason) == (1008, "this host is not allowed")
    assert [record.getMessage() for record in problems(caplog)] == []


def test_view_that_forgets_to_answer_is_told(client: WebSocketClient) -> None:
    """None is an answer of one who has accepted or closed."""
    with pytest.raises(ValueError, match="neither accepted nor closed"), client.websocket("/forgets/"):
        pass
    with pytest.raises(ValueError, match="didn't return an HttpResponse object"):
        client.get("/forgets/")


def test_exception_closes_with_1011(client: WebSocketClient, caplog: pytest.LogCaptureFixture) -> None:
    """One record, Django's."""
    client.raise_request_exception = False
    with client.websocket("/undecorated/raises/") as ws:
        assert ws.receive() is None
        assert ws.close_code == 1011
    assert [(one.name, bool(one.exc_info)) for one in problems(caplog)] == [("django.request", True)]


def test_end_seen_while_sending_is_no_error(client: WebSocketClient, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can make the log grow by leaving."""
    with client.websocket("/undecorated/chatter/") as ws:
        assert ws.receive()
    assert problems(caplog) == []


@pytest.mark.parametrize("view", [views.by_meta, views.undecorated_chatter])
def test_peer_that_has_gone_before_the_101_is_no_error(view: Any) -> None:
    """Whether the view saw it in ``receive`` or in ``send``."""
    assert prepared(view)(request_with_nobody_behind()).status_code == 101


def test_decorated_view_is_served_once() -> None:
    """What the decorator does is not done about it again."""

    @accept_websocket
    def view(request: Any) -> HttpResponse:
        return HttpResponse()

    assert prepared(view) is view


def test_async_view_stays_one(client: Client) -> None:
    """Django asks the view that it gets back."""
    assert prepared(views.asynchronous) is views.asynchronous
    assert client.get("/async/").content == b"async"


def test_websocket_of_another_package_is_its_own() -> None:
    """E.g. behind gevent-websocket's server, which speaks for itself."""
    request: Any = RequestFactory().get("/")
    request.META["wsgi.websocket"] = foreign = object()
    assert prepared(lambda request: request.META["wsgi.websocket"])(request) is foreign


def test_view_under_cache_page_is_decorated_below_it() -> None:
    """What the guide says: else the response behind a WebSocket is kept for whoever asks for the page."""
    kept = {}
    for name, decorate in (("bare", lambda view: view), ("decorated", accept_websocket)):

        @cache_page(60, key_prefix=name)
        @decorate
        def view(request: Any) -> HttpResponse:
            if request.websocket is None:
                return HttpResponse("page")
            with suppress(ConnectionClosed):
                request.websocket.accept()
            return HttpResponse("behind the WebSocket")

        prepared(view)(request_with_nobody_behind())
        kept[name] = prepared(view)(RequestFactory().get("/")).content
    assert kept == {"bare": b"behind the WebSocket", "decorated": b"page"}
