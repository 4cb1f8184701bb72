"""``gws_middleware.django.test``: the test client with WebSockets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import gevent
import pytest
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.core.signals import request_finished, request_started
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import Context, Template
from django.test import TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import include, path, reverse_lazy

from gws_middleware.django.decorators import require_websocket
from gws_middleware.django.test import WebSocketClient, WebSocketRefused, WebSocketTestMixin
from tests.support.programs import IGNORE_WARNINGS, run_python

from .project.views import EVENTS
from .support import answer, refusal


@require_websocket
def asked(request: Any) -> None:
    """Sends what Django reads from the request."""
    request.websocket.send_json([request.get_host(), request.is_secure(), request.GET.get("a")])


@require_websocket
def full(request: Any, how: str) -> HttpResponse:
    """Refuses."""
    if how == "json":
        return JsonResponse({"free": 0}, status=409)
    page = Template("{{ room }} is full", name="full.html")
    return HttpResponse(page.render(Context({"room": "lobby"})), status=409)


@require_websocket
def gives_cookie(request: Any) -> None:
    """In lower case, which is the same header."""
    request.websocket.accept(headers=[("set-cookie", "c=3; Path=/")])


@require_websocket
def raises_from(request: Any) -> None:
    """Raises an exception with a cause."""
    request.websocket.accept()
    try:
        raise KeyError
    except KeyError as error:
        raise LookupError("the view's") from error


@require_websocket
def counts(request: Any) -> None:
    """Queries in another greenlet, and registers an ``on_commit`` callback."""
    request.websocket.accept()
    gevent.spawn(User.objects.create, username="theirs").get()
    transaction.on_commit(lambda: EVENTS.append("committed"))
    request.websocket.send(str(User.objects.count()))


@require_websocket
def fails_the_test(request: Any) -> None:
    """Raises an exception of the test framework."""
    request.websocket.accept()
    pytest.fail("from the view")


@require_websocket
def never_waits(request: Any) -> None:
    """Waits without gevent."""
    request.websocket.send("tick")
    while not request.websocket.closed:
        time.sleep(0.01)


urlpatterns = [
    path("never-waits/", never_waits),
    path("fails-the-test/", fails_the_test),
    path("login/", LoginView.as_view()),
    path("asked/", asked, name="asked"),
    path("full/<how>/", full, name="full"),
    path("gives-cookie/", gives_cookie),
    path("raises-from/", raises_from),
    path("counts/", counts),
    path("", include("tests.django.project.urls")),
]


@pytest.fixture(autouse=True, scope="module")
def urls() -> Any:
    """The URLconf of this module."""
    with override_settings(ROOT_URLCONF=__name__):
        yield


def meta(ws: Any, *names: str) -> list[str]:
    """The values of ``request.META`` in the view."""
    ws.send(" ".join(names))
    found: list[str] = ws.receive_json()
    return found


class TestRequest:
    def test_query_and_path_arrive_decoded(self, client: WebSocketClient) -> None:
        """As with Django's client."""
        with client.websocket("/environ/gr%C3%BC%C3%9Fe/?a=b%20c") as ws:
            assert meta(ws, "path", "QUERY_STRING") == ["/environ/grüße/", "a=b%20c"]

    def test_headers_and_extra_arrive(self, client: WebSocketClient) -> None:
        """``headers``, values of the environ, and the defaults of the client."""
        client = WebSocketClient(HTTP_X_ALWAYS="1")
        with client.websocket("/environ/x/", headers={"X-Once": "2"}, REMOTE_ADDR="10.0.0.1") as ws:
            assert meta(ws, "HTTP_X_ALWAYS", "HTTP_X_ONCE", "REMOTE_ADDR") == ["1", "2", "10.0.0.1"]

    def test_headers_of_the_call_replace_those_of_the_client(self, client: WebSocketClient) -> None:
        """Both forms of either. A ``Cookie`` header replaces the cookies of the client."""
        client = WebSocketClient(headers={"X-A": "1"}, HTTP_X_B="1")
        client.cookies["a"] = "1"
        with client.websocket("/environ/x/", headers={"X-A": "2", "X-B": "2", "Cookie": "b=2"}) as ws:
            assert meta(ws, "HTTP_X_A", "HTTP_X_B", "HTTP_COOKIE") == ["2", "2", "b=2"]

    @pytest.mark.parametrize(
        ("where", "options"),
        [
            ("/asked/?a=gr%C3%BC%C3%9Fe", {}),
            ("/asked/?a=grüße", {}),
            ("/asked/", {"QUERY_STRING": "a=gr%C3%BC%C3%9Fe"}),
            ("http://testserver/asked/?a=grüße#top", {}),
        ],
    )
    def test_query_may_be_in_the_path_or_the_environ(
        self, client: WebSocketClient, where: str, options: dict[str, Any]
    ) -> None:
        """As with Django's client, encoded or not."""
        with client.websocket(where, **options) as ws:
            assert ws.receive_json() == ["testserver", False, "grüße"]

    def test_path_may_be_lazy(self, client: WebSocketClient) -> None:
        """``reverse_lazy``."""
        lazy: Any = reverse_lazy("asked")
        with client.websocket(lazy) as ws:
            assert ws.receive_json() == ["testserver", False, None]

    @pytest.mark.parametrize(("secure", "scheme"), [(False, "http"), (True, "https")])
    def test_secure_is_https(self, client: WebSocketClient, secure: bool, scheme: str) -> None:
        """For Django, for the origin check, and in the port."""
        with client.websocket("/asked/", secure=secure, origin=f"{scheme}://testserver") as ws:
            assert ws.receive_json() == ["testserver", secure, None]
        with client.websocket("/environ/x/", secure=secure) as ws:
            assert meta(ws, "wsgi.url_scheme", "SERVER_PORT") == [scheme, "443" if secure else "80"]

    @pytest.mark.parametrize(
        ("extra", "host"),
        [
            ({"SERVER_NAME": "localhost"}, "localhost"),
            ({"SERVER_NAME": "localhost", "SERVER_PORT": "8000"}, "localhost:8000"),
            ({"headers": {"Host": "localhost:8001"}}, "localhost:8001"),
        ],
    )
    def test_host_is_that_of_the_call(self, client: WebSocketClient, extra: dict[str, Any], host: str) -> None:
        """As with Django's client. A page of that host may connect."""
        with client.websocket("/asked/", origin=f"http://{host}", **extra) as ws:
            assert ws.receive_json() == [host, False, None]

    def test_origin_of_the_call_replaces_that_of_the_client(self) -> None:
        """Which is a default for all calls."""
        client = WebSocketClient(headers={"Origin": "https://evil.com"})
        with client.websocket("/environ/x/", origin="http://testserver") as ws:
            assert meta(ws, "HTTP_ORIGIN") == ["http://testserver"]
        with pytest.raises(WebSocketRefused), client.websocket("/environ/x/"):
            pass

    def test_subprotocols_are_offered(self, client: WebSocketClient) -> None:
        """The client has the selected one."""
        with client.websocket("/conversation/1/", ["other", "first"]) as ws:
            assert ws.subprotocol == "first"

    def test_cookie_of_the_101_is_kept(self, client: WebSocketClient) -> None:
        """In any case of the header's name."""
        with client.websocket("/gives-cookie/"):
            assert client.cookies["c"].value == "3"

    def test_cookies_are_shared_with_requests(self, client: WebSocketClient) -> None:
        """In both directions, also the cookies of a refusal."""
        client.cookies["a"] = "1"
        with client.websocket("/environ/x/") as ws:
            assert meta(ws, "HTTP_COOKIE") == ["a=1"]
        with pytest.raises(WebSocketRefused), client.websocket("/answers/cookie/"):
            pass
        assert client.cookies["b"].value == "2"


class TestLogin(WebSocketTestMixin, TestCase):
    client: WebSocketClient
    user: User

    @classmethod
    def setUpTestData(cls) -> None:
        cls.user = User.objects.create_user("ada", password="a password")

    def user_of_the_view(self) -> Any:
        """The name of the user that the view reads."""
        with self.client.websocket("/private/") as ws:
            return ws.receive()

    def test_forced_login_holds(self) -> None:
        """Until the logout."""
        self.client.force_login(self.user)
        assert self.user_of_the_view() == "ada"
        self.client.logout()
        with pytest.raises(WebSocketRefused):
            self.user_of_the_view()

    def test_login_by_the_form_holds(self) -> None:
        """WebSockets and requests have the same session."""
        self.client.post("/login/", {"username": "ada", "password": "a password"})
        assert self.user_of_the_view() == "ada"

    def test_session_of_the_view_is_that_of_the_client(self) -> None:
        """Also a new one, whose cookie is in the 101."""
        with self.client.websocket("/session/?early=1") as ws:
            answer(ws, "")
        assert self.client.session["early"] == "1"


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

    def test_response_has_its_request(self) -> None:
        """As a response of Django's client."""
        response = self.refusal("/answers/forbidden/")
        assert response.wsgi_request.path == "/answers/forbidden/"
        assert response.client is self.client

        assert response.request["PATH_INFO"] == "/answers/forbidden/"
        assert self.refusal("/full/json/").resolver_match.url_name == "full"

    def test_response_has_what_was_rendered(self) -> None:
        """Template and context."""
        response = self.refusal("/full/page/")
        self.assertTemplateUsed(response, "full.html")
        assert response.context["room"] == "lobby"

    def test_response_is_read_as_json(self) -> None:
        """In one call."""
        assert self.refusal("/full/json/").json() == {"free": 0}

    def test_response_of_a_broken_view_has_its_exception(self) -> None:
        """With ``raise_request_exception`` False."""
        self.client.raise_request_exception = False
        response = self.refusal("/answers/broken/")
        assert response.status_code == 500
        assert response.exc_info[0] is LookupError

    def test_refusal_before_django_has_the_same_attributes(self) -> None:
        """E.g. one because of the origin."""
        response = self.refusal("/both/", origin="https://evil.com")
        assert (response.status_code, response.reason_phrase) == (403, "Forbidden")
        self.assertContains(response, "Pages of Origin", status_code=403)
        assert (response.templates, response.context, response.exc_info) == ([], None, None)


class TestExceptions:
    @pytest.mark.parametrize("path", ["/answers/broken/", "/raises/"])
    def test_exception_of_the_view_is_raised_in_the_test(self, client: WebSocketClient, path: str) -> None:
        """Before the 101 and after it."""
        with pytest.raises(LookupError, match="the 101"), client.websocket(path):
            pass

    def test_outcome_of_pytest_in_a_view_is_that_of_the_test(self, client: WebSocketClient) -> None:
        """E.g. of ``pytest --timeout``, which raises it in the code that runs."""
        with pytest.raises(pytest.fail.Exception, match="from the view"), client.websocket("/fails-the-test/") as ws:
            ws.receive()

    def test_error_of_the_test_is_the_cause(self, client: WebSocketClient) -> None:
        """Both are shown, because one is often a consequence of the other."""
        with pytest.raises(LookupError) as caught, client.websocket("/raises/") as ws:
            assert ws.receive() == "something"
        assert isinstance(caught.value.__cause__, AssertionError)

    def test_exception_of_the_view_keeps_its_cause(self, client: WebSocketClient) -> None:
        """The error of the test is the cause of that cause."""
        with pytest.raises(LookupError) as caught, client.websocket("/raises-from/"):
            pass
        assert isinstance(caught.value.__cause__, KeyError)
        assert caught.value.__cause__.__cause__ is None
        with pytest.raises(LookupError) as caught, client.websocket("/raises-from/") as ws:
            assert ws.receive() == "something"
        assert isinstance(caught.value.__cause__, KeyError)
        assert isinstance(caught.value.__cause__.__cause__, AssertionError)

    def test_error_of_the_test_is_raised_unchanged(self, client: WebSocketClient) -> None:
        """If the view has raised nothing."""
        with pytest.raises(ZeroDivisionError), client.websocket("/both/"):
            raise ZeroDivisionError

    def test_raise_request_exception_turns_raising_off(self, client: WebSocketClient) -> None:
        """The client then gets the response or the close code that a browser gets."""
        client.raise_request_exception = False
        assert refusal(client, "/answers/broken/").status_code == 500
        with client.websocket("/raises/") as ws:
            assert ws.receive() is None
            assert ws.close_code == 1011

    def test_exception_of_another_view_is_not_raised(self, client: WebSocketClient) -> None:
        """Two WebSockets are open at the same time."""
        other = WebSocketClient(raise_request_exception=False)
        with client.websocket("/both/") as ws:
            with other.websocket("/raises/") as raising:
                assert raising.receive() is None
            assert answer(ws, "x") == "0: x"


class TestTimeouts:
    @pytest.mark.parametrize(
        ("path", "sentence"),
        [("/sleeps/early/", "no answer to the handshake"), ("/both/", "nothing came from the application")],
    )
    def test_each_wait_has_a_timeout(self, client: WebSocketClient, path: str, sentence: str) -> None:
        """That for the handshake and that for a message."""
        with pytest.raises(TimeoutError, match=sentence), client.websocket(path, timeout=0.1) as ws:
            ws.receive()

    def test_view_that_does_not_end_fails_the_test(self, client: WebSocketClient) -> None:
        """It does not read the end of the connection."""
        with pytest.raises(TimeoutError, match="did not end"), client.websocket("/sleeps/late/", timeout=0.1):
            pass

    def test_view_that_never_gives_way_fails_the_test(self, client: WebSocketClient) -> None:
        """With its name and the line where it is."""
        with pytest.raises(TimeoutError) as caught, client.websocket("/never-waits/", timeout=0.2) as ws:
            list(ws)
        assert "the application has blocked the event loop for more than 0.2 s" in str(caught.value)
        assert f'File "{__file__}", line ' in str(caught.value)
        assert ", in never_waits\n" in str(caught.value)

    def test_view_that_does_not_end_hides_no_error_of_the_test(self, client: WebSocketClient) -> None:
        """It came first."""
        with pytest.raises(ZeroDivisionError), client.websocket("/sleeps/late/", timeout=0.1):
            raise ZeroDivisionError


class TestTransaction(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    @classmethod
    def setUpTestData(cls) -> None:
        User.objects.create(username="data")

    def test_view_is_in_the_transaction_of_the_test(self) -> None:
        """Each sees what the other has written."""
        with self.client.websocket("/users/") as ws:
            assert answer(ws, "theirs") == "2"
            User.objects.create(username="ours")
            assert answer(ws, "count") == "3"
        assert User.objects.filter(username="theirs").exists()

    def test_nothing_is_left_of_another_test(self) -> None:
        """It is rolled back."""
        with self.client.websocket("/users/") as ws:
            assert answer(ws, "count") == "1"

    def test_callbacks_of_a_detached_connection_are_in_it_too(self) -> None:
        """Each in a greenlet of its own."""
        with self.client.websocket("/detached/") as ws:
            assert answer(ws, "theirs") == "2"
        assert User.objects.count() == 2

    def test_queries_are_counted(self) -> None:
        """Those of the view."""
        with self.assertNumQueries(1), self.client.websocket("/users/") as ws:
            answer(ws, "count")

    def test_requests_in_between_leave_the_transaction_alone(self) -> None:
        """Django's client turns signals off and on meanwhile."""
        with self.client.websocket("/users/") as ws:
            self.client.get("/both/")
            answer(ws, "theirs")
        assert transaction.get_connection().in_atomic_block
        assert User.objects.count() == 2

    def test_queries_are_captured(self) -> None:
        """Their SQL."""
        with CaptureQueriesContext(connection) as queries, self.client.websocket("/users/") as ws:
            answer(ws, "count")
        assert "auth_user" in queries[0]["sql"]

    def test_greenlet_beside_the_view_is_in_the_transaction_too(self) -> None:
        """One of the view's own."""
        with self.client.websocket("/counts/") as ws:
            assert ws.receive() == "2"
        assert User.objects.count() == 2

    def test_on_commit_callbacks_of_the_view_are_captured(self) -> None:
        """By Django's own tool; without it they do not run, as in any TestCase."""
        EVENTS.clear()
        with self.captureOnCommitCallbacks(execute=True) as callbacks, self.client.websocket("/counts/") as ws:
            ws.receive()
            assert EVENTS == []
        assert (len(callbacks), EVENTS) == (1, ["committed"])

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

    def test_clients_of_several_greenlets_are_in_the_transaction(self) -> None:
        """Whichever ends first."""
        users: Callable[[], Any] = lambda: self.client.websocket("/users/")  # noqa: E731
        first, second = users(), users()
        one, two = first.__enter__(), second.__enter__()
        answer(one, "one")
        first.__exit__(None, None, None)
        assert answer(two, "two") == "3"
        second.__exit__(None, None, None)


class TestOverriding(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    @override_settings(ROOT_URLCONF="tests.django.project.other_urls", GWS={"max_message_size": 3})
    def test_overridden_settings_hold(self) -> None:
        """They are read for each connection."""
        with self.client.websocket("/elsewhere/") as ws:
            assert answer(ws, "abc") == "0: abc"
            assert answer(ws, "abcd") is None
            assert ws.close_code == 1009

    def test_overridden_middleware_holds(self) -> None:
        """For a client that has asked before."""
        with self.client.websocket("/both/"):
            pass
        with override_settings(MIDDLEWARE=[f"{__name__}.refuse_all"]), pytest.raises(WebSocketRefused) as refused:
            self.client.websocket("/both/").__enter__()
        assert refused.value.status_code == 418

    @override_settings(ALLOWED_HOSTS=["localhost"])
    def test_overridden_hosts_hold(self) -> None:
        """Django answers 400 to others."""
        with self.client.websocket("/asked/", SERVER_NAME="localhost") as ws:
            assert ws.receive_json() == ["localhost", False, None]
        assert refusal(self.client, "/asked/").status_code == 400


def refuse_all(get_response: Any) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that refuses all requests."""
    return lambda request: HttpResponse(status=418)


class TestProcess:
    """What is for all of the process is as it was."""

    def test_request_signals_are_sent_once(self, client: WebSocketClient) -> None:
        """The second one at the end of the WebSocket."""
        sent: list[str] = []
        started: Any = lambda **arguments: sent.append("started")  # noqa: E731
        finished: Any = lambda **arguments: sent.append("finished")  # noqa: E731
        request_started.connect(started)
        request_finished.connect(finished)
        try:
            with client.websocket("/both/") as ws:
                answer(ws, "x")
                assert sent == ["started"]
        finally:
            request_started.disconnect(started)
            request_finished.disconnect(finished)
        assert sent == ["started", "finished"]

    def test_websocket_without_a_query_needs_no_database(self, client: WebSocketClient) -> None:
        """As Django's client: a test without ``databases``, or pytest-django's without its mark, may open one."""
        connection.ensure_connection()  # an earlier test did not close it
        refused = patch.object(connection, "ensure_connection", side_effect=AssertionError("a use of the database"))
        with refused, client.websocket("/both/") as ws:
            assert answer(ws, "x") == "0: x"

    def test_other_threads_have_connections_of_their_own(self, client: WebSocketClient) -> None:
        """A connection is not for two threads at once."""
        with client.websocket("/both/"):
            theirs = gevent.get_hub().threadpool.apply(connections.__getitem__, ("default",))
        assert theirs is not connections["default"]

    def test_nothing_is_left_of_the_sharing(self, client: WebSocketClient) -> None:
        """The connections can be closed again, and are not shared."""
        first, second = client.websocket("/both/"), client.websocket("/both/")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert connections["default"].allow_thread_sharing
        second.__exit__(None, None, None)
        assert not connections["default"].allow_thread_sharing
        assert {"close", "close_if_unusable_or_obsolete"}.isdisjoint(vars(connections["default"]))
        assert "create_connection" not in vars(connections)


class TestTransactions(WebSocketTestMixin, TransactionTestCase):
    client: WebSocketClient

    def test_view_and_test_see_each_other(self) -> None:
        """What is committed."""
        User.objects.create(username="ours")
        with self.client.websocket("/users/") as ws:
            assert answer(ws, "theirs") == "2"
        assert User.objects.count() == 2


PATCHED = """
from gevent import monkey
monkey.patch_all()
import pytest, sys
sys.exit(pytest.main())
"""


def test_process_that_gevent_has_patched_works_too() -> None:
    """All of the above: there each greenlet has database connections of its own."""
    options = ["-q", "-p", "no:cacheprovider", "-k", "not patched and not never_gives_way", __file__]
    done = run_python("-c", PATCHED, *options, env=IGNORE_WARNINGS)
    assert done.returncode == 0, done.stdout
