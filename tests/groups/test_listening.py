"""``Groups.listen()``: an iteration gets everything after its position once and in order, or raises."""

from __future__ import annotations

import gc
import time
from typing import Any

import gevent
import pytest

from gws_middleware.groups import GroupsUnavailable, members
from gws_middleware.groups.listening import Listener

from ..support.inprocess import hub_errors, until  # noqa: F401
from .conftest import Fake, Gate, Site, texts

MISSED = "messages of group 'kept' were missed, and are no longer kept"


def listen(site: Site, name: str, since: Any = None, timeout: float | None = 5.0) -> Listener:
    return Listener(site.hub, name, since, timeout)


def take(listener: Listener, count: int) -> list[Any]:
    return texts(next(listener) for _ in range(count))


def test_iteration_begins_when_it_is_made(site: Site) -> None:
    """What is published before the first ``next()`` is there."""
    with listen(site, "room") as listener:
        for number in range(10):
            site.send("room", number)
        assert take(listener, 10) == list(range(10))


def test_iteration_from_a_position(site: Site) -> None:
    """What was missed, then what was published while it was read, then what follows; each once."""
    start = site.send("kept", 0)
    site.send("kept", 1)
    site.backend.on_read = lambda: site.send("kept", 2)
    site.backend.after_read = lambda: site.send("kept", 3)
    with listen(site, "kept", start) as listener:
        assert listener.position == start
        site.send("kept", 4)
        assert take(listener, 4) == [1, 2, 3, 4]
        assert listener.position == (start.epoch, 5) if start else False


def test_iteration_ends_after_a_time_without_messages(site: Site) -> None:
    """The seconds count from the last one; after the end there is nothing more, at once."""
    listener = listen(site, "room", timeout=0.2)
    site.send("room", 1)
    began = time.monotonic()
    assert texts(listener) == [1]
    assert 0.15 <= time.monotonic() - began < 2
    site.send("room", 2)
    assert texts(listener) == []
    assert time.monotonic() - began < 2.2


def test_iteration_that_is_closed_has_ended(site: Site) -> None:
    """A second ``close()`` does nothing."""
    listener = listen(site, "room", timeout=None)
    site.send("room", 1)
    listener.close()
    listener.close()
    assert list(listener) == []


def test_iteration_that_is_forgotten_leaves_nothing(site: Site) -> None:
    """It ends with its last reference."""
    listen(site, "room")
    gc.collect()
    until(lambda: site.backend.feeds[-1].closed)


def test_iteration_that_reads_too_slowly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets what came first, without a hole, and then LookupError."""
    monkeypatch.setattr(members, "MAX_WAITING", 3)
    listener = listen(site, "kept")
    for number in range(5):
        site.send("kept", number)
    site.flows()
    assert take(listener, 1) == [0]
    site.send("kept", 5)
    site.flows()
    assert take(listener, 2) == [1, 2]
    with pytest.raises(LookupError) as raised:
        next(listener)
    assert str(raised.value) == MISSED


def test_iteration_with_a_gap(site: Site) -> None:
    """LookupError where the history does not have it; in a group without history it goes on."""
    kept, live = listen(site, "kept"), listen(site, "room")
    site.backend.drops = lambda entry: entry.group == "kept"
    for number in range(150):
        site.send("kept", number)
    site.flows()
    site.backend.lose()
    with pytest.raises(LookupError) as raised:
        next(kept)
    assert str(raised.value) == MISSED
    site.send("room", "x")
    assert take(live, 1) == ["x"]
    live.close()


def test_iteration_that_cannot_begin_leaves_nothing(site: Site) -> None:
    """GroupsUnavailable at the call."""

    def fail() -> None:
        raise GroupsUnavailable("no")

    site.backend.on_read = fail
    with pytest.raises(GroupsUnavailable):
        listen(site, "kept")
    until(lambda: site.backend.feeds[-1].closed)


def test_iteration_and_member_get_the_same(site: Site) -> None:
    """In the same order."""
    ws, gate = Fake(), Gate()
    site.join("room", ws)
    with listen(site, "room") as listener:
        reader = gevent.spawn(take, listener, 300)
        for number in range(300):
            site.send("room", str(number))
        assert reader.get(timeout=5) == [str(number) for number in range(300)]
        until(lambda: len(ws.texts) == 300)
    assert ws.texts == [str(number) for number in range(300)]
    gate.open()
    site.hub.leave("room", ws)  # type: ignore[arg-type]
