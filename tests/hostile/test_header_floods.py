"""Sec-WebSocket-* headers as long and as intricate as gunicorn lets them through (row 4).

What they cost is compared with what gunicorn alone spends on as many bytes of a header that is never read: a parser
that went over them again and again would cost hundreds of times that, and no clock decides whether a test fails.
"""

from __future__ import annotations

import pytest

from ..support.rawclient import KEY, upgrade_request
from ..support.servers import Server
from .watch import Memory

MIB = 2**20
LINE = 8190
"""gunicorn's limit of a header line (``--limit-request-field_size``), name and all."""
LINES = 90
"""Of the 100 that gunicorn takes (``--limit-request-fields``); it joins those of one name with commas."""
TIMES = 10
TOLERATED = 10
"""Times as much as gunicorn's own share: to unquote a line of nothing but escapes costs five times that."""

EXTENSIONS, PROTOCOL = "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"
NAMES = [EXTENSIONS, PROTOCOL]
SHAPES = {  # what a line begins with, what is repeated, what it ends with
    "tokens": ("", "a,", "a"),
    "tokens that differ": ("", "".join(f"t{number}," for number in range(1000)), "t"),
    "tokens with blanks": ("", "a \t , ", "a"),
    "commas": ("", ",", ""),
    "blanks inside": ("a", " ", "b"),
    "quotes": ("", '"', ""),
    "open quote": ('x; a="', "b", ""),
    "quoted token": ('x; a="', "b", '" b'),
    "quoted blanks": ('x; a="', " ", '"'),
    "quoted commas and quotes": ("x", '; a=","', ""),
    "escapes": ('x; a="', "\\b", '" b'),
    "escapes without an end": ('x; a="', "\\\\", ""),
    "escaped quotes": ('x; a="', '\\"', ""),
    "parameters": ("x", ";a=1", ""),
    "parameters without values": ("x", ";a", ""),
    "parameters of a known extension": ("permessage-deflate", "; client_max_window_bits", ""),
    "semicolons": ("x", ";", ""),
    "equals signs": ("x;a", "=", ""),
    "offers": ("", "permessage-deflate; client_max_window_bits=15, ", "a b"),
    "bytes that are not ASCII": ("", "\xff", ""),
}


def values(name: str, shape: str, lines: int) -> list[str]:
    """A value of this shape that fills so many header lines."""
    head, body, tail = SHAPES[shape]
    room = LINE - len(f"{name}: \r\n")
    length = room * lines - len(head) - len(tail)
    value = head + (body * (length // len(body) + 1))[:length] + tail
    return [value[start : start + room] for start in range(0, len(value), room)]


def used(server: Server) -> float:
    """The seconds of a processor that the worker has used so far."""
    return float(server.get("/cpu").body)


def cost(server: Server, headers: list[tuple[str, str]]) -> tuple[float, set[int]]:
    """Seconds of the worker's processor for some handshakes with these headers, at best, and how they were answered."""
    best, answers = float("inf"), set()
    request = upgrade_request("/answer?status=403%20Forbidden", *headers)
    times = TIMES // len(headers) or 2
    for _ in range(3):
        before = used(server)
        for _ in range(times):
            with server.connect() as client:
                client.send(request)
                answers.add(client.read_response().status)
                assert client.read_until_eof() == b""
        best = min(best, used(server) - before)
    return best, answers


@pytest.mark.parametrize("lines", [1, LINES], ids=["one line", "as many lines as there may be"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_flood_in_a_header_costs_its_length(worker: Server, memory: Memory, name: str, shape: str, lines: int) -> None:
    """400, for a few times what gunicorn spends on the same bytes elsewhere, and for no memory that stays."""
    parts = values(name, shape, lines)
    plain, _ = cost(worker, [("X" * len(name), part) for part in parts])
    with memory.grows_by_less_than(16 * MIB):
        spent, answers = cost(worker, [(name, part) for part in parts])
    assert answers == {400}
    assert spent < TOLERATED * plain


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (PROTOCOL, "a" * 8000, 403),
        (EXTENSIONS, "a" * 8000, 403),
        (EXTENSIONS, 'x; a="' + "b" * 8000 + '"', 403),
        (EXTENSIONS, 'x; a="' + "\\b" * 4000 + '"', 403),
        (PROTOCOL, ", ".join(f"{number}" * 50 for number in range(10, 74)), 403),
        ("Sec-WebSocket-Key", KEY * 300, 400),
        ("Sec-WebSocket-Version", "13" * 4000, 426),
        ("Sec-WebSocket-Version", "13," * 2500, 400),
        ("Upgrade", "websocket," * 800, 400),
        ("Connection", "upgrade," * 1000, 403),
        ("Connection", "," * 8000, 400),
        ("Origin", "https://" + "a." * 4000, 403),
        ("Origin", "https://[" + ":" * 8000, 403),
    ],
)
def test_long_value_is_judged_in_its_length(worker: Server, name: str, value: str, status: int) -> None:
    """The same where it is fine, or another header is; the view's own answer is the 403."""
    plain, _ = cost(worker, [("X" * len(name), value)])
    spent, answers = cost(worker, [(name, value)])
    assert answers == {status}
    assert spent < TOLERATED * plain


@pytest.mark.parametrize("name", NAMES)
def test_line_beyond_the_limit_is_gunicorns(worker: Server, token: str, name: str) -> None:
    """Nothing longer than that reaches the parsers."""
    with worker.connect() as client:
        client.send(upgrade_request(f"/second?id={token}", (name, "a" * (LINE + 1))))
        response = client.read_response()
        client.read_until_eof()
    worker.log.expect("Invalid request from ip=127.0.0.1: .*(limit|size|large|long)")
    assert (response.status in (400, 431), worker.events(token)) == (True, [])
