"""What is logged of a WebSocket, and how: a sentence for people, facts for programs, nothing of the peer's as it came.

A record has the facts in ``extra``: ``websocket_path``, ``websocket_peer`` and, once it has ended, ``websocket_code``,
``websocket_reason``, ``websocket_duration`` and the four of ``stats``, each with that prefix. What a peer has chosen is
bounded and escaped in both, as Python escapes a string that is not ASCII. Rule: a peer's fault is never above INFO,
since it can be repeated at will; but the first handshake that a wrong setting may have made fail is a warning.
"""

from __future__ import annotations

from typing import Any

from ..typing import Environ

__all__ = ["closing", "of", "peer", "shown"]

MAX_PATH = 500
"""Characters of a path that are logged: servers let through thousands, and each may be escaped with ten."""


def peer(environ: Environ) -> str:
    """The address at the other end of the connection, which can be a proxy's; "-" where there is none."""
    address, port = environ.get("REMOTE_ADDR") or "-", environ.get("REMOTE_PORT")
    if not port or address == "-":
        return str(address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _escaped(text: str | None) -> str:
    return ascii(text or "")[1:-1]


def shown(path: str) -> str:
    """A path for a sentence: in quotes, escaped and of bounded length."""
    return ascii(path if len(path) <= MAX_PATH else path[:MAX_PATH] + "...")


def of(ws: Any) -> dict[str, Any]:
    """The facts of a WebSocket."""
    facts = {"websocket_path": shown(ws.path)[1:-1], "websocket_peer": _escaped(peer(ws.environ))}
    if ws.closed:
        facts.update(
            websocket_code=ws.close_code,
            websocket_reason=_escaped(ws.close_reason),
            websocket_duration=ws.duration,
            **{f"websocket_{name}": count for name, count in ws.stats._asdict().items()},
        )
    return facts


def closing(ws: Any) -> tuple[Any, ...]:
    """The line about the end of a WebSocket: what a logger's method takes."""
    reason = f" {ws.close_reason!a}" if ws.close_reason else ""
    return (
        "WebSocket %s: closed with %s%s after %.1f s; peer %s, %s messages in, %s out, %s bytes in, %s out",
        shown(ws.path),
        ws.close_code,
        reason,
        ws.duration,
        _escaped(peer(ws.environ)),
        *ws.stats,
    )
