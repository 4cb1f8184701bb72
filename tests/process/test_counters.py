"""``counters``: what counts where."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gws_middleware import HandshakeRefused, prepare
from gws_middleware.process import registry
from gws_middleware.process.counters import LATENCIES_KEPT, Counters
from gws_middleware.process.registry import Registry
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import ENDS, closes, connected, every_end, forbids, forbids_lazily, hub_errors, until

__all__ = ["hub_errors"]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of the test's own in place of the process'."""
    monkeypatch.setattr(registry, "_registry", Registry())
    return registry.current()


# --- what ends -----------------------------------------------------------------------------------------------------


@every_end
def test_end_is_counted_once_by_its_first_close_code(end: str) -> None:
    """Whoever said it; 1006 where nobody did."""
    finish, (code, _) = ENDS[end]
    with connected() as (ws, peer):
        finish(ws, peer)
        until(lambda: ws.closed)
        found = ws._registry
    assert found.counters.closed == {"4xxx" if end == "the peer closes" else code: 1}


@pytest.mark.parametrize(
    ("code", "key"),
    [(1000, 1000), (1012, 1012), (3000, "3xxx"), (3999, "3xxx"), (4000, "4xxx"), (4401, "4xxx"), (4999, "4xxx")],
)
def test_codes_that_a_peer_chooses_count_together(code: int, key: int | str) -> None:
    """There are 2,000 of them, and each key is a series in a metrics database."""
    with connected() as (ws, peer):
        peer.close(code)
        until(lambda: not len(ws._registry))
    assert ws._registry.counters.closed == {key: 1}


@pytest.mark.parametrize("code", [1000, 1012, 3000, 4401])
@pytest.mark.parametrize("answer", [None, 4321])
def test_codes_of_our_own_are_counted_by_themselves(code: int, answer: int | None) -> None:
    """Whether the peer answers with the same code, as it should, or with another one."""
    with connected() as (ws, peer):
        ws.close(code)
        peer.close(answer or code)
        until(lambda: not len(ws._registry))
    assert ws._registry.counters.closed == {code: 1}


def test_connection_is_counted_until_its_socket_is_gone() -> None:
    """``totals`` are those of ended connections and of open ones, and nothing is counted twice or not at all."""
    with connected() as (ws, peer):
        found = ws._registry
        peer.send("12345", "12345")
        ws.receive()
        ws.receive()
        ws.send("123")
        seen = [found.totals()]
        ws.close()
        peer.close_frame()
        seen.append(found.totals())
        peer.answer()
        until(lambda: not len(found))
        seen.append(found.totals())
        stats = ws.stats
    sums = ("messages_received", "messages_sent", "bytes_received", "bytes_sent")
    assert [total["open"] for total in seen] == [1, 1, 0]
    assert [total["messages_received"] for total in seen] == [2, 2, 2]
    assert [total["bytes_sent"] for total in seen] == [5, 5 + 4, 5 + 4]
    assert tuple(seen[2][name] for name in sums) == tuple(stats)


def test_totals_add_open_and_ended_connections() -> None:
    """As long as one lives its own numbers are the true ones."""
    found = Registry()
    found.counters.messages_received = 40

    class Open:
        stats = (1, 2, 3, 4)
        _outbox_state = (7, None)

    found._members = {Open(), Open()}
    totals = found.totals()
    assert totals == {
        "open": 2,
        "accepted": 0,
        "refused": {},
        "closed": {},
        "messages_received": 42,
        "messages_sent": 4,
        "bytes_received": 6,
        "bytes_sent": 8,
        "dropped": 0,
        "outbox_bytes": 14,
        "loop_lag": 0.0,
    }


# --- what never began -----------------------------------------------------------------------------------------------


def forbids_twice(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    try:
        raise LookupError
    except LookupError as error:
        start_response("500 Internal Server Error", [], (LookupError, error, None))
    return [b"no"]


@pytest.mark.parametrize("app", [forbids, forbids_twice, forbids_lazily, closes])
def test_refusal_by_the_application_is_counted_once(here: Registry, app: Callable[..., object]) -> None:
    """However it says so."""
    with pytest.raises(HandshakeRefused), connect(app):
        pass
    assert (here.counters.refused, here.counters.accepted) == ({"application": 1}, 0)


def test_application_that_raises_before_the_101_is_counted(here: Registry) -> None:
    """The server makes a 500 of it, which is an answer too."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise LookupError

    with pytest.raises(LookupError), connect(app):
        pass
    assert here.counters.refused == {"application": 1}


def test_refusal_by_the_rules_is_counted(here: Registry) -> None:
    """The application was not asked."""
    with pytest.raises(HandshakeRefused), connect(forbids, origin="https://elsewhere.example"):
        pass
    assert here.counters.refused == {"handshake": 1}


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(message)
    return []


def test_accepted_connection_is_no_refusal(here: Registry) -> None:
    """And is counted as what it is."""
    with connect(echo) as client:
        client.send("x")
        assert client.receive() == "x"
    until(lambda: not len(here))
    assert (here.counters.accepted, here.counters.refused, here.counters.closed) == (1, {}, {1000: 1})


# --- what happens between --------------------------------------------------------------------------------------------


def test_frame_that_was_not_sent_is_counted() -> None:
    """``offer`` gives up a peer that is too slow."""
    with connected(send_limit=10) as (ws, _):
        ws.send(bytes(2**23))
        assert ws.offer(prepare("x")) is False
        assert ws.offer(prepare("x")) is False
        counted = ws._registry.counters.dropped
    assert counted == 1


def test_latency_of_each_pong_is_heard_by_every_listener() -> None:
    """Several do not take from each other, and one that comes later hears of later ones."""
    with connected() as (ws, peer):
        counters = ws._registry.counters
        listeners = [counters.latencies()]
        for _ in range(2):
            ws.ping()
            peer.read()
            peer.answer()
            until(lambda: ws._ping is None)
            listeners.append(counters.latencies())
        one, two, _ = listeners
        two_heard, one_heard = [two.popleft() for _ in range(len(two))], list(one)
    assert (len(one_heard), two_heard) == (2, one_heard[1:])


def test_listener_who_does_not_listen_costs_no_more_and_more() -> None:
    """The oldest are dropped."""
    counters = Counters()
    listener = counters.latencies()
    for number in range(LATENCIES_KEPT + 5):
        counters.pong(float(number))
    assert (len(listener), listener[0]) == (LATENCIES_KEPT, 5.0)
