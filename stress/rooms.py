"""The WebSockets of groups in the application under test: members, and publishers.

What a member gets begins with a word:

=============================  =======================================================================
``joined`` recovered position  it is a member; recovered is 1 or 0, and the position is ``-`` for none
``message`` position text      what was published
``gap``                        messages are missing
=============================  =======================================================================

A connection that cannot become a member now is closed with 4503. A publisher sends ``group text``, where the text
begins with an id, and gets one of the answers of ``publish()``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from gws_middleware.groups import Groups, GroupsUnavailable, History, Publication, UnknownOutcome
from gws_middleware.typing import Environ

from .faults import enabled

__all__ = ["KEPT", "LIVE", "UNAVAILABLE", "VIEWS", "id_of", "log_in", "open_groups", "publish"]

KEPT, LIVE = "kept", "live"
"""What names of groups begin with: those with history, and those without."""
UNAVAILABLE = 4503
"""The close code of a member where groups cannot be used."""

Handler = Callable[[Any, Publication], object]


def log_in(directory: Path) -> str:
    """The URL of groups whose log is in the directory of a run."""
    return f"sqlite://{directory.resolve()}/groups"


def open_groups(url: str, size: int) -> Groups:
    """The groups of a run, in each of its processes.

    Args:
        url: Of all of them.
        size: Messages that a group with history keeps.

    """
    return Groups(url, history={KEPT: History(size=size, age=300)})


def id_of(text: str) -> str:
    """The id of a message: what precedes the first space."""
    return text.partition(" ")[0]


def publish(groups: Groups, name: str, text: str) -> str:
    """Publish once.

    Returns:
        ``ack`` id position, ``refused`` id, or ``unknown`` id.

    """
    try:
        return f"ack {id_of(text)} {groups.send(name, text) or '-'}"
    except GroupsUnavailable:
        return f"refused {id_of(text)}"
    except UnknownOutcome:
        return f"unknown {id_of(text)}"


def numbered(publication: Publication) -> str | None:
    """What members get."""
    text = publication.data
    if "silent" in enabled and id_of(text).endswith("0") and int(id_of(text).rpartition(":")[2]) % 20 == 0:
        return None
    return f"message {publication.position or '-'} {text}"


def handler() -> Handler:
    """What is called for each message of one member, with the enabled faults."""
    count = itertools.count(1)
    held: list[str] = []

    def deliver(ws: Any, publication: Publication) -> None:
        text, number = numbered(publication), next(count)
        if text is None or ("skip" in enabled and number % 20 == 0):
            return
        if "swap" in enabled and number % 20 == 0:
            held.append(text)
            return
        ws.send(text)
        while held:
            ws.send(held.pop())

    return deliver


def report_gap(ws: Any, name: str) -> None:
    """Messages of a group without history are missing."""
    if "unreported" not in enabled:
        ws.offer("gap")


def member(environ: Environ, ws: Any) -> None:
    """A member of the groups ``names``; ``kind`` is ``detached``, ``attached``, or ``handler``, which is detached."""
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    for name in query["names"].split(","):
        how: dict[str, Any] = {"handler": handler()} if query["kind"] == "handler" else {"wrap": numbered}
        if name.startswith(LIVE):
            how["on_gap"] = report_gap
        try:
            joined = _groups().join(name, ws, since=query.get("since"), **how)
        except GroupsUnavailable:
            ws.close(UNAVAILABLE)
            return
        recovered = joined.recovered or ("unreported" in enabled and "since" in query)
        ws.send(f"joined {recovered:d} {joined.position or '-'}")
    if query["kind"] != "attached":
        ws.detach()
    else:
        for _ in ws:
            pass


def publisher(environ: Environ, ws: Any) -> None:
    """Publishes in a view."""
    for message in ws:
        _publish(ws, message)


def detached_publisher(environ: Environ, ws: Any) -> None:
    """Publishes in ``on_message``."""
    ws.detach(on_message=_publish)


def _publish(ws: Any, message: str) -> None:
    name, _, text = message.partition(" ")
    ws.send(publish(_groups(), name, text))


VIEWS: dict[str, Callable[[Environ, Any], None]] = {
    "/groups/member": member,
    "/groups/publisher": publisher,
    "/groups/publisher-detached": detached_publisher,
}

_opened: list[Groups] = []


def _groups() -> Groups:
    """One for the process."""
    if not _opened:
        url = os.environ.get("STRESS_GROUPS") or log_in(Path(os.environ["STRESS_DIRECTORY"]))
        _opened.append(open_groups(url, int(os.environ.get("STRESS_HISTORY", "100"))))
    return _opened[0]
