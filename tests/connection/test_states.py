"""``states``: its tables are what every WebSocket does, and the ones in docs/design.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gws_middleware import ConnectionClosed, WebSocket
from gws_middleware.codes import CloseCode
from gws_middleware.connection import control, states
from gws_middleware.connection.states import NAMES

from ..support.inprocess import hub_errors, refuse_switch, unaccepted, until
from ..support.rawclient import close_frame
from ..support.seam import fail, state_of
from ..support.servers import ROOT
from .cases import Case, in_state, refuse_writes, run_loop

__all__ = ["hub_errors"]

CALLS: dict[str, Callable[[WebSocket], Any]] = {
    "accept()": lambda ws: ws.accept(),
    "receive()": lambda ws: ws.receive(),
    "next()": lambda ws: next(ws),
    "receive_json()": lambda ws: ws.receive_json(),
    "wait()": lambda ws: ws.wait(),
    "count_messages()": lambda ws: ws.count_messages(),
    "send()": lambda ws: ws.send("x"),
    "send_json()": lambda ws: ws.send_json("x"),
    "ping()": lambda ws: ws.ping(),
    "offer()": lambda ws: ws.offer("x"),
    "detach()": lambda ws: ws.detach(on_close=lambda ws: setattr(ws, "was_closed", True)),
    "limits()": lambda ws: ws.limits(max_message_size=5),
    "close()": lambda ws: ws.close(),
    "abort()": lambda ws: ws.abort(),
    "accepted": lambda ws: ws.accepted,
    "closed": lambda ws: ws.closed,
    "close_code": lambda ws: ws.close_code,
}
WAITING = 0.03
"""Seconds after which a call counts as one that waits."""


def methods_table() -> dict[str, dict[str, str]]:
    """What each method does in each state, from the second table of the module's docstring."""
    text = (states.__doc__ or "").partition("What the methods of an attached WebSocket do:")[2]
    header, *rows = [line.split() for line in text.splitlines() if line and not line.startswith("=")][: len(CALLS) + 1]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def document_table() -> dict[str, dict[str, str]]:
    """The same from docs/design.md."""
    lines = (ROOT / "docs" / "design.md").read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("| method | PENDING"))
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[begin:]]
    header, body = rows[0], rows[2 : 2 + len(CALLS)]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in body}


def outcome(case: Case, method: str) -> str:
    """What the call does, in the words of the table."""
    ws, before = case.ws, case.state
    try:
        with gevent.Timeout(WAITING):
            result = CALLS[method](ws)
    except gevent.Timeout:
        found = "waits"
    except ConnectionClosed:
        found = "closed"
    except RuntimeError:
        found = "error"
    except StopIteration:
        found = "stop"
    else:
        found = _named(case, method, result)
    return "accepts" if before == "PENDING" and ws.accepted else found


def _named(case: Case, method: str, result: Any) -> str:
    ws = case.ws
    if method in ("close()", "abort()"):
        case.go_on.set()
        run_loop()
        return case.state
    if method == "receive()":
        assert result is None
        with pytest.raises(ConnectionClosed):
            ws.receive()
        return "end"
    if method == "detach()":
        run_loop()
        return "ends" if hasattr(ws, "was_closed") else "detaches"
    if method in ("send()", "send_json()", "ping()") or (method == "offer()" and result):
        return "sends"
    if method == "close_code" and result is not None:
        return "code"
    return "sets" if method == "limits()" else str(result)


class TestMethods:
    @pytest.mark.parametrize("state", NAMES)
    @pytest.mark.parametrize("method", CALLS)
    def test_method_does_what_the_table_has(self, state: str, method: str) -> None:
        """Every method in every state."""
        with in_state(state) as case:
            assert outcome(case, method) == methods_table()[method][state]

    def test_table_has_every_method_and_state(self) -> None:
        """Those that do not depend on the state are left out, and no others."""
        table = methods_table()
        assert list(table) == list(CALLS)
        assert {tuple(row) for row in table.values()} == {NAMES}
        independent = {
            "detached",
            "duration",
            "environ",
            "latency",
            "offered_subprotocols",
            "origin",
            "path",
            "protocol",
        }
        independent |= {"stats", "subprotocol", "version", "close_reason"}
        same_as = {"read", "has_messages", "is_closed", "handler"}  # count_messages(), closed, accept()
        named = {name.removesuffix("()") for name in table} - {"next"}
        public = {name for name in dir(unaccepted(refuse_switch)) if not name.startswith("_")}
        assert public == named | independent | same_as

    def test_document_has_the_same_table(self) -> None:
        """docs/design.md prints it."""
        assert document_table() == methods_table()

    @pytest.mark.parametrize("method", ["receive()", "next()", "receive_json()", "wait()", "detach()"])
    def test_detached_websocket_gives_messages_to_its_callbacks_alone(self, method: str) -> None:
        """Whether they are idle, running or finished; an iteration has ended with the connection."""
        for stage in ("idle", "running", "finished"):
            with in_state("OPEN") as case:
                hold = Event()
                case.ws.detach(on_message=lambda ws, message, hold=hold: hold.wait())
                if stage == "running":
                    case.peer.send("x")
                    until(lambda: case.ws.stats.messages_received == 1)
                elif stage == "finished":
                    case.ws.close()
                    until(lambda: control.is_finished(case.ws))
                assert outcome(case, method) == ("stop" if (method, stage) == ("next()", "finished") else "error")
                hold.set()


MOVES: list[tuple[str, str, Callable[[Case], Any], str]] = [
    ("PENDING", "accept", lambda case: case.ws.accept(), "OPEN"),
    ("PENDING", "an HTTP response", lambda case: control.answer(case.ws), "ANSWERED"),
    ("ANSWERED", "an HTTP response again", lambda case: control.answer(case.ws), "ANSWERED"),
    ("REFUSED", "an HTTP response", lambda case: control.answer(case.ws), "REFUSED"),
    ("LOST", "an HTTP response", lambda case: control.answer(case.ws), "LOST"),
    ("ACCEPTING", "written", lambda case: case.go_on.set(), "OPEN"),
    ("OPEN", "close frame of the peer", lambda case: case.peer.sock.sendall(close_frame(1001)), "CLOSED"),
    ("OPEN", "violation", lambda case: case.peer.sock.sendall(b"\xff\xff\xff\xff"), "CLOSED"),
    ("OPEN", "end of the socket", lambda case: case.peer.sock.close(), "CLOSED"),
    ("OPEN", "limit exceeded", lambda case: fail(case.ws, CloseCode.POLICY_VIOLATION, "too much"), "CLOSED"),
    ("CLOSING", "end of the socket", lambda case: case.peer.sock.close(), "CLOSED"),
    ("CLOSED", "end of the socket", lambda case: case.peer.sock.close(), "CLOSED"),
]


class TestMoves:
    @pytest.mark.parametrize(("state", "event", "happen", "after"), MOVES, ids=[f"{m[0]}-{m[1]}" for m in MOVES])
    def test_event_moves_to_the_next_state(
        self, state: str, event: str, happen: Callable[[Case], Any], after: str
    ) -> None:
        """What the first table has, beside ``close()`` and ``abort()``, which are in the second one."""
        with in_state(state) as case:
            happen(case)
            until(lambda: case.state == after)

    def test_write_that_the_kernel_refuses_leaves_what_was_received(self) -> None:
        """CLOSING: the messages that came before the end are still delivered."""
        with in_state("OPEN") as case:
            case.peer.send("last words")
            until(lambda: case.ws.stats.messages_received)
            refuse_writes(case.ws)
            assert case.state == "CLOSING"
            assert case.ws.receive() == "last words"

    @pytest.mark.parametrize("error", [BrokenPipeError(), LookupError()])
    def test_accept_that_fails(self, error: Exception) -> None:
        """The peer has disconnected: LOST; anything else: no 101 will be sent."""

        def switch(headers: object) -> Any:
            raise error

        ws = unaccepted(switch)
        with pytest.raises((ConnectionClosed, LookupError)):
            ws.accept()
        assert state_of(ws) == ("LOST" if isinstance(error, OSError) else "ANSWERED")

    def test_every_state_of_the_first_table_is_one(self) -> None:
        """And the other way round."""
        text = (states.__doc__ or "").partition("What receives the messages")[0]
        assert re.findall(r"^([A-Z]{4,})", text, re.MULTILINE) == list(NAMES)
        assert [getattr(states, name) for name in NAMES] == list(range(len(NAMES)))
