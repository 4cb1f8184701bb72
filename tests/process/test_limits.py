"""``admission``: who may come in, and that every place is given back."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import gevent
import pytest

from gws_middleware import ConnectionClosed, HandshakeRefused, WebSocketMiddleware
from gws_middleware.config import Config
from gws_middleware.connection.channel import Channel
from gws_middleware.process import registry
from gws_middleware.process.limits import full
from gws_middleware.process.registry import Registry
from gws_middleware.servers.base import SERVER_KEY, Server
from gws_middleware.testing import Client, connect
from gws_middleware.typing import Environ, Headers, StartResponse

from ..support.inprocess import closes, forbids, forbids_lazily, hub_errors, until

__all__ = ["hub_errors"]

ONE: dict[str, Any] = {"max_connections": 1, "max_connections_per_address": 1}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of the test's own in place of the process'."""
    monkeypatch.setattr(registry, "_registry", Registry())
    return registry.current()


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    ws.accept()
    for message in ws:
        ws.send(message)
    return []


def refused(app: Any, **options: Any) -> HandshakeRefused:
    """How one more is refused."""
    with pytest.raises(HandshakeRefused) as caught, connect(app, **options):
        pass
    return caught.value


def works(client: Client) -> bool:
    client.send("x")
    return client.receive() == "x"


class TestFull:
    """The rules, without a connection."""

    def taken(self, config: Config, *environs: Environ) -> list[str | None]:
        """What is full for each that comes."""
        registry = Registry()
        found = [full(config, environ, partial(registry.reserve, object())) for environ in environs]
        return [None if each is None else each.reason for each in found]

    def test_nothing_is_full_without_limits(self, here: Registry) -> None:
        """And nothing is counted then."""
        assert full(Config(), {"REMOTE_ADDR": "1.2.3.4"}, partial(here.reserve, "ws")) is None
        assert not here.reserved

    def test_addresses_are_counted_apart(self) -> None:
        """One address cannot use up another one's places."""
        one, two = {"REMOTE_ADDR": "1.2.3.4"}, {"REMOTE_ADDR": "1.2.3.5"}
        found = self.taken(Config(max_connections_per_address=1), one, two, one)
        assert found == [None, None, "max_connections_per_address"]

    @pytest.mark.parametrize("environ", [{}, {"REMOTE_ADDR": ""}, {"REMOTE_ADDR": None}])
    def test_peer_without_an_address_is_not_counted(self, environ: Environ) -> None:
        """A unix socket has none; behind it is a proxy."""
        assert self.taken(Config(max_connections_per_address=1), environ, environ) == [None, None]

    def test_address_is_what_the_function_says(self) -> None:
        """The proxy's header, and nobody is counted where it says None."""
        config = Config(max_connections_per_address=1, client_address=lambda environ: environ.get("HTTP_X_REAL_IP"))
        one, two = ({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_REAL_IP": ip} for ip in ("1.2.3.4", "1.2.3.5"))
        unknown = {"REMOTE_ADDR": "10.0.0.1"}
        found = self.taken(config, one, two, unknown, unknown, two)
        assert found == [None, None, None, None, "max_connections_per_address"]

    def test_worker_s_limit_comes_first(self) -> None:
        """Whose fault it is does not matter when there is no place at all."""
        environ = {"REMOTE_ADDR": "1.2.3.4"}
        assert self.taken(Config(**ONE), environ, environ) == [None, "max_connections"]


class TestRefusals:
    def test_one_more_than_the_worker_takes_is_503(self, here: Registry) -> None:
        """With the time after which to try again; those who are here stay, and the application is not asked."""
        app = WebSocketMiddleware(echo, max_connections=2)
        with connect(app) as one, connect(app) as two:
            answer = refused(app)
            assert works(one)
            assert works(two)
        assert answer.status == "503 Service Unavailable"
        assert dict(answer.headers)["Retry-After"] == "5"
        assert answer.body == b"This worker has 2 WebSockets, and takes no more for now.\n"
        assert here.counters.refused == {"max_connections": 1}

    def test_one_more_from_an_address_is_429(self, here: Registry) -> None:
        """Other addresses come in."""
        app = WebSocketMiddleware(echo, max_connections_per_address=1)
        with connect(app), connect(app, environ={"REMOTE_ADDR": "1.2.3.4"}) as other:
            answer = refused(app)
            assert works(other)
        assert answer.status == "429 Too Many Requests"
        assert dict(answer.headers)["Retry-After"] == "5"
        assert answer.body == b"Your address has 1 WebSockets here, and may have no more.\n"
        assert here.counters.refused == {"max_connections_per_address": 1}

    def test_refusal_by_the_address_takes_no_place_of_the_worker(self, here: Registry) -> None:
        """A noisy address cannot fill the worker with refusals."""
        app = WebSocketMiddleware(echo, max_connections=2, max_connections_per_address=1)
        with connect(app):
            for _ in range(3):
                refused(app)
            with connect(app, environ={"REMOTE_ADDR": "1.2.3.4"}) as other:
                assert works(other)

    def test_plain_http_is_served_on(self) -> None:
        """The limit is of WebSockets."""

        def page(environ: Environ, start_response: StartResponse) -> list[bytes]:
            return [b"page"]

        app = WebSocketMiddleware(lambda e, s: echo(e, s) if "wsgi.websocket" in e else page(e, s), max_connections=1)
        with connect(app):
            assert app({"REQUEST_METHOD": "GET"}, None) == [b"page"]


class TestSwitchedServers:
    """Servers that have sent the 101 before they call the application (gevent-websocket's)."""

    @pytest.fixture(autouse=True)
    def switched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gws_middleware.testing._PairServer.switched", True)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"max_connections": 1}, "This worker has 1 WebSockets, and takes no more for now."),
            ({"max_connections_per_address": 1}, "Your address has 1 WebSockets here, and may have no more."),
        ],
    )
    def test_one_more_ends_with_1013(self, here: Registry, options: dict[str, int], sentence: str) -> None:
        """All that is left of a refusal is a close frame; the place is free again when the one who had it has left."""
        app = WebSocketMiddleware(echo, **options)
        with connect(app) as one:
            with connect(app) as two:
                assert two.receive() is None
                ended = two.close_code, two.close_reason
            assert works(one)
        until(lambda: not len(here))
        assert ended == (1013, sentence)
        assert not here.reserved


# --- places are given back ------------------------------------------------------------------------------------------


def forgets(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return []


def raises(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise LookupError("before the 101")


def raises_lazily(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    raise LookupError("before the 101")
    yield b""


def waits(environ: Environ, start_response: StartResponse) -> list[bytes]:
    gevent.sleep(60)
    return []


def waits_lazily(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    gevent.sleep(60)
    yield b""


NOT_ACCEPTED = [forbids, forbids_lazily, closes, forgets, raises, raises_lazily, waits, waits_lazily]


def returns(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.websocket"].accept()
    return []


def fails(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.websocket"].accept()
    raise LookupError("after the 101")


def detaches(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.websocket"].detach()
    return []


ACCEPTED = [echo, returns, fails, detaches]


class TestPlaces:
    @pytest.mark.parametrize("app", NOT_ACCEPTED)
    def test_place_is_free_again_when_nothing_was_accepted(
        self, here: Registry, app: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Refused, forgotten, failed or given up, lazily or not."""
        with pytest.raises((HandshakeRefused, LookupError)), connect(app, accept_timeout=0.03, **ONE):
            pass
        assert not here.reserved

    @pytest.mark.parametrize("app", ACCEPTED)
    @pytest.mark.parametrize("who", ["the peer closes", "the peer vanishes"])
    def test_place_is_free_again_with_the_socket(
        self, here: Registry, app: Callable[..., Any], who: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """However the connection and its view end."""
        with connect(app, close_timeout=0.05, **ONE) as client:
            taken = here.reserved
            if who == "the peer vanishes":
                client._sock.close()
                client._lost = True
        until(lambda: not len(here))
        assert taken == {"worker": 1, ("address", "127.0.0.1"): 1}
        assert not here.reserved

    @pytest.mark.parametrize("lazily", [False, True])
    def test_place_is_free_again_when_the_peer_went_before_the_101(self, here: Registry, lazily: bool) -> None:
        """``accept()`` raises ConnectionClosed."""
        seen: list[str] = []

        class Gone(Server):
            def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
                raise BrokenPipeError(errno.EPIPE, "gone")

        def app(environ: Environ, start_response: StartResponse) -> Any:
            def late() -> Iterator[bytes]:
                with pytest.raises(ConnectionClosed):
                    environ["wsgi.websocket"].accept()
                seen.append("gone")
                yield b""

            return late() if lazily else list(late())

        with pytest.raises(BrokenPipeError):
            list(WebSocketMiddleware(app, **ONE)(upgrade(Gone()), lambda *arguments: None))
        assert (seen, here.reserved) == (["gone"], {})

    def test_place_of_an_unread_response_is_free_again(self, here: Registry) -> None:
        """The server closes the response of a peer that has gone without a look at it."""
        answer: Any = WebSocketMiddleware(forbids_lazily, **ONE)(upgrade(Server()), lambda *arguments: None)
        taken = here.reserved
        answer.close()
        assert (taken["worker"], here.reserved) == (1, {})

    @pytest.mark.parametrize("app", [forbids, forbids_lazily, closes])
    def test_no_timer_is_left_by_a_wrapper_that_does_not_close_the_response(self, app: Callable[..., Any]) -> None:
        """The deadline of the server's last write goes with the response, and cannot hit the next request."""
        loop = gevent.get_hub().loop
        before = loop.activecnt
        answer: Any = WebSocketMiddleware(app)(upgrade(Server()), lambda *arguments: None)
        body = b"".join(answer)
        while_writing = loop.activecnt
        del answer
        assert (bool(body), while_writing, loop.activecnt) == (True, before + 1, before)

    def test_next_one_comes_in_when_one_has_left(self) -> None:
        """The places are of those who are here."""
        app = WebSocketMiddleware(echo, **ONE)
        for _ in range(3):
            with connect(app) as client:
                assert works(client)
                assert refused(app).status_code == 503
            until(lambda: not len(registry.current()))


def upgrade(server: Server) -> Environ:
    """A request for a WebSocket, to a server of the test's own."""
    return {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": "/",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "testserver",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
        SERVER_KEY: server,
    }


# --- places of users ------------------------------------------------------------------------------------------------


def key_of(ws: Any) -> Any:
    return ws.environ.get("HTTP_X_USER")


class TestUsers:
    OPTIONS: ClassVar[dict[str, Any]] = {"max_connections_per_user": 1, "user_key": key_of}

    def test_one_more_of_a_user_is_accepted_and_ends_with_1008(self, here: Registry) -> None:
        """Which a page can read, as it cannot the status of a refused handshake; the place is free after a close."""
        app = WebSocketMiddleware(echo, **self.OPTIONS)
        bob = {"X-User": "bob"}
        with connect(app, headers=bob) as one:
            with connect(app, headers=bob) as two:
                assert two.receive() is None
                ended = two.close_code, two.close_reason
            with connect(app, headers={"X-User": "eve"}) as other:
                assert works(other)
            assert works(one)
        until(lambda: not len(here))
        with connect(app, headers=bob) as three:
            assert works(three)
        assert ended == (1008, "too many connections")

    def test_view_of_one_more_sees_the_end(self) -> None:
        """``receive()`` returns None, as ever."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            seen.append((ws.receive(), ws.close_code))
            return []

        wrapped = WebSocketMiddleware(app, **self.OPTIONS)
        with connect(wrapped, headers={"X-User": "bob"}), connect(wrapped, headers={"X-User": "bob"}) as two:
            assert two.receive() is None
            until(lambda: seen)
            assert seen == [(None, 1008)]

    def test_who_has_no_key_is_not_counted(self, here: Registry) -> None:
        """Anonymous visitors are limited by their address."""
        app = WebSocketMiddleware(echo, **self.OPTIONS)
        with connect(app) as one, connect(app) as two:
            assert (works(one), works(two)) == (True, True)
            assert not here.reserved

    def test_key_that_cannot_be_found_is_an_error_before_the_101(self, here: Registry) -> None:
        """It is the project's function: its exception is an ordinary one, and no place is lost."""

        def broken(ws: Any) -> Any:
            raise LookupError("no such user")

        with (
            pytest.raises(LookupError),
            connect(echo, max_connections=1, max_connections_per_user=1, user_key=broken),
        ):
            pass
        assert not here.reserved

    def test_place_of_a_user_is_free_when_the_peer_went_before_the_101(self, here: Registry) -> None:
        """It was taken before the 101 was sent."""

        class Gone(Server):
            def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
                raise BrokenPipeError(errno.EPIPE, "gone")

        app = WebSocketMiddleware(echo, **self.OPTIONS)
        with pytest.raises(BrokenPipeError):
            app({**upgrade(Gone()), "HTTP_X_USER": "bob"}, lambda *arguments: None)
        assert not here.reserved


# --- accept_timeout -------------------------------------------------------------------------------------------------


class TestAcceptTimeout:
    @pytest.mark.parametrize("lazily", [False, True])
    def test_application_that_takes_too_long_is_answered_for(
        self, here: Registry, lazily: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """503 to the client, a gevent.Timeout to the application, one warning to the log."""
        seen: list[Any] = []

        def late(environ: Environ) -> Iterator[bytes]:
            try:
                gevent.sleep(60)
            except gevent.Timeout as timeout:
                seen.append(timeout)
                raise
            yield b""

        def app(environ: Environ, start_response: StartResponse) -> Any:
            return late(environ) if lazily else list(late(environ))

        with pytest.raises(HandshakeRefused) as caught, connect(app, "/sl\x1bow", accept_timeout=0.03):
            pass
        assert caught.value.status == "503 Service Unavailable"
        assert caught.value.body == b"The application did not answer the handshake within 0.03 seconds.\n"
        assert len(seen) == 1
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (
                logging.WARNING,
                r"WebSocket '/sl\x1bow': The application did not answer the handshake within 0.03 seconds.",
            )
        ]
        assert here.counters.refused == {"accept_timeout": 1}

    @pytest.mark.parametrize("lazily", [False, True])
    def test_no_timer_is_left_when_it_was_accepted(self, lazily: bool) -> None:
        """The view may then take as long as it likes."""
        loop = gevent.get_hub().loop

        def talk(environ: Environ) -> Iterator[bytes]:
            ws = environ["wsgi.websocket"]
            before = loop.activecnt
            ws.accept()
            counts.append(loop.activecnt - before)
            gevent.sleep(0.1)
            ws.send("still here")
            yield b""

        def app(environ: Environ, start_response: StartResponse) -> Any:
            return talk(environ) if lazily else list(talk(environ))

        counts: list[int] = []
        for accept_timeout in (None, 0.05):
            with connect(app, accept_timeout=accept_timeout) as client:
                assert client.receive() == "still here"
        # The same watchers came with the 101, and the deadline went.
        assert counts[1] == counts[0] - 1

    @pytest.mark.parametrize("app", [forbids, forbids_lazily, closes, raises])
    def test_no_timer_is_left_when_it_was_answered(self, app: Callable[..., Any]) -> None:
        """However it was."""
        loop = gevent.get_hub().loop
        before = loop.activecnt
        with pytest.raises((HandshakeRefused, LookupError)), connect(app, accept_timeout=60):
            pass
        until(lambda: loop.activecnt <= before)
        assert loop.activecnt <= before

    def test_no_timer_is_left_when_there_was_no_place(self) -> None:
        """The application was not asked at all."""
        loop = gevent.get_hub().loop
        app = WebSocketMiddleware(echo, accept_timeout=60, max_connections=1)
        with connect(app):
            before = loop.activecnt
            refused(app)
            assert loop.activecnt <= before

    def test_application_may_answer_for_itself(self) -> None:
        """It has caught the gevent.Timeout."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            try:
                gevent.sleep(60)
            except gevent.Timeout:
                start_response("504 Gateway Timeout", [])
            return [b"late"]

        assert refused(app, accept_timeout=0.03).status_code == 504

    def test_gevent_timeout_of_the_application_s_own_is_its_own(self) -> None:
        """Only ours is answered with 503."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            with gevent.Timeout(0.01):
                gevent.sleep(60)
            return []

        server = Server()
        with pytest.raises(gevent.Timeout) as caught:
            WebSocketMiddleware(app, accept_timeout=60)(upgrade(server), lambda *arguments: None)
        assert caught.value.seconds == 0.01
