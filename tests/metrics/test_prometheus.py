"""``prometheus``: what a scrape of a running gunicorn shows, beside what clients have sent and received."""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from gws_middleware.metrics import prometheus

from ..support.counting import Counting, Traffic, counting, total
from ..support.rawclient import CLOSE, PONG, Frame, close_frame, frame, upgrade_request
from ..support.servers import ROOT, Server, launch
from ..support.waiting import eventually

APP = "tests.fixtureapps.operations"
HOOKS = ["--config", str(ROOT / "tests/fixtureapps/metrics_hooks.py")]

Scrape = dict[str, float]
"""Values by the names of their series, e.g. ``websocket_closed_total{code=1000}``."""


def parsed(text: str) -> Scrape:
    """The series of ours, those alone whose value is not 0."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            if sample.name.startswith("websocket_") and sample.value and not sample.name.endswith("_created"):
                found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def scrape(server: Server) -> Scrape:
    """What Prometheus would read."""
    return parsed(server.get("/metrics").body.decode())


def scraped(server: Server, condition: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape for which the condition holds: numbers are late by an update."""
    found: Scrape = {}

    def check() -> bool:
        found.clear()
        found.update(scrape(server))
        return condition(found)

    try:
        eventually(check, "a scrape")
    except AssertionError:
        raise AssertionError(f"the last scrape was {found}") from None
    return found


def traffic(found: Scrape) -> Traffic:
    """The four counters of it."""
    names = ("messages_received", "messages_sent", "received_bytes", "sent_bytes")
    return Traffic(*(int(found.get(f"websocket_{name}_total", 0)) for name in names))


def labelled(found: Scrape, name: str) -> dict[str, float]:
    """A counter's values by its only label."""
    start = f"{name}_total{{"
    return {key[:-1].partition("=")[2]: value for key, value in found.items() if key.startswith(start)}


# --- one process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["worker", "gevent", "gevent_pywsgi"])
def test_numbers_are_those_of_the_clients(server_directory: Path, kind: str) -> None:
    """Connections, messages and bytes are counted while they are open and once they have ended, refusals by reason and
    ends by code: under every worker class of gunicorn's.
    """
    with launch(kind, server_directory, APP, options=HOOKS) as server, ExitStack() as stack:
        clients = [stack.enter_context(counting(server)) for _ in range(4)]
        for number, client in enumerate(clients):
            client.open("/detached" if number == 3 else "/echo")
            for size in range(number * 100 + 1):
                client.echo(size)
        clients[0].close_handshake(4001)
        clients[1].close_handshake(None)
        for refused in (upgrade_request("/echo", ("Origin", "https://evil.example")), upgrade_request("/nowhere")):
            with server.connect() as client:
                client.send(refused)
                client.read_response()
        found = scraped(
            server,
            lambda seen: (
                traffic(seen) == total(clients)
                and len(labelled(seen, "websocket_closed")) == len(labelled(seen, "websocket_refused")) == 2
            ),
        )
    assert (found["websocket_accepted_total"], found["websocket_open"]) == (4, 2)
    assert labelled(found, "websocket_closed") == {"4xxx": 1, "1005": 1}
    assert labelled(found, "websocket_refused") == {"handshake": 1, "application": 1}


def test_disconnected_client_is_counted_as_1006(server_directory: Path) -> None:
    """There was no close frame."""
    with launch("worker", server_directory, APP, options=HOOKS) as server:
        with counting(server) as client:
            client.open("/echo")
            client.echo(5)
            client.reset()
        found = scraped(server, lambda seen: "websocket_closed_total{code=1006}" in seen)
    assert found == {
        "websocket_accepted_total": 1,
        "websocket_closed_total{code=1006}": 1,
        **dict.fromkeys(["websocket_messages_received_total", "websocket_messages_sent_total"], 1),
        "websocket_received_bytes_total": 11,
        "websocket_sent_bytes_total": 7,
    }


ANSWERS = {
    "/answer?status=403%20Forbidden": 403,
    "/answer/generator": 403,
    "/answer/again": 403,
    "/answer/close": 403,
    "/answer/nothing": 500,
    "/answer/raise": 500,
}


def test_each_refusal_is_counted_once(server_directory: Path) -> None:
    """However the application answers with HTTP, also when it replaces its answer by another or leaves it to the
    server.
    """
    statuses = []
    counts: list[Scrape] = [{}]
    with launch("worker", server_directory, APP, options=HOOKS) as server:
        for path in ANSWERS:
            with server.connect() as client:
                client.send(upgrade_request(path))
                statuses.append(client.read_response().status)
            counts.append(scraped(server, lambda seen: seen != counts[-1]))
        server.log.expect("neither accepted nor answered|the reason", 2)
    assert statuses == list(ANSWERS.values())
    assert counts[1:] == [
        {"websocket_refused_total{reason=application}": number} for number in range(1, len(ANSWERS) + 1)
    ]


def test_refusals_at_a_limit_are_counted_by_its_name(server_directory: Path) -> None:
    """That of the worker and that of an address are counted apart."""
    env = {"GWS_MAX_CONNECTIONS": "2", "GWS_MAX_CONNECTIONS_PER_ADDRESS": "1"}
    with launch("worker", server_directory, APP, options=HOOKS, env=env) as server, ExitStack() as stack:
        statuses = []
        for carrier in ("tcp", "tcp", "unix", "unix", "unix"):  # a client on a unix socket has no address
            client = stack.enter_context(server.at(carrier).connect())
            client.send(upgrade_request("/echo"))
            statuses.append(client.read_response().status)
        found = scraped(server, lambda seen: len(labelled(seen, "websocket_refused")) == 2)
    assert statuses == [101, 429, 101, 503, 503]
    assert labelled(found, "websocket_refused") == {"max_connections": 2, "max_connections_per_address": 1}


def test_pings_show_in_the_histogram(server_directory: Path) -> None:
    """With the time that the peer took to answer."""
    with launch("worker", server_directory, APP, options=HOOKS) as server, server.connect() as client:
        client.upgrade("/ping")
        client.read_frame()
        begin = time.monotonic()
        while time.monotonic() < begin + 0.11:
            server.get("/plain")
        client.send(frame(PONG, b"?"))
        found = scraped(server, lambda seen: "websocket_ping_latency_seconds_count" in seen)
    assert 0.11 <= found["websocket_ping_latency_seconds_sum"] < 5
    assert found["websocket_ping_latency_seconds_count"] == 1
    assert "websocket_ping_latency_seconds_bucket{le=0.1}" not in found
    assert found["websocket_ping_latency_seconds_bucket{le=10.0}"] == 1


def test_outbox_shows_what_waits_for_a_peer(server_directory: Path) -> None:
    """While the peer reads nothing, and no longer."""
    size = 8_000_000
    with launch("worker", server_directory, APP, options=HOOKS) as server, counting(server) as client:
        client.open("/pile")
        client.text(str(size))
        waiting = scraped(server, lambda seen: "websocket_outbox_bytes" in seen)["websocket_outbox_bytes"]
        frame_size = len(client.read_frame().payload) + 10
        found = scraped(server, lambda seen: "websocket_outbox_bytes" not in seen)
    assert frame_size == size + 10
    assert 0 < waiting < frame_size
    assert found["websocket_sent_bytes_total"] == client.received == frame_size


def test_dropped_frames_are_counted(server_directory: Path, token: str) -> None:
    """A peer that is too slow for a broadcast misses one frame, which is counted, and is closed with 1013; all frames
    before it arrive.
    """
    with launch("worker", server_directory, APP, options=HOOKS) as server, counting(server) as client:
        client.open(f"/flood?id={token}")
        client.text("go")
        found = scraped(server, lambda seen: "websocket_dropped_total" in seen)
        frames = client.read_frames_until_eof() if client.send(close_frame(1013)) is None else []
        offered = eventually(lambda: server.events(token), "the end of the view")
        ended = scraped(server, lambda seen: bool(labelled(seen, "websocket_closed")))
    assert (found["websocket_dropped_total"], labelled(ended, "websocket_closed")) == (1, {"1013": 1})
    assert (frames[-1].code, [str(len(frames) - 1)]) == (1013, offered)
    assert ended["websocket_messages_sent_total"] == len(frames) - 1


def test_loop_lag_is_shown_and_reset(server_directory: Path) -> None:
    """For how long a view has kept the loop busy; reset by the next check, and with the last connection."""
    env = {"GWS_PING_INTERVAL": "4"}  # a check every half a second
    with launch("worker", server_directory, APP, options=HOOKS, env=env) as server:
        with server.connect() as client:
            client.upgrade("/echo")
            server.get("/busy?seconds=1.5")
            found = scraped(server, lambda seen: seen.get("websocket_loop_lag_seconds", 0) > 0.5)
            scraped(server, lambda seen: seen.get("websocket_loop_lag_seconds", 0) < 0.3)
            server.get("/busy?seconds=1.5")
            scraped(server, lambda seen: seen.get("websocket_loop_lag_seconds", 0) > 0.5)
            client.close_handshake()
        scraped(server, lambda seen: "websocket_open" not in seen)
        last = scraped(server, lambda seen: "websocket_loop_lag_seconds" not in seen)
    assert found["websocket_loop_lag_seconds"] < 1.6
    assert "websocket_loop_lag_seconds" not in last


# --- several processes ---------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder in which workers keep their numbers."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    return folder


@pytest.fixture
def two_workers(server_directory: Path, shared: Path) -> Iterator[Server]:
    """A gunicorn with two."""
    options = [*HOOKS, "--workers", "2"]
    env = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    with launch("worker", server_directory, APP, options=options, env=env) as server:
        yield server


def on_both(server: Server, stack: ExitStack, each: int = 2) -> dict[int, list[Counting]]:
    """Connections, at least so many on each of the two workers, by the worker's pid; each has sent something."""
    found: dict[int, list[Counting]] = {}

    def one_more() -> bool:
        client = stack.enter_context(counting(server))
        client.open("/pid")
        found.setdefault(int(client.receive()), []).append(client)
        client.echo(100)
        return len(found) == 2 and all(len(clients) >= each for clients in found.values())

    eventually(one_more, "connections on both workers")
    return found


def all_of(by_pid: dict[int, list[Counting]]) -> list[Counting]:
    """All of the connections."""
    return [client for clients in by_pid.values() for client in clients]


def await_successor(server: Server, pids: Collection[int]) -> None:
    """Until another worker has started in place of one that has ended: gunicorn loses a signal to stop that comes while
    it forks a worker.
    """
    eventually(lambda: server.status()["pid"] not in pids, "a new worker")


def test_workers_add_up(two_workers: Server) -> None:
    """Whichever of them answers a scrape, its answer is for both."""
    with ExitStack() as stack:
        clients = all_of(on_both(two_workers, stack))
        found = scraped(two_workers, lambda seen: traffic(seen) == total(clients))
        found = scraped(two_workers, lambda seen: seen.get("websocket_open") == len(clients))
    assert (found["websocket_accepted_total"], traffic(found)) == (len(clients), total(clients))


def test_counters_of_a_worker_that_has_ended_stay(two_workers: Server) -> None:
    """Its connections are counted as closed, their traffic stays, and no gauge counts them any more."""
    with ExitStack() as stack:
        by_pid = on_both(two_workers, stack)
        (ending, closing), (_, staying) = by_pid.items()
        scraped(two_workers, lambda seen: seen.get("websocket_open") == len(all_of(by_pid)))
        os.kill(ending, signal.SIGTERM)
        for client in closing:
            assert client.read_frame() == Frame(CLOSE, b"\x03\xf4")
            client.send(close_frame(1012))
            assert client.read_until_eof() == b""
        found = scraped(
            two_workers,
            lambda seen: seen.get("websocket_open") == len(staying) and traffic(seen) == total(all_of(by_pid)),
        )
        await_successor(two_workers, by_pid)
    assert found["websocket_accepted_total"] == len(all_of(by_pid))
    assert labelled(found, "websocket_closed") == {"1012": len(closing)}


def test_killed_worker_counts_in_no_gauge(two_workers: Server) -> None:
    """SIGKILL gives it no time: the arbiter's hook removes its gauges. What it had counted stays."""
    with ExitStack() as stack:
        by_pid = on_both(two_workers, stack)
        (killed, lost), (_, staying) = by_pid.items()
        scraped(two_workers, lambda seen: traffic(seen) == total(all_of(by_pid)))
        scraped(two_workers, lambda seen: seen.get("websocket_open") == len(all_of(by_pid)))
        os.kill(killed, signal.SIGKILL)
        assert [client.read_until_eof() for client in lost] == [b""] * len(lost)
        found = scraped(two_workers, lambda seen: seen.get("websocket_open") == len(staying))
        two_workers.log.expect("SIGKILL")
        await_successor(two_workers, by_pid)
    assert found["websocket_accepted_total"] == len(all_of(by_pid))
    assert traffic(found) == total(all_of(by_pid))
    assert labelled(found, "websocket_closed") == {}


@pytest.mark.parametrize("answers", [True, False], ids=["answered", "unanswered"])
def test_ends_of_a_stop_are_counted(server_directory: Path, shared: Path, answers: bool) -> None:
    """The last update comes after the last connection, whatever the updates before, and no gauge is left."""
    options = [*HOOKS, "--workers", "2", "--graceful-timeout", "3"]
    env = {"PROMETHEUS_MULTIPROC_DIR": str(shared), "METRICS_EVERY": "600"}
    with ExitStack() as stack:
        with launch("worker", server_directory, APP, options=options, env=env) as server:
            clients = all_of(on_both(server, stack))
            server.kill(signal.SIGTERM)
            for client in clients:
                assert client.read_frame() == Frame(CLOSE, b"\x03\xf4")
                if answers:
                    client.send(close_frame(1012))
            for client in clients:
                assert client.read_until_eof() == b""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(shared))  # type: ignore[no-untyped-call]
        found = parsed(generate_latest(registry).decode())
    assert labelled(found, "websocket_closed") == {"1012": len(clients)}
    assert traffic(found) == total(clients)
    assert list(shared.glob("gauge_live*")) == []


def test_forked_child_exports_nothing_at_its_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has inherited the call, and what it counted would be counted twice."""
    updated_by: list[int] = []
    at_exit: list[Callable[[], object]] = []

    class Recorded:
        def run(self) -> None: ...

        def update(self) -> None:
            updated_by.append(os.getpid())

    monkeypatch.setattr(prometheus, "Exporter", Recorded)
    monkeypatch.setattr(atexit, "register", lambda function, *values: at_exit.append(lambda: function(*values)))
    worker = os.getpid()
    prometheus.post_worker_init(None)
    for pid in (worker, worker + 1):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        for call in at_exit:
            call()
    assert (len(at_exit), updated_by) == (1, [worker])
