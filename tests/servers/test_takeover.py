"""The connection changes hands: every server that can give it away, on every kind of socket, and those that cannot."""

from __future__ import annotations

import io
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket as gsocket

from gws_middleware.middleware import NO_SOCKET
from gws_middleware.servers.base import NoSocketError
from gws_middleware.servers.find import find

from ..conftest import SharedServer
from ..support.rawclient import BINARY, CLOSE, TEXT, Frame, RawClient, close_frame, frame, request, upgrade_request
from ..support.servers import CARRIERS, LATE, POWERLESS, SWITCHED, Certificate, Server, launch

ABLE = [*LATE, *SWITCHED]

PLACES = [f"{kind}/{one}" for kind in LATE for one in CARRIERS]
# gevent-websocket keeps its clients by address, and on a unix socket all have the same: two at a time are a KeyError of
# its own. One test has these sockets to itself.
SWITCHED_PLACES = [f"{kind}/{one}" for kind in SWITCHED for one in ("tcp", "tls")]
SWITCHED_UNIX = [f"{kind}/{one}" for kind in SWITCHED for one in ("unix", "tls-unix")]

everywhere = pytest.mark.parametrize("server", [*PLACES, *SWITCHED_PLACES], indirect=True)
every_server = pytest.mark.parametrize("server", ABLE, indirect=True)
late_everywhere = pytest.mark.parametrize(
    "server", [f"{kind}/{one}" for kind in LATE for one in ("tcp", "tls")], indirect=True
)


def goodbye(client: RawClient, code: int = 1000) -> None:
    """Close, and see that nothing but the answer comes before the server closes the connection."""
    assert client.say_goodbye(code) == [Frame(CLOSE, code.to_bytes(2, "big"))]


# --- the connection works ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [*PLACES, *SWITCHED_PLACES, *SWITCHED_UNIX], indirect=True)
def test_messages_go_both_ways(server: Server) -> None:
    """Text and binary, empty, small and as big as is allowed, come back as they were sent."""
    big = bytes(range(256)) * 4096
    messages = [(TEXT, "grüß dich".encode()), (BINARY, b"\x00\xff"), (TEXT, b""), (BINARY, big), (TEXT, b"x" * 2**20)]
    echoes = []
    with server.connect() as client:
        client.upgrade("/echo")
        for opcode, payload in messages:
            client.send(frame(opcode, payload))
            echoes.append(client.read_frame())
        goodbye(client)
    assert echoes == [Frame(opcode, payload) for opcode, payload in messages]


@everywhere
def test_bytes_behind_the_request_are_frames(server: Server) -> None:
    """What came in one segment with the handshake is read as frames, in order, before what comes later (row 19)."""
    with server.connect() as client:
        client.upgrade("/echo", then=frame(TEXT, b"1") + frame(BINARY, b"2") + frame(TEXT, b"34")[:5])
        client.send(frame(TEXT, b"34")[5:] + frame(TEXT, b"5"))
        echoes = [client.read_frame() for _ in range(4)]
        goodbye(client)
    assert echoes == [Frame(TEXT, b"1"), Frame(BINARY, b"2"), Frame(TEXT, b"34"), Frame(TEXT, b"5")]


@everywhere
def test_many_bytes_behind_the_request_are_frames(server: Server) -> None:
    """More than any buffer of the server's holds arrives whole too."""
    payloads = [b"%05d" % number * 200 for number in range(200)]
    with server.connect() as client:
        client.upgrade("/echo", then=b"".join(frame(TEXT, payload) for payload in payloads))
        echoes = [client.read_frame() for _ in payloads]
        goodbye(client)
    assert echoes == [Frame(TEXT, payload) for payload in payloads]


@everywhere
def test_a_close_behind_the_request_is_answered(server: Server, token: str) -> None:
    """A peer that says goodbye in its first segment gets its answer, and the view sees the end."""
    with server.connect() as client:
        client.upgrade(f"/echo?id={token}", then=close_frame(3000, "at once"))
        frames = client.read_frames_until_eof()
    assert (frames, server.events(token, "ended")) == ([Frame(CLOSE, b"\x0b\xb8")], ["ended"])


@everywhere
def test_http_before_the_upgrade_is_served(server: Server) -> None:
    """A connection that served HTTP, kept alive, can still become a WebSocket."""
    with server.connect() as client:
        bodies = [client.get("/plain").body, client.get("/").body]
        client.upgrade("/echo")
        client.text("x")
        echo = client.read_frame()
        goodbye(client)
    assert (bodies, echo) == ([b"no websocket", b"hello"], Frame(TEXT, b"x"))


@everywhere
def test_plain_http_ends_as_ever(server: Server) -> None:
    """``Connection: close`` of a plain request closes the connection at once: nothing of ours holds it."""
    with server.connect() as client:
        response = client.get("/plain", ("Connection", "close"))
        rest = client.read_until_eof()
    assert (response.status, response.body, rest) == (200, b"no websocket", b"")


@every_server
def test_upgrade_to_something_else_is_plain_http(server: Server) -> None:
    """Only WebSocket is ours: ``Upgrade: h2c`` passes through untouched."""
    with server.connect() as client:
        response = client.get("/plain", ("Connection", "Upgrade"), ("Upgrade", "h2c"))
    assert (response.status, response.body) == (200, b"no websocket")


# --- the server lets go --------------------------------------------------------------------------------------------


@everywhere
def test_connection_closes_while_the_view_goes_on(server: Server, token: str) -> None:
    """The goodbye is answered and the socket closed though the view is busy with something else."""
    with server.connect(timeout=3) as client:
        client.upgrade(f"/sleeping?id={token}&nap=4")
        assert client.read_frame() == Frame(TEXT, b"ready")
        goodbye(client)
    assert server.events(token, "woke up after 1000") == ["woke up after 1000"]


@everywhere
def test_view_may_leave_and_the_connection_stay(server: Server, token: str) -> None:
    """After ``detach()`` the server has forgotten the request, and the connection lives on to its own end."""
    with server.connect() as client:
        client.upgrade(f"/detached?id={token}", then=frame(TEXT, b"early"))
        echoes = [client.read_frame()]
        server.events(token, "closed")
        client.text("late")
        echoes.append(client.read_frame())
        goodbye(client)
    assert echoes == [Frame(TEXT, b"EARLY"), Frame(TEXT, b"LATE")]
    assert server.events(token, "left after 1000") == ["closed", "left after 1000"]


@everywhere
def test_ended_connections_leave_nothing_behind(server: Server, token: str) -> None:
    """Descriptors, greenlets and watchers are back to what they were, however the connections ended."""
    before = server.status()
    for number in range(4):
        client = server.connect()
        client.upgrade("/echo")
        client.text("x")
        client.read_frame()
        if number % 2:
            client.say_goodbye()
        client.close()
    counts = {name: before[name] for name in ("fds", "greenlets", "watchers")}
    assert server.settled(websockets=0, **counts)["websockets"] == 0


@every_server
def test_reset_connection_leaves_nothing_behind(server: Server, token: str) -> None:
    """A peer that vanishes with a RST ends its view; no traceback, nothing held."""
    before = server.status()
    for path in ("/echo", "/pushing", "/sleeping"):
        client = server.connect()
        client.upgrade(f"{path}?id={token}")
        client.reset()
    server.events(token, "ended")
    server.events(token, "left by ConnectionClosed")
    server.events(token, "woke up after 1006")
    counts = {name: before[name] for name in ("fds", "greenlets", "watchers")}
    assert server.settled(websockets=0, **counts)["websockets"] == 0


# --- HTTP is over --------------------------------------------------------------------------------------------------


@everywhere
def test_http_behind_the_101_is_never_served(server: Server, token: str) -> None:
    """A request pipelined behind the handshake is a broken frame: 1002, and the end (rows 18, 19)."""
    with server.connect() as client:
        client.upgrade(f"/echo?id={token}", then=request(f"/second?id={token}"))
        frames = client.read_frames_until_eof()
    assert [one.code for one in frames] == [1002]
    assert server.events(token, "ended") == ["ended"]


@everywhere
def test_http_sent_later_is_never_served(server: Server, token: str) -> None:
    """Nor is one that comes when the connection has been a WebSocket for a while (row 19)."""
    with server.connect() as client:
        client.upgrade(f"/echo?id={token}")
        client.text("x")
        client.read_frame()
        client.send(request(f"/second?id={token}"))
        frames = client.read_frames_until_eof()
    assert [one.code for one in frames] == [1002]
    assert server.events(token, "ended") == ["ended"]


@everywhere
def test_http_behind_the_goodbye_is_never_served(server: Server, token: str) -> None:
    """What follows a close frame is dropped (RFC 6455 5.5.1)."""
    with server.connect() as client:
        client.upgrade(f"/echo?id={token}")
        client.send(close_frame() + request(f"/second?id={token}"))
        frames = client.read_frames_until_eof()
    assert frames == [Frame(CLOSE, b"\x03\xe8")]
    assert server.events(token, "ended") == ["ended"]


REFUSED = {
    "version": upgrade_request("/echo", ("Sec-WebSocket-Version", "12")),
    "key": upgrade_request("/echo", without=["Sec-WebSocket-Key"]),
    "origin": upgrade_request("/echo", ("Origin", "https://evil.example")),
    "401": upgrade_request("/answer?status=401%20Unauthorized"),
    "404": upgrade_request("/no-such-path"),
    "generator": upgrade_request("/answer/generator"),
    "close": upgrade_request("/answer/close"),
}


@pytest.mark.parametrize("refused", REFUSED)
@late_everywhere
def test_connection_ends_behind_a_refusal(server: Server, token: str, refused: str) -> None:
    """The response goes out, the connection closes, and no request behind it is served, neither one in the same
    segment nor one sent later (row 18).
    """
    smuggled = request(f"/second?id={token}")
    with server.connect() as client:
        client.send(REFUSED[refused] + smuggled)
        response = client.read_response()
        rest = client.read_until_eof()
    with server.connect() as client:
        client.send(REFUSED[refused])
        client.read_response()
        try:
            client.send(smuggled)
        except OSError:
            pass  # the server was quicker
        rest += client.read_until_eof()
    assert (response.status >= 400, response.headers["connection"].lower(), rest) == (True, "close", b"")
    assert server.events(token) == []


# --- the access log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [f"{kind}/{one}" for kind in LATE for one in ("tcp", "tls")], indirect=True)
@pytest.mark.parametrize("who_closes", ["server", "client"])
def test_access_log_tells_of_a_websocket_once(server: Server, token: str, who_closes: str) -> None:
    """One line with 101, the true duration, and the bytes of the frames that were sent."""
    with server.connect() as client:
        client.send(upgrade_request(f"/duration?id={token}" if who_closes == "server" else f"/echo?id={token}"))
        head = client.read_until(b"\r\n\r\n")
        if who_closes == "client":
            client.text("x" * 300)
            client.read_frame()
            sent = 304
            client.send(close_frame())
        else:
            sent = 12 + 70010
            client.read_exactly(sent)
        sent += len(client.read_exactly(4))
        client.send(close_frame())
        assert client.read_until_eof() == b""
    line = server.await_access(f"id={token}")
    expected = sent if server.kind.access == "gunicorn" else sent + len(head)
    assert (line.status, line.sent) == (101, expected)
    assert who_closes == "client" or 0.3 <= line.seconds < 3


@pytest.mark.parametrize("server", LATE, indirect=True)
def test_access_log_tells_of_a_refusal_once(server: Server, token: str) -> None:
    """A refused upgrade is logged as the response that it is."""
    with server.connect() as client:
        client.send(upgrade_request(f"/answer?status=403%20Forbidden&id={token}"))
        client.read_response()
    assert server.await_access(f"id={token}").status == 403


@pytest.mark.parametrize("server", ["worker", "gevent", "gevent_pywsgi", "pywsgi"], indirect=True)
def test_access_log_tells_of_a_detached_connection_once(server: Server, token: str) -> None:
    """Its line comes when it ends, not when its view leaves: it tells how long that took, and all that was sent."""
    with server.connect() as client:
        client.upgrade(f"/detached?id={token}")
        server.events(token, "closed")
        time.sleep(0.2)  # it stays open for a while
        client.text("x")
        client.read_frame()
        before = server.access(f"/detached?id={token}")
        client.say_goodbye()
    line = server.await_access(f"/detached?id={token}")
    frames = 3 + 4  # the echo and our close frame
    assert (before, line.status) == ([], 101)
    assert line.seconds >= 0.2
    assert line.sent == frames if server.kind.access == "gunicorn" else line.sent > frames


# --- applications that take the socket themselves ------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw_server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Any]:
    """A server of ``fixtureapps.rawsocket`` with an ``accept_timeout`` of one second."""
    with ExitStack() as stack:

        @cache
        def get(kind: str, over_tls: bool) -> Server:
            directory, tls = tmp_path_factory.mktemp("server"), certificate if over_tls else None
            env = {"GWS_ACCEPT_TIMEOUT": "1"}
            return stack.enter_context(launch(kind, directory, RAW, env=env, certificate=tls))

        yield lambda kind, carrier: get(kind, carrier.startswith("tls")).at(carrier)


RAW = "tests.fixtureapps.rawsocket"
# simple-websocket finds no socket in the environ of gevent_pywsgi.
RAW_KINDS = [name for name in LATE if name != "gevent_pywsgi"]
raw_kinds = pytest.mark.parametrize("kind", RAW_KINDS)


@pytest.mark.parametrize("carrier", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("path", ["/flask-sock", "/simple", "/simple/generator"])
@raw_kinds
def test_application_that_takes_the_socket_is_left_alone(raw_server: Any, kind: str, path: str, carrier: str) -> None:
    """simple-websocket and flask-sock speak on the server's socket: ``accept_timeout`` does not end them, and behind
    their end nothing is written, served or logged.
    """
    server: Server = raw_server(kind, carrier)
    with server.connect() as client:
        client.upgrade(path)
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            client.text("x")
            assert client.read_frame() == Frame(TEXT, b"x")
            time.sleep(0.05)
        client.send(close_frame() + request("/plain"))
        frames = client.read_frames_until_eof()
    server.get("/")
    server.log.check()
    assert frames == [Frame(CLOSE, b"\x03\xe8")]


@raw_kinds
def test_application_that_takes_the_socket_may_close(raw_server: Any, kind: str) -> None:
    """Its own close frame is the last that is written."""
    server: Server = raw_server(kind, "tcp")
    with server.connect() as client:
        client.upgrade("/flask-sock/closes")
        client.text("x")
        frames = [client.read_frame(), client.read_frame()]
        client.send(close_frame())
        rest = client.read_until_eof()
    server.get("/")
    server.log.check()
    assert (frames, rest) == ([Frame(TEXT, b"x"), Frame(CLOSE, b"\x03\xe8")], b"")


@pytest.mark.parametrize("path", ["/flask-sock/raises", "/simple/raises"])
@raw_kinds
def test_error_of_an_application_that_takes_the_socket_is_no_page(raw_server: Any, kind: str, path: str) -> None:
    """The error is logged once, by the framework or by us, and no HTTP is written into the connection."""
    server: Server = raw_server(kind, "tcp")
    with server.connect() as client:
        client.upgrade(path)
        client.text("x")
        first = client.read_frame()
        client.sock.shutdown(socket.SHUT_WR)  # what the application has copied of the socket is open until then
        rest = client.read_until_eof()
    server.log.expect("(Exception on /flask-sock/raises|raised on its own connection).*LookupError: the reason$")
    server.get("/")
    server.log.check()
    assert (first, b"HTTP" in rest) == (Frame(TEXT, b"x"), False)


# --- gevent-websocket's servers ------------------------------------------------------------------------------------

NOT_LISTED = (
    "Pages of Origin 'https://evil.example' may not open a WebSocket at Host 'test': "
    "allowed_origins does not list that origin."
)

switched = pytest.mark.parametrize("server", SWITCHED_PLACES, indirect=True)


@switched
def test_foreign_websocket_is_replaced(server: Server) -> None:
    """Behind gevent-websocket's handler the view finds our object, and one close frame ends the connection: ours."""
    with server.connect() as client:
        client.upgrade("/facts")
        facts = client.read_frame().payload
        assert client.read_frame() == Frame(CLOSE, b"\x03\xe8")
        client.send(close_frame())
        rest = client.read_until_eof()
    assert b'"gws_middleware.connection.websocket.WebSocket"' in facts
    assert rest == b""


@switched
@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ([("Origin", "https://evil.example")], NOT_LISTED[:123]),
        ([("Sec-WebSocket-Version", "8")], "This server speaks WebSocket version 13."),
        ([("Content-Length", "5")], "A WebSocket request has no body."),
        ([("Transfer-Encoding", "chunked")], "A WebSocket request has no body."),
    ],
)
def test_refusal_behind_a_foreign_101_is_a_close_frame(
    server: Server, token: str, headers: list[tuple[str, str]], sentence: str
) -> None:
    """Where the server has sent the 101 on its own, a refused peer gets 1008 with the sentence, and no view runs."""
    with server.connect() as client:
        client.upgrade(f"/echo?id={token}", *headers)
        close = client.read_frame()
        client.send(close_frame(1008))
        rest = client.read_until_eof()
    assert (close.code, close.reason, rest, server.events(token)) == (1008, sentence, b"", [])


# --- servers that cannot -------------------------------------------------------------------------------------------


@pytest.fixture
def powerless(request: pytest.FixtureRequest, shared_server: Any) -> Server:
    """A server that cannot give its connections away, and has logged what it is expected to."""
    found: Server = shared_server(request.param)
    return found


@pytest.mark.parametrize("powerless", POWERLESS, indirect=True)
def test_powerless_server_answers_501(powerless: Server) -> None:
    """Where no connection can be taken the client and the log, once, are told in a sentence which worker can."""
    for _ in range(2):
        with powerless.connect() as client:
            client.send(upgrade_request("/echo"))
            response = client.read_response()
    powerless.log.expect(re.escape(NO_SOCKET))
    powerless.log.check()
    assert (response.status, response.body.decode()) == (501, NO_SOCKET + "\n")


@pytest.mark.parametrize("powerless", [*POWERLESS, *SWITCHED], indirect=True)
def test_connection_ends_after_a_501(powerless: Server, token: str) -> None:
    """No request that follows in the same segment is served: a proxy may have taken it for bytes of a WebSocket.
    (gevent-websocket's servers pass a handshake on that is no GET.)
    """
    with powerless.connect() as client:
        handshake = upgrade_request("/echo", method="POST" if powerless.kind.name in SWITCHED else "GET")
        client.send(handshake + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    if powerless.log.problems():  # it has not said so yet
        powerless.log.expect(re.escape(NO_SOCKET))
    powerless.log.check()
    assert (response.status, rest, powerless.events(token)) == (501, b"", [])


@pytest.mark.parametrize("powerless", POWERLESS, indirect=True)
def test_powerless_server_serves_plain_http(powerless: Server) -> None:
    """Everything but upgrades is as it was."""
    powerless.get("/plain")
    response = powerless.get("/plain")
    powerless.log.check()
    assert (response.status, response.body) == (200, b"no websocket")


# --- finding the way, without a server -----------------------------------------------------------------------------


class GunicornResponse:
    """What of gunicorn's Response a takeover touches."""

    def __init__(self, request: Any = None) -> None:
        self.req = request
        self.status = ""
        self.headers = [("X-Of-A-Wrapper", "h\xe9")]
        self.headers_sent = self.must_close = False
        self.chunked = True
        self.sent = 0

    def start_response(self, status: str, headers: list[tuple[str, str]]) -> Any:
        self.status = status
        self.headers += headers
        return self.write

    def write(self, data: bytes) -> None:
        """Only its owner is of interest."""

    def force_close(self) -> None:
        self.must_close = True


class OldUnreader:
    """Of gunicorn before 27: no ``take_buffered()``, a ``buf``."""

    def __init__(self, data: bytes) -> None:
        self.buf = io.BytesIO(data)


class NewUnreader:
    """Of gunicorn 27."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take_buffered(self) -> bytes:
        data, self.data = self.data, b""
        return data


def with_reader(unreader: Any) -> Any:
    """A ``wsgi.input`` of gunicorn's, whose reader has this unreader."""
    return SimpleNamespace(reader=SimpleNamespace(unreader=unreader))


@pytest.fixture
def pair() -> Iterator[tuple[Any, socket.socket]]:
    """A server's gevent socket, and the client's end."""
    theirs, ours = gsocket.socketpair()
    with theirs, ours:
        yield theirs, ours


def in_greenlet(function: Any, *arguments: Any) -> Any:
    """What ``function`` returns in a greenlet of its own, as a request of a gevent server is one."""
    return gevent.spawn(function, *arguments).get()


def switched_over(sock: Any, environ: dict[str, Any], response: GunicornResponse) -> tuple[bytes, bytes]:
    """What was read already, and what is read now, after the connection was taken from gunicorn."""
    environ = {"gunicorn.socket": sock, **environ}
    server = find(environ, response.start_response)
    assert server is not None
    channel, early = server.switch(response.start_response, [("Upgrade", "websocket")])
    buffer = bytearray(10)
    size = channel.recv_into(buffer)
    server.leave(123)
    channel.close()
    return early, bytes(buffer[:size])


@pytest.mark.parametrize("unreader", [OldUnreader, NewUnreader])
@pytest.mark.parametrize("reached_by", ["wsgi.input", "response", "neither"])
def test_bytes_that_gunicorn_has_read_are_taken_once(pair: Any, unreader: Any, reached_by: str) -> None:
    """Old and new gunicorns give up what their parser has read, which then finds the end, also where a wrapper hides
    ``wsgi.input``; where both ways are hidden there is nothing to give.
    """
    buffered = unreader(b"early")
    environ = {"wsgi.input": with_reader(buffered) if reached_by == "wsgi.input" else io.BytesIO()}
    response = GunicornResponse(SimpleNamespace(unreader=buffered, headers=[]) if reached_by == "response" else None)
    theirs, ours = pair
    ours.sendall(b"late")
    early, late = in_greenlet(switched_over, theirs, environ, response)
    left = buffered.buf.getvalue() if unreader is OldUnreader else buffered.data
    assert (early, late, left) == ((b"", b"late", b"early") if reached_by == "neither" else (b"early", b"late", b""))
    assert reached_by == "neither" or buffered.chunk() == b""


def test_gunicorn_is_told_to_close_and_what_was_sent(pair: Any) -> None:
    """The Response behind ``write`` has nothing more to send, leaves the keep-alive loop and carries the count for the
    log. What others have added to the 101 is in it.
    """
    response = GunicornResponse()
    pair[1].sendall(b"x")
    in_greenlet(switched_over, pair[0], {}, response)
    assert (response.headers_sent, response.chunked, response.must_close, response.sent) == (True, False, True, 123)
    status, *fields = pair[1].recv(1000).split(b"\r\n")
    assert status == b"HTTP/1.1 101 Switching Protocols"
    assert fields == [b"Connection: Upgrade", b"X-Of-A-Wrapper: h\xe9", b"Upgrade: websocket", b"", b""]
    assert pair[0].fileno() == -1


@pytest.mark.parametrize("unreader", [OldUnreader, NewUnreader])
def test_hidden_response_ends_the_stream(pair: Any, unreader: Any) -> None:
    """Where ``write`` belongs to a wrapper, gunicorn's parser finds nothing more, buffered or on the socket."""
    buffered = unreader(b"GET /second")
    environ = {"gunicorn.socket": pair[0], "wsgi.input": with_reader(buffered)}
    server = in_greenlet(find, environ, None)
    server.refuse_more(lambda data: None)
    left = buffered.buf.getvalue() if unreader is OldUnreader else buffered.data
    assert (left, buffered.chunk(8192), server.closes_by_exception) == (b"", b"", False)


def test_hidden_server_is_left_by_an_exception(pair: Any) -> None:
    """Where the way to the parser is hidden too, gunicorn's loop has to be left by an exception."""
    server = in_greenlet(find, {"gunicorn.socket": pair[0]}, None)
    server.refuse_more(lambda data: None)
    assert server.closes_by_exception


@pytest.mark.parametrize("key", ["gunicorn.socket", "gunicorn.sock"])
def test_socket_of_a_thread_is_not_taken(key: str) -> None:
    """Other workers of gunicorn's leave a socket in environ too: it is not gevent's, or not a greenlet's own."""
    with socket.socket() as plain, gsocket.socket() as on_gevent:
        found = [
            in_greenlet(find, {key: plain}, None),
            find({key: on_gevent}, lambda status, headers: lambda data: None),
        ]
    assert found == [None, None]


def test_pywsgi_handler_out_of_reach_is_told_in_a_sentence(pair: Any) -> None:
    """Where neither ``start_response`` nor the stack leads to gunicorn's pywsgi handler the error says what to do."""

    def start_response(status: str, headers: Any) -> Any:
        return lambda data: None

    server = in_greenlet(find, {"gunicorn.sock": pair[0]}, start_response)
    with pytest.raises(
        NoSocketError, match=r"in a greenlet of its own and hides the server's start_response: put WebSock"
    ):
        in_greenlet(server.switch, start_response, [])


def test_environ_without_a_hook_has_no_way() -> None:
    """wsgiref, mod_wsgi and whatever else."""
    assert find({"wsgi.websocket": object()}, lambda status, headers: lambda data: None) is None


# --- views that only look, and peers that leave before the 101 -----------------------------------------------------

LIFETIMES = "tests.fixtureapps.lifetimes"
USES = {  # how the view accepts, what that tells it when the peer has disconnected
    "accept": "ConnectionClosed 1006",
    "closed": "True",
    "is_closed": "True",
    "receive": "None",
    "iterate": "[]",
    "wait": "None",
    "send": "ConnectionClosed 1006",
    "ping": "ConnectionClosed 1006",
    "detach": "ConnectionClosed 1006",
}


@pytest.fixture
def looking(request: pytest.FixtureRequest, shared_server: SharedServer) -> Iterator[Server]:
    """A server that is left as it was found."""
    kind, _, carrier = request.param.partition("/")
    server = shared_server(kind, carrier or "tcp", LIFETIMES)
    before = server.status()
    yield server
    server.settled(websockets=0, **{name: before[name] for name in ("fds", "greenlets", "watchers")})
    server.log.check()


@pytest.mark.parametrize("sends", ["", "1"])
@pytest.mark.parametrize("end", ["close frame", "FIN", "RST"])
@pytest.mark.parametrize("looking", [f"{kind}/{one}" for kind in ABLE for one in ("tcp", "tls")], indirect=True)
def test_look_at_closed_accepts(looking: Server, token: str, end: str, sends: str) -> None:
    """``while not ws.closed`` is a view that talks, whoever sends; it ends when the peer does."""
    with looking.connect() as client:
        client.upgrade(f"/looking?id={token}&sends={sends}")
        if sends:
            assert client.read_frame() == Frame(TEXT, b"tick")
        if end == "close frame":
            client.send(close_frame(4000))
            assert client.read_until_eof().endswith(b"\x88\x02\x0f\xa0")
        elif end == "RST":
            client.reset()
    code = 4000 if end == "close frame" else 1006
    assert f"closed after {code}" in looking.events(token, f"closed after {code}")
    if sends:
        looking.events(token, "sender ended")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("looking", LATE, indirect=True)
def test_view_is_told_that_the_peer_has_left_before_the_101(looking: Server, token: str, end: str, use: str) -> None:
    """However the view comes to accept, after whatever it has waited for: there is no 101 that nobody reads."""
    with looking.connect() as client:
        client.send(upgrade_request(f"/waits?id={token}&use={use}"))
        looking.events(token, "waiting")
        if end == "RST":
            client.reset()
    looking.get(f"/go?id={token}")
    last = "closed: True, 1006"
    assert looking.events(token, last) == ["waiting", USES[use], last]


@pytest.mark.parametrize("looking", [f"{kind}/tls" for kind in LATE], indirect=True)
def test_view_is_told_that_the_peer_has_left_before_the_101_over_tls(looking: Server, token: str) -> None:
    """There its close_notify is still unread, so the 101 goes out; the view sees the end all the same."""
    with looking.connect() as client:
        client.send(upgrade_request(f"/waits?id={token}&use=receive"))
        looking.events(token, "waiting")
    looking.get(f"/go?id={token}")
    last = "closed: True, 1006"
    assert looking.events(token, last) == ["waiting", "None", last]


@pytest.mark.parametrize("kind", LATE)
def test_peer_that_left_after_its_first_frames_is_served(shared_server: SharedServer, token: str, kind: str) -> None:
    """What it sent before is still to be read: the view gets it, and then the end."""
    server = shared_server(kind, app=LIFETIMES)
    with server.connect() as client:
        client.send(upgrade_request(f"/waits?id={token}&use=receive") + frame(TEXT, b"last words"))
        server.events(token, "waiting")
        client.sock.shutdown(socket.SHUT_WR)
        server.get(f"/go?id={token}")
        assert server.events(token, "'last words'")[:2] == ["waiting", "'last words'"]
    server.log.check()
