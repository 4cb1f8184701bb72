"""The echo of this project in plain WSGI; ``/detached`` keeps no greenlet while a connection is idle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import gws_middleware
from gws_middleware import prepare
from gws_middleware.groups import Groups, History

if not Path(gws_middleware.__file__).is_relative_to(os.environ["BENCHMARK_ROOT"]):  # else another one is measured
    raise ImportError(f"{gws_middleware.__file__} is not in {os.environ['BENCHMARK_ROOT']}")

MEMBERS: set[Any] = set()
numbers = count()
MISSED = 10
"""Messages that /resume sends first."""


def echo(ws: Any) -> None:
    for message in ws:
        ws.send(message)


def fanout(ws: Any) -> None:
    MEMBERS.add(ws)
    for message in ws:
        send_to_all(message)
    MEMBERS.discard(ws)


def send_to_all(text: str) -> None:
    """One frame, built once; ``offer`` never waits for a slow member."""
    frame = prepare(text)
    for member in tuple(MEMBERS):
        member.offer(frame)


def detached(ws: Any) -> None:
    ws.detach(on_message=send_back)


def send_back(ws: Any, message: str | bytes) -> None:
    ws.send(message)


@cache
def groups() -> Groups:
    """Of all workers of this server."""
    url = os.environ.get("BENCHMARK_REDIS") or f"sqlite://{os.environ['BENCHMARK_DIRECTORY']}/groups"
    return Groups(url, history={"kept": History(size=MISSED)})


def group(ws: Any) -> None:
    """A member that publishes what it gets."""
    groups().join("all", ws)
    for message in ws:
        groups().send("all", message)


def hop(ws: Any) -> None:
    """The only member of a group, which publishes what it gets."""
    name = f"hop.{next(numbers)}"
    groups().join(name, ws)
    for message in ws:
        groups().send(name, message)


def stuck(ws: Any) -> None:
    """A member of two groups: a message to this one is published in the second, which has only such members."""
    groups().join("all", ws)
    groups().join("stuck", ws)
    for message in ws:
        groups().send("stuck", message)


def history(ws: Any) -> None:
    """A message is published as often as /resume is to send it; the answer is the position before."""
    for message in ws:
        before = groups().position("kept")
        groups().send_many([("kept", message)] * MISSED)
        ws.send(str(before))


def resume(ws: Any) -> None:
    """The first message is a position: what was published since is sent."""
    groups().join("kept", ws, since=ws.receive())
    for _ in ws:
        pass


def pid(ws: Any) -> None:
    for _ in ws:
        ws.send(str(os.getpid()))


PATHS: dict[str, Callable[[Any], None]] = {
    "/echo": echo,
    "/fanout": fanout,
    "/detached": detached,
    "/group": group,
    "/hop": hop,
    "/stuck": stuck,
    "/history": history,
    "/resume": resume,
    "/pid": pid,
}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/plain":
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
    PATHS[environ["PATH_INFO"]](environ["wsgi.websocket"])
    return []
