"""The contracts of older libraries, so that code written for them moves over unchanged.

What gevent-websocket promises is tested on gevent-websocket itself too (``theirs``): a test that only ours would pass
shows nothing about code that was written for theirs. What it got wrong is tested on ours alone.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import gevent
import pytest
from gevent import pywsgi
from gevent.pool import Pool
from geventwebsocket import Resource, WebSocketApplication, WebSocketError
from geventwebsocket.handler import WebSocketHandler as TheirHandler
from geventwebsocket.protocols.base import BaseProtocol
from geventwebsocket.protocols.wamp import WampProtocol

from gws_middleware import Config, HandshakeRefused, WebSocket, WebSocketMiddleware
from gws_middleware.connection.control import config_of
from gws_middleware.pywsgi import WebSocketHandler, WSGIServer
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import (
    ENDS,
    Peer,
    connected,
    deadline,
    every_end,
    gevent_socket,
    hub_errors,
    last_of,
    problems,
    ticks,
    until,
)
from ..support.rawclient import request, upgrade_request

__all__ = ["hub_errors"]

App = Callable[[Environ, StartResponse], Any]
IMPLEMENTATIONS = ["theirs", "ours", "ours under their handler"]
everywhere = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
ours_and_theirs = pytest.mark.parametrize("implementation", IMPLEMENTATIONS[:2])


class Service:
    """A ``gevent.pywsgi`` server in this process."""

    def __init__(self, implementation: str, app: App, **arguments: Any) -> None:
        self.errors = io.StringIO()
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        arguments |= {"log": None, "error_log": self.errors, "spawn": Pool()}
        if implementation == "ours":
            self.server = WSGIServer(gevent_socket(listener), app, **arguments)
        else:
            app = WebSocketMiddleware(app) if implementation == "ours under their handler" else app
            arguments["handler_class"] = WebSocketHandler if implementation == "our handler" else TheirHandler
            self.server = pywsgi.WSGIServer(gevent_socket(listener), app, **arguments)
        self.peers: list[Peer] = []

    def get(self, path: str) -> bytes:
        """The answer to an ordinary request."""
        with self.dial() as sock, deadline("the server answers"):
            sock.sendall(request(path, ("Connection", "close")))
            return b"".join(iter(lambda: sock.recv(4096), b""))

    def connect(self, path: str = "/", *headers: tuple[str, str]) -> Peer:
        """A connection after its handshake; ``peer.head`` is the answer."""
        sock = self.dial()
        sock.sendall(upgrade_request(path, *headers))
        head = bytearray()
        with deadline("the server answers the handshake"):
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        peer = Peer(sock)
        peer.head = head.decode().lower()
        self.peers.append(peer)
        return peer

    def dial(self) -> Any:
        """A connection before its first request."""
        return gevent_socket(socket.create_connection(self.address))


@contextmanager
def serving(implementation: str, app: App, **arguments: Any) -> Iterator[Service]:
    """A service that has ended, with all its connections, when the block does."""
    service = Service(implementation, app, **arguments)
    service.server.start()
    try:
        yield service
    finally:
        for peer in service.peers:
            peer.sock.close()
        until(lambda: not len(service.server.pool), "every request ends")
        service.server.stop()


# --- gevent-websocket's applications ------------------------------------------------------------------------------


class ChatProtocol(BaseProtocol):
    PROTOCOL_NAME = "chat"


class Chat(WebSocketApplication):
    """A chat as gevent-websocket's examples have it: unmodified code of its users."""

    protocol_class = ChatProtocol
    members: ClassVar[set[Any]] = set()
    log: ClassVar[list[Any]] = []

    def on_open(self) -> None:
        self.members.add(self.ws)
        self.log.append("open")

    def on_message(self, message: Any) -> None:
        if message is None:
            return
        value = json.loads(message)
        for member in self.members:
            member.send(json.dumps({"text": value}))

    def on_close(self, reason: Any) -> None:
        self.members.discard(self.ws)
        self.log.append("close")


def index(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """The plain WSGI application beside the chat."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"index"]


@pytest.fixture
def resource() -> Resource:
    """A new chat beside a page."""
    Chat.members, Chat.log = set(), []
    return Resource([("^/chat", Chat), ("^/$", index)])


class TestWebSocketApplication:
    @everywhere
    def test_chat_reaches_every_member(self, implementation: str, resource: Resource) -> None:
        """The class-level set of members, and a broadcast from each; one that has disconnected gets nothing more."""
        with serving(implementation, resource) as service:
            ann, bob, eve = (service.connect("/chat") for _ in range(3))
            until(lambda: len(Chat.members) == 3)
            for sender in (ann, bob):
                sender.send('"hello"')
                assert [member.receive() for member in (ann, bob, eve)] == ['{"text": "hello"}'] * 3
            eve.close()
            until(lambda: len(Chat.members) == 2)
            ann.send("1")
            assert [ann.receive(), bob.receive(), eve.receive()] == ['{"text": 1}', '{"text": 1}', None]
            bob.disconnect()
            until(lambda: len(Chat.members) == 1)
            ann.send("2")
            assert ann.receive() == '{"text": 2}'
        assert Chat.log == ["open"] * 3 + ["close"] * 3
        assert "Traceback" not in service.errors.getvalue()

    @ours_and_theirs
    def test_subprotocol_is_the_protocol_classs(self, implementation: str, resource: Resource) -> None:
        """``Resource`` names it by ``protocol_class.PROTOCOL_NAME``, and it is chosen where the client offers it."""
        with serving(implementation, resource) as service:
            offered = service.connect("/chat", ("Sec-WebSocket-Protocol", "superchat, chat"))
            other = service.connect("/chat", ("Sec-WebSocket-Protocol", "mqtt"))
            none = service.connect("/chat")
            assert "sec-websocket-protocol: chat\r\n" in offered.head
            assert "sec-websocket-protocol" not in other.head + none.head

    def test_subprotocol_is_not_found_inside_another(self, resource: Resource) -> None:
        """Theirs compares substrings, and answers with a subprotocol that the client did not offer."""
        heads = {}
        for implementation in IMPLEMENTATIONS[:2]:
            with serving(implementation, resource) as service:
                heads[implementation] = service.connect("/chat", ("Sec-WebSocket-Protocol", "superchat")).head
        assert "sec-websocket-protocol: chat" in heads["theirs"]
        assert "sec-websocket-protocol" not in heads["ours"]

    def test_subprotocol_is_none_for_a_path_without_one(self) -> None:
        """A ``Resource`` answers '' where no application matches the path, or its protocol has no name."""
        found: list[Any] = []

        class Unnamed(WebSocketApplication):
            def on_open(self) -> None:
                found.append(self.ws.subprotocol)
                self.ws.accept()

        with connect(Resource([("^/chat", Unnamed)]), "/chat", subprotocols=["chat"]) as client:
            assert client.subprotocol is None
        assert found == [None]

    @everywhere
    def test_plain_application_beside_it_answers(self, implementation: str, resource: Resource) -> None:
        """``Resource`` takes "wsgi.websocket" in environ for a WebSocket: it is not there on other requests."""
        with serving(implementation, resource) as service:
            assert service.get("/").endswith(b"\r\n\r\nindex")

    @everywhere
    def test_default_application_echoes(self, implementation: str, hub_errors: list[BaseException]) -> None:
        """``WebSocketApplication.on_message`` sends the message back in its type."""
        with serving(implementation, Resource([("^/", WebSocketApplication)])) as service:
            peer = service.connect()
            for message in ("text", b"binary", "\u20ac", "x" * 100_000):
                peer.send(message)
                assert peer.receive() == message
        if implementation == "theirs":
            hub_errors.clear()  # see the next test

    def test_default_application_ends_without_a_traceback(self, caplog: pytest.LogCaptureFixture) -> None:
        """It sends the None of the end, which raises; in theirs that is a traceback for each connection."""
        with serving("ours", Resource([("^/", WebSocketApplication)])) as service:
            service.connect().close()
            service.connect().disconnect()
        assert service.errors.getvalue() == ""
        assert problems(caplog) == []

    @everywhere
    def test_application_that_closes_ends_once(self, implementation: str) -> None:
        """``on_close`` is called once, and the peer gets a close frame."""
        closes: list[Any] = []

        class Once(WebSocketApplication):
            def on_message(self, message: Any) -> None:
                if message is not None:
                    self.ws.close()

            def on_close(self, reason: Any) -> None:
                closes.append(reason)

        with serving(implementation, Resource([("^/", Once)])) as service:
            peer = service.connect()
            peer.send("x")
            until(lambda: peer.read() or peer.ended or peer.engine.received_close)
            peer.disconnect()
            until(lambda: closes)
            ticks()
        assert closes == [None]


class NamedChat(WebSocketApplication):
    """The clients of the server, each with an attribute of the application's: the shape of gevent-websocket's chat."""

    def on_open(self) -> None:
        self.ws.send(json.dumps(len(self.ws.handler.server.clients)))

    def on_message(self, message: Any) -> None:
        if message is None:
            return
        value = json.loads(message)
        clients = self.ws.handler.server.clients
        if "name" in value:
            self.ws.handler.active_client.nickname = value["name"]
            self.ws.send(json.dumps(sorted(getattr(each, "nickname", "anonymous") for each in clients.values())))
        else:
            for client in clients.values():
                client.ws.send(json.dumps(value))


class Wamp(WampProtocol):
    """Theirs takes the None of the end for a message."""

    def on_message(self, message: Any) -> None:
        if message is not None:
            super().on_message(message)


class Calculator(WebSocketApplication):
    """Calls, and a channel for all that subscribe: the shape of gevent-websocket's example."""

    protocol_class = Wamp

    def on_open(self) -> None:
        self.protocol.register_procedure("http://test/calc#add", lambda a, b: a + b)
        self.protocol.register_pubsub("http://test/channel")


class TestClientsOfTheServer:
    """``ws.handler``, on which gevent-websocket's chat and its WAMP publish and subscribe rest."""

    @everywhere
    def test_chat_names_its_clients(self, implementation: str) -> None:
        """An attribute that is set on ``active_client`` is found among ``server.clients``, until it disconnects."""
        with serving(implementation, Resource([("^/chat", NamedChat)])) as service:
            one, two = peers = [service.connect("/chat") for _ in range(2)]
            seen = [[peer.receive()] for peer in peers]
            for peer, name in zip(peers, ("x", "y"), strict=True):
                peer.send(json.dumps({"name": name}))
                seen.append([peer.receive()])
            one.send(json.dumps({"text": "hello"}))
            seen += [[peer.receive() for peer in peers]]
            one.close()
            until(lambda: len(service.server.clients) == 1)
            two.send(json.dumps({"name": "z"}))
            seen.append([two.receive()])
        assert seen == [["1"], ["2"], ['["anonymous", "x"]'], ['["x", "y"]'], ['{"text": "hello"}'] * 2, ['["z"]']]

    @everywhere
    def test_wamp_publishes_to_subscribers(self, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """WAMP calls, subscribes, publishes and unsubscribes. (Its protocol class is written for Python 2, where
        ``string`` has ``letters``.)
        """
        monkeypatch.setattr(string, "letters", string.ascii_letters, raising=False)
        seen = []
        with serving(implementation, Resource([("^/wamp", Calculator)])) as service:
            one, two = peers = [service.connect("/wamp") for _ in range(2)]
            welcomes = [json.loads(peer.receive() or "") for peer in peers]
            for peer in peers:
                peer.send('[1,"calc","http://test/calc#"]', '[2,"1","calc:add",2,3]', '[5,"http://test/channel"]')
                seen.append(json.loads(peer.receive() or ""))
                until(lambda: len(service.server.channels.channels["http://test/channel"]) == len(seen))
            one.send('[7,"http://test/channel",{"n":1}]')
            seen += [json.loads(peer.receive() or "") for peer in peers]
            two.send('[6,"http://test/channel"]', '[7,"http://test/channel",2]', '[2,"2","calc:add",3,4]')
            seen += [json.loads(peer.receive() or "") for peer in peers]
        event = [8, "http://test/channel"]
        assert [welcome[0] for welcome in welcomes] == [0, 0]
        assert seen == [[3, "1", 5], [3, "1", 5], [*event, {"n": 1}], [*event, {"n": 1}], [*event, 2], [3, "2", 7]]

    @everywhere
    def test_address_is_that_of_the_peer(self, implementation: str) -> None:
        """``client_address``, ``active_client.address`` and the key in ``server.clients`` are host and port."""
        found: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            handler = environ["wsgi.websocket"].handler
            client = handler.active_client
            found.append((handler.client_address, client.address, client.ws is environ["wsgi.websocket"]))
            found.append(handler.server.clients[client.address] is client)
            environ["wsgi.websocket"].receive()
            return []

        with serving(implementation, app) as service:
            address = service.connect().sock.getsockname()
            until(lambda: len(found) == 2)
        assert found == [(address, address, True), True]

    def test_worker_without_a_server_object_lists_its_clients(self) -> None:
        """Where only the connection can be reached, as under gunicorn: the process stands for the server."""
        found: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.handler.server.topics = ["x"]
            clients = ws.handler.server.clients
            found.append(
                (ws.handler.active_client in list(clients.values()), len(clients), next(iter(clients.items()))[0])
            )
            found.append((ws.handler.client_address, ws.handler.environ is environ, ws.handler.websocket is ws))
            ws.receive()
            return []

        with connect(app) as one:
            until(lambda: len(found) == 2)
            with connect(app) as two:
                until(lambda: len(found) == 4)
                two.close()
            one.close()
        assert [found[0][:2], found[2][:2]] == [(True, 1), (True, 2)]
        assert found[1][1:] == (True, True)
        assert (found[1][0] == found[0][2], found[1][0] != found[3][0]) == (True, True)

    def test_client_of_a_closed_connection_raises_at_send(self) -> None:
        """A list of clients that the application keeps finds out by WebSocketError, as it does there."""
        with connected() as (ws, peer):
            client = ws.handler.active_client
            peer.disconnect()
            until(lambda: ws.closed)
            with pytest.raises(WebSocketError):
                client.ws.send("x")


class TestServerArguments:
    def test_unknown_argument_is_refused(self) -> None:
        """By a TypeError when the server is made: gevent takes it for one of TLS, and each connection would fail."""
        listener = gevent_socket(socket.create_server(("127.0.0.1", 0)))
        with pytest.raises(TypeError, match=r"unexpected argument 'debgu'.*debug and pre_start_hook"):
            WSGIServer(listener, index, debgu=True)
        with pytest.raises(TypeError, match="unexpected argument 'certfile'"):
            WSGIServer(listener, index, ssl_context=object(), certfile="x")
        listener.close()

    def test_debug_sets_the_level_of_the_logger(self) -> None:
        """``debug=True`` shows the opening of each WebSocket; without it the level is as it was."""
        logger = logging.getLogger("gws_middleware")
        before = logger.level
        try:
            servers = [WSGIServer(("127.0.0.1", 0), index, debug=debug) for debug in (False, True)]
            found = [server.debug for server in servers], logger.level
        finally:
            logger.setLevel(before)
        assert (found, before) == (([False, True], logging.DEBUG), logging.NOTSET)

    @pytest.mark.parametrize("answer", [True, False])
    def test_hook_decides_whether_there_is_a_websocket(self, answer: bool) -> None:
        """``pre_start_hook(handler)`` returns true: the application is called as for plain HTTP."""
        paths: list[Any] = []

        def hook(handler: Any) -> bool:
            paths.append(handler.environ["PATH_INFO"])
            return answer

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            if "wsgi.websocket" in environ:
                start_response("403 Forbidden", [("Content-Length", "0")])
                return []
            return index(environ, start_response)

        with (
            serving("ours", app, pre_start_hook=hook) as service,
            service.dial() as sock,
            deadline("the server answers"),
        ):
            sock.sendall(upgrade_request("/x"))
            head = sock.recv(4096)
        assert (head[9:12], paths) == (b"200" if answer else b"403", ["/x"])


class TestHandlerAlone:
    """``gevent.pywsgi.WSGIServer(address, app, handler_class=WebSocketHandler)``, as gevent-websocket's."""

    @pytest.mark.parametrize("how", ["bare", "wrapped", "wrapped inside", "wrapped by a closure"])
    def test_application_is_wrapped_once(self, how: str) -> None:
        """A bare one by the handler; one with a wrapper inside keeps that one's settings."""

        class Outer:
            def __init__(self, app: Any) -> None:
                self.wsgi_app = app

            def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
                return self.wsgi_app(environ, start_response)

        def app(environ: Environ, start_response: StartResponse) -> None:
            ws = environ["wsgi.websocket"]
            ws.send(str(config_of(ws).max_message_size))

        apps: dict[str, Any] = {
            "bare": app,
            "wrapped": WebSocketMiddleware(app, max_message_size=77),
            "wrapped inside": Outer(WebSocketMiddleware(app, max_message_size=77)),
            "wrapped by a closure": lambda *arguments: app(*arguments),
        }
        with serving("our handler", apps[how]) as service:
            received = [service.connect().receive() for _ in range(2)]
        size = 77 if how in ("wrapped", "wrapped inside") else Config().max_message_size
        assert received == [str(size)] * 2


class TestEndOfAView:
    @pytest.mark.parametrize("result", [None, object()], ids=["None", "ALREADY_HANDLED"])
    def test_result_that_is_none_ends_normally(self, result: Any, caplog: pytest.LogCaptureFixture) -> None:
        """A view that returns nothing after the 101, and gunicorn's ``ALREADY_HANDLED``: 1000, and no record."""

        def app(environ: Environ, start_response: StartResponse) -> Any:
            environ["wsgi.websocket"].send("x")
            return result

        with connect(app) as client:
            assert (client.receive(), client.receive()) == ("x", None)
        assert (client.close_code, problems(caplog)) == (1000, [])

    def test_view_that_returns_none_without_an_answer_is_an_error(self, caplog: pytest.LogCaptureFixture) -> None:
        """Before the 101; the log has which."""
        with pytest.raises(HandshakeRefused) as refused, connect(lambda environ, start_response: None):  # type: ignore
            pass
        assert refused.value.status_code == 500
        assert "neither accepted nor answered" in caplog.text


class TestGeventWebSocket:
    @everywhere
    @pytest.mark.parametrize("end", ["close", "EOF"])
    def test_end_is_none_once_and_then_a_websocket_error(self, implementation: str, end: str) -> None:
        """An ``except`` clause for theirs catches ours, by either name of the class, and so does one for OSError."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            seen.append(ws.receive())
            seen.append(ws.receive())
            for clause in (WebSocketError, OSError):
                for use in (ws.receive, lambda: ws.send("x")):
                    try:
                        use()
                    except clause:
                        seen.append(clause)
            seen.append(ws.closed)
            return []

        with serving(implementation, app) as service:
            peer = service.connect()
            peer.send("x")
            peer.close() if end == "close" else peer.disconnect()
            until(lambda: len(seen) == 7)
        assert seen == ["x", None, WebSocketError, WebSocketError, OSError, OSError, True]

    @everywhere
    def test_request_has_its_names(self, implementation: str) -> None:
        """The attributes that applications read."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            seen.append((ws.path, ws.origin, ws.version, ws.protocol, ws.environ is environ, ws.closed))
            seen.append(environ["wsgi.websocket_version"])
            ws.receive()
            return []

        with serving(implementation, app) as service:
            service.connect("/a", ("Origin", "http://test"), ("Sec-WebSocket-Protocol", "x, y"))
            until(lambda: len(seen) == 2)
        assert seen == [("/a", "http://test", "13", "x, y", True, False), "13"]

    @everywhere
    @pytest.mark.parametrize(
        ("message", "binary", "opcode"),
        [("a", None, 1), (b"a", None, 2), ("a", False, 1), (b"a", True, 2), (bytearray(b"a"), None, 2)],
        ids=repr,
    )
    def test_send_takes_text_and_binary(
        self, implementation: str, message: Any, binary: bool | None, opcode: int
    ) -> None:
        """``send(message, binary)``: the frame's opcode."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].send(message, binary)
            environ["wsgi.websocket"].receive()
            return []

        with serving(implementation, app) as service:
            peer = service.connect()
            with deadline("the message arrives"):
                assert peer.sock.recv(100) == bytes([0x80 | opcode, 1]) + b"a"

    @everywhere
    def test_close_twice_is_no_error(self, implementation: str) -> None:
        """Cleanup code calls it without a check."""
        done: list[bool] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.receive()
            ws.close()
            ws.close()
            done.append(ws.closed)
            return []

        with serving(implementation, app) as service:
            service.connect().send("x")
            until(lambda: done)
        assert done == [True]

    @pytest.mark.parametrize(
        ("arguments", "keywords"),
        [
            ((4001, "bye"), {}),
            ((4001, b"bye"), {}),
            ((4001,), {"message": "bye"}),
            ((4001,), {"message": b"bye"}),
            ((), {"code": 4001, "message": b"bye"}),
        ],
    )
    def test_close_takes_code_and_message(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Theirs accepts them by these names and never sends the code; ours does."""
        with connected() as (ws, peer):
            ws.close(*arguments, **keywords)
            assert peer.close_frame() == (4001, "bye")

    def test_websocket_goes_into_sets_and_dictionaries(self) -> None:
        """By identity, open or closed."""
        with connected() as (one, _), connected() as (other, peer):
            members = {one, other}
            peer.disconnect()
            until(lambda: other.closed)
            members.discard(other)
            assert members == {one}


# --- django-websocket's, dwebsocket's and eventlet's --------------------------------------------------------------


class TestDWebSocket:
    def test_wait_takes_a_timeout(self) -> None:
        """None when that is over, as there; the connection stays open."""
        with connected() as (ws, peer):
            nothing = ws.wait(timeout=0.01)
            peer.send("x")
            assert (nothing, ws.wait(timeout=5), ws.closed) == (None, "x", False)

    def test_read_never_waits(self) -> None:
        """The next message if one is there, else the fallback."""
        with connected() as (ws, peer):
            nothing = [ws.read(), ws.read("fallback"), ws.read(fallback=0)]
            peer.send("one", "two")
            until(ws.has_messages)
            assert (nothing, ws.read(), ws.read("fallback"), ws.read()) == ([None, "fallback", 0], "one", "two", None)

    def test_messages_are_counted(self) -> None:
        """``count_messages`` and ``has_messages`` count without taking."""
        with connected() as (ws, peer):
            empty = (ws.count_messages(), ws.has_messages())
            peer.send("one", "two")
            until(ws.count_messages)
            full = (ws.count_messages(), ws.has_messages())
            ws.read()
            assert (empty, full, ws.count_messages()) == ((0, False), (2, True), 1)

    def test_loop_around_has_messages_lets_the_messages_in(self) -> None:
        """The polling loop of dwebsocket's examples: no other greenlet would ever run in it otherwise."""
        with connected() as (ws, peer):
            gevent.spawn_later(0.01, peer.send, "at last")
            with deadline("the message is seen"):
                while not ws.has_messages():
                    pass
            assert ws.read() == "at last"

    @every_end
    def test_loop_around_is_closed_ends(self, end: str) -> None:
        """It does not spin at the end, and takes what came before it."""
        with connected() as (ws, peer):
            peer.send("x")
            until(ws.has_messages)
            gevent.spawn_later(0.01, ENDS[end][0], ws, peer)
            messages = []
            with deadline("the end is seen"):
                while ws.has_messages() or not ws.is_closed():
                    messages.append(ws.read())
            assert [message for message in messages if message] == ["x", *last_of(end)]
            assert (ws.read("fallback"), ws.count_messages(), ws.has_messages()) == ("fallback", 0, False)

    def test_first_use_accepts(self) -> None:
        """There is no ``accept`` in dwebsocket."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            while not ws.has_messages() and not ws.is_closed():
                pass
            ws.send(ws.read())
            return []

        with connect(app) as client:
            client.send("x")
            assert client.receive() == "x"


class TestEventlet:
    @every_end
    def test_wait_is_none_at_the_end_however_often(self, end: str) -> None:
        """``while True: m = ws.wait(); if m is None: break``, and code after it that waits again."""
        finish, _ = ENDS[end]
        with connected() as (ws, peer):
            finish(ws, peer)
            until(lambda: ws.closed)
            messages = list(iter(ws.wait, None))
            assert messages == last_of(end)
            assert [ws.wait(), ws.wait(), ws.wait()] == [None] * 3

    def test_send_and_close(self) -> None:
        """The whole of eventlet's interface in its echo."""

        def handle(ws: WebSocket) -> None:
            while True:
                message = ws.wait()
                if message is None:
                    break
                ws.send(message)
            ws.close()

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            handle(environ["wsgi.websocket"])
            return []

        with connect(app) as client:
            client.send("x")
            client.send(b"y")
            assert [client.receive(), client.receive()] == ["x", b"y"]
