"""The facts about the connections of this process, as a survey wants them.

Rule: the event loop goes on meanwhile. A turn of it that has lasted long enough ends between two connections.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from gevent import get_hub

from ..connection import control
from ..connection.turns import turns_of
from ..connection.websocket import WebSocket
from ..process import registry
from . import waiting
from .survey import SLICE, ConnectionInfo, Found, Question, Worker, WorkerInfo

__all__ = ["MAX_GROUPS", "find"]

log = logging.getLogger("gws_middleware.groups")

MAX_TEXT = 500
"""Characters of a text of the peer, e.g. a path."""
MAX_GROUPS = 100
"""Groups of one connection."""


def find(
    worker: Worker, question: Question, groups_of: Callable[[WebSocket], Sequence[str]], groups: int
) -> Iterator[Found]:
    """What this process has.

    Args:
        worker: This process.
        question: What is wanted.
        groups_of: The groups of a connection.
        groups: How many groups have members here.

    Returns:
        Parts; the last one has the facts about the process. None where another worker is meant.

    """
    if question.worker not in (None, worker.name):
        return
    connections = registry.current()
    turns = turns_of(get_hub()) if len(connections) and waiting.can_switch() else None
    part: list[ConnectionInfo] = []
    found, more, since = 0, False, 0.0
    for ws in connections:
        if turns is not None and turns.is_over():
            turns.give_way()
        if not isinstance(ws, WebSocket) or ws not in connections or not _is_wanted(ws, question):
            continue
        names = groups_of(ws)
        if question.group is not None and question.group not in names:
            continue
        if found == question.limit:
            more = True
            break
        found += 1
        info = _info(ws, worker.name, names)
        # In the order in which they were opened, also where this process was stopped between two readings of a clock.
        since = max(since, info.since)
        part.append(info._replace(since=since))
        if len(part) == SLICE:
            yield Found(part, None)
            part = []
    lag = connections.keepalive.lag
    _, name, host, pid, began, version = worker
    yield Found(part, WorkerInfo(name, host, pid, began, len(connections), groups, lag, version), more)


def _is_wanted(ws: WebSocket, question: Question) -> bool:
    if question.path is not None and not _path(ws).startswith(question.path):
        return False
    return question.user is None or control.user_of(ws)[0] == question.user


def _info(ws: WebSocket, worker: str, groups: Sequence[str]) -> ConnectionInfo:
    user, user_name = control.user_of(ws)
    now = time.time()
    idle = time.monotonic() - registry.current().keepalive.last_activity(ws)
    return ConnectionInfo(
        control.id_of(ws),
        worker,
        user,
        None if user_name is None else user_name[:MAX_TEXT],
        _address(ws)[:MAX_TEXT],
        _path(ws)[:MAX_TEXT],
        round(now - ws.duration, 3),
        round(now - idle, 3),
        *ws.stats,
        control.waiting_bytes(ws),
        ws.latency,
        tuple(groups[:MAX_GROUPS]),
    )


def _path(ws: WebSocket) -> str:
    """With the characters that its bytes stand for (PEP 3333 has them as Latin-1)."""
    path = ws.path
    return path if path.isascii() else path.encode("latin-1", "replace").decode("utf-8", "replace")


def _address(ws: WebSocket) -> str:
    try:
        return control.address_of(ws)
    except Exception:  # of the project's function
        _report(control.config_of(ws).client_address)
        return ""


@cache
def _report(function: object) -> None:
    """Log an exception, once for each function."""
    log.exception("the address of a WebSocket is not known, because client_address (%r) raised", function)
