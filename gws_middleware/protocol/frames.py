"""Frames (RFC 6455 5.2): their bits, how they are built, and the short path on which most messages are read.

Rule: no peer is judged here. ``parse_messages`` takes what nobody could object to and stops before anything
else; what that is, and what follows from it, the long path in ``connection`` says.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

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
    "EnginePath",
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
"""First bytes of a message in one frame."""
AT_ONCE: Final = 256
"""Messages that come out of one call at the most. One read can hold ten thousand, and the loop has others to serve."""
SPLIT_FROM: Final = 65536
"""Bytes from which a payload is sent beside its header instead of being copied behind it."""

_SIZE_16 = Struct("!H")
_SIZE_64 = Struct("!Q")
_HEADER_16 = Struct("!BBH")
_HEADER_64 = Struct("!BBQ")


def encode_header(first_byte: int, length: int, /, key: BytesLike | None = None) -> bytes:
    """The 2 to 14 bytes before a payload; ``first_byte`` is FIN, RSV1-3 and the opcode together."""
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


def _py_encode(first_byte: int, payload: str | BytesLike, /, key: BytesLike | None = None) -> bytes:
    """One whole frame; a text is encoded, and the payload is masked where there is a key."""
    if isinstance(payload, str):
        payload = payload.encode()
    elif type(payload) is not bytes:
        payload = byte_view(payload)
    header = encode_header(first_byte, len(payload), key)
    return header + (payload if key is None else xor_key(payload, header[-4:]))


def _py_parse(
    data: BytesLike, start: int, end: int, max_size: int, masked: bool, messages: list[str | bytes], /
) -> int:
    """Append the whole messages at the head of ``data[start:end]``; return the offset of the first byte left.

    It stops before the first frame that is incomplete, a control frame or a fragment, that has an RSV bit,
    the wrong mask bit, a length not minimally encoded or above ``max_size``, or a text that is not UTF-8;
    and when ``messages`` has ``AT_ONCE`` items. No bytes make it raise.
    """
    source = data if type(data) is bytes or type(data) is bytearray else byte_view(data)
    if not 0 <= start <= end <= len(source):
        raise ValueError(f"start {start} and end {end} do not lie in order within {len(source)} bytes")
    mask_bit, key_size = (MASKED, 4) if masked else (0, 0)
    while end - start >= 2 and len(messages) < AT_ONCE:
        first, second = source[start], source[start + 1]
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
        if length > max_size or stop > end:
            break
        content: BytesLike = source[payload:stop]
        if masked:
            content = xor_key(content, bytes(source[payload - 4 : payload]))
        if first == WHOLE_TEXT:
            try:
                messages.append(str(content, "utf-8"))
            except UnicodeDecodeError:
                break
        else:
            messages.append(bytes(content))
        start = stop
    return start


class EnginePath:
    """The base of ``Connection``: what a message in one frame costs, in and out. The rest is the subclass's."""

    __slots__ = ("_between", "_masked", "_max_message_size", "eventful", "plain")

    _between: bool
    _masked: bool
    _max_message_size: int
    eventful: bool
    plain: bool

    def feed(self, data: bytes | bytearray, end: int | None = None, /) -> list[str | bytes]:
        """The whole messages that ``data[:end]`` completes, in order, ``AT_ONCE`` at the most: ``stalled`` tells
        whether more wait inside. ``data`` is not kept: the caller may reuse it.
        """
        if end is None:
            end = len(data)
        messages: list[str | bytes] = []
        start = 0
        if self._between:
            start = parse_messages(data, 0, end, self._max_message_size, self._masked, messages)
            if start == end:
                return messages
        self._feed_rest(data, start, end, messages)
        return messages

    def encode(self, message: Any, binary: bool | None = None, /) -> bytes | tuple[bytes, bytes]:
        """A whole message as one frame, or as (header, payload) where joining them would copy much.

        ``binary`` None goes by the type: ``str`` is text, any buffer of bytes is binary. TypeError for anything else.
        """
        if binary is None and self.plain:
            if type(message) is str:
                return encode_frame(WHOLE_TEXT, message)
            if type(message) is bytes and len(message) < SPLIT_FROM:
                return encode_frame(WHOLE_BINARY, message)
        return self._encode(message, binary)

    def _feed_rest(self, data: bytes | bytearray, start: int, end: int, messages: list[str | bytes], /) -> None:
        raise NotImplementedError

    def _encode(self, message: Any, binary: bool | None, /) -> bytes | tuple[bytes, bytes]:
        raise NotImplementedError


encode_frame = _py_encode
parse_messages = _py_parse
if speedups is not None:
    encode_frame = speedups.encode_frame
    parse_messages = speedups.parse_messages
    EnginePath = speedups.EnginePath  # type: ignore[misc]
