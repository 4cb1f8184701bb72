"""``gws_middleware.django.test``: what users of Django's test client expect of one with WebSockets."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from django.test import TestCase, TransactionTestCase, override_settings

from gws_middleware.django.test import WebSocketClient, WebSocketRefused, WebSocketTestMixin
from tests.inprocess import package_path
from tests.servers import ROOT


def meta(ws: Any, *names: str) -> list[str]:
    """What the view finds in ``request.META``."""
    ws.send(" ".join(names))
    found: list[str] = ws.receive_json()
    return found


class TestRequest:
    def test_query_and_path_arrive_decoded(self, client: WebSocketClient) -> None:
        """As with Django's client."""
        with client.websocket("/tell/gr%C3%BC%C3%9Fe/?a=b%20c") as ws:
            assert meta(ws, "path", "QUERY_STRING") == ["/tell/grüße/", "a=b%20c"]

    def test_headers_and_extra_arrive(self, client: WebSocketClient) -> None:
        """Both of Django's ways to say one, and what the client was made with."""
        client = WebSocketClient(HTTP_X_ALWAYS="1")
        with client.websocket("/tell/x/", headers={"X-Once": "2"}, REMOTE_ADDR="10.0.0.1") as ws:
            assert meta(ws, "HTTP_X_ALWAYS", "HTTP_X_ONCE", "REMOTE_ADDR") == ["1", "2", "10.0.0.1"]

    @pytest.mark.parametrize(("secure", "scheme"), [(False, "http"), (True, "https")])
    def test_secure_is_https(self, client: WebSocketClient, secure: bool, scheme: str) -> None:
        """``request.is_secure()`` goes by that."""
        with client.websocket("/tell/x/", secure=secure) as ws:
            assert meta(ws, "wsgi.url_scheme", "SERVER_PORT") == [scheme, "443" if secure else "80"]

    def test_cookies_are_shared_with_requests(self, client: WebSocketClient) -> None:
        """Both ways, and those of a refusal too."""
        client.cookies["a"] = "1"
        with client.websocket("/tell/x/") as ws:
            assert meta(ws, "HTTP_COOKIE") == ["a=1"]
        with pytest.raises(WebSocketRefused), client.websocket("/answers/cookie/"):
            pass
        assert client.cookies["b"].value == "2"


class TestRefusal(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def refusal(self, path: str, **options: Any) -> Any:
        with pytest.raises(WebSocketRefused) as refused, self.client.websocket(path, **options):
            pass
        assert refused.value.status_code == refused.value.response.status_code
        return refused.value.response

    def test_response_is_django_s(self) -> None:
        """For Django's own assertions."""
        self.assertContains(self.refusal("/answers/forbidden/"), "no", status_code=403)
        self.assertRedirects(self.refusal("/private/"), "/login/?next=/private/", fetch_redirect_response=False)

    def test_response_knows_its_request(self) -> None:
        """As those of Django's client do."""
        response = self.refusal("/answers/forbidden/")
        assert response.wsgi_request.path == "/answers/forbidden/"
        assert response.client is self.client

    def test_refusal_that_django_never_saw_looks_the_same(self) -> None:
        """A foreign origin."""
        response = self.refusal("/both/", origin="https://evil.com")
        assert (response.status_code, response.reason_phrase) == (403, "Forbidden")
        assert b"Pages of this origin" in response.content


class TestExceptions:
    @pytest.mark.parametrize("path", ["/answers/broken/", "/raises/"])
    def test_view_s_exception_comes_out(self, client: WebSocketClient, path: str) -> None:
        """Before the 101 and after it."""
        with pytest.raises(LookupError, match="the 101"), client.websocket(path):
            pass

    def test_error_of_the_test_is_the_cause(self, client: WebSocketClient) -> None:
        """Both are told: mostly one has brought about the other."""
        with pytest.raises(LookupError) as caught, client.websocket("/raises/") as ws:
            assert ws.receive() == "something"
        assert isinstance(caught.value.__cause__, AssertionError)

    def test_error_of_the_test_alone_stays_what_it_is(self, client: WebSocketClient) -> None:
        """The view has done nothing wrong."""
        with pytest.raises(ZeroDivisionError), client.websocket("/both/"):
            raise ZeroDivisionError

    def test_flag_of_django_s_client_keeps_it_in(self, client: WebSocketClient) -> None:
        """``raise_request_exception``: then the refusal is a 500."""
        client.raise_request_exception = False
        with pytest.raises(WebSocketRefused) as refused, client.websocket("/answers/broken/"):
            pass
        assert refused.value.status_code == 500

    def test_exception_of_another_view_is_not_taken_for_this_one_s(self, client: WebSocketClient) -> None:
        """Two at once."""
        other = WebSocketClient(raise_request_exception=False)
        with client.websocket("/both/") as ws:
            with other.websocket("/raises/") as raising:
                assert raising.receive() is None
            ws.send("x")
            assert ws.receive() == "0: x"


class TestTimeouts:
    @pytest.mark.parametrize(
        ("path", "sentence"),
        [("/sleeps/early/", "no answer to the handshake"), ("/both/", "nothing came from the application")],
    )
    def test_no_wait_is_forever(self, client: WebSocketClient, path: str, sentence: str) -> None:
        """Neither for the handshake nor for a message."""
        with pytest.raises(TimeoutError, match=sentence), client.websocket(path, timeout=0.1) as ws:
            ws.receive()

    def test_view_that_does_not_end_fails_the_test(self, client: WebSocketClient) -> None:
        """It looks at nothing."""
        with pytest.raises(TimeoutError, match="did not end"), client.websocket("/sleeps/late/", timeout=0.1):
            pass


class TestTransaction(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    @classmethod
    def setUpTestData(cls) -> None:
        User.objects.create(username="data")

    def test_view_is_in_the_transaction_of_the_test(self) -> None:
        """Each sees what the other has written."""
        with self.client.websocket("/users/") as ws:
            ws.send("theirs")
            assert ws.receive() == "2"
            User.objects.create(username="ours")
            ws.send("count")
            assert ws.receive() == "3"
        assert User.objects.filter(username="theirs").exists()

    def test_nothing_is_left_of_another_test(self) -> None:
        """It is rolled back."""
        with self.client.websocket("/users/") as ws:
            ws.send("count")
            assert ws.receive() == "1"

    def test_callbacks_of_a_detached_connection_are_in_it_too(self) -> None:
        """Each in a greenlet of its own."""
        with self.client.websocket("/detached/") as ws:
            ws.send("theirs")
            assert ws.receive() == "2"
        assert User.objects.count() == 2

    def test_queries_are_counted(self) -> None:
        """Those of the view."""
        with self.assertNumQueries(1), self.client.websocket("/users/") as ws:
            ws.send("count")
            ws.receive()

    def test_requests_in_between_leave_the_transaction_alone(self) -> None:
        """Django's client turns signals off and on meanwhile."""
        with self.client.websocket("/users/") as ws:
            self.client.get("/both/")
            ws.send("theirs")
            ws.receive()
        assert transaction.get_connection().in_atomic_block
        assert User.objects.count() == 2

    def test_signals_are_as_they_were(self) -> None:
        """What closes old connections is connected again."""
        with self.client.websocket("/users/"):
            pass
        for signal in (request_started, request_finished):
            assert signal.disconnect(close_old_connections)
            signal.connect(close_old_connections)

    def test_several_are_open_at_once(self) -> None:
        """Of one client and of two."""
        with (
            self.client.websocket("/both/1/") as one,
            self.client.websocket("/both/2/") as two,
            WebSocketClient().websocket("/both/3/") as three,
        ):
            for ws in (three, one, two):
                ws.send("x")
            assert [one.receive(), two.receive(), three.receive()] == ["1: x", "2: x", "3: x"]

    @override_settings(ROOT_URLCONF="tests.django.project.other_urls", GWS={"max_message_size": 3})
    def test_overridden_settings_hold(self) -> None:
        """They are read for each connection."""
        with self.client.websocket("/elsewhere/") as ws:
            ws.send("abc")
            assert ws.receive() == "0: abc"
            ws.send("abcd")
            assert ws.receive() is None
            assert ws.close_code == 1009


class TestTransactions(WebSocketTestMixin, TransactionTestCase):
    client: WebSocketClient

    def test_view_and_test_see_each_other(self) -> None:
        """What is committed."""
        User.objects.create(username="ours")
        with self.client.websocket("/users/") as ws:
            ws.send("theirs")
            assert ws.receive() == "2"
        assert User.objects.count() == 2


PATCHED = """
from gevent import monkey
monkey.patch_all()
import django, os, unittest
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.project.settings"
django.setup()
from django.core.management import call_command
from django.contrib.auth.models import User
from django.test import TestCase
from gws_middleware.django.test import WebSocketTestMixin
call_command("migrate", verbosity=0)

class Patched(WebSocketTestMixin, TestCase):
    def test_connection_is_shared(self):
        User.objects.create(username="ours")
        with self.client.websocket("/users/") as ws:
            ws.send("theirs")
            assert ws.receive() == "2"
        assert User.objects.count() == 2

unittest.main()
"""


def test_process_that_gevent_has_patched_works_too() -> None:
    """There each greenlet has database connections of its own."""
    env = {**package_path(), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", PATCHED], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
