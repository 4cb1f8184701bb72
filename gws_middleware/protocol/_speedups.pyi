from typing import TypeAlias

_BytesLike: TypeAlias = bytes | bytearray | memoryview

def mask(data: _BytesLike, key: _BytesLike, /) -> bytes: ...
def encode_frame(first_byte: int, payload: str | _BytesLike, /, key: _BytesLike | None = None) -> bytes: ...
def parse_messages(
    data: _BytesLike,
    start: int,
    end: int,
    max_size: int,
    masked: bool,
    messages: list[str | bytes],
    /,
) -> int: ...
