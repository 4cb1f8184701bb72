"""``middleware``: the course of a request in real servers: refuse or run, accept, drop the response, close, release."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gws_middleware import ConnectionClosed, WebSocketMiddleware
from gws_middleware.protocol.handshake import Handshake
from gws_middleware.servers import base
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, Headers, StartResponse

from .conftest import SharedServer
from .support.inprocess import problems
from .support.rawclient import ACCEPT, CLOSE, TEXT, Frame, RawClient, close_frame, request, upgrade_request
from .support.servers import LATE, POWERLESS, SWITCHED, Server, carried, launch

late = pytest.mark.parametrize("server", LATE, indirect=True)
ABLE = [*LATE, *SWITCHED]
DROPPED = (
    "The request has a Sec-WebSocket-Key, but no Upgrade header. A proxy in front of this server has to speak HTTP/1.1 "
    "to it, and to pass the Upgrade and Connection headers on."
)
every_server = pytest.mark.parametrize("server", ABLE, indirect=True)


# --- after the 101 -------------------------------------------------------------------------------------------------

QUIET = {  # how the view ends, the code that the peer gets
    "nothing": 1000,
    "list": 1000,
    "not-found": 1000,
    "big": 1000,
    "generator": 1000,
    "write": 1000,
    "lazily": 1000,
    "killed": 1012,
}
LOUD = {  # how the view ends, what the one log record has, how often close() of its response is called
    "error-page": (r"the application answered '500 Internal Server Error'; closed with 1011$", 1),
    "twice": (r"the application raised; closed with 1011 .*start_response was called twice without exc_info", 0),
    "exc_info": (r"the application raised; closed with 1011 .*LookupError: the reason$", 0),
    "raise": (r"the application raised; closed with 1011 .*LookupError: the reason$", 0),
    "timeout": (r"the application raised; closed with 1011 .*gevent\.timeout\.Timeout: 0\.01 seconds$", 0),
    "base-exception": (r"the application raised; closed with 1011 .*Odd: the reason$", 0),
    "exit": (r"the application raised; closed with 1011 .*SystemExit: 3$", 0),
    "raise-while-iterated": (r"the application raised; closed with 1011 .*LookupError: the reason$", 1),
    "raise-in-close": (r"the application raised; closed with 1011 .*LookupError: the reason$", 1),
    "lazily-raise": (r"the application raised; closed with 1011 .*LookupError: the reason$", 1),
}


def rest_of(client: RawClient) -> tuple[int | None, bytes]:
    """The code of the server's close frame, which comes next, and every byte that comes after it."""
    close = client.read_frame()
    client.send(close_frame(close.code))
    return close.code, client.read_until_eof()


@pytest.mark.parametrize("ending", QUIET)
@every_server
def test_response_after_the_101_is_dropped(server: Server, token: str, ending: str) -> None:
    """Whatever the view returns, the wire carries frames and then nothing; the response is closed exactly once."""
    with server.connect() as client:
        client.upgrade(f"/after/{ending}?id={token}")
        assert client.read_frame() == Frame(TEXT, b"ready")
        code, rest = rest_of(client)
    assert (code, rest) == (QUIET[ending], b"")
    assert server.events(token, "closed").count("closed") == 1


@pytest.mark.parametrize("ending", LOUD)
@every_server
def test_error_after_the_101_is_logged_once(server: Server, token: str, ending: str) -> None:
    """A view that fails is one record in the log and 1011 to the peer, no HTTP byte; others are unharmed (row 23)."""
    pattern, closes = LOUD[ending]
    with server.connect() as bystander, server.connect() as client:
        bystander.upgrade("/echo")
        client.upgrade(f"/after/{ending}?id={token}")
        assert client.read_frame() == Frame(TEXT, b"ready")
        code, rest = rest_of(client)
        bystander.text("unharmed")
        echo = bystander.read_frame()
    server.log.expect(rf"^ERROR gws_middleware: WebSocket '/after/{ending}': {pattern}")
    assert (code, rest, echo) == (1011, b"", Frame(TEXT, b"unharmed"))
    assert server.events(token, "closed" if closes else "").count("closed") == closes


@pytest.mark.parametrize("server", carried(ABLE, "tls"), indirect=True)
@pytest.mark.parametrize("ending", ["list", "killed", "raise", "timeout", "base-exception", "exit"])
def test_nothing_comes_after_the_101_over_tls(server: Server, token: str, ending: str) -> None:
    """A TLS socket stays the server's own object: it must not write on it either."""
    with server.connect() as client:
        client.upgrade(f"/after/{ending}?id={token}")
        client.read_frame()
        code, rest = rest_of(client)
    if ending in LOUD:
        server.log.expect(rf"^ERROR gws_middleware: WebSocket '/after/{ending}': {LOUD[ending][0]}")
    assert (code, rest) == (QUIET.get(ending, 1011), b"")


BY_CTRL_C = ("pywsgi", "pywsgi-handler", "pywsgi-patched", "geventwebsocket-handler")
"""Servers in whose process KeyboardInterrupt is Python's own exception for Ctrl-C, which ends it."""


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "Odd", "LookupError"])
@pytest.mark.parametrize("where", ["view", "on_message", "on_close"])
@pytest.mark.parametrize("kind", ABLE)
def test_any_exception_ends_its_connection_alone(
    shared_server: SharedServer, token: str, kind: str, where: str, error: str
) -> None:
    """One record, 1011 to the peer, ``on_close`` all the same; the process and the other connections stay."""
    if error == "KeyboardInterrupt" and kind in BY_CTRL_C:
        error = "SystemExit"
    server = shared_server(kind, app="tests.fixtureapps.lifetimes")
    before = server.status()["pid"]
    with server.connect() as other, server.connect() as client:
        other.upgrade("/echo")
        client.upgrade(f"/failing?where={where}&error={error}&id={token}")
        assert client.read_frame() == Frame(TEXT, b"ready")
        if where == "on_close":
            client.send(close_frame())
        else:
            client.text("x")
        code = client.read_frame().code
        if where != "on_close":
            client.send(close_frame(1011))
        rest = client.read_until_eof()
        other.text("unharmed")
        echo = other.read_frame()
    server.log.expect(rf"^ERROR gws_middleware: WebSocket '/failing': .* raised; closed with 1011 .*{error}")
    if where != "view":
        assert server.events(token, "on_close") == ["on_close"]
    assert (code, rest, echo) == (1000 if where == "on_close" else 1011, b"", Frame(TEXT, b"unharmed"))
    assert server.status()["pid"] == before
    server.log.check()


@every_server
def test_end_of_the_connection_is_no_error(server: Server, token: str) -> None:
    """ConnectionClosed that escapes a view because the peer has disconnected is neither logged nor answered."""
    with server.connect() as client:
        client.upgrade(f"/pushing?id={token}")
        client.read_frame()
        client.send(close_frame(4000, "enough"))
        frames = client.read_frames_until_eof()
    assert server.events(token, "left by ConnectionClosed") == ["left by ConnectionClosed"]
    assert {one.payload for one in frames[:-1]} <= {b"tick"}
    assert frames[-1] == Frame(CLOSE, b"\x0f\xa0")


@every_server
def test_response_of_a_view_whose_peer_has_disconnected_is_closed(server: Server, token: str) -> None:
    """The view that finds the connection ended returns as ever, and its response is closed once."""
    with server.connect() as client:
        client.upgrade(f"/sleeping?id={token}")
        client.read_frame()
        client.close_handshake()
    assert server.events(token, "closed") == ["woke up after 1000", "closed"]


# --- before the 101: the application's own answer ------------------------------------------------------------------


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "302 Found", "200 OK"])
@late
def test_answer_of_the_application_is_real_http(server: Server, token: str, status: str) -> None:
    """Until it accepts, the application answers with status, headers and body of its own; the response is closed."""
    with server.connect() as client:
        client.send(upgrade_request(f"/answer?id={token}&status={quote(status)}"))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (f"{response.status} {response.reason}", response.body, rest) == (status, b"the body\n", b"")
    assert (response.headers["set-cookie"], response.headers.get("location", "")) == (
        "a=b",
        "/login" if status == "302 Found" else "",
    )
    assert server.events(token, "closed") == ["closed"]


@pytest.mark.parametrize("path", ["/answer/generator", "/answer/write", "/answer/again", "/answer/then-accept"])
@late
def test_answer_by_any_means_of_wsgi_goes_out(server: Server, token: str, path: str) -> None:
    """A generator, the write callable, a second start_response with exc_info: PEP 3333 holds until the 101."""
    with server.connect() as client:
        client.send(upgrade_request(f"{path}?id={token}") + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    expected = ["this WebSocket has been refused: an HTTP response has been started"] if "accept" in path else []
    assert (response.status, response.body, rest) == (403, b"the body\n", b"")
    assert server.events(token, "closed") == [*expected, "closed"]


@late
def test_close_before_the_101_is_a_403(server: Server, token: str) -> None:
    """``ws.close()`` refuses; the application's response is closed."""
    with server.connect() as client:
        client.send(upgrade_request(f"/answer/close?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, response.body, rest) == (403, b"The WebSocket was refused.\n", b"")
    assert server.events(token, "closed") == ["closed"]


@late
def test_view_that_does_nothing_is_a_500(server: Server, token: str) -> None:
    """A view that neither accepts nor answers is an error, once in the log and for the peer."""
    with server.connect() as client:
        client.send(upgrade_request(f"/answer/nothing?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    server.log.expect(
        "^ERROR gws_middleware: WebSocket '/answer/nothing': the application neither accepted nor answered$"
    )
    assert (response.status, rest) == (500, b"")
    assert server.events(token, "closed") == ["closed"]


@late
def test_error_before_the_101_is_the_servers(server: Server, token: str) -> None:
    """An exception before the 101 is the server's to answer, as for any request, and the connection ends after it."""
    with server.connect() as client:
        client.send(upgrade_request("/answer/raise") + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    server.log.expect("LookupError: the reason|failed with LookupError")
    assert (response.status, rest, server.events(token)) == (500, b"", [])


DISCONNECTING = carried(("worker", "gevent_pywsgi", "pywsgi"), "tcp", "tls")


@pytest.mark.parametrize("path", ["", "/and-return", "/and-answer", "/lazily"])
@pytest.mark.parametrize("server", DISCONNECTING, indirect=True)
def test_peer_that_disconnected_before_the_101_is_no_error(server: Server, token: str, path: str) -> None:
    """``accept()`` raises ConnectionClosed; whatever the view does then, nothing is logged or kept (row 24)."""
    before = server.status()
    client = server.connect()
    client.send(upgrade_request(f"/accept/late{path}?id={token}"))
    server.events(token, "called")
    client.reset()
    server.get(f"/go?id={token}")
    last = "closed" if path else "ConnectionClosed 1006"
    assert server.events(token, last) == ["called", "ConnectionClosed 1006", "closed"][: 3 if path else 2]
    assert server.settled(fds=before["fds"], greenlets=before["greenlets"])["websockets"] == 0


# --- refused by the rules ------------------------------------------------------------------------------------------

REFUSALS = {  # the request, the status, a header that must be there
    "two protocols": (upgrade_request("/echo", ("Upgrade", "websocket, h2c")), 400, None),
    "post": (upgrade_request("/echo", ("Content-Length", "0"), method="POST"), 405, ("allow", "GET")),
    "post with a body": (upgrade_request("/echo", ("Content-Length", "3"), method="POST") + b"abc", 405, None),
    "body": (upgrade_request("/echo", ("Content-Length", "3")) + b"abc", 400, None),
    "chunked body": (
        upgrade_request("/echo", ("Transfer-Encoding", "chunked")) + b"3\r\nabc\r\n0\r\n\r\n",
        400,
        None,
    ),
    "http/1.0": (upgrade_request("/echo").replace(b"HTTP/1.1", b"HTTP/1.0", 1), 400, None),
    "no host": (upgrade_request("/echo", without=["Host"]), 400, None),
    "no connection": (upgrade_request("/echo", without=["Connection"]), 400, None),
    "no version": (upgrade_request("/echo", without=["Sec-WebSocket-Version"]), 426, ("sec-websocket-version", "13")),
    "old version": (upgrade_request("/echo", ("Sec-WebSocket-Version", "8")), 426, ("sec-websocket-version", "13")),
    "no key": (upgrade_request("/echo", without=["Sec-WebSocket-Key"]), 400, None),
    "short key": (upgrade_request("/echo", ("Sec-WebSocket-Key", "c2hvcnQ=")), 400, None),
    "subprotocol": (upgrade_request("/echo", ("Sec-WebSocket-Protocol", "a b")), 400, None),
    "origin": (upgrade_request("/echo", ("Origin", "https://evil.example")), 403, None),
}


@pytest.mark.parametrize("case", REFUSALS)
@late
def test_request_that_breaks_a_rule_is_refused(server: Server, token: str, case: str) -> None:
    """A sentence and the right status; the connection closes, and nothing after the request is served (row 20)."""
    sent, status, header = REFUSALS[case]
    with server.connect() as client:
        client.send(sent + request(f"/second?id={token}"))
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, rest, server.events(token)) == (status, b"", [])
    assert header is None or response.headers[header[0]] == header[1]


@late
def test_refused_head_has_no_body(server: Server) -> None:
    """Its headers alone (RFC 9110 9.3.2); gunicorn would log a warning for a body that it has to drop."""
    with server.connect() as client:
        client.send(upgrade_request("/echo", method="HEAD"))
        head = client.read_until(b"\r\n\r\n")
        rest = client.read_until_eof()
    assert (head.split()[1], rest) == (b"405", b"")


FOREIGN = [("Origin", "http://localhost:8000"), ("Host", "127.0.0.1:8000")]
SETUP: dict[str, tuple[bytes, str]] = {
    "another name of this machine": (
        upgrade_request("/echo", *FOREIGN),
        "Pages of Origin 'http://localhost:8000' may not open a WebSocket at Host '127.0.0.1:8000': allowed_origins "
        "does not list that origin. localhost, 127.0.0.1 and [::1] are different origins: use one name for the page "
        "and for the WebSocket.",
    ),
    "upgrade dropped": (upgrade_request("/echo", without=["Upgrade", "Connection"]), DROPPED),
    "upgrade dropped, HTTP/1.0": (
        upgrade_request("/echo", ("Connection", "close"), without=["Upgrade"]).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        DROPPED,
    ),
    "upgrade empty": (upgrade_request("/echo", ("Upgrade", "")), DROPPED),
}


@pytest.mark.parametrize("kind", ["worker", "gevent", "gevent_pywsgi", "pywsgi"])
def test_refusal_is_in_the_answer_and_in_the_log(kind: str, server_directory: Path) -> None:
    """The sentence names what is wrong, in the answer and in the log: at INFO, since a peer can repeat it at will. What
    a wrong setup may have caused is a warning the first time, for each status.
    """
    short = upgrade_request("/echo", ("Sec-WebSocket-Key", "short")), "Sec-WebSocket-Key is not 16 bytes in base64."
    expected: list[tuple[str, str]] = []
    with launch(kind, server_directory) as server:
        for sent, sentence in [short, *SETUP.values()]:
            first = sentence != short[1] and ("WARNING", sentence) not in expected
            expected += [("WARNING" if first else "INFO", sentence), *[("INFO", sentence)] * 2]
            for _ in range(3):
                with server.connect() as client:
                    client.send(sent)
                    assert client.read_response().body.decode() == sentence + "\n"
        records = server.log.find("gws_middleware: WebSocket '/echo': refused: ", len(expected))
    assert [(record.level, record.text.partition("refused: ")[2]) for record in records] == expected


@pytest.mark.parametrize("server", [*SWITCHED, *POWERLESS], indirect=True)
def test_dropped_upgrade_is_named_everywhere(server: Server) -> None:
    """By servers too that cannot open WebSockets, or answer 101 by themselves."""
    with server.connect() as client:
        client.send(SETUP["upgrade dropped"][0])
        response = client.read_response()
    assert (response.status, response.body.decode()) == (400, DROPPED + "\n")


# --- accept(subprotocol, headers) ----------------------------------------------------------------------------------


def accept(client: RawClient, *offer: str, **arguments: object) -> None:
    """Ask ``/accept`` to accept with these arguments."""
    headers = [("Sec-WebSocket-Protocol", ", ".join(offer))] if offer else []
    client.send(upgrade_request(f"/accept?arguments={quote(json.dumps(arguments))}", *headers))


@pytest.mark.parametrize("subprotocol", ["chat", "superchat", None])
@late
def test_accept_answers_with_the_subprotocol(server: Server, subprotocol: str | None) -> None:
    """One of those offered, or none; ``ws.subprotocol`` is that one (RFC 6455 4.2.2)."""
    with server.connect() as client:
        accept(client, "chat", "superchat", subprotocol=subprotocol)
        response = client.read_response()
        found = client.read_frame().payload.decode()
    assert (response.status, response.headers.get("sec-websocket-protocol"), found) == (
        101,
        subprotocol,
        repr(subprotocol),
    )


@late
def test_accept_adds_headers(server: Server) -> None:
    """Headers of the application travel in the 101, as often as they were passed."""
    given = [["Set-Cookie", "a=b"], ["Set-Cookie", "c=d"], ["X-Caf", "caf\xe9"]]
    with server.connect() as client:
        accept(client, headers=given)
        response = client.read_response()
    assert (response.status, response.headers["sec-websocket-accept"]) == (101, ACCEPT)
    assert (response.headers["set-cookie"], response.headers["x-caf"]) == ("a=b, c=d", "caf\xe9")


BAD_ARGUMENTS = [  # the arguments of accept(), what the ValueError has
    ({"subprotocol": "absent"}, "the subprotocol 'absent' was not offered by the client, which offers: chat"),
    ({"subprotocol": "chat\r\nX: y"}, r"the subprotocol is 'chat\r\nX: y': wanted a token"),
    ({"subprotocol": "chat\0"}, r"the subprotocol is 'chat\x00': wanted a token"),
    ({"subprotocol": "chat, a"}, "the subprotocol is 'chat, a': wanted a token"),
    ({"subprotocol": ""}, "the subprotocol is '': wanted a token"),
    ({"headers": [["X", "a\r\nSet-Cookie: b"]]}, r"the value of header X is 'a\r\nSet-Cookie: b': wanted latin-1"),
    ({"headers": [["X", "a\nb"]]}, r"the value of header X is 'a\nb': wanted latin-1"),
    ({"headers": [["X", "a\0"]]}, r"the value of header X is 'a\x00': wanted latin-1"),
    ({"headers": [["X", "\u20ac"]]}, "the value of header X is '€': wanted latin-1"),
    ({"headers": [["X", 1]]}, "the value of header X is 1: wanted latin-1"),
    ({"headers": [["X: y\r\nZ", "a"]]}, r"the header name is 'X: y\r\nZ': wanted a token"),
    ({"headers": [["", "a"]]}, "the header name is '': wanted a token"),
    ({"headers": [["Connection", "close"]]}, "the header Connection belongs to the handshake"),
    ({"headers": [["sec-websocket-accept", "x"]]}, "the header sec-websocket-accept belongs to the handshake"),
    ({"headers": [["transfer-encoding", "chunked"]]}, "the header transfer-encoding belongs to the handshake"),
    ({"headers": [["A", "fine"], ["Content-Length", "0"]]}, "the header Content-Length belongs to the handshake"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD_ARGUMENTS)
@pytest.mark.parametrize("server", ["worker", "gevent_pywsgi", "pywsgi"], indirect=True)
def test_accept_with_what_may_not_be_sent_raises(server: Server, arguments: dict[str, object], sentence: str) -> None:
    """ValueError at the call, a sentence that names the fault, nothing written: the 400 is all there is (row 15)."""
    with server.connect() as client:
        accept(client, "chat", **arguments)
        response = client.read_response()
        rest = client.read_until_eof()
    assert (response.status, rest) == (400, b"")
    assert sentence in response.body.decode()


# --- what a log may contain ----------------------------------------------------------------------------------------


@every_server
def test_path_is_escaped_in_the_log(server: Server) -> None:
    """A line break and an escape sequence in the path stay visible, harmless characters of one line (row 17)."""
    with server.connect() as client:
        client.upgrade("/after/raise/%0Aforged%1B%5B31m%C3%A9")
        client.read_frame()
        rest_of(client)
    [record] = server.log.expect("forged")
    assert r"WebSocket '/after/raise/\nforged\x1b[31m" in record.text
    assert not re.search(r"[^\x20-\x7e]", record.text)


@every_server
def test_close_reason_is_escaped_in_the_log(server: Server, token: str) -> None:
    """What the peer sends as its reason too, at the level of its line (row 17)."""
    with server.connect() as client:
        client.upgrade(f"/pushing?id={token}")
        client.send(close_frame(4001, f"{token}\nforged\x1b[31m"))
        client.read_frames_until_eof()
    ending, closing = server.log.find(token, 2)
    assert ending.text == (
        "DEBUG gws_middleware: WebSocket '/pushing': the connection has been closed: "
        rf"the peer sent 4001 '{token}\nforged\x1b[31m', we sent 4001"
    )
    assert closing.text.startswith(
        rf"INFO gws_middleware: WebSocket '/pushing': closed with 4001 '{token}\nforged\x1b[31m' after "
    )


@every_server
def test_status_is_escaped_in_the_log(server: Server, token: str) -> None:
    """And what the application answers after the 101."""
    with server.connect() as client:
        client.upgrade(f"/after/status?id={token}")
        client.read_frame()
        code, _ = rest_of(client)
    server.log.expect(rf"the application answered '500 {token}\\nforged\\x1b'; closed with 1011$")
    assert code == 1011


# --- without a server ----------------------------------------------------------------------------------------------


class Untouchable(base.Server):
    """A server whose connection must not be taken."""

    def switch(self, start_response: StartResponse, headers: Headers) -> Any:
        raise AssertionError("the connection was taken")


@pytest.mark.parametrize("protocol", ["HTTP/2", "HTTP/2.0", "HTTP/1.0", "HTTP/0.9", ""])
def test_connection_of_another_protocol_is_never_taken(protocol: str) -> None:
    """On HTTP/2 the socket carries other requests too: an upgrade header there is refused (row 20)."""
    answers = []
    environ = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": protocol,
        "HTTP_HOST": "test",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        base.SERVER_KEY: Untouchable(),
    }

    def start_response(status: str, headers: Headers) -> Any:
        answers.append(status)
        return lambda data: None

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise AssertionError("the application was called")

    body = b"".join(WebSocketMiddleware(application)(environ, start_response))
    assert answers == ["400 Bad Request"]
    assert body.startswith(f"A WebSocket is opened over HTTP/1.1, not {protocol}. A proxy".encode())


def test_open_websocket_keeps_nothing_of_its_handshake() -> None:
    """Neither does a frame below its view."""
    kept: list[Any] = []

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        kept.extend(found for found in gc.get_objects() if type(found) is Handshake)
        environ["wsgi.websocket"].send("done")
        return []

    with connect(app, "/") as client:
        assert client.receive() == "done"
    assert kept == []


def test_end_of_another_connection_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """ConnectionClosed is no error at the end of the view's own connection; while that is open, it is one."""

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.websocket"].send("ready")
        raise ConnectionClosed(4000, received=(4000, "of another one"))

    with connect(application) as client:
        assert (client.receive(), client.receive()) == ("ready", None)
        code = client.close_code
    assert (code, [record.levelname for record in problems(caplog)]) == (1011, ["ERROR"])


@pytest.mark.parametrize(("offered", "agreed"), [(["b", "a"], "a"), (["b"], None), ([], None)])
def test_subprotocol_of_the_application_is_agreed_on(offered: list[str], agreed: str | None) -> None:
    """An application may name its subprotocol as gevent-websocket's ``Resource`` does, by path, without accept()."""

    class Resource:
        def app_protocol(self, path: str) -> str:
            return {"/chat": "a"}[path]

        def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].send(repr(environ["wsgi.websocket"].subprotocol))
            return []

    with connect(Resource(), "/chat", subprotocols=offered) as client:
        found = client.receive()
    assert (client.subprotocol, found) == (agreed, repr(agreed))


def test_app_protocol_is_passed_on() -> None:
    """gevent-websocket's handler reads the subprotocol from the outermost application: the middleware passes it on."""

    class Resource:
        def app_protocol(self, path: str) -> str:
            return f"protocol of {path}"

        def __call__(self, environ: object, start_response: object) -> list[bytes]:
            return []

    assert WebSocketMiddleware(Resource()).app_protocol("/chat") == "protocol of /chat"
    assert not hasattr(WebSocketMiddleware(lambda environ, start_response: []), "app_protocol")
