"""``accept_websocket`` and ``require_websocket``, without the middleware class."""

from __future__ import annotations

import logging
from http.client import HTTPConnection
from threading import Thread
from typing import Any
from unittest.mock import patch

import pytest
from django.contrib.auth.models import Permission, User
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers import basehttp
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import TestCase, override_settings
from gevent import GreenletExit

from gws_middleware.django.decorators import accept_websocket, require_websocket
from gws_middleware.django.serving import attach
from gws_middleware.django.test import WebSocketClient, WebSocketTestMixin
from tests.support.inprocess import problems

from ..support.seam import socket_of
from .project import views
from .support import answer, disconnected_request, refusal


class TestAcceptWebsocket:
    def test_websocket_reaches_the_view(self, client: WebSocketClient) -> None:
        """With ``request.websocket`` and the converted argument of the URL."""
        with client.websocket("/both/3/") as ws:
            assert answer(ws, "x") == "3: x"

    def test_http_reaches_the_view(self, client: WebSocketClient) -> None:
        """With ``request.websocket`` None, and ``is_websocket()`` False."""
        assert client.get("/both/").content == b"http None"

    def test_page_is_not_cached_for_handshakes(self, client: WebSocketClient) -> None:
        """A cache stores it for plain HTTP only."""
        assert client.get("/both/")["Vary"] == "Upgrade"

    def test_path_that_no_converter_takes_is_404(self, client: WebSocketClient) -> None:
        """As for plain HTTP."""
        assert refusal(client, "/both/three/").status_code == 404

    def test_name_and_docstring_are_those_of_the_view(self) -> None:
        """As with every decorator of Django."""

        def view(request: HttpRequest) -> None:
            """Doc."""

        assert (accept_websocket(view).__name__, accept_websocket(view).__doc__) == ("view", "Doc.")

    @pytest.mark.parametrize("decorate", [accept_websocket, require_websocket])
    def test_async_view_is_refused(self, decorate: Any) -> None:
        """When it is decorated."""

        async def view(request: HttpRequest) -> None: ...

        with pytest.raises(TypeError, match="is async: a WebSocket view is a synchronous function"):
            decorate(view)


class TestRequireWebsocket:
    def test_http_is_answered_with_426(self, client: WebSocketClient, caplog: pytest.LogCaptureFixture) -> None:
        """With the header ``Upgrade`` (RFC 9110 15.5.22). Django logs a WARNING, as for each error of a client."""
        response = client.get("/echo/")
        assert response.status_code == 426
        assert (response["Upgrade"], response["Connection"]) == ("websocket", "Upgrade")
        assert response.content == b"This address serves only WebSockets.\n"
        assert [one.levelno for one in problems(caplog)] == [logging.WARNING]

    def test_http_is_answered_with_426_by_django_s_own_server(self) -> None:
        """Without the headers, because that server allows no hop-by-hop header, e.g. in ``LiveServerTestCase``."""
        server = basehttp.WSGIServer(("127.0.0.1", 0), basehttp.WSGIRequestHandler)
        server.set_app(WSGIHandler())
        serving = Thread(target=server.handle_request)
        serving.start()
        client = HTTPConnection("127.0.0.1", server.server_port, timeout=5)
        client.request("GET", "/echo/")
        response = client.getresponse()
        assert (response.status, response.read()) == (426, b"This address serves only WebSockets.\n")
        client.close()
        serving.join()
        server.server_close()

    def test_wrong_handshake_is_400(self, client: WebSocketClient) -> None:
        """It does not reach the view."""
        response = refusal(client, "/echo/", headers={"Sec-WebSocket-Key": "short"})
        assert response.status_code == 400

    def test_view_may_return_none(self, client: WebSocketClient, caplog: pytest.LogCaptureFixture) -> None:
        """Django raises no ValueError, and nothing is logged."""
        with client.websocket("/echo/") as ws:
            assert answer(ws, "x") == "x"
        assert problems(caplog) == []


class TestBeforeThe101:
    @pytest.mark.parametrize(
        ("what", "status"), [("forbidden", 403), ("denied", 403), ("missing", 404), ("closed", 403)]
    )
    def test_answer_is_http(self, client: WebSocketClient, what: str, status: int) -> None:
        """A response, an exception for one, and ``close()``."""
        assert refusal(client, f"/answers/{what}/").status_code == status

    def test_exception_is_a_500(self, client: WebSocketClient, caplog: pytest.LogCaptureFixture) -> None:
        """Logged once, by Django."""
        client.raise_request_exception = False
        assert refusal(client, "/answers/broken/").status_code == 500
        assert [(one.name, one.levelname) for one in problems(caplog)] == [("django.request", "ERROR")]


class TestAfterThe101:
    @override_settings(DEBUG=True, GWS={"close_timeout": 0.1})
    def test_debug_page_is_never_on_the_wire(self, client: WebSocketClient) -> None:
        """The client gets a close frame and the end."""
        client.raise_request_exception = False
        with client.websocket("/raises/") as ws:
            rest = b""
            while chunk := socket_of(ws).recv(65536):
                rest += chunk
        assert rest == b"\x88\x02\x03\xf3"

    def test_connection_closed_of_another_is_an_error(
        self, client: WebSocketClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        """ConnectionClosed is the end of this connection only where this one has ended."""
        client.raise_request_exception = False
        with client.websocket("/closed-elsewhere/") as ws:
            assert ws.receive() is None
            assert ws.close_code == 1011
        assert [one.name for one in problems(caplog)] == ["django.request"]

    def test_exception_after_the_end_is_logged_once(
        self, client: WebSocketClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        """By Django. The package does not log that it closed the connection, because the peer had closed it."""
        client.raise_request_exception = False
        with client.websocket("/raises-at-the-end/") as ws:
            ws.send("x")
            ws.close(1000)
        assert [one.name for one in problems(caplog)] == ["django.request"]

    def test_response_of_an_accepted_view_has_status_101(self, client: WebSocketClient) -> None:
        """So that no cache stores it. The resources of the view's response are closed."""
        seen: list[int] = []

        def watch(get_response: Any) -> Any:
            def middleware(request: Any) -> Any:
                response = get_response(request)
                seen.append(response.status_code)
                return response

            return middleware

        views.EVENTS.clear()
        with (
            patch("tests.django.project.views.by_token", watch),
            override_settings(MIDDLEWARE=["tests.django.project.views.by_token"]),
            client.websocket("/streams/") as ws,
        ):
            assert ws.receive() == "hello"
        assert (seen, views.EVENTS) == ([101], ["closed"])

    def test_response_of_an_accepted_view_is_not_sent(self, client: WebSocketClient) -> None:
        """The client gets the end of the connection."""
        with client.websocket("/meta/") as ws:
            assert answer(ws, "x") == "x"
            ws.close()
            assert socket_of(ws).recv(1) == b""


class TestDecoratorsOfDjango(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def setUp(self) -> None:
        self.user = User.objects.create_user("bob", password="x")

    def test_anonymous_user_is_redirected_to_the_login_page(self) -> None:
        """By ``login_required``."""
        self.assertRedirects(refusal(self.client, "/private/"), "/login/?next=/private/", fetch_redirect_response=False)

    def test_logged_in_user_is_admitted(self) -> None:
        """With the session of Django's test client."""
        self.client.force_login(self.user)
        with self.client.websocket("/private/") as ws:
            assert ws.receive() == "bob"

    def test_permission_is_required(self) -> None:
        """By ``permission_required`` below the decorator."""
        self.client.force_login(self.user)
        assert refusal(self.client, "/permitted/").status_code == 403
        self.user.user_permissions.add(Permission.objects.get(codename="add_user"))
        with self.client.websocket("/permitted/") as ws:
            assert ws.receive() == "permitted"

    def test_user_is_tested(self) -> None:
        """By ``user_passes_test`` above the decorator."""
        assert refusal(self.client, "/tested/").status_code == 302
        self.client.force_login(self.user)
        with self.client.websocket("/tested/") as ws:
            assert ws.receive() == "passed"

    def test_transaction_refuses_accept(self) -> None:
        """It would stay open as long as the connection. The transaction of the test does not count."""
        with (
            pytest.raises(transaction.TransactionManagementError, match="Accept first, and open a transaction for"),
            self.client.websocket("/in-transaction/"),
        ):
            pass


class TestServe:
    def test_view_that_is_killed_before_the_101_is_killed(self) -> None:
        """GreenletExit is passed on, and Django does not answer."""

        @require_websocket
        def view(request: Any) -> None:
            raise GreenletExit

        with pytest.raises(GreenletExit):
            view(disconnected_request())

    def test_existing_websocket_attribute_is_kept(self) -> None:
        """E.g. an object that another middleware has put around it."""
        request = disconnected_request()
        request.websocket = wrapper = object()
        assert attach(request) is wrapper


class TestRequestsLeaveNothing:
    def test_websocket_does_not_keep_the_request(self) -> None:
        """Without a reference cycle both are freed at once."""
        seen: list[Any] = []

        def view(request: Any) -> HttpResponse:
            seen.append(request)
            return HttpResponse()

        request = disconnected_request()
        ws = request.META["wsgi.websocket"]
        accept_websocket(view)(request)
        assert seen[0].websocket is ws
        assert not hasattr(ws, "request")
