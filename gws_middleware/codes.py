"""Numbers of RFC 6455 that every other module speaks of. Rule: nothing of ours is imported here."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CloseCode", "Opcode", "may_travel"]


class Opcode(IntEnum):
    """What a frame carries (RFC 6455 5.2)."""

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
    """The peer's close frame had no code. Never travels."""
    ABNORMAL = 1006
    """The connection was lost without a close frame. Never travels."""
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    """The TLS handshake failed. Never travels."""


_REGISTERED = frozenset(CloseCode) - {CloseCode.NO_STATUS, CloseCode.ABNORMAL, CloseCode.TLS_HANDSHAKE}


def may_travel(code: int) -> bool:
    """Whether ``code`` may stand in a close frame (RFC 6455 7.4).

    1000-1014 where registered; 3000-3999 belong to libraries, 4000-4999 to applications.
    """
    return code in _REGISTERED or 3000 <= code < 5000
