"""``limits``: which handshakes are refused, and that every slot is released; ``accept_timeout``."""

from __future__ import annotations

import errno
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gws_middleware import ConnectionClosed, HandshakeRefused, WebSocketMiddleware
from gws_middleware.config import Config
from gws_middleware.connection.channel import Channel
from gws_middleware.process.limits import Slots, reserve_request_slots, reserve_user_slot
from gws_middleware.process.registry import Registry
from gws_middleware.servers.base import SERVER_KEY, Server
from gws_middleware.testing import Client, connect
from gws_middleware.typing import Environ, Headers, StartResponse

from ..support.inprocess import closes, forbids, forbids_lazily, hub_errors, until
from ..support.registries import here
from ..support.seam import cut

__all__ = ["here", "hub_errors"]

ONE: dict[str, Any] = {"max_connections": 1, "max_connections_per_address": 1}
ONE_FOR_A_USER: dict[str, Any] = {
    "max_connections_per_user": 1,
    "user_key": lambda ws: ws.environ.get("HTTP_X_USER"),
}


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


class TestSlots:
    def test_slots_are_as_many_as_the_limit(self) -> None:
        """Each key has its own, and a slot that is released can be reserved again."""
        slots = Slots()
        reserved = [slots.reserve(holder, "a", 2) for holder in (1, 2, 3)] + [slots.reserve(1, "b", 1)]
        slots.release(2)
        slots.release(2)
        reserved.append(slots.reserve(3, "a", 2))
        counts, holders = slots.reserved, len(slots)
        for holder in (1, 2, 3):
            slots.release(holder)
        assert reserved == [True, True, False, True, True]
        assert (counts, holders) == ({"a": 2, "b": 1}, 2)
        assert (slots.reserved, len(slots)) == ({}, 0)

    def test_key_without_a_slot_is_forgotten(self) -> None:
        """There may be as many as there are addresses."""

        class Key:
            pass

        slots, key = Slots(), Key()
        reference = weakref.ref(key)
        slots.reserve("one", key, 1)
        slots.release("one")
        del key
        assert reference() is None


class TestRequestSlots:
    """The rules, without a connection."""

    def reached(self, config: Config, *environs: Environ) -> list[str | None]:
        """Which limit is reached, for each request in turn."""
        slots = Slots()
        found = [reserve_request_slots(slots, object(), config, environ) for environ in environs]
        return [None if limit is None else limit.setting for limit in found]

    def test_nothing_is_reserved_without_limits(self) -> None:
        """A table of all addresses would grow for nothing."""
        slots = Slots()
        assert reserve_request_slots(slots, "ws", Config(), {"REMOTE_ADDR": "1.2.3.4"}) is None
        assert not slots.reserved

    def test_addresses_are_counted_apart(self) -> None:
        """One address cannot use up another one's slots."""
        one, two = {"REMOTE_ADDR": "1.2.3.4"}, {"REMOTE_ADDR": "1.2.3.5"}
        found = self.reached(Config(max_connections_per_address=1), one, two, one)
        assert found == [None, None, "max_connections_per_address"]

    @pytest.mark.parametrize(
        ("one", "two", "are_one"),
        [
            ("2001:db8:1:2::3", "2001:db8:1:2:ffff::", True),
            ("2001:db8:1:2::3", "2001:DB8:1:2:0:0:0:3", True),
            ("2001:db8:1:2::3", "2001:db8:1:3::3", False),
            ("fe80::1%eth0", "fe80::2%eth1", True),
            ("::ffff:1.2.3.4", "1.2.3.4", True),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
            ("::", "::1", True),
            ("no:address", "no:address", True),
            ("no:address", "no:other", False),
        ],
    )
    def test_ipv6_addresses_count_by_their_first_64_bits(self, one: str, two: str, are_one: bool) -> None:
        """A host has all that follow; IPv4 in the form of IPv6 is IPv4."""
        found = self.reached(Config(max_connections_per_address=1), {"REMOTE_ADDR": one}, {"REMOTE_ADDR": two})
        assert found == [None, "max_connections_per_address" if are_one else None]

    @pytest.mark.parametrize("environ", [{}, {"REMOTE_ADDR": ""}, {"REMOTE_ADDR": None}])
    def test_peer_without_an_address_is_not_counted(self, environ: Environ) -> None:
        """A unix socket has none, and its peer is a proxy."""
        assert self.reached(Config(max_connections_per_address=1), environ, environ) == [None, None]

    def test_address_is_what_client_address_returns(self) -> None:
        """E.g. the proxy's header; a request for which it returns None is not counted."""
        config = Config(max_connections_per_address=1, client_address=lambda environ: environ.get("HTTP_X_REAL_IP"))
        one, two = ({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_REAL_IP": ip} for ip in ("1.2.3.4", "1.2.3.5"))
        unknown = {"REMOTE_ADDR": "10.0.0.1"}
        found = self.reached(config, one, two, unknown, unknown, two)
        assert found == [None, None, None, None, "max_connections_per_address"]

    def test_worker_s_limit_comes_first(self) -> None:
        """A full worker serves no address."""
        environ = {"REMOTE_ADDR": "1.2.3.4"}
        assert self.reached(Config(**ONE), environ, environ) == [None, "max_connections"]


class TestUserSlots:
    """The rules, without a connection."""

    @pytest.mark.parametrize(
        ("options", "users", "found"),
        [
            ({}, ["bob", "bob"], [True, True]),
            ({"max_connections_per_user": 1}, ["bob", "eve", "bob"], [True, True, False]),
            ({"max_connections_per_user": 2}, ["bob", "bob", "bob"], [True, True, False]),
            ({"max_connections_per_user": 1}, [None, None], [True, True]),
        ],
        ids=["no limit", "one", "two", "no user"],
    )
    def test_each_user_has_as_many_slots_as_the_limit(
        self, options: dict[str, int], users: list[str | None], found: list[bool]
    ) -> None:
        """Without a limit, and for a connection without a user, nothing is reserved."""
        slots, config = Slots(), Config(user_key=lambda ws: ws[0], **options)
        assert [reserve_user_slot(slots, (user, number), config) for number, user in enumerate(users)] == found
        assert len(slots) == (found.count(True) if options and None not in users else 0)

    def test_user_that_is_not_hashable_is_an_error(self) -> None:
        """It names the setting."""
        config = Config(max_connections_per_user=1, user_key=lambda ws: [])
        with pytest.raises(TypeError, match="user_key"):
            reserve_user_slot(Slots(), "ws", config)


class TestRefusals:
    def test_one_more_than_the_worker_takes_is_503(self, here: Registry) -> None:
        """With Retry-After. Open connections stay open, and the application is not called."""
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
        """Other addresses are served."""
        app = WebSocketMiddleware(echo, max_connections_per_address=1)
        with connect(app), connect(app, environ={"REMOTE_ADDR": "1.2.3.4"}) as other:
            answer = refused(app)
            assert works(other)
        assert answer.status == "429 Too Many Requests"
        assert dict(answer.headers)["Retry-After"] == "5"
        assert answer.body == b"Your address has 1 WebSockets here, and may have no more.\n"
        assert here.counters.refused == {"max_connections_per_address": 1}

    def test_refusal_at_the_limit_of_an_address_keeps_no_slot_of_the_worker(self, here: Registry) -> None:
        """One address cannot fill the worker with refused requests."""
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
        """All that is left of a refusal is a close frame. The slot is released when its connection has ended."""
        app = WebSocketMiddleware(echo, **options)
        with connect(app) as one:
            with connect(app) as two:
                assert two.receive() is None
                ended = two.close_code, two.close_reason
            assert works(one)
        until(lambda: not len(here))
        assert ended == (1013, sentence)
        assert not here.slots.reserved


# --- slots are released ---------------------------------------------------------------------------------------------


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


class TestRelease:
    @pytest.mark.parametrize("app", NOT_ACCEPTED)
    def test_slot_is_released_when_nothing_was_accepted(
        self, here: Registry, app: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The application refuses, does nothing, raises or takes too long, lazily or not."""
        with pytest.raises((HandshakeRefused, LookupError)), connect(app, accept_timeout=0.03, **ONE):
            pass
        assert not here.slots.reserved

    @pytest.mark.parametrize("app", ACCEPTED)
    @pytest.mark.parametrize("end", ["the peer closes", "the peer disconnects"])
    def test_slot_is_released_with_the_socket(
        self, here: Registry, app: Callable[..., Any], end: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """However the connection and its view end."""
        with connect(app, close_timeout=0.05, **ONE) as client:
            reserved = here.slots.reserved
            if end == "the peer disconnects":
                cut(client)
        until(lambda: not len(here))
        assert reserved == {"worker": 1, ("address", "127.0.0.1"): 1}
        assert not here.slots.reserved

    @pytest.mark.parametrize("lazily", [False, True])
    def test_slot_is_released_when_the_peer_disconnected_before_the_101(self, here: Registry, lazily: bool) -> None:
        """``accept()`` raises ConnectionClosed."""
        seen: list[str] = []

        def app(environ: Environ, start_response: StartResponse) -> Any:
            def late() -> Iterator[bytes]:
                with pytest.raises(ConnectionClosed):
                    environ["wsgi.websocket"].accept()
                seen.append("disconnected")
                yield b""

            return late() if lazily else list(late())

        wrapped = WebSocketMiddleware(app, **ONE, **ONE_FOR_A_USER)
        with pytest.raises(BrokenPipeError):
            list(wrapped({**upgrade(Disconnected()), "HTTP_X_USER": "bob"}, lambda *arguments: None))
        assert (seen, here.slots.reserved) == (["disconnected"], {})

    def test_slot_of_an_unread_response_is_released(self, here: Registry) -> None:
        """The peer has disconnected: the server closes the response and reads nothing of it."""
        answer: Any = WebSocketMiddleware(forbids_lazily, **ONE)(upgrade(Server()), lambda *arguments: None)
        reserved = here.slots.reserved
        answer.close()
        assert (reserved["worker"], here.slots.reserved) == (1, {})

    @pytest.mark.parametrize("app", [forbids, forbids_lazily, closes])
    def test_no_timer_is_left_by_a_wrapper_that_does_not_close_the_response(self, app: Callable[..., Any]) -> None:
        """The deadline of the server's last write ends with the response, and cannot end the next request."""
        loop = gevent.get_hub().loop
        before = loop.activecnt
        answer: Any = WebSocketMiddleware(app)(upgrade(Server()), lambda *arguments: None)
        body = b"".join(answer)
        while_writing = loop.activecnt
        del answer
        assert (bool(body), while_writing, loop.activecnt) == (True, before + 1, before)


class Disconnected(Server):
    """One whose client has disconnected before the 101."""

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        raise BrokenPipeError(errno.EPIPE, "disconnected")


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


# --- slots of users -------------------------------------------------------------------------------------------------


class TestUsers:
    def test_one_more_of_a_user_is_accepted_and_ends_with_1008(self, here: Registry) -> None:
        """A page can read the code, but not the status of a refused handshake. The slot is released at the close."""
        app = WebSocketMiddleware(echo, **ONE_FOR_A_USER)
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

    def test_view_of_one_more_receives_none(self) -> None:
        """``receive()`` returns None, as at any end."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            seen.append((ws.receive(), ws.close_code))
            return []

        wrapped = WebSocketMiddleware(app, **ONE_FOR_A_USER)
        with connect(wrapped, headers={"X-User": "bob"}), connect(wrapped, headers={"X-User": "bob"}) as two:
            assert two.receive() is None
            until(lambda: seen)
            assert seen == [(None, 1008)]

    def test_connection_without_a_user_is_not_counted(self, here: Registry) -> None:
        """Anonymous clients are limited by their address."""
        app = WebSocketMiddleware(echo, **ONE_FOR_A_USER)
        with connect(app) as one, connect(app) as two:
            assert (works(one), works(two)) == (True, True)
            assert not here.slots.reserved

    def test_key_that_cannot_be_found_is_an_error_before_the_101(self, here: Registry) -> None:
        """It is the project's function: its exception is an ordinary one, and no slot stays reserved."""

        def broken(ws: Any) -> Any:
            raise LookupError("no such user")

        with (
            pytest.raises(LookupError),
            connect(echo, max_connections=1, max_connections_per_user=1, user_key=broken),
        ):
            pass
        assert not here.slots.reserved


# --- accept_timeout -------------------------------------------------------------------------------------------------


class TestAcceptTimeout:
    @pytest.mark.parametrize("lazily", [False, True])
    def test_handshake_that_is_not_answered_in_time_is_503(
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
            ws.send("still here")
            yield b""

        def app(environ: Environ, start_response: StartResponse) -> Any:
            return talk(environ) if lazily else list(talk(environ))

        counts: list[int] = []
        for accept_timeout in (None, 60):
            with connect(app, accept_timeout=accept_timeout) as client:
                assert client.receive() == "still here"
        # Both have the watchers of a connection; one had the timer of the deadline before.
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

    def test_no_timer_is_left_when_no_slot_was_free(self) -> None:
        """The application was not called at all."""
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
