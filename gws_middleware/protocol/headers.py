"""The grammar of the Sec-WebSocket-* header fields (RFC 6455 4.3, 9.1; RFC 9110 5.6).

Rule: each function takes the value of a field as WSGI has it (``str`` of latin-1) and returns a value or raises
ValueError with a sentence. The time is linear in the length, and the number of items is limited.
"""

from __future__ import annotations

import re

__all__ = ["Extension", "check_field", "check_token", "parse_extensions", "parse_list", "parse_subprotocols"]

MAX_ITEMS = 64
"""Items in one list at most. No client offers a dozen subprotocols, and the cost of an offer stays limited."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SPACE = re.compile(r"[ \t]*")
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f-\uffff]|\\[\t\x20-\x7e])*)"')
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

Extension = tuple[str, "tuple[tuple[str, str | None], ...]"]
"""An extension's name with its parameters in order; None stands for a parameter without a value."""


def check_token(text: str, what: str) -> str:
    """Check that a text is a token (RFC 9110 5.6.2).

    Args:
        text: The text.
        what: What it is, for the error.

    Returns:
        ``text``.

    Raises:
        ValueError: It is no token.

    """
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise ValueError(f"{what} is {text!r}: wanted a token (letters, digits and !#$%&'*+-.^_`|~)")
    return text


def check_field(name: str, value: str) -> tuple[str, str]:
    """Check a header field that the application sends. 9110 5.5: CR, LF and NUL in it would be dangerous.

    Returns:
        ``name`` and ``value``.

    Raises:
        ValueError: The name is no token, or the value has a control character or one beyond latin-1.

    """
    check_token(name, "the header name")
    if not isinstance(value, str) or not _FIELD_VALUE.fullmatch(value):
        raise ValueError(f"the value of header {name} is {value!r}: wanted latin-1 text without control characters")
    return name, value


def parse_list(value: str) -> list[str]:
    """The items of a comma-separated list such as ``Connection``, in lower case.

    RFC 9110 5.6.1.2: a recipient MUST ignore empty items.
    """
    return [item for part in value.lower().split(",") if (item := part.strip(" \t"))]


def parse_subprotocols(value: str) -> tuple[str, ...]:
    """The tokens of Sec-WebSocket-Protocol, in the client's order of preference (RFC 6455 4.1, item 10).

    A list without items is the same as no header (RFC 9110 5.6.1.2).

    Raises:
        ValueError: An item is no token, two are equal (4.1: all MUST be unique), or there are too many.

    """
    parts = value.split(",", MAX_ITEMS)
    if len(parts) > MAX_ITEMS:
        raise ValueError(f"Sec-WebSocket-Protocol offers more than {MAX_ITEMS} subprotocols")
    items = [
        item for item in (part.strip(" \t") for part in parts) if item
    ]  # RFC 9110 5.6.1.2: MUST ignore empty items
    if not all(map(_TOKEN.fullmatch, items)):
        raise ValueError("Sec-WebSocket-Protocol is not a list of tokens")
    if len(set(items)) < len(items):
        raise ValueError("Sec-WebSocket-Protocol offers a subprotocol twice")
    return tuple(items)


def parse_extensions(value: str) -> list[Extension]:
    """The offers of Sec-WebSocket-Extensions, in order (RFC 6455 9.1).

    A list without items is the same as no header (RFC 9110 5.6.1.2).

    Raises:
        ValueError: The value does not follow the grammar, a quoted value is no token when unquoted (9.1: MUST), or
            there are too many items.

    """
    reader = _Reader(value)
    extensions: list[Extension] = []
    for _ in range(MAX_ITEMS):
        if reader.at_end():
            return extensions
        if not reader.accept(","):  # else: an empty item, which MUST be ignored (RFC 9110 5.6.1.2)
            extensions.append(reader.extension())
            if not reader.at_end():
                reader.expect(",")
    if reader.at_end():
        return extensions
    raise ValueError(f"Sec-WebSocket-Extensions offers more than {MAX_ITEMS} extensions")


class _Reader:
    """Reads a field's value once, from left to right; spaces after each part are skipped."""

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
