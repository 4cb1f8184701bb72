"""``exceptions``: the tree, the attributes of an error, and its text."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
from geventwebsocket.exceptions import WebSocketError as GeventWebSocketError

from gws_middleware import exceptions
from gws_middleware.codes import CloseCode
from gws_middleware.exceptions import ConfigError, ConnectionClosed, HandshakeRefused, WebSocketError

TREE = {
    ConnectionClosed: (WebSocketError, GeventWebSocketError, OSError),
    WebSocketError: (GeventWebSocketError, OSError),
    HandshakeRefused: (Exception,),
    ConfigError: (ValueError,),
}

LOST = "the connection was lost without a close frame (1006)"
CLOSED = "the connection has been closed: "

SENTENCES: list[tuple[Exception, str]] = [
    (ConnectionClosed(), LOST),
    (ConnectionClosed(1000, received=(1000, "")), CLOSED + "the peer sent 1000"),
    (ConnectionClosed(4001, "bye", received=(4001, "bye")), CLOSED + "the peer sent 4001 'bye'"),
    (ConnectionClosed(1001, sent=(1001, "")), CLOSED + "we sent 1001"),
    (
        ConnectionClosed(4001, "bye", received=(4001, "bye"), sent=(4001, "")),
        CLOSED + "the peer sent 4001 'bye', we sent 4001",
    ),
    (
        ConnectionClosed(1002, received=(1000, "\x1b[31m\n"), sent=(1002, "a reserved bit is set")),
        CLOSED + r"the peer sent 1000 '\x1b[31m\n', we sent 1002 'a reserved bit is set'",
    ),
    (
        HandshakeRefused("403 Forbidden", [], b"Pages of this origin may not open a WebSocket here.\n"),
        "the handshake was answered with 403 Forbidden: Pages of this origin may not open a WebSocket here.\n",
    ),
    (HandshakeRefused("302 Found", [("Location", "/login")], b""), "the handshake was answered with 302 Found: "),
    (
        HandshakeRefused("500 Internal Server Error", [], b"x" * 1000),
        "the handshake was answered with 500 Internal Server Error: " + "x" * 200,
    ),
    (HandshakeRefused("400 Bad Request", [], b"\xff"), "the handshake was answered with 400 Bad Request: \ufffd"),
    (ConfigError("send_limit is 0"), "send_limit is 0"),
]


@pytest.mark.parametrize(("kind", "bases"), TREE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_error_is_caught_by(kind: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    """The tree at the top of the module, with gevent-websocket's class in it."""
    assert all(issubclass(kind, base) for base in bases)


def test_module_prints_its_tree() -> None:
    """Each class of the module is in the tree at its top, below its base class."""
    lines = re.findall(r"^    ((?: |└|─)*)([\w.]+)", exceptions.__doc__ or "", re.MULTILINE)
    printed = [(len(indent) // 4, name) for indent, name in lines]
    assert printed == [
        (0, "OSError"),
        (1, "geventwebsocket.exceptions.WebSocketError"),
        (2, "WebSocketError"),
        (3, "ConnectionClosed"),
        (0, "Exception"),
        (1, "HandshakeRefused"),
        (0, "ValueError"),
        (1, "ConfigError"),
    ]
    assert [kind.__base__ for kind in (ConnectionClosed, WebSocketError, GeventWebSocketError)] == [
        WebSocketError,
        GeventWebSocketError,
        OSError,
    ]
    assert [kind.__base__ for kind in (HandshakeRefused, ConfigError)] == [Exception, ValueError]
    assert set(exceptions.__all__) == {kind.__name__ for kind in TREE}


def test_only_the_end_of_a_connection_is_a_websocket_error() -> None:
    """An ``except`` clause for the end of a connection catches neither a refusal nor a wrong setting."""
    assert not issubclass(HandshakeRefused, (OSError, ValueError))
    assert not issubclass(ConfigError, OSError)


@pytest.mark.parametrize(("error", "sentence"), SENTENCES, ids=lambda value: str(value)[-30:])
def test_error_has_this_text(error: Exception, sentence: str) -> None:
    """What the peer sent is quoted, so that it cannot forge a log record."""
    assert str(error) == sentence


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({}, (1006, "", None, None)),
        (
            {"code": CloseCode.GOING_AWAY, "reason": "x", "received": (1001, "x"), "sent": (1001, "")},
            (1001, "x", (1001, "x"), (1001, "")),
        ),
    ],
)
def test_connection_closed_carries_its_facts(arguments: dict[str, Any], facts: tuple[Any, ...]) -> None:
    """Code and reason of whichever frame came first, and those of both sides; the code is a plain number."""
    error = ConnectionClosed(**arguments)
    assert (error.code, error.reason, error.received, error.sent) == facts
    assert type(error.code) is int


def test_connection_closed_is_no_system_call_that_failed() -> None:
    """It is an OSError, because gevent-websocket's class is one, but it has no ``errno``."""
    error = ConnectionClosed(4001, "bye", received=(4001, "bye"))
    assert (error.errno, error.args) == (None, (str(error),))


def test_handshake_refused_carries_the_response() -> None:
    """All of it, so that a test can check the page that came instead."""
    error = HandshakeRefused("302 Found", [("Location", "/login")], b"moved")
    assert (error.status, error.status_code, error.headers, error.body) == (
        "302 Found",
        302,
        [("Location", "/login")],
        b"moved",
    )


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (
            ConnectionClosed(4000, "why", received=(4000, "why"), sent=(4000, "")),
            ("code", "reason", "received", "sent"),
        ),
        (HandshakeRefused("403 Forbidden", [("X", "y")], b"no"), ("status", "headers", "body")),
    ],
)
def test_error_survives_a_pickle(error: Exception, facts: tuple[str, ...]) -> None:
    """A task queue or a process pool passes it on with all of its attributes and the same text."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert [getattr(copy, fact) for fact in facts] == [getattr(error, fact) for fact in facts]
