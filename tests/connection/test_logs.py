"""``logs``: what is logged of a WebSocket, when, and by which greenlet."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gws_middleware.codes import Opcode
from gws_middleware.connection import logs
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import echo, hub_errors, ticks, until
from ..support.seam import cut

__all__ = ["hub_errors"]


class Listener(logging.Handler):
    """Keeps the records, and whether the hub made them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[logging.LogRecord] = []
        self.in_the_hub: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)
        self.in_the_hub.append(gevent.getcurrent() is gevent.get_hub())

    def lines(self) -> list[tuple[str, str]]:
        return [(record.levelname, record.getMessage()) for record in self.found]

    def facts(self, number: int) -> dict[str, Any]:
        """The ``extra`` of a record."""
        found = vars(self.found[number])
        return {name: value for name, value in found.items() if name.startswith("websocket_")}


@pytest.fixture
def log() -> Iterator[Listener]:
    """Gets every record."""
    logger, listener = logging.getLogger("gws_middleware"), Listener()
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(listener)
    yield listener
    logger.removeHandler(listener)
    logger.setLevel(before)


def detached(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.websocket"].detach(lambda ws, message: ws.send(message))
    return []


PEER = {"REMOTE_ADDR": "10.0.0.7", "REMOTE_PORT": "4711"}
BOTH = pytest.mark.parametrize("app", [echo, detached])


def talk(app: Any, path: str = "/chat", code: int = 4001, reason: str = "bye") -> None:
    """One message each way, and a close frame."""
    with connect(app, path, environ=PEER) as client:
        client.send("12345")
        assert client.receive() == "12345"
        client.close(code, reason)


class TestLines:
    @BOTH
    def test_connection_is_a_line_at_each_end(self, log: Listener, app: Any) -> None:
        """DEBUG and INFO: what a peer causes is never above that, since it can be repeated at will."""
        talk(app)
        until(lambda: len(log.found) == 2)
        (first, opened), (second, closed) = log.lines()
        assert (first, opened) == ("DEBUG", "WebSocket '/chat': opened")
        assert second == "INFO"
        assert re.fullmatch(
            r"WebSocket '/chat': closed with 4001 'bye' after 0\.\d s; peer 10\.0\.0\.7:4711, "
            r"1 messages in, 1 out, 22 bytes in, 11 out",
            closed,
        )

    @BOTH
    def test_facts_are_in_extra(self, log: Listener, app: Any) -> None:
        """For programs: each has its name, and its type."""
        talk(app)
        until(lambda: len(log.found) == 2)
        opened, closed = log.facts(0), log.facts(1)
        duration = closed.pop("websocket_duration")
        assert opened == {"websocket_path": "/chat", "websocket_peer": "10.0.0.7:4711"}
        assert closed == {
            "websocket_path": "/chat",
            "websocket_peer": "10.0.0.7:4711",
            "websocket_code": 4001,
            "websocket_reason": "bye",
            "websocket_messages_received": 1,
            "websocket_messages_sent": 1,
            "websocket_bytes_received": 22,
            "websocket_bytes_sent": 11,
        }
        assert 0 <= duration < 5

    @BOTH
    def test_what_the_peer_sends_is_escaped(self, log: Listener, app: Any) -> None:
        """In the sentence and in the facts, which a formatter may put into a line as they are."""
        talk(app, "/a%0Ab%1B[31m", reason="\nERROR root: \x1b[2J\u20ac")
        until(lambda: len(log.found) == 2)
        texts = [line for _, line in log.lines()]
        texts += [str(value) for number in (0, 1) for value in log.facts(number).values()]
        assert all(text.isascii() and text.isprintable() for text in texts), texts
        assert r"WebSocket '/a\nb\x1b[31m': closed with 4001 '\nERROR root: \x1b[2J\u20ac' after" in texts[1]

    @BOTH
    def test_what_the_peer_sends_is_bounded(self, log: Listener, app: Any) -> None:
        """A path as long as a server lets through is cut, in the sentence and in the facts; a reason has 123 bytes."""
        talk(app, "/" + "%F0" * 4000, reason="r" * 123)
        until(lambda: len(log.found) == 2)
        texts = [log.lines()[1][1], *(str(value) for value in log.facts(1).values())]
        path = "/" + r"\xf0" * 499 + "..."
        assert f"WebSocket '{path}': closed with 4001 '{'r' * 123}' after" in texts[0]
        assert log.facts(1)["websocket_path"] == path
        assert max(map(len, texts)) < 2500

    @BOTH
    @pytest.mark.parametrize("how", ["the peer closes", "the peer disconnects", "a violation"])
    def test_nothing_is_logged_from_the_hub(self, log: Listener, app: Any, how: str) -> None:
        """A handler may wait for a lock, and the hub must not; nor is there more than one line about an end."""
        with connect(app) as client:
            client.send("x")
            client.receive()
            if how == "the peer disconnects":
                cut(client)
            elif how == "a violation":
                client.send_raw(bytes([0x80 | Opcode.PONG, 0]))
                assert client.receive() is None
        until(lambda: len(log.found) == 2)
        assert log.in_the_hub == [False, False]

    def test_line_comes_after_on_close(self, log: Listener) -> None:
        """Its numbers are the last ones."""
        order: list[str] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].detach(on_close=lambda ws: order.append(f"on_close, {len(log.found)} lines"))
            return []

        with connect(app):
            pass
        until(lambda: len(log.found) == 2)
        assert order == ["on_close, 1 lines"]

    def test_refused_handshake_is_no_line(self, log: Listener) -> None:
        """There was no WebSocket: the request is in the access log."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            start_response("403 Forbidden", [])
            return []

        with pytest.raises(Exception, match="403"), connect(app):
            pass
        assert log.found == []

    @BOTH
    @pytest.mark.parametrize(("level", "count"), [(logging.INFO, 1), (logging.WARNING, 0)])
    def test_nothing_is_made_for_a_level_that_is_off(
        self, log: Listener, app: Any, level: int, count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither sentence nor facts."""
        made: list[Any] = []
        of = logs.of
        monkeypatch.setattr(logs, "of", lambda ws: made.append(ws) or of(ws))
        logging.getLogger("gws_middleware").setLevel(level)
        talk(app)
        ticks()
        assert (len(made), len(log.found)) == (count, count)


class TestPeer:
    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({"REMOTE_ADDR": "10.0.0.7", "REMOTE_PORT": "4711"}, "10.0.0.7:4711"),
            ({"REMOTE_ADDR": "10.0.0.7", "REMOTE_PORT": 4711}, "10.0.0.7:4711"),
            ({"REMOTE_ADDR": "10.0.0.7"}, "10.0.0.7"),
            ({"REMOTE_ADDR": "::1", "REMOTE_PORT": "4711"}, "[::1]:4711"),
            ({"REMOTE_ADDR": "", "REMOTE_PORT": "4711"}, "-"),
            ({}, "-"),
        ],
    )
    def test_peer_is_an_address_and_a_port(self, environ: Environ, expected: str) -> None:
        """As far as there are any; one of IPv6 in brackets (RFC 3986 3.2.2)."""
        assert logs.peer(environ) == expected


def test_line_about_a_refusal_is_bounded(log: Listener) -> None:
    """As long as a path and an Origin may be."""
    with pytest.raises(Exception, match="403"), connect(echo, "/" + "%F0" * 4000, origin="https://" + "a" * 8000):
        pass
    [(level, line)] = log.lines()
    assert level == "WARNING"
    assert line.startswith("WebSocket '/" + r"\xf0" * 499 + "...': refused: Pages of Origin 'https://aaa")
    assert len(line) < 2500
