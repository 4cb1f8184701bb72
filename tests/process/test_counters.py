"""``counters``: what is counted, once each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gws_middleware import HandshakeRefused, prepare
from gws_middleware.process.counters import MAX_LATENCIES, Counters, Traffic
from gws_middleware.process.registry import Registry
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.inprocess import ENDS, closes, connected, every_end, forbids, forbids_lazily, hub_errors, until
from ..support.registries import here
from ..support.seam import registry_of

__all__ = ["here", "hub_errors"]


# --- ends -----------------------------------------------------------------------------------------------------------


@every_end
def test_end_is_counted_once_by_its_first_close_code(end: str) -> None:
    """Ours or the peer's; 1006 where there was none."""
    finish, (code, _) = ENDS[end]
    with connected() as (ws, peer):
        finish(ws, peer)
        until(lambda: ws.closed)
        found = registry_of(ws)
    assert found.counters.closed == {"4xxx" if end == "the peer closes" else code: 1}


@pytest.mark.parametrize(
    ("code", "key"),
    [(1000, 1000), (1012, 1012), (3000, "3xxx"), (3999, "3xxx"), (4000, "4xxx"), (4401, "4xxx"), (4999, "4xxx")],
)
def test_codes_that_a_peer_chooses_count_together(code: int, key: int | str) -> None:
    """There are 2,000 of them, and each key is a series in a metrics database."""
    with connected() as (ws, peer):
        peer.close(code)
        until(lambda: not len(registry_of(ws)))
    assert registry_of(ws).counters.closed == {key: 1}


@pytest.mark.parametrize("code", [1000, 1012, 3000, 4401])
@pytest.mark.parametrize("answer", [None, 4321])
def test_codes_of_the_application_are_counted_apart(code: int, answer: int | None) -> None:
    """Whether the peer answers with the same code, as it should, or with another one."""
    with connected() as (ws, peer):
        ws.close(code)
        peer.close(answer or code)
        until(lambda: not len(registry_of(ws)))
    assert registry_of(ws).counters.closed == {code: 1}


def test_traffic_of_a_connection_is_counted_once() -> None:
    """While it is open, while it closes, and when its socket is closed."""
    with connected() as (ws, peer):
        found = registry_of(ws)
        peer.send("12345", "12345")
        ws.receive()
        ws.receive()
        ws.send("123")
        seen = [found.traffic()]
        ws.close()
        peer.close_frame()
        seen.append(found.traffic())
        peer.answer()
        until(lambda: not len(found))
        seen.append(found.traffic())
        stats = ws.stats
    assert [traffic.messages_received for traffic in seen] == [2, 2, 2]
    assert [traffic.bytes_sent for traffic in seen] == [5, 5 + 4, 5 + 4]
    assert seen[2] == found.counters.traffic == tuple(stats)


def test_traffic_is_added_number_by_number() -> None:
    """Any number of connections, also none."""
    one = Traffic(1, 2, 3, 4)
    assert one.plus([]) == one
    assert one.plus([one, (10, 20, 30, 40)]) == Traffic(12, 24, 36, 48)


# --- refusals -------------------------------------------------------------------------------------------------------


def forbids_twice(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    try:
        raise LookupError
    except LookupError as error:
        start_response("500 Internal Server Error", [], (LookupError, error, None))
    return [b"no"]


@pytest.mark.parametrize("app", [forbids, forbids_twice, forbids_lazily, closes])
def test_refusal_by_the_application_is_counted_once(here: Registry, app: Callable[..., object]) -> None:
    """However it answers."""
    with pytest.raises(HandshakeRefused), connect(app):
        pass
    assert (here.counters.refused, here.counters.accepted) == ({"application": 1}, 0)


def test_application_that_raises_before_the_101_is_counted(here: Registry) -> None:
    """The server answers with 500."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise LookupError

    with pytest.raises(LookupError), connect(app):
        pass
    assert here.counters.refused == {"application": 1}


def test_refusal_by_the_rules_is_counted(here: Registry) -> None:
    """The application was not called."""
    with pytest.raises(HandshakeRefused), connect(forbids, origin="https://elsewhere.example"):
        pass
    assert here.counters.refused == {"handshake": 1}


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(message)
    return []


def test_accepted_connection_is_not_counted_as_refused(here: Registry) -> None:
    """It is counted as accepted and, at its end, as closed."""
    with connect(echo) as client:
        client.send("x")
        assert client.receive() == "x"
    until(lambda: not len(here))
    assert (here.counters.accepted, here.counters.refused, here.counters.closed) == (1, {}, {1000: 1})


# --- open connections ------------------------------------------------------------------------------------------------


def test_frame_that_was_not_sent_is_counted() -> None:
    """``offer`` closes the connection of a peer that is too slow; what it does not send after that is not counted."""
    with connected(send_limit=10) as (ws, _):
        ws.send(bytes(2**23))
        assert ws.offer(prepare("x")) is False
        assert ws.offer(prepare("x")) is False
        counted = registry_of(ws).counters.dropped
    assert counted == 1


def test_latency_of_each_pong_is_for_every_consumer() -> None:
    """They do not take from each other, and one that is made later gets later ones."""
    with connected() as (ws, peer):
        counters = registry_of(ws).counters
        consumers = [counters.latencies()]
        for count in (1, 2):
            ws.ping()
            peer.read()
            peer.answer()
            until(lambda count=count: len(consumers[0]) == count)  # type: ignore[misc]
            consumers.append(counters.latencies())
        one, two, three = consumers
        of_two, of_one = [two.popleft() for _ in range(len(two))], list(one)
    assert (len(of_one), of_two, len(three)) == (2, of_one[1:], 0)


def test_consumer_that_takes_nothing_has_a_limit() -> None:
    """The oldest are dropped."""
    counters = Counters()
    consumer = counters.latencies()
    for number in range(MAX_LATENCIES + 5):
        counters.pong(float(number))
    assert (len(consumer), consumer[0]) == (MAX_LATENCIES, 5.0)
