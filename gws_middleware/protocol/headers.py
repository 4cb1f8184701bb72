"""The grammar of the Sec-WebSocket-* header fields (RFC 6455 4.3, 9.1; RFC 9110 5.6).

Rule: each function takes a field's value as WSGI gives it (``str`` of latin-1), returns a value or raises ValueError
with a sentence; the time spent is linear in the length, and the number of items is bounded.
"""

from __future__ import annotations

import re

__all__ = ["Extension", "check_field", "check_token", "parse_extensions", "parse_list", "parse_subprotocols"]

MAX_ITEMS = 64
"""Items in one list: no client offers a dozen subprotocols, and the cost of an offer stays bounded."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SPACE = re.compile(r"[ \t]*")
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f-\uffff]|\\[\t\x20-\x7e])*)"')
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

Extension = tuple[str, "tuple[tuple[str, str | None], ...]"]
"""An extension's name with its parameters in order; None stands for a parameter without a value."""


def check_token(text: str, what: str) -> str:
    """``text`` itself if it is a token (RFC 9110 5.6.2); ValueError otherwise."""
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise ValueError(f"{what} is {text!r}: wanted a token (letters, digits and !#$%&'*+-.^_`|~)")
    return text


def check_field(name: str, value: str) -> tuple[str, str]:
    """A header field that the application wants sent: no CR, LF, NUL or other control byte gets through."""
    check_token(name, "the header name")
    if not isinstance(value, str) or not _FIELD_VALUE.fullmatch(value):
        raise ValueError(f"the value of header {name} is {value!r}: wanted latin-1 text without control characters")
    return name, value


def parse_list(value: str) -> list[str]:
    """The lower-cased items of a comma-separated list such as ``Connection`` (RFC 9110 5.6.1); empty ones are left
    out.
    """
    return [item for item in (part.strip(" \t").lower() for part in value.split(",")) if item]


def parse_subprotocols(value: str) -> tuple[str, ...]:
    """The tokens of Sec-WebSocket-Protocol, in the client's order of preference; all differ (RFC 6455 4.1, item 10). A
    list without items is the same as no header (RFC 9110 5.6.1.2).
    """
    parts = value.split(",", MAX_ITEMS)
    if len(parts) > MAX_ITEMS:
        raise ValueError(f"Sec-WebSocket-Protocol offers more than {MAX_ITEMS} subprotocols")
    items = [item for item in (part.strip(" \t") for part in parts) if item]  # RFC 9110 5.6.1.2: MUST ignore empty ones
    if not all(map(_TOKEN.fullmatch, items)):
        raise ValueError("Sec-WebSocket-Protocol is not a list of tokens")
    if len(set(items)) < len(items):
        raise ValueError("Sec-WebSocket-Protocol offers a subprotocol twice")
    return tuple(items)


def parse_extensions(value: str) -> list[Extension]:
    """The offers of Sec-WebSocket-Extensions in order (RFC 6455 9.1); a quoted value must be a token once unquoted. A
    list without items is the same as no header (RFC 9110 5.6.1.2).
    """
    reader = _Reader(value)
    extensions: list[Extension] = []
    for _ in range(MAX_ITEMS):
        if reader.at_end():
            return extensions
        if not reader.accept(","):  # RFC 9110 5.6.1.2: empty items MUST be ignored
            extensions.append(reader.extension())
            if not reader.at_end():
                reader.expect(",")
    if reader.at_end():
        return extensions
    raise ValueError(f"Sec-WebSocket-Extensions offers more than {MAX_ITEMS} extensions")


class _Reader:
    """Walks over a field's value once, from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.skip_space()

    def skip_space(self) -> None:
        match = _SPACE.match(self.text, self.position)
        if match is not None:
            self.position = match.end()

    def at_end(self) -> bool:
        return self.position == len(self.text)

    def accept(self, mark: str) -> bool:
        found = self.text.startswith(mark, self.position)
        if found:
            self.position += len(mark)
            self.skip_space()
        return found

    def expect(self, mark: str) -> None:
        if not self.accept(mark):
            raise ValueError(f"Sec-WebSocket-Extensions is malformed at character {self.position}")

    def token(self) -> str:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            raise ValueError(f"Sec-WebSocket-Extensions is malformed at character {self.position}: wanted a token")
        self.position = match.end()
        self.skip_space()
        return match.group()

    def value(self) -> str:
        match = _QUOTED.match(self.text, self.position)
        if match is None:
            return self.token()
        self.position = match.end()
        self.skip_space()
        text = re.sub(r"\\(.)", r"\1", match.group(1))
        if not _TOKEN.fullmatch(text):
            raise ValueError("Sec-WebSocket-Extensions has a quoted parameter that is not a token")
        return text

    def extension(self) -> Extension:
        name = self.token()
        parameters: list[tuple[str, str | None]] = []
        while self.accept(";"):
            if len(parameters) == MAX_ITEMS:
                raise ValueError(f"Sec-WebSocket-Extensions has an offer with more than {MAX_ITEMS} parameters")
            key = self.token()
            parameters.append((key, self.value() if self.accept("=") else None))
        return name, tuple(parameters)
