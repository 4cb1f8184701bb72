"""The numbers of RFC 6455: opcodes and close codes. Rule: no module of this package is imported here."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CloseCode", "Opcode", "may_travel"]


class Opcode(IntEnum):
    """The type of a frame (RFC 6455 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection ended (RFC 6455 7.4.1 and the IANA registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    """The peer's close frame had no code. Never sent."""
    ABNORMAL = 1006
    """The connection was lost without a close frame. Never sent."""
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    """The TLS handshake failed. Never sent."""


_REGISTERED = frozenset(CloseCode) - {CloseCode.NO_STATUS, CloseCode.ABNORMAL, CloseCode.TLS_HANDSHAKE}


def may_travel(code: int) -> bool:
    """Whether a close frame may contain a code (RFC 6455 7.4).

    1000 to 1014 may if they are registered. 3000 to 3999 are for libraries, 4000 to 4999 for applications.

    Args:
        code: The close code.

    Returns:
        False for 1005, 1006 and 1015, which an endpoint reports and never sends, and for numbers without a meaning.
    """
    return code in _REGISTERED or 3000 <= code < 5000
