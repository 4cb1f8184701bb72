"""A process with members: ``python -m tests.groups.present URL PREFIX GROUP COUNT``. It prints a line when they are."""

from __future__ import annotations

import sys

import gevent

from gws_middleware.groups import Groups, Presence

from ..support.seam import live_shortly
from .conftest import Fake

__all__ = ["main"]


def main(url: str, prefix: str, name: str, count: str) -> None:
    """Be there until the end."""
    live_shortly()
    groups = Groups(url, prefix=prefix, presence={"room": Presence(events=True)})
    members = [Fake() for _ in range(int(count))]
    for number, ws in enumerate(members):
        groups.join(name, ws, info={"user": number})  # type: ignore[arg-type]
    assert len(groups.members(name)) >= len(members)
    print("ready", flush=True)  # noqa: T201
    gevent.get_hub().join()


if __name__ == "__main__":
    main(*sys.argv[1:])
