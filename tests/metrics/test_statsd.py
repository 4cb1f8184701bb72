"""``statsd``: what gunicorn's own client sends over UDP, beside what clients have sent and received."""

from __future__ import annotations

import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gunicorn import version_info as gunicorn_version

from ..support.counting import Traffic, counting, total
from ..support.rawclient import CLOSE, PONG, Frame, close_frame, frame, upgrade_request
from ..support.servers import ROOT, launch
from ..support.waiting import eventually

APP = "tests.fixtureapps.operations"
HOOKS = str(ROOT / "tests/fixtureapps/metrics_hooks.py")


class StatsdServer:
    """A statsd server that keeps what it receives."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.timers: dict[str, list[float]] = {}

    @property
    def options(self) -> list[str]:
        """Of gunicorn's."""
        host, port = self.sock.getsockname()
        return ["--config", HOOKS, "--statsd-host", f"{host}:{port}", "--statsd-prefix", "site"]

    def read(self) -> None:
        """Read what has arrived. Each datagram is one metric, and each name has the prefix."""
        while True:
            try:
                text = self.sock.recv(65536).decode("ascii")
            except BlockingIOError:
                return
            name, _, rest = text.partition(":")
            value, kind, *rate = rest.split("|")
            prefix, _, name = name.partition(".")
            assert (prefix, rate) == ("site", ["@1.0"] if kind == "c" else []), text
            if kind == "c":
                self.counters[name] += int(value)
            elif kind == "g":
                self.gauges[name] = float(value)
            else:
                assert kind == "ms", text
                self.timers.setdefault(name, []).append(float(value))

    def until(self, condition: Callable[[], bool]) -> None:
        """Read until it holds."""

        def check() -> bool:
            self.read()
            return condition()

        try:
            eventually(check, "metrics")
        except AssertionError:
            raise AssertionError(f"received {self.counters}, {self.gauges}, {self.timers}") from None

    @property
    def traffic(self) -> Traffic:
        """The four counters of it."""
        return Traffic(*(self.counters[f"websocket.{name}"] for name in Traffic._fields))

    @property
    def ours(self) -> dict[str, int]:
        """The counters of WebSockets but for those four."""
        names = [f"websocket.{name}" for name in Traffic._fields]
        return {name: n for name, n in self.counters.items() if name.startswith("websocket.") and name not in names}


@pytest.fixture
def statsd() -> Iterator[StatsdServer]:
    server = StatsdServer()
    with server.sock:
        yield server


def test_numbers_are_those_of_the_clients(server_directory: Path, statsd: StatsdServer) -> None:
    """Counters add up to what was sent and received, refusals and ends have their reasons and codes in their names, and
    gauges have the present value.
    """
    with launch("worker", server_directory, APP, options=statsd.options) as server, ExitStack() as stack:
        clients = [stack.enter_context(counting(server)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.open("/echo")
            for size in range(number * 100 + 1):
                client.echo(size)
        clients[0].close_handshake(4001)
        with server.connect() as refused:
            refused.send(upgrade_request("/echo", ("Origin", "https://evil.example")))
            refused.read_response()
        statsd.until(lambda: statsd.traffic == total(clients) and statsd.gauges.get("websocket.open") == 2)
        found = statsd.ours
    assert found == {"websocket.accepted": 3, "websocket.closed.4xxx": 1, "websocket.refused.handshake": 1}
    assert {name for name in statsd.gauges if name.startswith("websocket.")} == {
        "websocket.open",
        "websocket.outbox_bytes",
        "websocket.loop_lag",
    }


@pytest.mark.parametrize(
    ("number", "answers"),
    [(signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGINT, False)],
    ids=["term", "term-unanswered", "int", "int-unanswered"],
)
def test_last_numbers_are_sent_at_the_stop(
    server_directory: Path, statsd: StatsdServer, number: int, answers: bool
) -> None:
    """The ends of the last connections and their traffic are not lost; the gauge is 0."""
    options = [*statsd.options, "--graceful-timeout", "3"]
    with ExitStack() as stack:
        with launch("worker", server_directory, APP, options=options) as server:
            clients = [stack.enter_context(counting(server)) for _ in range(3)]
            for client in clients:
                client.open("/echo")
                client.echo(10)
            server.kill(number)
            for client in clients:
                assert client.read_frame() == Frame(CLOSE, b"\x03\xf4")
                if answers:
                    client.send(close_frame(1012))
            for client in clients:
                assert client.read_until_eof() == b""
            server.wait(10)
        statsd.read()
    assert statsd.ours == {"websocket.accepted": 3, "websocket.closed.1012": 3}
    assert (statsd.traffic, statsd.gauges["websocket.open"]) == (total(clients), 0)


@pytest.mark.parametrize("logging", [True, False], ids=["access log", "no access log"])
@pytest.mark.parametrize("kind", ["worker", "gevent", "gevent_pywsgi"])
def test_gunicorns_own_timers_see_each_websocket_once(
    server_directory: Path, statsd: StatsdServer, kind: str, logging: bool
) -> None:
    """One request with 101 and the time for which it was open, also when its view has returned long before, and
    whether or not an access log is written.
    """
    if kind == "gevent_pywsgi" and gunicorn_version < (23,):
        pytest.skip("the statsd client of gunicorn 22 drops a status in bytes, as this worker's is")
    paths = ["/echo", "/detached"]
    timers = statsd.timers.setdefault("gunicorn.request.duration", [])
    counted = statsd.counters
    early, longest, plain = [], [], 1  # launch() has asked once
    with launch(kind, server_directory, APP, options=statsd.options, logs_access=logging) as server:
        for ended, path in enumerate(paths):
            with counting(server) as client:
                client.open(path)
                client.echo(1)  # the server's clock for it runs
                begin = time.monotonic()
                while time.monotonic() < begin + 0.2:
                    server.get("/plain")
                    plain += 1
                    statsd.read()
                statsd.until(lambda: counted["gunicorn.request.status.200"] == plain)  # noqa: B023
                early.append(counted["gunicorn.request.status.101"])
                client.close_handshake()
            statsd.until(lambda: counted["gunicorn.request.status.101"] > ended)  # noqa: B023
            longest.append(timers[-1])
        server.get("/plain")
        statsd.until(lambda: counted["gunicorn.request.status.200"] == plain + 1)
    assert (early, counted["gunicorn.request.status.101"]) == ([0, 1], 2)
    assert counted["gunicorn.requests"] == len(timers) == plain + 3
    # The test's 200 ms are of another clock, and begin before gunicorn's.
    assert all(190 <= milliseconds < 5000 for milliseconds in longest), timers


def test_pings_are_timed_in_milliseconds(server_directory: Path, statsd: StatsdServer) -> None:
    """From the ping to its pong."""
    with launch("worker", server_directory, APP, options=statsd.options) as server, server.connect() as client:
        client.upgrade("/ping")
        client.read_frame()
        begin = time.monotonic()
        while time.monotonic() < begin + 0.1:
            server.get("/plain")
        client.send(frame(PONG, b"?"))
        statsd.until(lambda: "websocket.ping_latency" in statsd.timers)
        client.close_handshake()
    [latency] = statsd.timers["websocket.ping_latency"]
    assert 100 <= latency < 5000
