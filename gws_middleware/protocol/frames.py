"""Frames (RFC 6455 5.2): their bits, how they are built, and the fast path by which most messages are read.

Rule 1: nothing here fails a connection. ``parse_messages`` takes frames that are certainly valid and stops before any
other; ``connection`` reads those one by one and says what follows.
Rule 2: ``encode_frame``, ``parse_messages`` and ``FastEngine`` exist twice: here, and in ``_speedups.c``, which is used
where it is built. Both do the same for every call; ``tests/test_parity.py`` compares them, and the constants.
"""

from __future__ import annotations

from operator import index
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from ..codes import Opcode
from .masking import BytesLike, byte_view, checked_key, speedups, xor_key

__all__ = [
    "AT_ONCE",
    "FIN",
    "LENGTH",
    "LENGTH_16",
    "LENGTH_64",
    "MASKED",
    "MAX_LENGTH",
    "OPCODE",
    "RSV1",
    "RSV2",
    "RSV3",
    "SPLIT_FROM",
    "WHOLE_BINARY",
    "WHOLE_TEXT",
    "FastEngine",
    "encode_frame",
    "encode_header",
    "parse_messages",
]

# The bits of the first byte (5.2).
FIN: Final = 0x80
"""The last frame of its message (5.4)."""
RSV1: Final = 0x40
"""The message is compressed (RFC 7692 6). MUST be 0 where that was not negotiated."""
RSV2: Final = 0x20
"""MUST be 0: no extension known here uses it."""
RSV3: Final = 0x10
"""MUST be 0: no extension known here uses it."""
OPCODE: Final = 0x0F

# The bits of the second byte (5.2).
MASKED: Final = 0x80
"""The payload is masked. MUST be 1 from a client, 0 from a server (5.1)."""
LENGTH: Final = 0x7F
"""The payload's length up to 125, or one of the next two."""
LENGTH_16: Final = 126
"""The length follows in 16 bits."""
LENGTH_64: Final = 127
"""The length follows in 64 bits, of which the first MUST be 0."""
MAX_LENGTH: Final = (1 << 63) - 1

WHOLE_TEXT: Final = FIN | Opcode.TEXT
WHOLE_BINARY: Final = FIN | Opcode.BINARY
"""The first byte of a message in one frame that is not compressed."""
AT_ONCE: Final = 256
"""Messages that one call returns at most. One read can hold ten thousand, and the event loop has other connections to
serve.
"""
SPLIT_FROM: Final = 131072
"""Bytes from which header and payload stay two objects: a copy of the payload would cost more than a second buffer. A
text also is long from half as many characters on.
"""

_SIZE_16 = Struct("!H")
_SIZE_64 = Struct("!Q")
_HEADER_16 = Struct("!BBH")
_HEADER_64 = Struct("!BBQ")


def encode_header(first_byte: int, length: int, /, key: BytesLike | None = None) -> bytes:
    """Build the 2 to 14 bytes before a payload (RFC 6455 5.2).

    Args:
        first_byte: FIN, RSV1-3 and the opcode.
        length: Bytes of the payload.
        key: The masking key, or None for a frame that is not masked.

    Raises:
        ValueError: A number is out of range, or the key does not have four bytes.

    """
    if not 0 <= first_byte <= 0xFF:
        raise ValueError(f"the first byte of a frame is 0 to 255, not {first_byte}")
    if not 0 <= length <= MAX_LENGTH:
        raise ValueError(f"the length of a payload is 0 to 2**63 - 1, not {length}")
    mask_bit = 0 if key is None else MASKED
    # 5.2: the minimal number of bytes MUST be used to encode the length.
    if length < LENGTH_16:
        header = bytes((first_byte, mask_bit | length))
    elif length <= 0xFFFF:
        header = _HEADER_16.pack(first_byte, mask_bit | LENGTH_16, length)
    else:
        header = _HEADER_64.pack(first_byte, mask_bit | LENGTH_64, length)
    return header if key is None else header + checked_key(key)


def encode_frame(first_byte: int, payload: str | BytesLike, /, key: BytesLike | None = None) -> bytes:
    """Build one whole frame (RFC 6455 5.2).

    Args:
        first_byte: FIN, RSV1-3 and the opcode.
        payload: A text, which is encoded in UTF-8, or any contiguous buffer.
        key: The masking key, or None for a frame that is not masked.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is out of range, the key does not have four bytes, or the text has no UTF-8.
        BufferError: A buffer is not contiguous.

    """
    if type(first_byte) is not int:
        first_byte = index(first_byte)
    if isinstance(payload, str):
        payload = str.encode(payload)  # not the method of a subclass
    elif type(payload) is not bytes:
        payload = byte_view(payload)
    header = encode_header(first_byte, len(payload), key)
    return header + (payload if key is None else xor_key(payload, header[-4:]))


def parse_messages(
    data: BytesLike, start: int, end: int, max_size: int, masked: bool, messages: list[str | bytes], /
) -> int:
    """Append the whole, unfragmented messages at the beginning of ``data[start:end]`` to ``messages``.

    Parsing stops before the first frame that is incomplete, a control frame or a fragment, has an RSV bit or the wrong
    mask bit, has a length that is above ``max_size`` or not encoded in the fewest bytes, or is a text that is not
    UTF-8. It also stops when ``messages`` has ``AT_ONCE`` items. No content of ``data`` raises an exception.

    Args:
        data: Any contiguous buffer; it is not kept.
        start: The offset of the first byte to read.
        end: The offset after the last byte to read.
        max_size: Bytes of payload in one message.
        masked: Whether the frames must be masked.
        messages: Where ``str`` for text and ``bytes`` for binary messages are appended.

    Returns:
        The offset of the first byte that was not consumed.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``start`` and ``end`` do not lie in order within ``data``.
        BufferError: The buffer is not contiguous.

    """
    source = data if type(data) is bytes or type(data) is bytearray else byte_view(data)
    if type(start) is not int or type(end) is not int or type(max_size) is not int:
        start, end, max_size = index(start), index(end), index(max_size)
    if not isinstance(messages, list):
        raise TypeError(f"messages is a list, not {type(messages).__name__}")
    if not 0 <= start <= end <= len(source):
        raise ValueError(f"start {start} and end {end} do not lie in order within {len(source)} bytes")
    mask_bit, key_size = (MASKED, 4) if masked else (0, 0)
    while end - start >= 2 and len(messages) < AT_ONCE:
        first, second = source[start], source[start + 1]
        # 5.1: a client MUST mask, a server MUST NOT. Each frame that does not pass here is left to `connection`.
        if (first != WHOLE_TEXT and first != WHOLE_BINARY) or second & MASKED != mask_bit:
            break
        length = second & LENGTH
        payload = start + 2
        if length >= LENGTH_16:
            size, minimum = (_SIZE_16, LENGTH_16) if length == LENGTH_16 else (_SIZE_64, 0x10000)
            payload += size.size
            if payload > end:
                break
            (length,) = size.unpack_from(source, start + 2)
            # 5.2: the minimal number of bytes MUST be used to encode the length.
            if length < minimum:
                break
        payload += key_size
        stop = payload + length
        # 5.2: the top bit of 64 MUST be 0. With that bit the payload cannot lie within the data.
        if length > max_size or stop > end:
            break
        content: BytesLike = source[payload:stop]
        if masked:
            content = xor_key(content, bytes(source[payload - 4 : payload]))
        if first == WHOLE_TEXT:
            try:
                messages.append(str(content, "utf-8"))
            except UnicodeDecodeError:  # 8.1: `connection` fails the connection for it
                break
        else:
            messages.append(bytes(content))
        start = stop
    return start


class FastEngine:
    """The base of ``Connection``: the fast path of a message in one frame, in and out.

    Everything else is a method of the subclass: ``_feed_rest`` and ``_encode``.
    """

    __slots__ = ("_between", "_masked", "_max_message_size", "eventful", "plain")

    _between: bool
    """The next byte begins a message: no frame, message or close frame is under way."""
    _masked: bool
    """Frames of the peer must be masked (RFC 6455 5.1)."""
    _max_message_size: int
    eventful: bool
    plain: bool

    def feed(self, data: bytes | bytearray, end: int | None = None, /) -> list[str | bytes]:
        """Take bytes of the peer.

        Args:
            data: A buffer; it is not kept, so the caller may use it again.
            end: How many bytes of ``data`` to take. Default: all.

        Returns:
            The whole messages that these bytes complete, in order, at most ``AT_ONCE``. ``stalled`` then says whether
            more of them wait inside.

        Raises:
            ValueError: ``end`` does not lie within ``data``.

        """
        size = len(data) if type(data) is bytes or type(data) is bytearray else len(byte_view(data))
        if end is None:
            end = size
        elif type(end) is not int:
            end = index(end)
        if not 0 <= end <= size:
            raise ValueError(f"end {end} does not lie within {size} bytes")
        messages: list[str | bytes] = []
        start = 0
        if self._between:
            start = parse_messages(data, 0, end, self._max_message_size, self._masked, messages)
            if start == end:
                return messages
        self._feed_rest(data, start, end, messages)
        return messages

    def encode(self, message: Any, binary: bool | None = None, /) -> bytes | tuple[bytes, bytes]:
        """Build the frame of a whole message.

        Args:
            message: ``str``, ``bytes``, ``bytearray``, ``memoryview``, a number, or what ``prepare()`` returns.
            binary: Whether it is sent as a binary message. Default: ``str`` and numbers are text, buffers are binary.

        Returns:
            The frame, or (header, payload) from about ``SPLIT_FROM`` bytes on, where joining them would copy much.

        Raises:
            TypeError: Not a message.
            ValueError: It cannot be sent as text, because it has no UTF-8 or is none.

        """
        if self.plain and binary is None:
            if type(message) is str and len(message) < SPLIT_FROM // 2:
                return encode_frame(WHOLE_TEXT, message)
            if type(message) is bytes and len(message) < SPLIT_FROM:
                return encode_frame(WHOLE_BINARY, message)
        return self._encode(message, binary)

    if TYPE_CHECKING:  # the slow path

        def _feed_rest(self, data: bytes | bytearray, start: int, end: int, messages: list[str | bytes], /) -> None: ...

        def _encode(self, message: Any, binary: bool | None, /) -> bytes | tuple[bytes, bytes]: ...


if speedups is not None:
    encode_frame = speedups.encode_frame
    parse_messages = speedups.parse_messages
    FastEngine = speedups.FastEngine  # type: ignore[misc]
