"""Handshakes on a server that cannot open WebSockets."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings

from gws_middleware.django import unavailable
from gws_middleware.django.middleware import WebSocketMiddleware
from tests.support.inprocess import problems
from tests.support.rawclient import upgrade_request
from tests.support.servers import KINDS, launch

COMMAND = "gunicorn -k gws_middleware.worker.GeventWebSocketWorker"
APPLICATION = "tests.django.project.wsgi:application"
VIEWS = {
    "require_websocket": "/echo/",
    "accept_websocket": "/both/",
    "bare, by META": "/meta/",
    "bare, by request.websocket": "/undecorated/",
    "a class": "/conversation/1/",
    "a class with get()": "/page/",
}


@pytest.fixture(autouse=True)
def unlogged() -> None:
    """Let the line be logged again, which other tests of this process may have logged."""
    unavailable.log_once.cache_clear()


@pytest.mark.parametrize("kind", ["gevent", "gevent_pywsgi", "gthread", "sync"])
def test_handshake_is_answered_with_501_and_logged_once(kind: str, tmp_path: Path) -> None:
    """For all kinds of views. The answer and the log have the command to use. Plain HTTP is served."""
    assert not KINDS[kind].wraps
    with launch(kind, tmp_path, APPLICATION) as server:
        for path in VIEWS.values():
            with server.connect() as client:
                client.send(upgrade_request(path))
                response = client.read_response()
            assert (path, response.status) == (path, 501)
            assert COMMAND in response.body.decode()
        assert server.get("/both/").body == b"http None"
        [record] = server.log.expect(COMMAND)
        assert record.level == "WARNING"


@pytest.mark.parametrize("path", VIEWS.values(), ids=VIEWS)
def test_django_s_own_client_gets_the_same(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """There is no record of ``django.request``, which mails errors to the administrators."""
    for _ in range(2):
        response = Client().get(path, headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        assert (response.status_code, response.reason_phrase) == (501, "Not Implemented")
    assert [record.name for record in problems(caplog)] == ["gws_middleware"]


def test_middleware_class_answers_without_the_app() -> None:
    """An undecorated view is not called either."""
    request = RequestFactory().get("/", headers={"Upgrade": "WebSocket"})
    response = WebSocketMiddleware(lambda request: HttpResponse()).process_view(request, HttpResponse, (), {})
    assert response is not None
    assert response.status_code == 501


@pytest.mark.parametrize("upgrade", [{}, {"Upgrade": "h2c"}])
def test_other_requests_reach_the_view(upgrade: dict[str, str]) -> None:
    """Requests for another upgrade, or for none."""
    assert Client().get("/both/", headers=upgrade).content == b"http None"


@pytest.mark.parametrize(
    ("application", "argument"),
    [("mysite.wsgi.application", " mysite.wsgi:application."), (None, " project.wsgi:application.")],
)
def test_command_names_the_project_s_application_in_the_log_alone(
    application: str | None, argument: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer does not get the names of the project's modules."""
    with override_settings(WSGI_APPLICATION=application):
        response = Client().get("/echo/", headers={"Upgrade": "websocket"})
    [record] = problems(caplog)
    assert f"{COMMAND}{argument}" in record.getMessage()
    assert "mysite" not in response.content.decode()
