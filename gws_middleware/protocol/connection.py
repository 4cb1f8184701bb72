"""The engine: one end of a WebSocket connection after the handshake (RFC 6455 5 to 8, RFC 7692).

Rule 1: nothing here waits or does I/O; there is no socket, clock, greenlet or environ.
Rule 2: what the RFCs make mandatory (pong, close echo, the close frame of a failure) is answered here; the caller sends
what ``take_replies()`` gives it.
Rule 3: bytes in, whole messages out. What the peer does wrong never raises an exception: it ends the connection
(``state``). What the caller does wrong raises at the call and changes nothing.

==========  ==========================  =======================================
state       next on our close()         next on what the peer sends
==========  ==========================  =======================================
OPEN        CLOSING                     close frame: CLOSED; violation: FAILED
CLOSING     CLOSING (nothing is sent)   close frame: CLOSED; violation: FAILED
CLOSED      CLOSED                      CLOSED (ignored)
FAILED      FAILED                      FAILED (ignored)
==========  ==========================  =======================================
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from sys import getsizeof
from typing import Any

from ..codes import CloseCode, Opcode, may_travel
from .deflate import Deflate, InflateError
from .frames import (
    AT_ONCE,
    FIN,
    LENGTH,
    LENGTH_16,
    MASKED,
    OPCODE,
    RSV1,
    RSV2,
    RSV3,
    SPLIT_FROM,
    WHOLE_BINARY,
    WHOLE_TEXT,
    FastEngine,
    encode_frame,
    encode_header,
    parse_messages,
)
from .masking import mask
from .payload import Payload
from .utf8 import STEP, Checker, decode, encode

__all__ = ["Connection", "PreparedMessage", "State", "prepare"]

_CONTINUATION, _TEXT, _BINARY = int(Opcode.CONTINUATION), int(Opcode.TEXT), int(Opcode.BINARY)
_CLOSE, _PING, _PONG = int(Opcode.CLOSE), int(Opcode.PING), int(Opcode.PONG)
_DATA = (_TEXT, _BINARY)

MAX_CONTROL = 125
"""Bytes of a control frame's payload (RFC 6455 5.5)."""
MAX_PONGS = 16
"""Pongs that wait to be sent. Of more pings the latest are answered, which 5.5.3 allows."""
CHECKED_AT_ONCE = 65536
"""Bytes of a frame of text up to which each piece of it is checked as soon as it has come."""
FRAMES_AT_ONCE = 16
"""Frames other than whole messages that one ``feed()`` takes. Each costs some microseconds, one read can hold ten
thousand, and the event loop has other connections to serve.
"""


class State(Enum):
    """Where the connection stands; the table is at the top of this module."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


class _Violation(Exception):  # noqa: N818
    """The peer broke a rule. It never leaves this module: the connection fails with this code and reason."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


def _protocol_error(reason: str) -> _Violation:
    return _Violation(CloseCode.PROTOCOL_ERROR, reason)


def _not_utf8() -> _Violation:
    return _Violation(CloseCode.INVALID_DATA, "a text message is not UTF-8")  # 8.1


class Connection(FastEngine):
    """One end of a connection.

    Args:
        client: Whether this is the client's end, which masks what it sends (RFC 6455 5.1).
        max_message_size: Bytes of one message after inflation; the peer's larger one fails the connection with 1009.
        max_fragments: Frames of one message; more fail the connection with 1008.
        deflate: The codec that was negotiated (RFC 7692); None without compression.

    """

    __slots__ = (
        "_client",
        "_close_due",
        "_deflate",
        "_frame",
        "_max_fragments",
        "_message",
        "_pongs_due",
        "_rest",
        "closed_by_peer",
        "pings_dropped",
        "pongs",
        "received_close",
        "sent_close",
        "stalled",
        "state",
    )

    def __init__(
        self,
        *,
        client: bool = False,
        max_message_size: int = 2**20,
        max_fragments: int = 2**17,
        deflate: Deflate | None = None,
    ) -> None:
        self.state = State.OPEN
        self.received_close: tuple[int, str] | None = None
        """Code and reason of the peer's close frame; 1005 stands for one without a code (RFC 6455 7.1.5)."""
        self.sent_close: tuple[int, str] | None = None
        """Code and reason of our close frame, in the same way."""
        self.closed_by_peer = False
        """Whether the peer's close frame was the first, and ours the answer."""
        self.pongs: list[bytes] = []
        """Payloads of the pongs received; the caller removes them."""
        self.pings_dropped = 0
        """Pings that were not answered because too many came at once."""
        self.eventful = False
        """Something other than whole messages has come since the caller last set this to False."""
        self.stalled = False
        """Frames may wait inside, because one call has done enough; ``feed(b"")`` goes on."""
        self._client = client
        self._masked = not client  # 5.1
        self._between = True
        self._max_message_size = min(max_message_size, sys.maxsize)  # in C it is a Py_ssize_t
        self._max_fragments = max_fragments
        self._deflate = deflate
        self.plain = deflate is None and not client
        """Messages are sent as they are: neither compressed nor masked."""
        self._rest: bytearray | None = None
        self._frame: _Frame | None = None
        self._message: _Partial | None = None
        self._pongs_due: list[bytes] = []
        self._close_due: bytes | None = None

    # --- receiving -------------------------------------------------------------------------------------------------

    def _feed_rest(self, data: bytes | bytearray, start: int, end: int, messages: list[str | bytes]) -> None:
        """The slow path: read one frame at a time, whatever it is."""
        rest = self._rest
        if rest is not None:
            with memoryview(data) as view:
                rest += view[start:end]
            data, start, end = rest, 0, len(rest)
        self.stalled = False
        self.eventful = True
        try:
            with memoryview(data) as view:
                start = self._read_frames(data, view, start, end, messages)
                if rest is None:
                    rest, start = bytearray(view[start:end]), 0
            del rest[:start]  # no copy: a bytearray only moves its beginning
        except _Violation as violation:
            self._fail(violation)
        self._rest = rest if rest and self.state in (State.OPEN, State.CLOSING) else None
        self._between = (
            self._rest is None and self._frame is None and self._message is None and self.state is State.OPEN
        )

    def _read_frames(
        self, data: bytes | bytearray, view: memoryview, start: int, end: int, messages: list[str | bytes]
    ) -> int:
        """Read frames from ``data[start:end]`` until they end or one call has done enough.

        Returns:
            The offset of the first byte that was not consumed.

        """
        held = frames = 0
        # 1.4, 5.5.1: after the peer's close frame nothing is read. After ours the peer's close frame is awaited.
        while self.state is State.OPEN or self.state is State.CLOSING:
            if frames == FRAMES_AT_ONCE or held >= self._max_message_size or len(messages) >= AT_ONCE:
                # Each small compressed frame may inflate to a large message: the next ones wait compressed.
                self.stalled = start < end
                break
            frames += 1
            frame = self._frame
            if frame is None:
                if self._message is None and self.state is State.OPEN:
                    start = parse_messages(data, start, end, self._max_message_size, self._masked, messages)
                    if len(messages) >= AT_ONCE:
                        continue
                after = self._read_header(data, start, end)
                if after is None:
                    break
                start, frame = after, self._frame
                assert frame is not None
            if frame.opcode >= _CLOSE:
                if end - start < frame.left:
                    # Its payload is taken in one piece, so a header without all of it is read again later.
                    self._frame = None
                    return start - frame.header_size
                self._control(frame.opcode, self._payload(frame, view, start))
                start += frame.size
                self._frame = None
                continue
            count = len(messages)
            start = self._data(frame, view, start, end, messages)
            if self._frame is not None:
                break
            if len(messages) > count:
                held += getsizeof(messages[-1])  # CPython needs up to four bytes for each character of a text
        return start

    def _read_header(self, data: bytes | bytearray, start: int, end: int) -> int | None:
        """Read and check a frame's header, before any of its payload is stored (RFC 6455 5.2).

        Returns:
            The offset of the payload; None while the header is incomplete.

        """
        if end - start < 2:
            return None
        first, second = data[start], data[start + 1]
        opcode, length = first & OPCODE, second & LENGTH
        # Before the rest of the header has come: a violation is answered as soon as it is certain.
        self._check_first_bytes(first, opcode, length, bool(second & MASKED))
        after = start + 2
        if length >= LENGTH_16:
            width, least = (2, LENGTH_16) if length == LENGTH_16 else (8, 65536)
            if end - after < width:
                return None
            length = int.from_bytes(data[after : after + width], "big")
            if length < least:
                raise _protocol_error("a frame's length is not encoded in the fewest bytes")  # 5.2: MUST be minimal
            if length >> 63:
                raise _protocol_error("the top bit of a frame's length is set")  # 5.2: MUST be 0
            after += width
        if second & MASKED:
            if end - after < 4:
                return None
            after += 4
        key = bytes(data[after - 4 : after]) if second & MASKED else None
        self._frame = _Frame(first, length, key, after - start)
        if opcode < _CLOSE:
            self._begin_data(first, opcode, length)
        return after

    def _check_first_bytes(self, first: int, opcode: int, length: int, masked: bool) -> None:
        """Check what the first two bytes of a frame say; ``length`` is the one of seven bits."""
        # 5.1: a client MUST mask all frames, a server MUST NOT mask any; the other end MUST close, with 1002.
        if masked is self._client:
            raise _protocol_error("a client's frame is not masked" if not masked else "a server's frame is masked")
        # 5.2: a reserved bit that no negotiated extension defines MUST fail the connection. RFC 7692 6: RSV1 is set on
        # the first frame of a compressed message alone.
        if first & (RSV2 | RSV3) or (first & RSV1 and (self._deflate is None or opcode not in _DATA)):
            raise _protocol_error("a reserved bit is set")
        if opcode >= _CLOSE:
            if opcode > _PONG:
                raise _protocol_error(f"opcode {opcode:#x} is reserved")  # 5.2: unknown ones MUST fail the connection
            if not first & FIN:
                raise _protocol_error("a control frame is fragmented")  # 5.5: MUST NOT be fragmented
            if length > MAX_CONTROL:
                raise _protocol_error(f"a control frame has more than {MAX_CONTROL} bytes")  # 5.5: MUST be 125 or less
        elif opcode == _CONTINUATION:
            if self._message is None:
                raise _protocol_error("a continuation frame continues nothing")  # 5.4
        elif opcode not in _DATA:
            raise _protocol_error(f"opcode {opcode:#x} is reserved")  # 5.2
        elif self._message is not None:
            # 5.4: fragments of one message MUST NOT be interleaved with those of another.
            raise _protocol_error("a new message begins inside a fragmented one")

    def _begin_data(self, first: int, opcode: int, length: int) -> None:
        """Check a data frame against the limits as soon as its header is complete, so that nothing of it is stored."""
        message = self._message
        if message is None:
            message = self._message = _Partial(opcode == _TEXT, bool(first & RSV1))
        message.fragments += 1
        if message.fragments > self._max_fragments:
            raise _Violation(CloseCode.POLICY_VIOLATION, f"more than {self._max_fragments} fragments in a message")
        room = self._max_message_size - message.size
        # Deflate lengthens data that it cannot shrink, by less than an eighth. After inflation the limit is exact.
        if length > (room + (room >> 3) + 64 if message.compressed else room):
            raise self._too_big()

    def _too_big(self) -> _Violation:
        return _Violation(CloseCode.MESSAGE_TOO_BIG, f"a message has more than {self._max_message_size} bytes")

    def _payload(self, frame: _Frame, view: memoryview, start: int) -> bytes:
        """The bytes of the frame's payload from ``start`` on, unmasked, as many as it still lacks."""
        piece = view[start : start + frame.left]
        if frame.key is None:
            return bytes(piece)
        return mask(piece, frame.key)

    def _data(self, frame: _Frame, view: memoryview, start: int, end: int, messages: list[str | bytes]) -> int:
        """Take the bytes of a data frame's payload that have come. The last byte of the last frame completes a message.

        Returns:
            The offset of the first byte that was not consumed.

        """
        message = self._message
        assert message is not None
        taken = min(frame.left, end - start)
        last = taken == frame.left and bool(frame.first & FIN)
        if self.state is State.OPEN:
            self._store(message, frame, view[start : start + taken], last)
        # Data that comes after our close frame is discarded (1.4).
        frame.advance(taken)
        if not frame.left:
            self._frame = None
        if last:
            self._message = None
            if self.state is State.OPEN:
                messages.append(_whole(message))
        return start + taken

    def _store(self, message: _Partial, frame: _Frame, piece: memoryview, last: bool) -> None:
        to_come = frame.left - len(piece)
        if message.compressed:
            message.add(self._inflate(self._payload(frame, piece, 0), message, last), None, 0)
        else:
            message.add(piece, frame.key, to_come)
        # The last piece is checked with the whole message, and those of a large frame at its end: that would be twice.
        if message.text and not last and (not to_come or frame.size <= CHECKED_AT_ONCE):
            try:
                message.check()
            except UnicodeDecodeError:
                raise _not_utf8() from None

    def _inflate(self, piece: bytes, message: _Partial, last: bool) -> bytes:
        assert self._deflate is not None
        try:
            return self._deflate.inflate(piece, self._max_message_size - message.size, last)
        except InflateError as error:
            if error.too_big:
                raise self._too_big() from None
            raise _Violation(CloseCode.INVALID_DATA, "a compressed message is broken") from None

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            # 5.5.2: a ping MUST be answered, unless a close frame was received. 5.5.3: of several pings the latest
            # alone may be answered. 5.5.1: after our close frame we MUST NOT send data frames; we send no frame at all.
            if self.state is State.OPEN:
                self._pongs_due.append(payload)
                if len(self._pongs_due) > MAX_PONGS:
                    del self._pongs_due[0]
                    self.pings_dropped += 1
        elif opcode == _PONG:
            self.pongs.append(payload)
        else:
            self._close_received(payload)

    def _close_received(self, payload: bytes) -> None:
        code, reason = _read_close(payload)
        self.received_close = (code, reason)
        self._pongs_due.clear()
        self._message = None
        if self.state is State.OPEN:
            # 5.5.1: MUST be answered with a close frame, typically with the code received.
            self._queue_close(payload[:2])
            self.sent_close = (code, "")
            self.closed_by_peer = True
        self.state = State.CLOSED

    def fail(self, code: CloseCode, reason: str) -> None:
        """Fail the connection because the peer has exceeded a limit that the caller keeps.

        Args:
            code: The code of our close frame.
            reason: Its reason: at most 123 bytes of UTF-8.

        """
        self._fail(_Violation(code, reason))
        self._rest, self._between, self.stalled = None, False, False

    def _fail(self, violation: _Violation) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455 7.1.7): queue a close frame that says why, unless one was sent."""
        if self.state is State.OPEN:
            self._queue_close(int(violation.code).to_bytes(2, "big") + violation.reason.encode())
            self.sent_close = (int(violation.code), violation.reason)
        self.state = State.FAILED
        self._pongs_due.clear()
        self._frame = self._message = None

    # --- sending ---------------------------------------------------------------------------------------------------

    def _encode(self, message: Any, binary: bool | None) -> bytes | tuple[bytes, bytes]:
        if type(message) is PreparedMessage and not self._client:
            return message.frame_for(self._deflate)
        first, payload = _whole_frame(message, binary)
        if self._deflate is not None and len(payload) >= self._deflate.threshold:
            payload = self._deflate.compress(payload)
            first |= RSV1
        if self._client:
            return encode_frame(first, payload, os.urandom(4))  # 5.3: each key MUST be fresh and unpredictable
        if len(payload) < SPLIT_FROM:
            return encode_frame(first, payload)
        return encode_header(first, len(payload)), payload

    def ping(self, payload: bytes) -> bytes:
        """Build a ping frame (RFC 6455 5.5.2).

        Args:
            payload: At most 125 bytes, which the pong returns.

        Raises:
            ValueError: The payload is longer.
            TypeError: The payload is no buffer.

        """
        payload = bytes(memoryview(payload))
        if len(payload) > MAX_CONTROL:
            raise ValueError(f"a ping carries {MAX_CONTROL} bytes at the most, not {len(payload)}")
        return self._control_frame(_PING, payload)

    def close(self, code: int | None = CloseCode.NORMAL, reason: str = "") -> None:
        """Queue our close frame as a reply, once; later calls do nothing (RFC 6455 5.5.1).

        Args:
            code: The close code; None sends none.
            reason: A text of at most 123 bytes of UTF-8.

        Raises:
            ValueError: The code may not be sent (7.4), or the reason is too long.

        """
        payload = close_payload(code, reason)
        if self.state is State.OPEN:
            self._pongs_due.clear()
            self._queue_close(payload)
            self.sent_close = (int(CloseCode.NO_STATUS if code is None else code), reason)
            self.state = State.CLOSING
            self._between = False

    def _queue_close(self, payload: bytes) -> None:
        self._close_due = self._control_frame(_CLOSE, payload)

    def _control_frame(self, opcode: int, payload: bytes) -> bytes:
        return encode_frame(FIN | opcode, payload, os.urandom(4) if self._client else None)

    @property
    def frame_left(self) -> int:
        """Bytes of payload that the current frame still lacks."""
        return 0 if self._frame is None else self._frame.left

    @property
    def in_a_message(self) -> bool:
        """Whether a part of a message or frame has come."""
        return not self._between

    @property
    def pongs_due(self) -> bool:
        """Whether ``take_pongs()`` has something to send."""
        return bool(self._pongs_due)

    @property
    def over(self) -> bool:
        """Whether the peer has sent its close frame or broken a rule: ``feed()`` returns nothing any more."""
        return self.state is State.CLOSED or self.state is State.FAILED

    @property
    def has_replies(self) -> bool:
        """Whether ``take_replies()`` has something to send."""
        return bool(self._pongs_due) or self._close_due is not None

    def take_replies(self) -> bytes:
        """Take the frames that are due: pongs, or our close frame, which is the last frame that we send.

        A caller that cannot send at the moment may call it later.
        """
        close, self._close_due = self._close_due, None
        return self.take_pongs() if close is None else close

    def take_pongs(self) -> bytes:
        """Take the pongs that are due."""
        pongs = b"".join([self._control_frame(_PONG, payload) for payload in self._pongs_due])
        self._pongs_due.clear()
        return pongs


class _Frame:
    """A frame of which the header has been read."""

    __slots__ = ("first", "header_size", "key", "left", "opcode", "size")

    def __init__(self, first: int, length: int, key: bytes | None, header_size: int) -> None:
        self.first, self.opcode = first, first & OPCODE
        self.size = self.left = length
        self.key = key
        self.header_size = header_size

    def advance(self, taken: int) -> None:
        """Count ``taken`` bytes of payload as read. The next piece is unmasked from that place of the key on (5.3)."""
        self.left -= taken
        turn = taken & 3
        if turn and self.key is not None:
            self.key = self.key[turn:] + self.key[:turn]


class _Partial:
    """A message of which some frames, or some bytes, have come."""

    __slots__ = ("_checked", "_checker", "_is_ascii", "_payload", "compressed", "fragments", "text")

    def __init__(self, text: bool, compressed: bool) -> None:
        self.text, self.compressed = text, compressed
        self.fragments = 0
        self._payload = Payload()
        self._is_ascii = True
        self._checked = 0
        """Bytes that were checked."""
        self._checker: Checker | None = None

    @property
    def size(self) -> int:
        """Bytes that have come; after inflation, if it is compressed."""
        return len(self._payload)

    def add(self, piece: bytes | memoryview, key: bytes | None, to_come: int) -> None:
        """Add a piece: bytes, what they are masked with, and how many the frame still lacks."""
        self._is_ascii &= self._payload.add(piece, key, to_come)

    def check(self) -> None:
        """Check the text that has come. 8.1: one that is not UTF-8 MUST fail the connection; it does as soon as that is
        certain.

        Raises:
            UnicodeDecodeError: The text is not UTF-8.

        """
        if not self._is_ascii:
            if self._checker is None:
                self._checker = Checker()
            for start in range(self._checked, self.size, STEP):
                self._checker.check(self._payload.part(start, start + STEP))
        self._checked = self.size

    def whole(self) -> str | bytes:
        """The message.

        Raises:
            UnicodeDecodeError: It is a text that is not UTF-8.

        """
        return decode(self._payload.take()) if self.text else self._payload.take()


def _whole(message: _Partial) -> str | bytes:
    try:
        return message.whole()
    except UnicodeDecodeError:
        raise _not_utf8() from None


class PreparedMessage:
    """A message that ``prepare()`` has encoded once for many connections. It cannot be changed."""

    __slots__ = ("_compressed", "_payload", "frame")

    frame: bytes
    """The whole frame, not compressed, which every client accepts (RFC 6455 5.2, RFC 7692 6)."""
    _payload: bytes
    _compressed: dict[int, bytes]

    def __init__(self, frame: bytes, payload: bytes) -> None:
        for name, value in (("frame", frame), ("_payload", payload), ("_compressed", {})):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a PreparedMessage cannot be changed: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a PreparedMessage cannot be changed: {name}")

    def __repr__(self) -> str:
        return f"<PreparedMessage of {len(self._payload)} bytes>"

    def frame_for(self, deflate: Deflate | None) -> bytes:
        """The frame for a connection with this codec.

        It is compressed where the codec keeps no context (RFC 7692 7.1.1.1), once for all connections with the same
        window: such a frame does not depend on what was sent before.

        Args:
            deflate: The codec of the connection; None without compression.

        """
        bits = None if deflate is None else deflate.shared_bits
        if deflate is None or bits is None or len(self._payload) < deflate.threshold:
            return self.frame
        frame = self._compressed.get(bits)
        if frame is None:
            frame = encode_frame(self.frame[0] | RSV1, deflate.compress(self._payload))
            self._compressed[bits] = frame
        return frame


def prepare(message: Any, binary: bool | None = None) -> PreparedMessage:
    """Encode a message once, to send it on many connections with ``WebSocket.offer()`` or ``WebSocket.send()``.

    Args:
        message: ``str``, ``bytes``, ``bytearray``, ``memoryview`` or a number.
        binary: Whether it is sent as a binary message. Default: ``str`` and numbers are text, buffers are binary.

    Raises:
        TypeError: Not a message.
        ValueError: It cannot be sent as text, because it has no UTF-8 or is none.

    """
    if type(message) is PreparedMessage:
        return message
    first, payload = _whole_frame(message, binary)
    return PreparedMessage(encode_frame(first, payload), payload)


def _whole_frame(message: Any, binary: bool | None) -> tuple[int, bytes]:
    """The first byte and the payload of a message in one frame."""
    payload, text = _as_bytes(message)
    if binary is False and not text:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise ValueError("the bytes to be sent as text are not UTF-8") from None
    return WHOLE_BINARY if binary or (binary is None and not text) else WHOLE_TEXT, payload


def _as_bytes(message: Any) -> tuple[Any, bool]:
    """The payload, and whether it was text."""
    if isinstance(message, str):
        try:
            return encode(message), True
        except UnicodeEncodeError:
            raise ValueError("the text to be sent has a lone surrogate: it has no UTF-8") from None
    if isinstance(message, (bytes, bytearray)):
        return bytes(message), False
    if isinstance(message, memoryview):
        return message.tobytes(), False
    if isinstance(message, (int, float)) and not isinstance(message, bool):
        return str(message).encode(), True  # as gevent-websocket and simple-websocket do
    raise TypeError(
        "a message is str, bytes, bytearray, memoryview, a number or what prepare() returns, "
        f"not {type(message).__name__}"
    )


def close_payload(code: int | None, reason: str) -> bytes:
    """Build the payload of a close frame (RFC 6455 5.5.1): a code in network byte order and a reason, or nothing.

    Raises:
        ValueError: The code may not be sent (7.4), there is a reason without a code, or the reason is too long.

    """
    if code is None:
        if reason:
            raise ValueError("a close frame without a code carries no reason")
        return b""
    if not may_travel(code):
        raise ValueError(f"close code {code} may not be sent: wanted 1000-1003, 1007-1014 or 3000-4999")
    text = reason.encode()
    if len(text) > MAX_CONTROL - 2:
        raise ValueError(f"the close reason has {len(text)} bytes of UTF-8: wanted {MAX_CONTROL - 2} at the most")
    return int(code).to_bytes(2, "big") + text


def _read_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of the peer's close frame."""
    if not payload:
        return int(CloseCode.NO_STATUS), ""  # 7.1.5
    if len(payload) == 1:
        raise _protocol_error("a close frame has a payload of one byte")  # 5.5.1: a body MUST begin with two bytes
    code = int.from_bytes(payload[:2], "big")
    if not may_travel(code):
        raise _protocol_error(f"close code {code} may not be sent")  # 7.4
    try:
        return code, payload[2:].decode()  # 5.5.1: UTF-8
    except UnicodeDecodeError:
        raise _Violation(CloseCode.INVALID_DATA, "a close reason is not UTF-8") from None
