"""The attacks of hostile and broken peers, and the answer that each must have: a function, or a row of ``BROKEN``.

Each gets a new connection. It returns if the answer is right, and raises AssertionError, EOFError or OSError if not.
Attached and detached views alternate.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.support.rawclient import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATE,
    PING,
    TEXT,
    Frame,
    close_frame,
    deflated,
    frame,
    request,
    upgrade_request,
)

from .gunicorn import has_setting
from .peer import Peer, can_close_silently

__all__ = ["EXPECTED_RECORDS", "SHUTDOWN", "Attack", "attacks", "resource_attacks", "settings"]

LIMIT = 2**18


def settings() -> dict[str, object]:
    """Limits that an attack can reach, and deadlines that it can wait for, for all attacks."""
    return {
        "max_message_size": LIMIT,
        "max_fragments": 2048,
        "close_timeout": 1.0,
        "send_timeout": 2.0,
        "compression": "shared",
        "client_address": "stress.app.client_address",
        "max_connections_per_address": 10_000,
        "max_connections": 10_000,
        **({"ping_interval": 2.0, "ping_timeout": 2.0} if has_setting("ping_interval") else {}),
    }


EXPECTED_RECORDS = [
    r"\[WARNING\] Invalid request from ip=",
    r"WebSocket '/raise': the application raised.*expected$",
    r"Error handling request.*UnicodeEncodeError",  # attack 29
]
"""Log records that the attacks cause, and that are right."""
SHUTDOWN = 1012
"""The close code of a worker that stops meanwhile."""
ECHOES = ("/echo", "/detached", "/db/echo", "/db/detached")

Attack = Callable[[Peer, random.Random], None]
ATTACKS: dict[str, Attack] = {}


def attack(name: str) -> Callable[[Attack], Attack]:
    """Decorator: one of ``ATTACKS``; the name begins with the number of its row in docs/security.md."""

    def add(one: Attack) -> Attack:
        assert name not in ATTACKS, name
        ATTACKS[name] = one
        return one

    return add


def expect_close(peer: Peer, *codes: int) -> None:
    """The next close frame has one of these codes, and the connection ends after it."""
    while (received := peer.read_frame()).opcode != CLOSE:
        pass
    assert received.code in (*codes, SHUTDOWN), f"closed with {received.code} {received.reason!r}, not {codes}"
    peer.write(close_frame(received.code))
    rest = peer.read_until_eof()
    assert rest == b"", f"after the close frame: {rest[:80]!r}"


def echo_once(peer: Peer, chance: random.Random) -> None:
    """Open, and have one message echoed, as an honest peer does."""
    peer.open(chance.choice(ECHOES))
    peer.text("honest so far")
    received = peer.read_frame()
    if received.opcode == CLOSE:
        raise EOFError(f"closed with {received.code} at once")
    assert received == Frame(TEXT, b"honest so far"), received


# --- broken frames (rows 5, 6, 9, 14) ------------------------------------------------------------------------------

BEGUN = frame(TEXT, b"begun", fin=False)
BROKEN: dict[str, tuple[int, list[bytes]]] = {
    "5 unmasked frame": (1002, [frame(TEXT, b"x", mask=None), frame(PING, mask=None), close_frame(mask=None)]),
    "6 length with the top bit": (1002, [frame(BINARY, length=2**63), frame(BINARY, length=2**64 - 1)]),
    "6 length that is not minimal": (1002, [frame(TEXT, b"x" * 5, length_bytes=8), frame(PING, length_bytes=2)]),
    "6 length of exabytes": (1009, [frame(BINARY, length=2**62), frame(BINARY, fin=False, length=2**62)]),
    "6 length over the limit": (1009, [frame(TEXT, length=LIMIT + 1), BEGUN + frame(CONTINUATION, length=LIMIT)]),
    "9 fragmented control frame": (1002, [frame(PING, fin=False), frame(CLOSE, b"\x03\xe8", fin=False)]),
    "9 control frame that is too long": (1002, [frame(PING, b"x" * 126), frame(CLOSE, b"\x03\xe8" + b"x" * 200)]),
    "14 reserved opcode": (1002, [frame(opcode, b"x") for opcode in (3, 7, 11, 15)]),
    "14 reserved bits": (1002, [frame(TEXT, b"x", rsv=rsv) for rsv in range(1, 8)]),
    "14 broken sequence": (1002, [frame(CONTINUATION, b"x"), BEGUN + frame(TEXT, b"x")]),
    "14 bad close code": (1002, [close_frame(code) for code in (0, 999, 1005, 1006, 1015, 2999, 5000)]),
    "14 close payload of one byte": (1002, [frame(CLOSE, b"\x03")]),
    "14 bad UTF-8": (1007, [frame(TEXT, b"\xff"), frame(TEXT, b"\xed\xa0\x80"), frame(TEXT, b"ok\xe2\x82")]),
    "14 bad UTF-8 in fragments": (1007, [frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"A", fin=False)]),
    "14 bad UTF-8 in a reason": (1007, [frame(CLOSE, b"\x03\xe8\xff"), frame(CLOSE, b"\x03\xe8\xe2\x82")]),
    "19 HTTP on an open WebSocket": (1002, [request("/held"), upgrade_request("/echo")]),
}


def broken(code: int, choices: list[bytes]) -> Attack:
    """A correct message, then one of these."""

    def run(peer: Peer, chance: random.Random) -> None:
        echo_once(peer, chance)
        peer.write(chance.choice(choices))
        expect_close(peer, code)

    return run


for _name, (_code, _choices) in BROKEN.items():
    attack(_name)(broken(_code, _choices))


# --- bombs and floods (rows 2, 7, 8, 10, 11) -----------------------------------------------------------------------


BOMB = deflated(bytes(16 * LIMIT))


@attack("2 zip bomb in one frame")
def bomb(peer: Peer, chance: random.Random) -> None:
    """Sixteen times the limit."""
    peer.open("/echo", DEFLATE)
    peer.write(frame(BINARY, BOMB, rsv=4))
    expect_close(peer, 1009)


@attack("2 zip bomb in fragments")
def bomb_in_fragments(peer: Peer, chance: random.Random) -> None:
    """The same, in small pieces."""
    peer.open("/detached", DEFLATE)
    parts = [BOMB[start : start + 100] for start in range(0, len(BOMB), 100)]
    peer.write(
        frame(BINARY, parts[0], fin=False, rsv=4)
        + b"".join(frame(CONTINUATION, part, fin=False) for part in parts[1:])
        + frame(CONTINUATION)
    )
    expect_close(peer, 1009)


@attack("7 big frame announced and dribbled")
def dribbled_message(peer: Peer, chance: random.Random) -> None:
    """A few bytes at a time, and the end in the middle."""
    echo_once(peer, chance)
    peer.write(frame(BINARY, b"x" * 100, length=LIMIT - 1))
    for _ in range(chance.randrange(20)):
        peer.write(b"x")
        time.sleep(0.1)
    chance.choice((peer.reset, peer.close))()


@attack("8 fragment flood")
def fragments(peer: Peer, chance: random.Random) -> None:
    """Of no byte or of one."""
    peer.open(chance.choice(ECHOES))
    payload = chance.choice((b"", b"x"))
    peer.write(frame(BINARY, payload, fin=False) + frame(CONTINUATION, payload, fin=False) * 4000)
    expect_close(peer, 1008)


@attack("10 ping flood, pongs unread")
def pings(peer: Peer, chance: random.Random) -> None:
    """Two megabytes of pings, and the end."""
    echo_once(peer, chance)
    for _ in range(20):
        peer.write(frame(PING, b"p" * 125) * 800)
    chance.choice((peer.reset, peer.close))()


@attack("10 ping flood, pongs read")
def pings_read(peer: Peer, chance: random.Random) -> None:
    """The last one is answered."""
    echo_once(peer, chance)
    peer.write(frame(PING, b"flood") * 2000 + frame(PING, b"last"))
    while (received := peer.read_frame()).payload != b"last":
        assert received.opcode != CLOSE, f"closed with {received.code}"
    peer.close_handshake()


@attack("11 stuck reader")
def stuck(peer: Peer, chance: random.Random) -> None:
    """A view sends without a pause, and the peer does not read, for some time or until the server aborts."""
    peer.open("/flood")
    time.sleep(chance.uniform(0, 4))
    chance.choice((peer.reset, peer.close))()


@attack("11 slow reader of a broadcast")
def slow_member(peer: Peer, chance: random.Random) -> None:
    """A member of the room that reads a few bytes at a time."""
    peer.open("/quiet-room")
    end = time.monotonic() + chance.uniform(1, 4)
    peer.sock.settimeout(0.2)
    while time.monotonic() < end:
        try:
            peer.sock.recv(100)
        except TimeoutError:
            pass  # no message was sent to the room
        time.sleep(0.1)
    chance.choice((peer.reset, peer.close))()


@attack("11 burst, answers unread")
def burst(peer: Peer, chance: random.Random) -> None:
    """Many messages at once, and the end."""
    peer.open(chance.choice(ECHOES))
    peer.write(frame(TEXT, b"x" * 500) * 60)
    peer.reset()


# --- much work at once (rows 26 to 29) -----------------------------------------------------------------------------


@attack("26 burst for a view that computes")
def burst_for_a_slow_view(peer: Peer, chance: random.Random) -> None:
    """Many small messages at once, each of which takes time; then the end, at once or later."""
    peer.open(chance.choice(("/compute", "/compute-detached")))
    peer.write(frame(TEXT, b"x") * 300)
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, 0.5))
    chance.choice((peer.reset, peer.close))()


@attack("26 ten thousand messages in one segment")
def burst_of_small_messages(peer: Peer, chance: random.Random) -> None:
    """All are echoed, in order."""
    peer.open("/echo")
    peer.write(b"".join(frame(TEXT, b"%d" % number) for number in range(2000)))
    for number in range(2000):
        received = peer.read_frame()
        if received.opcode == CLOSE and received.code == SHUTDOWN:
            raise EOFError(f"closed with {received.code}")
        assert received == Frame(TEXT, b"%d" % number), received
    peer.close()


@attack("27 burst above the rate")
def burst_above_the_rate(peer: Peer, chance: random.Random) -> None:
    """Ten are echoed, then 1008."""
    peer.open("/limited")
    peer.write(frame(TEXT, b"x") * 500)
    echoes = 0
    while (received := peer.read_frame()).opcode != CLOSE:
        echoes += 1
    assert received.code in (1008, SHUTDOWN), f"closed with {received.code}"
    assert echoes <= 12, f"{echoes} echoes"
    peer.write(close_frame(received.code))
    peer.read_until_eof()


@attack("28 large texts for a view that takes nothing")
def large_texts(peer: Peer, chance: random.Random) -> None:
    """With a character that makes four bytes of each in memory; complete, compressed or unfinished; then the end."""
    peer.open("/unread", DEFLATE)
    text = "😀".encode() + b"x" * (LIMIT - 4)
    whole = frame(TEXT, deflated(text), rsv=4)
    peer.write(chance.choice((whole * 20, frame(TEXT, text)[:-1], frame(TEXT, text) * 2)))
    time.sleep(chance.uniform(0, 1))
    chance.choice((peer.reset, peer.close))()


@attack("29 header on which client_address fails")
def bad_address(peer: Peer, chance: random.Random) -> None:
    """500, and all slots are released."""
    peer.write(upgrade_request("/echo", ("X-Address", "caf\xe9")))
    response = peer.read_response()
    assert response.status == 500, response
    peer.read_until_eof()


# --- handshakes (rows 1, 3, 4, 16, 18, 20) -------------------------------------------------------------------------


def refused(sent: Callable[[random.Random], bytes], *statuses: int) -> Attack:
    """One HTTP answer, and the end: a second request after the first is never served."""

    def run(peer: Peer, chance: random.Random) -> None:
        peer.write(sent(chance) + request("/held"))
        response = peer.read_response()
        assert response.status in statuses, response
        rest = peer.read_until_eof()
        assert rest == b"", f"after a refusal: {rest[:80]!r}"

    return run


def _foreign_origin(chance: random.Random) -> bytes:
    origin = chance.choice(("https://evil.example", "null", "http://test.evil.example", "file://", "\x7f"))
    return upgrade_request("/echo", ("Origin", origin))


def _bad_key(chance: random.Random) -> bytes:
    return upgrade_request("/echo", ("Sec-WebSocket-Key", chance.choice(("", "x", "=" * 24, "é" * 24, "A" * 1000))))


def _wrong_version(chance: random.Random) -> bytes:
    return upgrade_request("/echo", ("Sec-WebSocket-Version", chance.choice(("8", "0", "12", "nonsense"))))


def _long_header(chance: random.Random) -> bytes:
    value = chance.choice(("a," * 2000 + "\x01", 'x; y="' + "\\" * 3000, "a;b" * 1500 + "=", "," * 4000))
    return upgrade_request("/echo", (chance.choice(("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")), value))


def _not_get(chance: random.Random) -> bytes:
    return upgrade_request("/echo", method=chance.choice(("POST", "PUT", "HEAD", "OPTIONS", "DELETE")))


ATTACKS["1 foreign origin"] = refused(_foreign_origin, 400, 403)
ATTACKS["4 long header"] = refused(_long_header, 400)
ATTACKS["16 bad key"] = refused(_bad_key, 400)
ATTACKS["18 refused, a request after it"] = refused(lambda chance: upgrade_request("/nowhere"), 404)
ATTACKS["20 wrong version"] = refused(_wrong_version, 400, 426)
ATTACKS["20 other protocol"] = refused(lambda chance: upgrade_request("/echo", ("Upgrade", "websocket, h2c")), 400, 426)


@attack("20 not GET")
def not_get(peer: Peer, chance: random.Random) -> None:
    """Refused, and the end. (No second request: the end of the answer to a HEAD is not known.)"""
    peer.write(_not_get(chance))
    head = peer.read_until(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 ")), head
    peer.read_until_eof()


@attack("20 body in a handshake")
def with_body(peer: Peer, chance: random.Random) -> None:
    """Refused; what is in the body is never served."""
    hidden = request("/held")
    peer.write(upgrade_request("/echo", ("Content-Length", str(len(hidden)))) + hidden)
    response = peer.read_response()
    assert response.status in (400, 413), response
    rest = peer.read_until_eof()
    assert rest == b"", rest


@attack("3 handshake dribbled")
def dribbled_handshake(peer: Peer, chance: random.Random) -> None:
    """One byte at a time, until the server closes (its --keep-alive is two seconds)."""
    began = time.monotonic()
    for byte in upgrade_request("/echo", ("X-Padding", "x" * 500)):
        try:
            peer.sock.sendall(bytes([byte]))
        except ConnectionError:
            break
        time.sleep(0.05)
        if time.monotonic() - began > 20:
            raise AssertionError("a handshake byte by byte may take 20 seconds")
    peer.read_until_eof()


@attack("3 half a handshake")
def half_handshake(peer: Peer, chance: random.Random) -> None:
    """And the end."""
    sent = upgrade_request("/echo")
    peer.write(sent[: chance.randrange(1, len(sent))])
    time.sleep(chance.uniform(0, 0.5))
    chance.choice((peer.reset, peer.close))()


@attack("16 bytes that are not HTTP")
def random_bytes(peer: Peer, chance: random.Random) -> None:
    """Random bytes: answered with 400 or not at all."""
    peer.write(chance.randbytes(chance.randrange(1, 3000)) + b"\r\n\r\n")
    answer = peer.read_until_eof()
    assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 414", b"HTTP/1.1 431", b"HTTP/1.1 505"), answer[:80]


# --- ends (rows 13, 17, 19, 23, 24) --------------------------------------------------------------------------------


@attack("13 our close is not answered")
def unanswered(peer: Peer, chance: random.Random) -> None:
    """The server aborts after ``close_timeout``, also when data keeps coming."""
    echo_once(peer, chance)
    peer.write(frame(TEXT, b"\xff"))
    while peer.read_frame().opcode != CLOSE:
        pass
    if chance.random() < 0.5:
        peer.write(frame(TEXT, b"data after the end") * 50)
    began = time.monotonic()
    peer.read_until_eof()
    assert time.monotonic() - began < 15, "a peer that does not answer a close frame is kept for 15 seconds"


@attack("17 control characters for the log")
def control_characters(peer: Peer, chance: random.Random) -> None:
    """In the path, and in the reason of a close."""
    peer.write(upgrade_request("/no%0d%0a[2000-01-01%0900:00:00]%1b[31m"))
    response = peer.read_response()
    assert response.status == 404, response
    with Peer(peer.sock.getpeername()) as other:
        other.open("/echo?%0d%0aERROR%1b[31m")
        other.close_handshake(4000, "\r\nERROR forged: \x1b[31m")


@attack("19 frames after the handshake")
def pipelined(peer: Peer, chance: random.Random) -> None:
    """They are processed as frames."""
    count = chance.randrange(1, 15)
    path = chance.choice(ECHOES)
    peer.write(upgrade_request(path) + b"".join(frame(TEXT, b"%d" % number) for number in range(count)))
    response = peer.read_response()
    assert response.status == 101, response
    peer.note_worker(response)
    for number in range(count):
        received = peer.read_frame()
        if received.opcode == CLOSE:
            raise EOFError(f"closed with {received.code}")
        assert received == Frame(TEXT, b"%d" % number), received
    peer.close_handshake()


@attack("23 the application raises")
def application_raises(peer: Peer, chance: random.Random) -> None:
    """1011, and one record in the log."""
    peer.open("/raise")
    peer.text("raise")
    expect_close(peer, 1011)


@attack("24 RST before the 101 is read")
def reset_at_once(peer: Peer, chance: random.Random) -> None:
    """The handshake may have been read before, or not."""
    peer.write(upgrade_request(chance.choice(ECHOES)) + frame(TEXT, b"x" * 500))
    time.sleep(chance.choice((0, 0.001, 0.01)))
    peer.reset()


@attack("24 disconnected before the view accepts")
def left_early(peer: Peer, chance: random.Random) -> None:
    """The view waits for something else meanwhile, or has just accepted."""
    peer.write(upgrade_request("/late"))
    time.sleep(chance.uniform(0, 0.4))
    chance.choice((peer.reset, peer.close))()


@attack("30 page and handshake, both unread")
def unread_page(peer: Peer, chance: random.Random) -> None:
    """The 101, or the answer that refuses, waits after a page that the peer does not read."""
    peer.write(
        request("/page") * chance.randrange(1, 4) + upgrade_request(chance.choice(("/echo", "/late", "/nowhere")))
    )
    time.sleep(chance.uniform(0, 4))
    chance.choice((peer.reset, peer.close))()


@attack("24 RST while the view sends")
def reset_of_a_flood(peer: Peer, chance: random.Random) -> None:
    """In the middle of a frame."""
    peer.open("/flood")
    peer.read_exactly(chance.randrange(1, 200_000))
    peer.reset()


@attack("24 RST inside a message")
def reset_inside(peer: Peer, chance: random.Random) -> None:
    """Half a frame, or two of three fragments."""
    echo_once(peer, chance)
    half = frame(BINARY, b"x" * 100, length=10_000)
    peer.write(chance.choice((half, BEGUN + frame(CONTINUATION, b"x" * 5000, fin=False))))
    chance.choice((peer.reset, peer.close))()


@attack("24 RST of a member of the room")
def reset_of_a_member(peer: Peer, chance: random.Random) -> None:
    """While other members send."""
    peer.open(chance.choice(("/room", "/quiet-room")))
    peer.write(frame(TEXT, b"a message") * chance.randrange(4))
    time.sleep(chance.uniform(0, 2))
    peer.reset()


@attack("24 RST after a violation")
def reset_of_a_violator(peer: Peer, chance: random.Random) -> None:
    """The answer cannot be delivered."""
    echo_once(peer, chance)
    peer.write(frame(TEXT, b"\xff"))
    peer.reset()


@attack("12 inactive, then closed")
def silence(peer: Peer, chance: random.Random) -> None:
    """A peer that sends nothing, and then closes its socket."""
    peer.open(chance.choice((*ECHOES, "/quiet-room")))
    time.sleep(chance.uniform(0, 5))
    peer.close()


def lost(peer: Peer, chance: random.Random) -> None:
    """The same without a FIN: only the server's pings can detect it."""
    peer.open(chance.choice((*ECHOES, "/quiet-room")))
    time.sleep(chance.uniform(0, 2))
    peer.close_silently()


def resource_attacks() -> list[Attack]:
    """Those that use memory, a slot or a write of the server, and disconnect: what they have used is released."""
    return [large_texts, unread_page, bad_address]


def attacks() -> dict[str, Attack]:
    """Those that can be made here, against this version of the package."""
    if has_setting("ping_interval") and can_close_silently():
        return {**ATTACKS, "12 lost without FIN or RST": lost}
    return dict(ATTACKS)
