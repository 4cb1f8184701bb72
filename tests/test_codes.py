"""``codes``: the numbers of RFC 6455."""

from __future__ import annotations

import pytest

from gws_middleware.codes import CloseCode, Opcode, may_travel

OPCODES = {"CONTINUATION": 0, "TEXT": 1, "BINARY": 2, "CLOSE": 8, "PING": 9, "PONG": 10}
CLOSE_CODES = {
    "NORMAL": 1000,
    "GOING_AWAY": 1001,
    "PROTOCOL_ERROR": 1002,
    "UNSUPPORTED_DATA": 1003,
    "NO_STATUS": 1005,
    "ABNORMAL": 1006,
    "INVALID_DATA": 1007,
    "POLICY_VIOLATION": 1008,
    "MESSAGE_TOO_BIG": 1009,
    "MANDATORY_EXTENSION": 1010,
    "INTERNAL_ERROR": 1011,
    "SERVICE_RESTART": 1012,
    "TRY_AGAIN_LATER": 1013,
    "BAD_GATEWAY": 1014,
    "TLS_HANDSHAKE": 1015,
}


def test_opcodes_are_those_of_the_rfc() -> None:
    """RFC 6455 5.2 and 11.8."""
    assert {code.name: int(code) for code in Opcode} == OPCODES


def test_close_codes_are_those_of_the_registry() -> None:
    """RFC 6455 7.4.1 and the IANA registry of close codes."""
    assert {code.name: int(code) for code in CloseCode} == CLOSE_CODES


def test_codes_that_may_travel_are_exactly_these() -> None:
    """RFC 6455 7.4: 1005, 1006 and 1015 MUST NOT be in a close frame; 1004 and 1016-2999 are reserved; 3000-3999 belong
    to libraries, 4000-4999 to applications.
    """
    lawful = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(-1, 65537) if may_travel(code)} == lawful


@pytest.mark.parametrize("code", [CloseCode.NORMAL, CloseCode.BAD_GATEWAY])
def test_member_may_travel_like_its_number(code: CloseCode) -> None:
    """Both spellings are used."""
    assert may_travel(code) is may_travel(int(code)) is True
