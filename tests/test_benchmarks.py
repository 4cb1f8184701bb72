"""benchmarks/: they run, they measure what they say, and a wrong reply does not pass. Nothing here asserts on time."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import compare, deflate, echo, frames, hop, lanes, load, meters, page, presence, profile, storm
from benchmarks.certificate import Certificate
from benchmarks.kinds import Idle, Sample, Scale
from benchmarks.launch import ROOT, SERVERS, Fleet, Server
from benchmarks.meters import Cores
from benchmarks.report import render, render_comparison
from benchmarks.results import Report
from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import TARGETS, Target
from tests.support.waiting import eventually

OPTIONS = (
    "--config",
    "python:benchmarks.servers.gunicorn_options",
    "--worker-class",
    "gws_middleware.worker.GeventWebSocketWorker",
)
MEASURED = ("ours", "ours-4", "ours-redis", "ours-redis-4", "gevent-websocket")
SMALLEST = 0.01


@pytest.fixture(scope="module")
def report() -> Report:
    return echo.main(SMALLEST, MEASURED)


class TestRun:
    def test_every_scenario_is_measured_on_every_server(self, report: Report) -> None:
        """No cell is missing, failed or empty but those that are ours alone."""
        expected = {
            (name, server)
            for name in echo.USUAL_SCENARIOS
            for server in MEASURED
            if SCENARIOS[name].takes(SERVERS[server])
        }
        assert report.absent == {}
        assert [(result.scenario, result.server, result.failure) for result in report.failures] == []
        assert {key for key, result in report.results.items() if len(result.samples) == 1} == expected

    def test_every_sample_holds_checked_messages_and_their_cost(self, report: Report) -> None:
        """Messages came back, the server worked for them and so did the load generator."""
        for result in report.results.values():
            for sample in result.samples:
                assert sample.messages > 0, result
                assert min(sample.server_cpu, sample.load_cpu, sample.seconds) > 0, result
                assert min(sample.server_wait, sample.load_wait) >= 0, result

    def test_counts_are_whole_bursts_and_whole_rounds(self, report: Report) -> None:
        """Sixteen in flight come back by sixteens, a broadcast reaches all, every connection has taken part."""
        for (name, _), result in report.results.items():
            [sample] = result.samples
            assert sample.messages >= sample.connections
            assert not name.endswith("/16") or sample.messages % 16 == 0
            assert name not in ("fanout", "groups") or sample.messages % sample.connections == 0

    @pytest.mark.parametrize("server", ["ours-4", "ours-redis-4"])
    @pytest.mark.parametrize("name", ["groups-delay", "groups-delay-stuck"])
    def test_delays_are_those_of_all_messages(self, report: Report, name: str, server: str) -> None:
        """Four workers, each message at all members, and each delay more than nothing."""
        [sample] = report.results[name, server].samples
        assert len(sample.delays) * sample.connections == sample.messages
        assert 0 < min(sample.delays) * 1000 <= sample.median_ms <= sample.p99_ms

    def test_hop_is_what_is_beyond_an_echo(self, report: Report) -> None:
        """A message that goes through a group costs more than one that does not, and that is all that counts."""
        [sample] = report.results["groups-hop", "ours-redis"].samples
        assert 0 < sample.base_cpu < sample.server_cpu
        assert sample.cpu_us == pytest.approx((sample.server_cpu - sample.base_cpu) / sample.messages * 1e6)

    @pytest.mark.parametrize("server", ["ours", "gevent-websocket"])
    def test_idle_connections_take_memory(self, report: Report, server: str) -> None:
        """The growth of the worker is seen, not that of some other process."""
        figure = report.figure("idle", server)
        assert figure is not None
        assert figure > 1

    def test_report_has_a_row_per_scenario_and_a_line_per_target(self, report: Report) -> None:
        """What was measured is printed; what was not (picows) has no verdict."""
        text = render(report)
        titles = [SCENARIOS[name].title for name in echo.USUAL_SCENARIOS]
        assert [title for title in titles if f"| {title} " not in text] == []
        assert "- holds" in text or "- MISSED" in text
        assert "picows (it is" not in text

    def test_json_holds_every_sample(self, report: Report) -> None:
        """The file has the same as the report, down to the single rounds."""
        found = json.loads(json.dumps(report.as_json()))
        assert len(found["results"]) == len(report.results)
        assert all(result["samples"] and result["figure"] is not None for result in found["results"])
        assert len(found["targets"]) == len(TARGETS)

    def test_page_has_a_bar_for_each_figure(self, report: Report) -> None:
        """And all text of the report: it says what the terminal says."""
        quantities = {SCENARIOS[name].quantity for name in report.scenarios}
        drawn = {
            chart.name: ElementTree.fromstring(page.draw(report, chart))
            for chart in page.CHARTS
            if chart.quantity in quantities
        }
        texts = Counter(text for each in drawn.values() for text in each.itertext())
        for server in MEASURED:
            assert texts[server] == len([1 for (_, name) in report.results if name == server])
        for name in echo.USUAL_SCENARIOS:
            assert (texts[SCENARIOS[name].title] > 0) == any(key[0] == name for key in report.results), name
        whole = html.unescape(page.page(report))
        for line in render(report).splitlines():
            assert line.removeprefix("- ").removeprefix("## ") in whole or line.startswith("python "), line

    def test_page_loads_nothing(self, report: Report) -> None:
        """One file, without scripts."""
        whole = page.page(report)
        assert not re.search(r"<script|<link|<img|\bsrc=|@import|url\((?!#)", whole)

    def test_json_is_a_report_again(self, report: Report, tmp_path: Path) -> None:
        """The page of a kept run is drawn from it."""
        path = tmp_path / "figures.json"
        path.write_text(json.dumps(report.as_json()))
        assert Report.from_json(json.loads(path.read_text())) == report
        assert page.run([str(path), str(tmp_path / "report.html"), "--images", str(tmp_path)]) == 0
        assert (tmp_path / "report.html").read_text("utf-8") == page.page(report)
        assert sorted(each.name for each in tmp_path.glob("*.svg")) == [
            "benchmark-cpu.svg",
            "benchmark-delay.svg",
            "benchmark-memory.svg",
        ]

    def test_growth_is_a_picture_too(self, tmp_path: Path) -> None:
        """With plain numbers on both axes."""
        kept = Path(page.__file__).parent / "runs" / "2026-11-30.json"
        assert page.run([str(kept), str(tmp_path / "report.html"), "--images", str(tmp_path)]) == 0
        drawn = (tmp_path / "benchmark-idle-connections.svg").read_text("utf-8")
        assert all(f">{tick}<" in drawn for tick in ("0", "100", "1,000", "10,000", "10", "20", "50"))
        assert (tmp_path / "benchmark-members.svg").exists()

    def test_page_of_a_part_of_a_kept_run(
        self, report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Of the servers and scenarios that are named; a name that the run does not have is an error."""
        path = tmp_path / "figures.json"
        path.write_text(json.dumps(report.as_json()))
        part = ["--servers", "ours", "--scenarios", "100x64B*", "--images", str(tmp_path)]
        assert page.run([str(path), str(tmp_path / "part.html"), *part]) == 0
        drawn = (tmp_path / "benchmark-cpu.svg").read_text("utf-8")
        assert [drawn.count(f">{each}<") for each in ("ours", "gevent-websocket")] == [2, 0]
        with pytest.raises(SystemExit):
            page.run([str(path), str(tmp_path / "part.html"), "--servers", "bun7"])
        assert "error: 'bun7' is none of ours" in capsys.readouterr().err

    def test_the_test_process_keeps_its_cores(self, report: Report) -> None:
        """Pinning ends with the run."""
        assert len(os.sched_getaffinity(0)) == int(report.environment["cores"])


class TestWhatCannotBeMeasured:
    def test_a_server_that_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Absence is stated with its reason, and is not a failure."""
        monkeypatch.setitem(SERVERS, "elsewhere", Server("elsewhere", ("no_such.module",), _dying, ""))
        report = echo.main(SMALLEST, ["elsewhere"], ["1x64B"])
        assert "ABSENT: elsewhere: not installed: no_such.module" in render(report)
        assert report.failures == []

    def test_a_scenario_that_wants_what_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The benchmark runs without Django, and reports what it has not measured."""
        unmeasurable = replace(SCENARIOS["idle-django"], needs=("no_such_module",))
        monkeypatch.setitem(SCENARIOS, "idle-django", unmeasurable)
        report = echo.main(SMALLEST, [], ["idle-django"])
        assert "ABSENT: idle-django: not installed: no_such_module" in render(report)

    def test_a_server_that_does_not_start_is_a_failure(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Its own last words are in the report and the exit status is 1."""
        monkeypatch.setitem(SERVERS, "dying", Server("dying", (), _dying, ""))
        status = echo.run(["--scale", "0.01", "--servers", "dying", "--scenarios", "1x64B"])
        assert "no port today" in capsys.readouterr().out
        assert status == 1


def _dying(fd: int, application: str) -> list[str]:
    return ["-c", "raise SystemExit('no port today')"]


class _Corrupting:
    """A server that upgrades correctly and answers each message with its last byte changed; for a ``with`` block.

    ``reply`` may be another answer, ``tls`` a context. ``received`` is what has come after messages.
    """

    def __init__(self, reply: bytes | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._reply = WRONG_REPLIES["another byte"] if reply is None else reply
        self._tls = tls
        self.received = b""

    def __enter__(self) -> lanes.Address:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        address: lanes.Address = self._listener.getsockname()
        return address

    def _serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            try:
                with sock if self._tls is None else self._tls.wrap_socket(sock, server_side=True) as sock:
                    if not sock.recv(4096).startswith(b"GET"):
                        return
                    sock.sendall(RIGHT_HEAD)
                    if sock.recv(4096):
                        sock.sendall(self._reply)
                        while data := sock.recv(4096):
                            self.received += data
                            if not data.endswith(PONG):
                                sock.sendall(CLOSE)
                                break
            except ssl.SSLError:
                return

    def __exit__(self, *error: object) -> None:
        with socket.create_connection(self._listener.getsockname()) as sock:
            sock.sendall(b"the end")
        self._thread.join()
        self._listener.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    client, server = socket.socketpair()
    with client, server:
        yield client, server


RIGHT_HEAD = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
DEFLATE_HEAD = RIGHT_HEAD[:-2] + b"sec-websocket-extensions: permessage-deflate\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b"\x88\x02\x03\xe8"
PING, PONG = frames.server_frame(frames.PING, b"ping"), frames.client_frame(frames.PONG, b"ping")
REPLY = frames.server_frame(frames.TEXT, frames.TEXT_64.build())

WRONG_REPLIES = {
    "another byte": REPLY[:-1] + b"!",
    "binary for text": bytes([REPLY[0] ^ 3]) + REPLY[1:],
    "compressed": bytes([REPLY[0] | 0x40]) + REPLY[1:],
    "a pong before it": b"\x8a\x00" + REPLY,
    "masked": frames.client_frame(frames.TEXT, frames.TEXT_64.build()),
    "the end instead of it": b"",
    "the end within it": REPLY[:30],
}


class TestChecker:
    def test_right_replies_pass(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """A burst counts as all of its messages, in however many pieces it comes."""
        client, server = pair
        server.sendall(REPLY * 16)
        assert load.saturate(lanes.echo_lanes([client], frames.TEXT_64, 16), 0) == 16
        assert len(server.recv(4096)) == 16 * (len(REPLY) + 4)

    @pytest.mark.parametrize("reply", WRONG_REPLIES.values(), ids=WRONG_REPLIES)
    def test_wrong_replies_are_refused(self, pair: tuple[socket.socket, socket.socket], reply: bytes) -> None:
        """One bit is enough, also in the last message of a burst."""
        client, server = pair
        server.sendall(REPLY * 3 + reply)
        server.shutdown(socket.SHUT_WR)
        with pytest.raises(frames.WrongReplyError):
            load.saturate(lanes.echo_lanes([client], frames.TEXT_64, 4), 0)

    def test_a_wrong_delivery_is_refused(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """The fan-out has the same comparison."""
        client, server = pair
        server.sendall(WRONG_REPLIES["another byte"])
        with pytest.raises(frames.WrongReplyError, match="wrong reply at byte 65 of 66"):
            load.broadcast(lanes.echo_lanes([client], frames.TEXT_64), 0)

    def test_surplus_bytes_fail_the_closing_handshake(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """One reply too many, after the last one, is detected."""
        client, server = pair
        server.sendall(REPLY + b"\x88\x02\x03\xe8")
        server.shutdown(socket.SHUT_WR)
        with pytest.raises(frames.WrongReplyError):
            lanes.close_all([client])

    @pytest.mark.parametrize("answer", [b"", b"\x88\x02\x03\xe9", b"\x88\x02\x03\xe8\x88\x00", b"\x8a\x00"])
    def test_wrong_closes_are_refused(self, answer: bytes) -> None:
        """The end of the connection alone is not a closing handshake, and neither is another code."""
        with pytest.raises(frames.WrongReplyError):
            frames.check_close(answer)

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 403 Forbidden\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
            DEFLATE_HEAD,
            RIGHT_HEAD + b"\x89\x00",
            b"",
        ],
    )
    def test_wrong_handshakes_are_refused(self, head: bytes) -> None:
        """Only a 101 that answers our key, with no extension that was not offered, and no byte after it."""
        with pytest.raises(frames.WrongReplyError):
            frames.check_upgrade(head)

    def test_handshake_without_the_extension_that_was_offered_is_refused(self) -> None:
        """Else a scenario of compression would measure none."""
        frames.check_upgrade(DEFLATE_HEAD, deflate.OFFER)
        with pytest.raises(frames.WrongReplyError):
            frames.check_upgrade(RIGHT_HEAD, deflate.OFFER)

    def test_a_server_that_corrupts_fails_in_every_driver(self) -> None:
        """Against a real port: neither an echo nor a cycle passes with one wrong byte."""
        with _Corrupting() as address:
            with (
                pytest.raises(frames.WrongReplyError, match="wrong reply"),
                lanes.opened(address, "/echo", 1) as sockets,
            ):
                load.saturate(lanes.echo_lanes(sockets, frames.TEXT_64), 0)
            with pytest.raises(frames.WrongReplyError, match="wrong reply"):
                load.cycles(address, "/echo", frames.client_frame(frames.TEXT, b"x"), REPLY, 1, 0)

    def test_each_of_several_messages_on_the_way_is_timed(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """At a thousand in a second some are sent before the first has come back."""
        client, server = pair

        def answer() -> None:
            size = len(frames.client_frame(frames.TEXT, frames.TEXT_64.build()))
            assert len(server.recv(3 * size, socket.MSG_WAITALL)) == 3 * size
            server.sendall(REPLY * 3)
            while server.recv(size, socket.MSG_WAITALL):
                server.sendall(REPLY)

        thread = threading.Thread(target=answer)
        thread.start()
        delays = load.paced(lanes.echo_lanes([client], frames.TEXT_64), 0.02, 1000)
        client.shutdown(socket.SHUT_WR)
        thread.join()
        assert len(delays) == 20 and delays[0] >= 0.002 and delays[0] > delays[2] > 0

    def test_a_wrong_reply_at_a_steady_rate_is_refused(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """The same comparison as elsewhere."""
        client, server = pair
        server.sendall(WRONG_REPLIES["another byte"])
        with pytest.raises(frames.WrongReplyError, match="wrong reply at byte 65 of 66"):
            load.paced(lanes.echo_lanes([client], frames.TEXT_64), 1, 1000)

    def test_a_stuck_connection_that_the_server_closes_is_refused(self) -> None:
        """What was sent to it must be there, all of it."""
        with (
            _Corrupting() as address,
            pytest.raises(frames.WrongReplyError, match="closed a connection that still had"),
            lanes.stuck(address, "/stuck", 1),
        ):
            pass


@pytest.fixture(scope="module")
def certificate() -> Iterator[Certificate]:
    made = Certificate()
    yield made
    made.remove()


@pytest.fixture
def context(certificate: Certificate) -> ssl.SSLContext:
    """That of a server."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(certificate.path)
    return made


MESSAGE = frames.client_frame(frames.TEXT, frames.TEXT_64.build())


class TestTLS:
    def test_every_scenario_is_measured_on_other_servers(self) -> None:
        """``TestLongScenarios`` has ours."""
        names = [name for name, scenario in SCENARIOS.items() if scenario.mode == "tls"]
        found = echo.main(SMALLEST, ["gevent-websocket"], names)
        assert found.failures == [] and found.absent == {}
        assert {name for (name, _), result in found.results.items() if len(result.samples) == 1} == set(names)

    def test_each_cycle_has_a_full_handshake(self, certificate: Certificate, context: ssl.SSLContext) -> None:
        """The server has offered sessions, and none was resumed."""
        with _Corrupting(REPLY, context) as address:
            done = [load.cycles(address, "/echo", MESSAGE, REPLY, 1, 0, certificate.client) for _ in range(3)]
            stats = context.session_stats()
        assert done == [1, 1, 1]
        assert (stats["accept_good"], stats["hits"]) == (3, 0)

    def test_a_server_that_corrupts_fails_in_every_driver(
        self, certificate: Certificate, context: ssl.SSLContext
    ) -> None:
        """As without TLS."""
        with _Corrupting(tls=context) as address:
            with (
                pytest.raises(frames.WrongReplyError, match="wrong reply"),
                lanes.opened(address, "/echo", 1, certificate.client) as sockets,
            ):
                load.saturate(lanes.echo_lanes(sockets, frames.TEXT_64), 0)
            with pytest.raises(frames.WrongReplyError, match="wrong reply"):
                load.cycles(address, "/echo", MESSAGE, REPLY, 1, 0, certificate.client)

    def test_a_server_without_tls_fails(self, certificate: Certificate) -> None:
        """An error that is reported as FAILED."""
        with (
            _Corrupting() as address,
            pytest.raises(OSError, match=r"(?i)ssl|reset"),
            lanes.opened(address, "/echo", 1, certificate.client),
        ):
            pass


DOCUMENTS = deflate.documents(1024)


def compressed(text: bytes, rsv1: int = deflate.RSV1) -> bytes:
    """A message of a server."""
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frames.server_frame(frames.TEXT | rsv1, data[:-4])


NOT_DOCUMENTS = {
    "another text": ("wrong reply", compressed(DOCUMENTS[1])),
    "a part of the text": ("wrong reply", compressed(DOCUMENTS[0][:-1])),
    "not compressed": ("no compressed text", frames.server_frame(frames.TEXT, DOCUMENTS[0])),
    "RSV1 is missing": ("no compressed text", compressed(DOCUMENTS[0], rsv1=0)),
    "not deflate": ("cannot be inflated", frames.server_frame(frames.TEXT | deflate.RSV1, b"\xff" * 200)),
    "a byte more": ("1 bytes more than the reply", compressed(DOCUMENTS[0]) + b"\x89"),
    "the end within it": ("closed the connection", compressed(DOCUMENTS[0])[:100]),
}


class TestDeflate:
    @pytest.mark.parametrize("size", [1024, 16 * 1024])
    def test_documents_are_different_and_of_their_size(self, size: int) -> None:
        """And more than the largest window, together."""
        texts = deflate.documents(size)
        assert {len(text) for text in texts} == {size}
        assert len({json.dumps(json.loads(text)) for text in texts}) == len(texts)
        assert sum(map(len, texts)) > 2**15

    @pytest.mark.parametrize("size", [1024, 16 * 1024])
    @pytest.mark.parametrize("bits", [9, 12, 15])
    @pytest.mark.parametrize("takeover", [True, False])
    def test_frames_are_right_as_often_as_they_are_sent(self, size: int, bits: int, takeover: bool) -> None:
        """Inflated by another zlib object: the first ones once, the later ones again and again."""
        first, later = deflate.client_frames(size, deflate.Agreed(bits, takeover))
        inflater = zlib.decompressobj(-bits)
        for frame, text in zip(first + later * 3, deflate.documents(size) * 4, strict=True):
            if not takeover:
                inflater = zlib.decompressobj(-bits)
            assert inflater.decompress(_unmasked(frame) + b"\0\0\xff\xff") == text

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ("", (15, True)),
            ("; client_max_window_bits=12; server_max_window_bits=10", (12, True)),
            ('; client_max_window_bits="11"', (11, True)),
            ("; server_no_context_takeover; client_no_context_takeover", (15, False)),
            ("; server_no_context_takeover", (15, True)),
        ],
    )
    def test_answer_decides_how_the_client_compresses(self, answer: str, expected: tuple[int, bool]) -> None:
        """RFC 7692 7.1: only the client's parameters concern it."""
        head = DEFLATE_HEAD.replace(b"permessage-deflate", f"permessage-deflate{answer}".encode())
        assert deflate.agreed(head) == expected

    def test_right_replies_pass(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """In pieces, and with references to the reply before, as a server with context takeover makes them."""
        client, server = pair
        lane = deflate.DeflateLane(client, 1024, deflate.Agreed(15, True))
        compressor = zlib.compressobj(wbits=-15)
        size = 0
        for number in range(2 * len(DOCUMENTS) + 1):
            text = DOCUMENTS[number % len(DOCUMENTS)]
            assert lane.send()
            assert deflate.client_frames(1024, deflate.Agreed(15, True))[number >= len(DOCUMENTS)][
                number % len(DOCUMENTS)
            ] == server.recv(4096)
            data = (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
            reply = frames.server_frame(frames.TEXT | deflate.RSV1, data)
            received = []
            for piece in (reply[:1], reply[1:3], reply[3:50], reply[50:]):
                server.sendall(piece)
                received.append(bool(piece) and lane.receive())
            assert received.count(True) == 1
            size += len(data)
        assert lane.compressed == size

    @pytest.mark.parametrize(("error", "reply"), NOT_DOCUMENTS.values(), ids=NOT_DOCUMENTS)
    def test_wrong_replies_are_refused(
        self, pair: tuple[socket.socket, socket.socket], error: str, reply: bytes
    ) -> None:
        """The whole text is compared, and it must have been compressed."""
        client, server = pair
        server.sendall(reply)
        server.shutdown(socket.SHUT_WR)
        with pytest.raises(frames.WrongReplyError, match=error):
            load.saturate([deflate.DeflateLane(client, 1024, deflate.Agreed(15, True))], 0)

    def test_report_has_the_size_of_replies(self, large: Report) -> None:
        """In parts of their texts, which deflate makes smaller; other scenarios have none."""
        names = [name for name in large.scenarios if name.startswith("deflate-")]
        sizes = {name: large.results[name, "ours"].samples[0].compressed for name in names}
        assert len(sizes) == 4 and 0.05 < min(sizes.values()) <= max(sizes.values()) < 0.6
        text = render(large)
        rows = text[text.index("## Size of the compressed replies") :].split("\n\n")[1].splitlines()[2:]
        assert [row.split("|")[1].strip() for row in rows] == [SCENARIOS[name].title for name in names]
        assert [row.split("|")[2].strip() for row in rows] == [f"{size * 100:.0f}" for size in sizes.values()]


def _unmasked(frame: bytes) -> bytes:
    """The payload of a client's frame that has less than 64 KiB."""
    at = 2 if frame[1] & 0x7F < 126 else 4
    assert at == 2 or struct.unpack("!H", frame[2:4])[0] == len(frame) - 8
    return bytes(byte ^ frame[at + index % 4] for index, byte in enumerate(frame[at + 4 :]))


class _Site(socketserver.ThreadingTCPServer):
    """A server that answers /plain with ``plain`` when ``may_answer()``, and a message elsewhere with ``reply``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, plain: bytes = PLAIN, reply: bytes = REPLY, may_answer: Callable[[], bool] = lambda: True
    ) -> None:
        self.plain, self.reply, self.may_answer = plain, reply, may_answer
        self.clients: list[str] = []
        self.unserved = self.most_unserved = 0
        self.surplus = b""
        """What has come after a message, where nothing but the end is right."""
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Answer)

    def __enter__(self) -> _Site:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def count(self, number: int) -> None:
        """So many more are not served yet."""
        with self.lock:
            self.unserved += number
            self.most_unserved = max(self.most_unserved, self.unserved)

    @property
    def address(self) -> lanes.Address:
        host, port = self.server_address[:2]
        return str(host), int(port)


class _LateSite(_Site):
    """The same, which begins to accept late, when its queue has been full."""

    request_queue_size = 1

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        time.sleep(0.1)
        super().serve_forever(poll_interval)


class _Answer(socketserver.BaseRequestHandler):
    server: _Site

    def handle(self) -> None:
        sock: socket.socket = self.request
        if sock.recv(4096).startswith(b"GET /plain "):
            while not self.server.may_answer():
                time.sleep(0.1)
            sock.sendall(self.server.plain)
            return
        self.server.count(1)
        self.server.clients.append(self.client_address[0])
        sock.sendall(RIGHT_HEAD)
        if sock.recv(4096) == MESSAGE:
            time.sleep(0.05)  # others may be begun meanwhile
            self.server.count(-1)
            sock.sendall(self.server.reply)
            with suppress(ConnectionResetError):  # a client of a storm ends by RST
                self.server.surplus += sock.recv(4096)


class TestStorm:
    def test_all_clients_are_served(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From all addresses, no more at a time than allowed, and plain requests meanwhile."""
        monkeypatch.setattr(storm, "IN_FLIGHT", 8)
        with _Site() as site, storm.Clients(site.address, "/echo", MESSAGE, REPLY) as clients:
            begin = time.perf_counter()
            assert clients.run(50) == 50
            seconds = time.perf_counter() - begin
        assert Counter(site.clients) == {"127.0.0.2": 13, "127.0.0.3": 13, "127.0.0.4": 12, "127.0.0.5": 12}
        assert 2 <= site.most_unserved <= 8
        assert site.surplus == b""
        assert 0 < clients.seconds <= seconds
        assert 1 <= len(clients.delays) <= seconds / storm.INTERVAL + 1

    def test_ports_are_free_after_it(self) -> None:
        """None is in TIME_WAIT: the next storms would spend their time searching for free ones."""
        with _Site() as site:
            with storm.Clients(site.address, "/echo", MESSAGE, REPLY) as clients:
                clients.run(20)
            port = f":{site.address[1]:04X}"
            found = [line.split()[3] for line in Path("/proc/net/tcp").read_text().splitlines() if port in line]
        assert "06" not in found

    def test_client_that_the_kernel_does_not_connect_at_once_is_served(self) -> None:
        """It sends its request when the kernel has connected, after another try of a second."""
        with _LateSite() as site, storm.Clients(site.address, "/echo", MESSAGE, REPLY) as clients:
            assert clients.run(6) == 6
        assert clients.seconds > 0.5

    def test_delay_of_a_plain_request_ends_with_its_response(self) -> None:
        """Also of one that ends after the last client."""
        ends: list[float] = []

        def all_are_served() -> bool:
            if clients.seconds and not ends:
                ends.append(time.perf_counter() - begin)
            return bool(clients.seconds)

        with _Site(may_answer=all_are_served) as site, storm.Clients(site.address, "/echo", MESSAGE, REPLY) as clients:
            begin = time.perf_counter()
            clients.run(2)
        assert 0 < clients.seconds <= ends[0]
        assert max(clients.delays) >= ends[0] - clients.seconds

    @pytest.mark.parametrize(
        ("error", "answers"),
        [
            ("wrong reply", {"reply": REPLY[:-1] + b"!"}),
            ("wrong reply", {"reply": REPLY + b"!"}),
            ("the plain request was answered", {"plain": b"HTTP/1.1 503 Busy\r\n\r\nok"}),
            ("the plain request was answered", {"plain": b"HTTP/1.1 200 OK\r\n\r\n"}),
            ("0 of 2 clients were served", {"reply": b""}),
        ],
    )
    def test_wrong_answers_are_refused(
        self, monkeypatch: pytest.MonkeyPatch, error: str, answers: dict[str, bytes]
    ) -> None:
        """To a client, to a plain request, or none at all."""
        monkeypatch.setattr(storm, "WITHIN", 0.3 if error.startswith("0 of 2") else 30)
        with (
            _Site(**answers) as site,  # type: ignore[arg-type]
            storm.Clients(site.address, "/echo", MESSAGE, REPLY) as clients,
            pytest.raises(frames.WrongReplyError, match=error),
        ):
            clients.run(2)

    def test_report_has_all_three_figures(self) -> None:
        """Seconds, CPU for a client, and the p99 of plain requests."""
        report = Report(1, 1, ["ours"], ["storm"], {}, True, {})
        delays = tuple(number / 100 for number in range(100))
        report.result("storm", "ours").samples.append(Sample(1000, 1000, 3, 0.25, 1, 0, 0, delays=delays))
        assert report.figure("storm", "ours") == 3
        assert re.search(r"\| 10,000 clients at once +\| +3 \(250 / 990\) \|", render(report))
        assert [chart.name for chart in page.CHARTS if "10,000 clients at once" in page.draw(report, chart)] == [
            "storm"
        ]


class TestPings:
    """A server may send them between any two frames, as the default of most of them is to do after 20 seconds."""

    @pytest.mark.parametrize(
        ("sent", "pongs"),
        [
            (PING + REPLY * 3, 1),
            (REPLY + PING + REPLY * 2, 1),
            (REPLY + PING + REPLY + PING * 2 + REPLY, 3),
            (REPLY * 3 + PING, 0),
        ],
    )
    def test_they_are_answered_within_a_burst(
        self, pair: tuple[socket.socket, socket.socket], sent: bytes, pongs: int
    ) -> None:
        """The replies are compared without them; one after the last reply is left for the next burst."""
        client, server = pair
        server.sendall(sent)
        assert load.saturate(lanes.echo_lanes([client], frames.TEXT_64, 3), 0) == 3
        assert server.recv(4096) == MESSAGE * 3 + PONG * pongs

    @pytest.mark.parametrize("reply", WRONG_REPLIES.values(), ids=WRONG_REPLIES)
    def test_wrong_replies_after_them_are_refused(
        self, pair: tuple[socket.socket, socket.socket], reply: bytes
    ) -> None:
        """A ping excuses nothing."""
        client, server = pair
        server.sendall(REPLY + PING + REPLY * 2 + reply)
        server.shutdown(socket.SHUT_WR)
        with pytest.raises(frames.WrongReplyError):
            load.saturate(lanes.echo_lanes([client], frames.TEXT_64, 4), 0)

    def test_they_are_answered_in_a_fan_out_and_at_a_steady_rate(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """Each lane compares by itself."""
        client, server = pair
        server.sendall((PING + REPLY) * 2)
        assert load.broadcast(lanes.echo_lanes([client], frames.TEXT_64), 0) == 1
        assert len(load.paced(lanes.echo_lanes([client], frames.TEXT_64), 0, 1)) == 1
        assert server.recv(4096) == (MESSAGE + PONG) * 2

    def test_they_are_answered_between_compressed_replies(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """Also alone, and after a reply."""
        client, server = pair
        lane = deflate.DeflateLane(client, 1024, deflate.Agreed(15, True))
        reply = compressed(DOCUMENTS[0])
        for sent, answered in {PING: False, PING + reply[:9]: False, reply[9:] + PING: True}.items():
            server.sendall(sent)
            assert lane.receive() is answered
        assert server.recv(4096) == PONG * 3

    def test_they_are_answered_in_cycles(self) -> None:
        """Before the echo and after it; where the client has closed, no answer is due."""
        server = _Corrupting(PING + REPLY + PING)
        with server as address:
            assert load.cycles(address, "/echo", MESSAGE, REPLY, 1, 0) == 1
        assert server.received == PONG * 2 + frames.client_close()
        frames.check_close(PING * 2 + CLOSE)

    def test_they_are_answered_in_a_storm(self) -> None:
        """A client is served when its echo has come."""
        with _Site(reply=PING + REPLY) as site, storm.Clients(site.address, "/echo", MESSAGE, REPLY) as clients:
            assert clients.run(1) == 1
            eventually(lambda: site.surplus == PONG, "the pong")

    @pytest.mark.parametrize("size", [0, 125, 126, 65536])
    def test_frames_of_each_length_are_kept(self, size: int) -> None:
        """And what is not whole yet, whatever it is."""
        frame = frames.server_frame(frames.TEXT, PING[:1] * size)
        for rest in (b"", PING[:1], PING[:-1], frame[:-1], frame[:1]):
            assert frames.take_pings(PING + frame + PING + rest) == (frame + rest, PONG * 2)

    def test_scenario_with_waiting_connections_is_measured(self) -> None:
        """Those are pinged while they are opened, while the others are measured, and before they are closed."""
        server = replace(SERVERS["ours"], env={"GWS_PING_INTERVAL": "0.2"})
        scenario = replace(SCENARIOS["beside-50000"], connections=10, idle=10)
        with Fleet(Cores()) as fleet:
            assert scenario.measure(fleet, server, Scale(1)).messages >= 10


class TestWaiting:
    def test_pings_are_answered(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """With their payload (RFC 6455 5.5.3), and masked."""
        client, server = pair
        with load.Waiting() as waiting:
            waiting.add([client])
            for payload in (b"", b"payload"):
                server.sendall(frames.server_frame(frames.PING, payload))
                assert waiting.receive() is False
                assert server.recv(100) == frames.client_frame(frames.PONG, payload)
            assert waiting.pings == 2

    @pytest.mark.parametrize("sent", [REPLY, CLOSE, b"", b"\x89\x01", b"\x89\x00\x89\x00"])
    def test_anything_else_is_refused(self, pair: tuple[socket.socket, socket.socket], sent: bytes) -> None:
        """A connection that waits is open, and is sent pings alone."""
        client, server = pair
        server.sendall(sent)
        server.shutdown(socket.SHUT_WR)
        with load.Waiting() as waiting:
            waiting.add([client])
            with pytest.raises(frames.WrongReplyError, match="a ping was expected"):
                waiting.wait(5)

    def test_they_are_answered_beside_messages_at_a_steady_rate(self) -> None:
        """While each message waits for its reply."""
        (client, server), (idle, other) = socket.socketpair(), socket.socketpair()
        with client, server, idle, other, load.Waiting() as waiting:
            waiting.add([idle])

            def answer() -> None:
                assert server.recv(4096) == MESSAGE
                other.sendall(b"\x89\x00")
                assert other.recv(100) == frames.client_frame(frames.PONG, b"")
                server.sendall(REPLY)

            thread = threading.Thread(target=answer)
            thread.start()
            delays = load.paced(lanes.echo_lanes([client], frames.TEXT_64), 0, 1, waiting)
            thread.join()
        assert (len(delays), waiting.pings) == (1, 1)

    @pytest.mark.parametrize(("interval", "failure"), [("0.2", None), ("20", "0 pings to 10 connections")])
    def test_scenario_needs_a_ping_to_each_connection(self, interval: str, failure: str | None) -> None:
        """Else it would measure connections without pings."""
        server = replace(SERVERS["ours"], env={"GWS_PING_INTERVAL": interval})
        scenario = replace(SCENARIOS["idle-detached-9000"], connections=10, interval=0.2)
        with Fleet(Cores()) as fleet:
            if failure is None:
                assert len(scenario.measure(fleet, server, Scale(1)).delays) == 0.25 * 50 // 1 + 1
            else:
                with pytest.raises(frames.WrongReplyError, match=failure):
                    scenario.measure(fleet, server, Scale(1))

    def test_report_has_all_three_figures(self) -> None:
        """Memory, CPU while idle, and the p99 of an echo; other idle connections have memory alone."""
        report = Report(1, 1, ["ours"], ["idle", "idle-detached-9000"], {}, True, {})
        report.result("idle", "ours").samples.append(Sample(10, 10, 1, 1, 1, 0, 0, resident=10240))
        sample = Sample(10, 10, 20, 0.3, 1, 0, 0, resident=20480, delays=(0.25,))
        report.result("idle-detached-9000", "ours").samples.append(sample)
        rows = re.findall(r"\| (idle connection|9,000 idle, detached, with pings) +\| +(.*?) \|", render(report))
        assert rows == [
            ("idle connection", "1"),
            ("9,000 idle, detached, with pings", "2"),
            ("9,000 idle, detached, with pings", "1.5 / 250"),
        ]


class TestFrames:
    @pytest.mark.parametrize("payload", [frames.TEXT_64, frames.TEXT_4K, frames.BINARY_16K, frames.BINARY_1M])
    def test_payload_has_the_size_in_its_name(self, payload: frames.Payload) -> None:
        """64 B, 4 KiB, 16 KiB and 1 MiB on the wire, whatever the number of characters."""
        number, unit = payload.name.split()[:2]
        assert len(payload.build()) == int(number) * {"B": 1, "KiB": 1024, "MiB": 1024**2}[unit]

    def test_text_of_4_kib_has_no_ascii(self) -> None:
        """Every character takes more than one byte."""
        assert min(frames.TEXT_4K.build().decode()) > "\x7f"

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
    def test_frames_of_both_sides_carry_the_same_payload(self, size: int) -> None:
        """RFC 6455 5.2, 5.3: a client's frame has four bytes of key more, and its payload unmasks to the server's."""
        payload = os.urandom(size)
        ours, theirs = frames.client_frame(2, payload, client=7), frames.server_frame(2, payload)
        head = len(theirs) - size
        key, masked = ours[head : head + 4], ours[head + 4 :]
        assert (ours[0], ours[1] & 0x7F, ours[2:head]) == (theirs[0], theirs[1], theirs[2:head])
        assert bytes(byte ^ key[index % 4] for index, byte in enumerate(masked)) == theirs[head:] == payload


class TestMeters:
    def test_cpu_clock_of_a_process_is_its_own(self) -> None:
        """The clock of a pid is what the process itself reads."""
        before = time.process_time()
        between = meters.cpu_seconds(os.getpid())
        assert before <= between <= time.process_time()

    def test_waits_are_those_of_every_thread(self) -> None:
        """A thread that ends meanwhile takes its count with it, and one that begins brings its own."""
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        before = meters.waits(os.getpid())
        done.set()
        thread.join()
        assert str(thread.native_id) in before
        assert 0 <= meters.waited_seconds(before, meters.waits(os.getpid())) < 60
        assert {str(os.getpid()), str(os.getppid())} <= meters.waits(os.getpid(), os.getppid()).keys()
        assert meters.waited_seconds({"1": 5, "2": 10**9}, {"1": 10**9 + 5, "3": 10**9}) == 2

    def test_scale_below_a_tenth_has_fewer_connections(self) -> None:
        """Figures are for full crowds, and a crowd never becomes a single connection."""
        smallest, tenth = Scale(0.01), Scale(0.1)
        assert [smallest.connections(count) for count in (1, 4, 100, 2000)] == [1, 2, 10, 200]
        assert [tenth.connections(count) for count in (1, 4, 100, 2000)] == [1, 4, 100, 2000]

    def test_median_and_ratio_come_from_the_samples(self) -> None:
        """Ours over the other's, each the median of its rounds; a failure has no figure at all."""
        report = Report(1, 3, list(MEASURED), ["100x64B"], {}, True, {})
        for server, costs in (("ours", (9, 1, 2)), ("gevent-websocket", (30, 8, 7))):
            for cost in costs:
                report.result("100x64B", server).samples.append(Sample(1_000_000, 100, 1, cost, 1, 0, 0))
        assert report.figure("100x64B", "ours") == 2
        assert report.ratio("100x64B", "gevent-websocket") == 0.25
        assert Target("100x64B", "gevent-websocket", 1 / 3).reached(report.figure) == 0.25
        assert Target("100x64B", "gevent-websocket", 1 / 3).reached(report.least) == 1 / 7
        report.result("100x64B", "ours").failure = "wrong reply"
        assert report.ratio("100x64B", "gevent-websocket") is None

    def test_p99_is_compared_where_delays_are_measured(self) -> None:
        """The one of 200 below which 198 lie, in milliseconds; and a scenario may be compared with another one."""
        report = Report(1, 1, ["ours-4"], ["groups-delay"], {}, True, {})
        for name, factor in (("groups-delay", 1), ("groups-delay-stuck", 2)):
            delays = tuple(factor * number / 1000 for number in range(200, 0, -1))
            report.result(name, "ours-4").samples.append(Sample(10, 10, 1, 1, 1, 0, 0, delays=delays))
        assert report.figure("groups-delay", "ours-4") == 199
        target = Target("groups-delay-stuck", "ours-4", 1.1, ours="ours-4", beside="groups-delay")
        assert (target.reached(report.figure), target.sentence) == (
            2,
            "groups-delay-stuck: at most 1.1 × ours-4 in groups-delay",
        )

    @pytest.mark.parametrize(
        ("limit", "words"),
        [(1 / 3, "1/3 of"), (0.5, "1/2 of"), (0.9, "0.9 ×"), (0.65, "0.65 ×"), (1, "1 ×"), (1.15, "1.15 ×")],
    )
    def test_limit_of_a_target_is_a_fraction_or_a_factor(self, limit: float, words: str) -> None:
        """Not a rounded one."""
        assert Target("cycle", "picows", limit).sentence == f"cycle: at most {words} picows"

    def test_targets_are_about_what_is_measured(self) -> None:
        """Each is stated once, and both servers take part in its scenario."""
        keys = [(target.scenario, target.ours, target.other, target.beside) for target in TARGETS]
        assert len(set(keys)) == len(keys)
        for target in TARGETS:
            assert SCENARIOS[target.scenario].takes(SERVERS[target.ours]), target
            if target.other is not None:
                assert SCENARIOS[target.beside or target.scenario].takes(SERVERS[target.other]), target

    def test_idle_scenarios_are_compared_in_memory(self) -> None:
        """KiB per connection, not CPU."""
        name = next(name for name, scenario in SCENARIOS.items() if isinstance(scenario, Idle))
        report = Report(1, 1, ["ours"], [name], {}, True, {})
        report.result(name, "ours").samples.append(Sample(10, 10, 1, 1, 1, 0, 0, resident=10 * 3 * 1024))
        assert report.figure(name, "ours") == 3


@pytest.fixture(scope="module")
def revision() -> Iterator[Path]:
    """The last commit, built."""
    with compare.built("HEAD") as root:
        yield root


def revisions(root: Path) -> dict[str, Server]:
    """This checkout and another directory."""
    before = replace(SERVERS["ours"], name="before", root=root, stands_for="ours")
    return {"before": before, "ours": SERVERS["ours"]}


@pytest.fixture(scope="module")
def large() -> Report:
    """What is large or grows."""
    names = [name for name, scenario in SCENARIOS.items() if scenario.long or scenario.grows]
    return echo.main(SMALLEST, ["ours"], names)


class TestLongScenarios:
    """They take part in ``make bench-all``."""

    def test_all_are_measured(self, large: Report) -> None:
        """With connections of several addresses of the client, and with messages of 16 MiB."""
        assert large.absent == {}
        assert [(result.scenario, result.failure) for result in large.failures] == []
        assert {len(result.samples) for result in large.results.values()} == {1}

    def test_growth_is_a_line_with_a_point_for_each_scenario(self, large: Report) -> None:
        """For the members of a group, and for connections that wait."""
        kinds = Counter(scenario.grows[0] for scenario in SCENARIOS.values() if scenario.grows is not None)
        assert set(kinds) == {"idle connections", "members"}
        for kind, points in kinds.items():
            svg = ElementTree.fromstring(page.draw_growth(large, kind))
            [line] = svg.findall(".//*[@id='line-ours']")
            assert len(list(line.iter("{http://www.w3.org/2000/svg}use"))) == points
            assert page.draw_growth(large, kind) in page.page(large)

    def test_without_two_points_there_is_no_line(self, report: Report) -> None:
        """One fan-out is among the usual scenarios."""
        assert page.draw_growth(report, "members") == ""

    def test_scenario_with_too_many_connections_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The others are measured: a limit of open files is no reason to lose them."""
        monkeypatch.setattr(echo, "too_many_files", lambda count: "too many" if count > 2000 else None)
        found = echo.main(SMALLEST, ["ours"], ["1x64B", "beside-50000"])
        assert found.absent == {"beside-50000": "too many"}
        assert found.scenarios == ["1x64B"]

    def test_more_connections_than_ports_of_one_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The client has one address more for each 20,000."""
        monkeypatch.setattr(lanes, "PORTS", 2)
        with Fleet(Cores()) as fleet, lanes.opened(fleet.shared(SERVERS["ours"]).address, "/echo", 5) as sockets:
            addresses = [sock.getsockname()[0] for sock in sockets]
        assert addresses == ["127.0.0.2"] * 2 + ["127.0.0.3"] * 2 + ["127.0.0.4"]


class TestServersThatBind:
    def test_one_that_binds_the_port_itself_is_measured(self) -> None:
        """It gets the port, and is asked until it answers."""

        def command(port: int, application: str) -> list[str]:
            return ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *OPTIONS, f"{application}:application"]

        server = replace(SERVERS["ours"], name="binds", command=command, binds=True)
        found = echo.main(SMALLEST, ["binds"], ["1x64B"], known={"binds": server})
        assert found.failures == []

    def test_program_that_is_not_installed_is_named(self) -> None:
        """With the command that installs it."""
        server = replace(SERVERS["bun"], program="no-such-program")
        command = "npm install --no-save --prefix benchmarks no-such-program"
        assert server.absence() == f"not installed: no-such-program ({command})"


class TestComparison:
    def test_both_revisions_are_measured(self, revision: Path) -> None:
        """In the scenarios of ours alone, too, and with modules in C, unless GWS_SPEEDUPS leaves them out."""
        servers, scenarios = revisions(revision), ["100x64B", "idle-django"]
        found = echo.main(SMALLEST, list(servers), scenarios, 1, servers)
        assert found.failures == []
        assert {key for key, result in found.results.items() if result.samples} == {
            (scenario, server) for scenario in scenarios for server in servers
        }
        text = render_comparison(found, "before", "v1")
        assert [text.count(f"| {SCENARIOS[name].title}") for name in scenarios] == [1, 1]
        sources = [] if os.environ.get("GWS_SPEEDUPS") == "0" else list((ROOT / "gws_middleware").rglob("*.c"))
        assert len(list((revision / "gws_middleware").rglob("*.so"))) == len(sources)

    def test_revision_is_the_one_that_runs(self, revision: Path) -> None:
        """A change of its files changes its server, and not ours."""
        path = revision / "gws_middleware" / "worker.py"
        text = path.read_text()
        path.write_text("raise RuntimeError('of the revision')\n")
        try:
            servers = revisions(revision)
            found = echo.main(SMALLEST, list(servers), ["1x64B"], 1, servers)
        finally:
            path.write_text(text)
        assert [(result.server, "of the revision" in str(result.failure)) for result in found.failures] == [
            ("before", True)
        ]

    def test_package_of_another_place_is_refused(self, tmp_path: Path) -> None:
        """Without a package in the directory Python finds the one that is installed."""
        (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
        servers = revisions(tmp_path)
        found = echo.main(SMALLEST, list(servers), ["1x64B"], 1, servers)
        assert [(result.server, f"is not in {tmp_path}" in str(result.failure)) for result in found.failures] == [
            ("before", True)
        ]

    def test_unknown_revision_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What git says, and no traceback."""
        assert compare.run(["no-such-revision"]) == 1
        assert "no-such-revision" in capsys.readouterr().err


@pytest.fixture
def tools() -> None:
    """Perf and strace are there; else the test is skipped, and notices.py names them."""
    if (reason := profile.absence()) is not None:
        pytest.skip(reason)


@pytest.mark.usefixtures("tools")
class TestProfile:
    @pytest.mark.database
    @pytest.mark.parametrize(("server", "name"), [("ours", "1x64B"), ("ours-redis", "groups-resume")])
    def test_it_says_where_the_time_goes(self, server: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Of all processes that work for the scenario, during its measured stretch."""
        assert profile.run(["--scale", "0.3", "--servers", server, "--scenarios", name]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"## {SCENARIOS[name].title}: {server}\n")
        objects = {row[0]: float(row[1].rstrip("% ")) for row in rows(text, "CPU time by object")}
        assert sum(objects.values()) == pytest.approx(100, abs=10)
        assert objects["[kernel.kallsyms]"] > 5
        assert any("valkey" in each for each in objects) is (server == "ours-redis")
        functions = rows(text, "CPU time by function")
        assert {row[1] for row in functions} <= set(objects)
        counters = dict(rows(text, "counters"))
        assert float(counters["context-switches"]) > 0.05  # a server that waits for each message has one for each
        calls = {call: float(count) for call, count, _ in rows(text, "system calls")}
        assert calls["sendto"] > 0.95

    def test_process_that_has_ended_is_an_error(self) -> None:
        """What the tool says, for each tool, and no traceback."""
        ended = subprocess.Popen(["true"])
        ended.wait()
        for tool in profile.TOOLS:
            watched = profile.Watched(1, tool=tool, path=os.devnull)
            with (
                pytest.raises(profile.ProfileError, match=f"{tool.program} cannot observe the server: ."),
                watched.watch([ended.pid]),
            ):
                pytest.fail("nothing is watched")

    @pytest.mark.real_server
    def test_file_without_samples_is_an_error(self, tmp_path: Path) -> None:
        """Its exit status is 0 for some, and tables without rows would be printed."""
        path = tmp_path / "found"
        with profile.TOOLS[0].watch(path=str(path), pids=[os.getpid()]):
            pass
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(profile.ProfileError, match=r"has found no samples: ."):
            profile.TOOLS[0].read(str(path), 1)

    def test_server_that_does_not_take_part_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing would be printed, and one would not know why."""
        assert profile.run(["--scale", "0.01", "--servers", "gevent-websocket", "--scenarios", "groups"]) == 1
        assert capsys.readouterr().err == "none of the servers takes part in one of the scenarios\n"


def rows(text: str, title: str) -> list[list[str]]:
    """Those of one table of a profile."""
    lines = text.partition(f"### {title}\n\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_tool_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that installs it, and no server is started."""
    monkeypatch.setenv("PATH", "")
    assert profile.run(["--scale", "0.01"]) == 1
    assert capsys.readouterr().err == "not installed: perf, strace (Debian: apt-get install linux-perf strace)\n"


@pytest.mark.database
def test_hop_measures_each_backend() -> None:
    """Each message has come back; nothing is under way at the end."""
    figures = hop.main(0.02)
    assert [each.backend for each in figures] == ["sqlite", "valkey"]
    assert all(each.cpu > 0 and each.rate > 0 for each in figures)
    assert hop.render(figures).count("\n| ") == 3


@pytest.mark.parametrize(
    ("cpu", "sentence"),
    [(15.0, "- holds   valkey: at most 15 µs (it is 15.0)"), (15.2, "- MISSED  valkey: at most 15 µs (it is 15.2)")],
)
def test_hop_states_whether_its_target_is_reached(cpu: float, sentence: str) -> None:
    """On the server: SQLite has no such target."""
    text = hop.render([hop.Figures("sqlite", 50.0, 1.0), hop.Figures("valkey", cpu, 1.0)])
    assert text.splitlines()[-1] == sentence and text.count("at most") == 1


@pytest.mark.database
def test_presence_measures_each_backend() -> None:
    """All members are written, read and removed; the table has a row for each."""
    figures = presence.main(50)
    assert [(one.backend, one.members) for one in figures] == [("sqlite", 50), ("valkey", 50)]
    assert all(min(one.join_all, one.join_one, one.read, one.count, one.leave_all) > 0 for one in figures)
    assert presence.render(figures).count("\n| ") == 3
