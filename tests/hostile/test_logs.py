"""Line breaks, escape sequences and the like in whatever a peer can name (row 17): in no line of the log as they are.

What is checked is all that the worker logs meanwhile, be it ours, gunicorn's or the traceback of a view.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from ..fixtureapps.common import UGLY
from ..support.rawclient import RawClient, close_frame, upgrade_request
from ..support.servers import Log, Server

IN_PATH = UGLY.encode().decode("latin-1")  # as WSGI has it
PATH = quote(UGLY)
BEGIN = re.compile(
    r"(DEBUG|INFO|WARNING|ERROR) [\w.]+: "
    r"|\[\d{4}-\d\d-\d\d [^]]*\] \[\d+\] \[\w+\] "
    r"|Traceback \(most recent call last\):$|  +|During handling |The above exception |\w+Error: |$"
)
"""How a line of the log begins; those in the second row belong to a traceback of gunicorn's."""


class Written:
    """What has come into a log since the beginning of a test."""

    def __init__(self, log: Log) -> None:
        self._path, self._start = log.path, log.path.stat().st_size

    def check(self) -> None:
        """Each line begins as a line of a log does, and has no character that a terminal obeys."""
        text = self._path.read_bytes()[self._start :].decode("ascii")
        assert not re.search(r"[^\x20-\x7e\n]", text), ascii(text)
        assert [line for line in text.split("\n") if not BEGIN.match(line)] == []
        assert r" \ forged" not in text  # a line break, as the formatter of the fixture shows it


@pytest.fixture
def written(worker: Server) -> Iterator[Written]:
    """What the test made the worker log; checked after it."""
    lines = Written(worker.log)
    yield lines
    lines.check()


def nothing(client: RawClient) -> None:
    """Waits for the server's close frame."""
    client.read_frames_until_eof()


def not_reading(client: RawClient) -> None:
    """Waits, and takes nothing, until it is cut."""
    client.sock.setblocking(False)


def asks_to_raise(client: RawClient) -> None:
    """Makes a callback fail."""
    client.text("raise")
    client.read_frame()


def leaving(client: RawClient) -> None:
    """Closes."""
    client.close_handshake()


def leaving_with_a_reason(client: RawClient) -> None:
    """Closes with a reason."""
    client.send(close_frame(4001, UGLY))
    client.read_frames_until_eof()


WAYS: dict[str, tuple[Callable[[RawClient], None], str]] = {  # the view: what its peer does, what the record says
    "/after/raise": (nothing, "the application raised; closed with 1011"),
    "/after/status": (nothing, "the application answered .*; closed with 1011"),
    "/obedient": (asks_to_raise, "raised; closed with 1011"),
    "/parting": (leaving, "raised; closed with 1011"),
    "/pushing": (leaving_with_a_reason, "the peer sent 4001 "),
    "/flooding": (not_reading, "the peer read nothing for 1.0 s: cut"),
}


@pytest.mark.parametrize("view", WAYS)
def test_path_and_reason_are_escaped(worker: Server, written: Written, view: str) -> None:
    """Each record of ours that names a peer's path, its reason or the view's status is one line of printable ASCII."""
    peer, sentence = WAYS[view]
    with worker.connect(receive_buffer=4096) as client:
        client.upgrade(f"{view}/{PATH}?id={PATH}")
        peer(client)
        [record] = worker.log.find(f"{re.escape(ascii(view + '/' + IN_PATH))}.*{sentence}")
    if record.problem:
        worker.log.expect(re.escape(ascii(view + "/" + IN_PATH)))
    assert record.text.startswith(f"{record.level} gws_middleware: WebSocket {view + '/' + IN_PATH!a}: ")


def test_reason_is_logged_escaped(worker: Server, written: Written, token: str) -> None:
    """It is not left out: it can be searched for."""
    with worker.connect() as client:
        client.upgrade(f"/pushing?id={token}")
        client.send(close_frame(4001, token + UGLY))
        client.read_frames_until_eof()
    [record] = worker.log.find(f"the peer sent 4001 '{token}")
    assert repr(token + UGLY) in record.text


def test_path_of_a_view_that_does_nothing_is_escaped(worker: Server, written: Written) -> None:
    """The record of an error before the 101."""
    with worker.connect() as client:
        client.send(upgrade_request(f"/answer/nothing/{PATH}"))
        response = client.read_response()
        client.read_until_eof()
    path = ascii(f"/answer/nothing/{IN_PATH}")
    [record] = worker.log.expect("the application neither accepted nor answered$")
    assert response.status == 500
    assert record.text == f"ERROR gws_middleware: WebSocket {path}: the application neither accepted nor answered"


@pytest.mark.parametrize("place", ["subprotocol", "name", "room"])
def test_value_that_accept_refuses_is_escaped(worker: Server, written: Written, place: str) -> None:
    """The sentence of the ValueError, where a view lets it come to gunicorn's log."""
    with worker.connect() as client:
        client.send(upgrade_request(f"/mirroring?{place}={PATH}"))
        response = client.read_response()
        client.read_until_eof()
    [record] = worker.log.expect("Error handling request .*ValueError: the ")
    assert response.status == 500
    assert repr(UGLY) in record.text


LET_THROUGH = "".join(map(chr, [*range(1, 9), 11, 12, *range(14, 32), 127, 0x85, 0x9B]))
"""Control bytes that a header may have for a lenient server: all but NUL, CR and LF."""
NAMES = ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Origin"]


@pytest.mark.parametrize("name", [*NAMES, "Upgrade", "Connection", "Host", "User-Agent", "Cookie"])
@pytest.mark.parametrize("path", ["/echo", "/after/raise"])
def test_header_with_control_bytes_is_in_no_line(worker: Server, written: Written, name: str, path: str) -> None:
    """Whether it is refused for them, by us or by gunicorn, or belongs to a handshake that passes."""
    for byte in LET_THROUGH:
        with worker.connect() as client:
            client.send(upgrade_request(path, (name, f"websocket{byte}forged")))
            status = client.read_response().status
            if status == 101:
                client.close_handshake()
            else:
                assert status in (400, 403)
        expect_all(worker.log)


def expect_all(log: Log) -> None:
    """What is logged is not the question here, but how."""
    for one in log.problems():
        log.expect(re.escape(one.text))
