"""What holds on every server that can give its connection away, on every kind of socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ..conftest import SharedServer
from ..support.rawclient import BINARY, CLOSE, TEXT, Frame, RawClient, close_frame, frame, request, upgrade_request
from ..support.servers import CARRIERS, LATE, SWITCHED, Server, carried

ABLE = [*LATE, *SWITCHED]

# gevent-websocket keeps its clients by address, and on a unix socket all have the same: two at a time are a KeyError of
# its own. One test has these sockets to itself.
EVERYWHERE = [*carried(LATE, *CARRIERS), *carried(SWITCHED, "tcp", "tls")]

everywhere = pytest.mark.parametrize("server", EVERYWHERE, indirect=True)
every_server = pytest.mark.parametrize("server", ABLE, indirect=True)
late_everywhere = pytest.mark.parametrize("server", carried(LATE, "tcp", "tls"), indirect=True)


def close(client: RawClient, code: int = 1000) -> None:
    """Close: nothing but the answer comes before the server closes the connection."""
    assert client.close_handshake(code) == [Frame(CLOSE, code.to_bytes(2, "big"))]


# --- the connection works ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [*EVERYWHERE, *carried(SWITCHED, "unix", "tls-unix")], indirect=True)
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
        close(client)
    assert echoes == [Frame(opcode, payload) for opcode, payload in messages]


@everywhere
def test_bytes_after_the_request_are_frames(server: Server) -> None:
    """What came in one segment with the handshake is read as frames, in order, before what comes later (row 19)."""
    with server.connect() as client:
        client.upgrade("/echo", then=frame(TEXT, b"1") + frame(BINARY, b"2") + frame(TEXT, b"34")[:5])
        client.send(frame(TEXT, b"34")[5:] + frame(TEXT, b"5"))
        echoes = [client.read_frame() for _ in range(4)]
        close(client)
    assert echoes == [Frame(TEXT, b"1"), Frame(BINARY, b"2"), Frame(TEXT, b"34"), Frame(TEXT, b"5")]


@everywhere
def test_many_bytes_after_the_request_are_frames(server: Server) -> None:
    """More than any buffer of the server's holds arrives whole too."""
    payloads = [b"%05d" % number * 200 for number in range(200)]
    with server.connect() as client:
        client.upgrade("/echo", then=b"".join(frame(TEXT, payload) for payload in payloads))
        echoes = [client.read_frame() for _ in payloads]
        close(client)
    assert echoes == [Frame(TEXT, payload) for payload in payloads]


@everywhere
def test_close_frame_after_the_request_is_answered(server: Server, token: str) -> None:
    """A peer that closes in its first segment gets its answer, and the view sees the end."""
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
        close(client)
    assert (bodies, echo) == ([b"no websocket", b"hello"], Frame(TEXT, b"x"))


@everywhere
def test_plain_http_is_not_changed(server: Server) -> None:
    """``Connection: close`` of a plain request closes the connection at once: nothing of ours keeps it open."""
    with server.connect() as client:
        response = client.get("/plain", ("Connection", "close"))
        rest = client.read_until_eof()
    assert (response.status, response.body, rest) == (200, b"no websocket", b"")


@every_server
def test_upgrade_to_something_else_is_plain_http(server: Server) -> None:
    """Only WebSocket is ours: ``Upgrade: h2c`` is passed on as it is."""
    with server.connect() as client:
        response = client.get("/plain", ("Connection", "Upgrade"), ("Upgrade", "h2c"))
    assert (response.status, response.body) == (200, b"no websocket")


# --- after the request ---------------------------------------------------------------------------------------------


@everywhere
def test_connection_closes_while_the_view_goes_on(server: Server, token: str) -> None:
    """The close frame is answered and the socket closed though the view waits for something else."""
    with server.connect(timeout=3) as client:
        client.upgrade(f"/sleeping?id={token}&nap=4")
        assert client.read_frame() == Frame(TEXT, b"ready")
        close(client)
    assert server.events(token, "woke up after 1000") == ["woke up after 1000"]


@everywhere
def test_view_may_return_and_the_connection_stay_open(server: Server, token: str) -> None:
    """After ``detach()`` the server has ended the request, and the connection has an end of its own."""
    with server.connect() as client:
        client.upgrade(f"/detached?id={token}", then=frame(TEXT, b"early"))
        echoes = [client.read_frame()]
        server.events(token, "closed")
        client.text("late")
        echoes.append(client.read_frame())
        close(client)
    assert echoes == [Frame(TEXT, b"EARLY"), Frame(TEXT, b"LATE")]
    assert server.events(token, "left after 1000") == ["closed", "left after 1000"]


@everywhere
def test_ended_connections_release_all(server: Server, token: str) -> None:
    """Descriptors, greenlets and watchers are back to what they were, however the connections ended."""
    before = server.status()
    for number in range(4):
        client = server.connect()
        client.upgrade("/echo")
        client.text("x")
        client.read_frame()
        if number % 2:
            client.close_handshake()
        client.close()
    counts = {name: before[name] for name in ("fds", "greenlets", "watchers")}
    assert server.settled(websockets=0, **counts)["websockets"] == 0


@every_server
def test_reset_connection_releases_all(server: Server, token: str) -> None:
    """A peer that disconnects with a RST ends its view, without a traceback."""
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


@pytest.mark.parametrize("follows", ["the handshake", "a message", "a close frame"])
@everywhere
def test_http_is_never_served_again(server: Server, token: str, follows: str) -> None:
    """A request is a broken frame, in the segment of the handshake and later: 1002 (rows 18, 19). After a close frame
    it is dropped (RFC 6455 5.5.1).
    """
    smuggled = request(f"/second?id={token}")
    with server.connect() as client:
        client.upgrade(f"/echo?id={token}", then=smuggled if follows == "the handshake" else b"")
        if follows == "a message":
            client.text("x")
            client.read_frame()
            client.send(smuggled)
        elif follows == "a close frame":
            client.send(close_frame() + smuggled)
        frames = client.read_frames_until_eof()
    assert [one.code for one in frames] == [1000 if follows == "a close frame" else 1002]
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
def test_connection_is_closed_after_a_refusal(server: Server, token: str, refused: str) -> None:
    """The response is sent, the connection closed, and no request after it is served, neither one in the same segment
    nor one that is sent later (row 18).
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
            pass  # the server has closed already
        rest += client.read_until_eof()
    assert (response.status >= 400, response.headers["connection"].lower(), rest) == (True, "close", b"")
    assert server.events(token) == []


# --- views that only read ``closed``, and peers that disconnect before the 101 -------------------------------------

LIFETIMES = "tests.fixtureapps.lifetimes"
USES = {  # how the view accepts, and what that returns or raises when the peer has disconnected
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
def lifetimes(request: pytest.FixtureRequest, shared_server: SharedServer) -> Iterator[Server]:
    """A server which keeps nothing of the test's connections."""
    kind, _, carrier = request.param.partition("/")
    server = shared_server(kind, carrier or "tcp", LIFETIMES)
    before = server.status()
    yield server
    server.settled(websockets=0, **{name: before[name] for name in ("fds", "greenlets", "watchers")})
    server.log.check()


@pytest.mark.parametrize("sends", ["", "1"])
@pytest.mark.parametrize("end", ["close frame", "FIN", "RST"])
@pytest.mark.parametrize("lifetimes", carried(ABLE, "tcp", "tls"), indirect=True)
def test_reading_closed_accepts(lifetimes: Server, token: str, end: str, sends: str) -> None:
    """``while not ws.closed`` is a view that uses its WebSocket. It ends when the peer does, whichever side sends."""
    with lifetimes.connect() as client:
        client.upgrade(f"/looking?id={token}&sends={sends}")
        if sends:
            assert client.read_frame() == Frame(TEXT, b"tick")
        if end == "close frame":
            client.send(close_frame(4000))
            assert client.read_until_eof().endswith(b"\x88\x02\x0f\xa0")
        elif end == "RST":
            client.reset()
    code = 4000 if end == "close frame" else 1006
    assert f"closed after {code}" in lifetimes.events(token, f"closed after {code}")
    if sends:
        lifetimes.events(token, "sender ended")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("lifetimes", LATE, indirect=True)
def test_view_sees_that_the_peer_disconnected_before_the_101(lifetimes: Server, token: str, end: str, use: str) -> None:
    """However the view accepts: no 101 is sent that no peer reads."""
    with lifetimes.connect() as client:
        client.send(upgrade_request(f"/waits?id={token}&use={use}"))
        lifetimes.events(token, "waiting")
        if end == "RST":
            client.reset()
    lifetimes.get(f"/go?id={token}")
    last = "closed: True, 1006"
    assert lifetimes.events(token, last) == ["waiting", USES[use], last]


@pytest.mark.parametrize("lifetimes", carried(LATE, "tls"), indirect=True)
def test_view_sees_that_the_peer_disconnected_before_the_101_over_tls(lifetimes: Server, token: str) -> None:
    """There its close_notify is still unread, so the 101 is sent; the view sees the end all the same."""
    with lifetimes.connect() as client:
        client.send(upgrade_request(f"/waits?id={token}&use=receive"))
        lifetimes.events(token, "waiting")
    lifetimes.get(f"/go?id={token}")
    last = "closed: True, 1006"
    assert lifetimes.events(token, last) == ["waiting", "None", last]


@pytest.mark.parametrize("kind", LATE)
def test_peer_that_disconnected_after_its_first_frames_is_served(
    shared_server: SharedServer, token: str, kind: str
) -> None:
    """The view receives what it sent before, and then the end."""
    server = shared_server(kind, app=LIFETIMES)
    with server.connect() as client:
        client.send(upgrade_request(f"/waits?id={token}&use=receive") + frame(TEXT, b"last words"))
        server.events(token, "waiting")
        client.sock.shutdown(socket.SHUT_WR)
        server.get(f"/go?id={token}")
        assert server.events(token, "'last words'")[:2] == ["waiting", "'last words'"]
    server.log.check()
