"""``gunicorn``: what is read and changed of gunicorn's objects, with objects like those of several of its versions. The
real server is in ``test_servers``.
"""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from gevent.socket import socketpair
from gunicorn.config import Config
from gunicorn.http.wsgi import WSGIErrorsWrapper

from gws_middleware.servers.find import find_server
from gws_middleware.servers.gunicorn import GunicornGevent

from .pairs import in_greenlet, pair

__all__ = ["pair"]


class GunicornResponse:
    """What is used of gunicorn's Response."""

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
        """Only what it is a method of is used."""

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


def switched_over(sock: Any, environ: dict[str, Any], response: GunicornResponse) -> tuple[bytes, bytes]:
    """What gunicorn had read already, and what is read after the connection was taken."""
    environ = {"gunicorn.socket": sock, **environ}
    server = find_server(environ, response.start_response)
    assert isinstance(server, GunicornGevent)
    channel, early = server.switch(response.start_response, [("Upgrade", "websocket")])
    buffer = bytearray(10)
    size = channel.recv_into(buffer)
    server.leave(123)
    channel.close()
    return early, bytes(buffer[:size])


@pytest.mark.parametrize("unreader", [OldUnreader, NewUnreader])
@pytest.mark.parametrize("reached_by", ["wsgi.input", "response", "neither"])
def test_bytes_that_gunicorn_has_read_are_taken_once(pair: Any, unreader: Any, reached_by: str) -> None:
    """From old and new versions, and the parser finds the end of the stream after that; also where a wrapper hides
    ``wsgi.input``. Where the Response is hidden too, the parser keeps them.
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


def test_response_is_ended_and_has_the_bytes_that_were_sent(pair: Any) -> None:
    """The Response has nothing more to send, ends the keep-alive loop and has the count for the access log. The 101 has
    headers that a wrapper has added.
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
    server = in_greenlet(find_server, environ, None)
    server.refuse_more(lambda data: None)
    left = buffered.buf.getvalue() if unreader is OldUnreader else buffered.data
    assert (left, buffered.chunk(8192), server.closes_by_exception) == (b"", b"", False)


def test_loop_of_a_hidden_server_is_ended_by_an_exception(pair: Any) -> None:
    """Where the parser cannot be reached either."""
    server = in_greenlet(find_server, {"gunicorn.socket": pair[0]}, None)
    server.refuse_more(lambda data: None)
    assert server.closes_by_exception


def test_environ_has_no_early_hints(pair: Any) -> None:
    """Its function would write a 103 on the socket, after the 101 too."""
    environ = {"gunicorn.socket": pair[0], "wsgi.early_hints": lambda headers: None}
    in_greenlet(find_server, environ, GunicornResponse().start_response)
    assert "wsgi.early_hints" not in environ


def test_open_connections_share_what_writes_to_the_same_streams(pair: Any) -> None:
    """``wsgi.errors``, of which gunicorn makes one for each request; not one that an application has closed."""
    others, more = socketpair(), socketpair()
    given = [WSGIErrorsWrapper(Config()) for _ in range(6)]
    given[1].streams = [io.StringIO()]
    found, channels = [], []
    for errors, sock in zip(given, (*pair, *others, *more), strict=True):
        environ = {"gunicorn.socket": sock, "wsgi.errors": errors}
        response = GunicornResponse(SimpleNamespace(headers=[], unreader=NewUnreader(b"early")))
        server = in_greenlet(find_server, environ, response.start_response)
        channels.append(server.switch(response.start_response, [])[0])
        found.append(environ["wsgi.errors"])
        if errors is given[3]:
            found[-1].close()
    for channel in channels:
        channel.close()
    assert found == [given[0], given[1], given[2], given[2], given[4], given[4]]


def test_shared_strings_change_no_value(pair: Any) -> None:
    """Of a header that came twice, of one that a wrapper has changed or removed, and of those that are not known."""
    headers = [("PRAGMA", "no-cache"), ("PRAGMA", "a"), ("HOST", "b"), ("UPGRADE", "websocket"), ("X-OWN", "13")]
    values = {
        "HTTP_PRAGMA": "no-cache,a",
        "HTTP_HOST": "changed",
        "HTTP_X_OWN": "13",
        "wsgi.input": [],
        "PATH_INFO": "/",
    }
    request = SimpleNamespace(headers=list(headers), unreader=NewUnreader(b"early"))
    environ = {"gunicorn.socket": pair[0], **values}
    response = GunicornResponse(request)
    server = in_greenlet(find_server, environ, response.start_response)
    channel, _ = server.switch(response.start_response, [])
    channel.close()
    assert (request.headers, environ) == (headers, {"gunicorn.socket": pair[0], **values})


def test_open_connections_share_strings_of_their_requests(pair: Any) -> None:
    """Header names, environ keys and frequent values, of which gunicorn makes new ones for each request."""

    def fresh(text: str) -> str:
        return "".join(list(text))

    requests, environs, channels = [], [], []
    for sock in pair:
        request = SimpleNamespace(headers=[(fresh("UPGRADE"), fresh("websocket"))], unreader=NewUnreader(b"early"))
        environ = {"gunicorn.socket": sock, fresh("HTTP_UPGRADE"): fresh("websocket"), "PATH_INFO": fresh("/a")}
        response = GunicornResponse(request)
        server = in_greenlet(find_server, environ, response.start_response)
        channels.append(server.switch(response.start_response, [])[0])
        requests.append(request.headers[0])
        environs.append(next(item for item in environ.items() if item[0] == "HTTP_UPGRADE"))
    for channel in channels:
        channel.close()
    for one, two in (requests, environs):
        assert [a is b for a, b in zip(one, two, strict=True)] == [True, True]
