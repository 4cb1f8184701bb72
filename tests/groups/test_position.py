"""Positions: what a reader of a group is given is complete and in order, or it is reported that some is missing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import permutations
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gws_middleware.groups.position import (
    Entry,
    History,
    Page,
    Position,
    Tracker,
    floor_after_gap,
    is_above,
    missed,
)


def entry(offset: int, epoch: str = "a") -> Entry:
    return Entry("room", epoch, offset, b"")


def entries(*offsets: int, epoch: str = "a") -> list[Entry]:
    return [entry(offset, epoch) for offset in offsets]


def offsets(given: Sequence[Entry]) -> list[int]:
    return [one.offset for one in given]


# --- texts and bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a.0", "x7f3.12", "A-b_9.999999999999999999", "e" * 64 + ".1"])
def test_position_of_its_text_is_the_same(text: str) -> None:
    """``str(Position.parse(text)) == text``."""
    assert str(Position.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "a",
            "a.",
            ".1",
            "a.01",
            "a.-1",
            "a.+1",
            "a.1 ",
            " a.1",
            "a.1\n",
            "a.b",
            "a.1.2",
            "a b.1",
            "é.1",
            "a.１",
        ),
        *("e" * 65 + ".1", "a." + "9" * 19, "a.1e3", "a.1_0"),
    ],
)
def test_position_of_another_text_is_refused(text: str) -> None:
    """What comes from a URL or a cookie is a position, or a ValueError that has the text."""
    with pytest.raises(ValueError, match="is not a position: wanted is what") as raised:
        Position.parse(text)
    assert str(raised.value).startswith(repr(text))


@pytest.mark.parametrize("value", [None, 3, b"a.1", ("a", 1)])
def test_position_of_no_text_is_a_type_error(value: object) -> None:
    """The error has what was found."""
    with pytest.raises(TypeError, match=f"a position is parsed from a str, not {type(value).__name__}"):
        Position.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("age", [0.001, 1, 1e9])
def test_history_within_its_bounds(size: int, age: float) -> None:
    """The bounds belong to what is allowed."""
    assert History(size, age) == History(size=size, age=age)


@pytest.mark.parametrize("size", [0, -1, 100_001, 2.5, "10", None, True])
def test_history_of_a_wrong_size(size: object) -> None:
    """The error has what was found and what is wanted."""
    with pytest.raises(ValueError, match="a history has a size") as raised:
        History(size=size)  # type: ignore[arg-type]
    assert str(raised.value) == f"a history has a size of 1 to 100,000 entries, not {size!r}"


@pytest.mark.parametrize("age", [0, -1.0, float("nan"), float("inf"), "60", None, True])
def test_history_of_a_wrong_age(age: object) -> None:
    """The error has what was found and what is wanted."""
    with pytest.raises(ValueError, match="the age of a history") as raised:
        History(age=age)  # type: ignore[arg-type]
    assert str(raised.value) == f"the age of a history is a number of seconds above 0, not {age!r}"


# --- missed() ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "page", "expected"),
    [
        (Position("a", 0), Page("a", 0, []), []),
        (Position("a", 3), Page("a", 3, entries(1, 2, 3)), []),
        (Position("a", 3), Page("a", 5, entries(4, 5)), [4, 5]),
        (Position("a", 3), Page("a", 5, entries(1, 2, 3, 4, 5)), [4, 5]),
        (Position("a", 0), Page("a", 2, entries(1, 2)), [1, 2]),
        (Position("a", 3), Page("a", 4, entries(4, 5)), [4]),
        (Position("a", 3), Page("a", 5, entries(5)), None),
        (Position("a", 3), Page("a", 5, entries(4)), None),
        (Position("a", 3), Page("a", 5, []), None),
        (Position("a", 3), Page("a", 6, entries(4, 6)), None),
        (Position("a", 3), Page("a", 6, entries(4, 6, 6)), None),
        (Position("a", 3), Page("a", 5, entries(5, 4)), None),
        (Position("a", 4), Page("a", 3, entries(1, 2, 3)), None),
        (Position("b", 3), Page("a", 3, entries(1, 2, 3)), None),
        (Position("b", 0), Page("a", 0, []), None),
    ],
)
def test_missed_is_all_or_nothing(since: Position, page: Page, expected: list[int] | None) -> None:
    """All entries from the position to the top, or None."""
    found = missed(since, page)
    assert (None if found is None else offsets(found)) == expected


# --- Tracker, by the row of its table ---------------------------------------------------------------------------------


def following(offset: int = 0, epoch: str = "a") -> Tracker:
    """A tracker that is at this position."""
    tracker = Tracker()
    tracker.heal(Page(epoch, offset, []))
    return tracker


def test_tracker_without_a_page_holds() -> None:
    """Nothing is given out before the position is known."""
    tracker = Tracker()
    assert not tracker.take(entry(1))
    assert tracker.holding and tracker.position is None


def test_tracker_begins_at_the_top_of_its_first_page() -> None:
    """What came before is not missing; what is held and newer comes first."""
    tracker = Tracker()
    for one in entries(3, 4, 5):
        tracker.take(one)
    healed = tracker.heal(Page("a", 3, entries(1, 2, 3)))
    assert (offsets(healed.entries), healed.lost, tracker.holding) == ([4, 5], False, False)


def test_tracker_gives_out_what_is_next_and_drops_what_is_old() -> None:
    """An entry that comes twice is given out once."""
    tracker = following(2)
    assert [tracker.take(one) for one in entries(3, 3, 1, 4)] == [True, False, False, True]
    assert tracker.position == ("a", 4)


def test_tracker_holds_after_a_gap_and_heals() -> None:
    """What was missing comes from the page, in order with what was held."""
    tracker = following(2)
    assert [tracker.take(one) for one in entries(5, 6)] == [False, False]
    assert tracker.heal(Page("a", 5, entries(3, 4, 5))) == (entries(3, 4, 5, 6), False)
    assert tracker.position == ("a", 6) and not tracker.holding


def test_tracker_reports_what_the_page_does_not_have() -> None:
    """None of a page that is not complete is given out."""
    tracker = following(2)
    tracker.take(entry(6))
    assert tracker.heal(Page("a", 6, entries(5, 6))) == ([], True)
    assert tracker.position == ("a", 6) and not tracker.holding


def test_tracker_of_another_epoch_reports_it() -> None:
    """Offsets of two epochs are not compared."""
    tracker = following(2)
    tracker.take(entry(3, "b"))
    assert tracker.heal(Page("b", 2, entries(1, 2, epoch="b"))) == ([entry(3, "b")], True)


def test_tracker_with_a_gap_in_what_it_held_holds_again() -> None:
    """The next page fills it."""
    tracker = following(2)
    for one in entries(4, 7):
        tracker.take(one)
    assert tracker.heal(Page("a", 4, entries(3, 4))) == (entries(3, 4), False)
    assert tracker.holding
    assert tracker.heal(Page("a", 7, entries(5, 6, 7))) == (entries(5, 6, 7), False)
    assert not tracker.holding


def test_tracker_drops_a_late_entry_of_an_ended_epoch() -> None:
    """It is not held for ever: the reader, which reads until nothing is held, would never wait again."""
    tracker = following(2, "b")
    tracker.take(entry(9, "a"))
    assert tracker.heal(Page("b", 2, entries(1, 2, epoch="b"))) == ([], False)
    assert not tracker.holding


def test_tracker_decides_about_a_foreign_epoch_with_a_page_that_is_newer() -> None:
    """A page that may be older than an entry of another epoch does not tell which of both is the newer one."""
    for late, page_epoch in permutations("ab", 2):
        tracker = Tracker()
        tracker.take(entry(1, late))
        tracker.heal(Page(page_epoch, 4, []))
        assert tracker.holding
        tracker.heal(Page(page_epoch, 4, []))
        assert not tracker.holding


def test_tracker_that_was_full_reads_again() -> None:
    """What it did not hold is found, also where nothing follows."""
    tracker = Tracker(limit=2)
    for one in entries(4, 5, 6):
        tracker.take(one)
    assert tracker.heal(Page("a", 3, [])) == (entries(4, 5), False)
    assert tracker.holding
    assert tracker.heal(Page("a", 6, entries(6))) == (entries(6), False)
    assert not tracker.holding


def test_tracker_that_holds_reads_again_after_a_loss() -> None:
    """A page that was read before the loss does not have what was lost."""
    tracker = Tracker()
    tracker.hold()
    assert tracker.heal(Page("a", 3, [])) == ([], False)
    assert tracker.holding
    assert tracker.heal(Page("a", 4, entries(4))) == (entries(4), False)


def test_tracker_that_follows_ignores_a_page() -> None:
    """Two that read at the same time heal once."""
    tracker = following(2)
    assert tracker.heal(Page("a", 9, entries(9))) == ([], False)
    assert tracker.position == ("a", 2)


# --- what a reader has that joins -----------------------------------------------------------------------------------


def test_floor_lets_through_what_is_above_it() -> None:
    """What the reader has is not given out once more; without a floor everything is."""
    assert [is_above("a", offset, Position("a", 3)) for offset in (2, 3, 4)] == [False, False, True]
    assert is_above("a", 1, None)


@pytest.mark.parametrize(("epoch", "expected"), [("a", Position("a", 3)), ("b", None)])
def test_floor_stays_over_a_gap_in_its_epoch(epoch: str, expected: Position | None) -> None:
    """The page that has healed the stream may be older than the one that the reader has."""
    assert floor_after_gap(Position("a", 3), epoch) == expected
    assert floor_after_gap(None, epoch) is None


# --- any interleaving -------------------------------------------------------------------------------------------------

Gap = str
"""The epoch of the tracker after entries were reported as missing."""
SIZE = 4
"""Entries of the history."""


class Reader:
    """What one reader was given, from a position on.

    Args:
        since: What it has, if it has anything.

    """

    def __init__(self, since: Position | None) -> None:
        self.since = since
        self.collected: list[Entry | Gap] = []
        """While it joins."""
        self.page: Page | None = None
        self.epoch_before: str | None = None
        """Of the tracker, when the page was read."""
        self.start: Position | None = None
        self.given: list[Entry | Gap] = []
        self.floor: Position | None = None

    def give(self, item: Entry | Gap) -> None:
        """As a member."""
        if isinstance(item, Gap):
            self.floor = floor_after_gap(self.floor, item)
        elif not is_above(item.epoch, item.offset, self.floor):
            return
        self.given.append(item)


class Groups(RuleBasedStateMachine):
    """A group, its tracker, and readers that join: each is given what follows its position once and in order, and a gap
    stands where some of it is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 1
        self.top = 0
        self.kept: list[Entry] = []
        self.published: list[Entry] = []
        """The plain list: everything, in all epochs."""
        self.stream: deque[Entry | None] = deque()
        """What the feed brings; None for a loss that it reports."""
        self.tracker = Tracker(limit=5)
        self.page: Page | None = None
        """The page that the reader of the feed has read, and has not used yet."""
        self.joining: list[Reader] = []
        self.members: list[Reader] = []
        self.given: list[Entry | Gap] = []
        """What the tracker has given out."""
        self.unreported = False
        """Whether the stream has lost entries without reporting it."""

    def name(self) -> str:
        return f"e{self.epochs}"

    def read(self) -> Page:
        return Page(self.name(), self.top, list(self.kept))

    # --- what happens to the group

    @rule(count=st.integers(1, 3))
    def publish(self, count: int) -> None:
        for _ in range(count):
            self.top += 1
            one = entry(self.top, self.name())
            self.published.append(one)
            self.kept = [*self.kept, one][-SIZE:]
            self.stream.append(one)

    @rule(count=st.integers(1, SIZE))
    def trim(self, count: int) -> None:
        self.kept = self.kept[count:]

    @rule()
    def restart(self) -> None:
        self.epochs, self.top, self.kept = self.epochs + 1, 0, []

    # --- what happens to the stream

    @precondition(lambda self: self.stream)
    @rule(where=st.integers(0, 5), count=st.integers(1, 4), reported=st.booleans())
    def cut(self, where: int, count: int, reported: bool) -> None:
        where = min(where, len(self.stream) - 1)
        rest = list(self.stream)
        lost = rest[where : where + count]
        self.unreported |= not reported and None not in lost
        self.stream = deque(rest[:where] + ([None] if reported or None in lost else []) + rest[where + count :])

    @precondition(lambda self: self.published)
    @rule(back=st.integers(1, 6), where=st.integers(0, 3))
    def repeat(self, back: int, where: int) -> None:
        self.stream.insert(where, self.published[-min(back, len(self.published))])

    # --- what the reader of the feed does

    @precondition(lambda self: self.stream)
    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.stream))):
            one = self.stream.popleft()
            if one is None:
                self.tracker.hold()
            elif self.tracker.take(one):
                self.give(one)

    def may_read(self) -> bool:
        return self.page is None and self.tracker.holding and self.tracker.position is not None

    @precondition(may_read)
    @rule()
    def read_page(self) -> None:
        self.page = self.read()

    @precondition(lambda self: self.page is not None)
    @rule()
    def heal(self) -> None:
        assert self.page is not None
        page, self.page = self.page, None
        self.heal_with(page)

    def heal_with(self, page: Page) -> None:
        healed = self.tracker.heal(page)
        assert self.tracker.position is not None
        if healed.lost:
            self.give(self.tracker.position.epoch)
        for one in healed.entries:
            self.give(one)

    def give(self, item: Entry | Gap) -> None:
        self.given.append(item)
        for reader in self.joining:
            reader.collected.append(item)
        for reader in self.members:
            reader.give(item)

    # --- what a connection does that joins

    @rule(back=st.integers(-1, 6))
    def join(self, back: int) -> None:
        since = None
        if back >= 0:
            found = self.published[-back - 1 :][:1]
            since = Position(found[0].epoch, found[0].offset) if found else Position(self.name(), 0)
        reader = Reader(since)
        self.joining.append(reader)
        self.read_for(reader)

    def read_for(self, reader: Reader) -> None:
        position = self.tracker.position
        reader.epoch_before = None if position is None else position.epoch
        reader.page = self.read()

    @precondition(lambda self: self.joining)
    @rule(number=st.integers(0, 3))
    def joined(self, number: int) -> None:
        reader = self.joining[number % len(self.joining)]
        page = reader.page
        assert page is not None
        if self.tracker.position is None:
            self.heal_with(page)
        elif not reader.epoch_before == self.tracker.position.epoch == page.epoch:
            if reader.epoch_before == self.tracker.position.epoch:
                self.tracker.hold()  # its epoch has ended
            reader.collected.clear()  # the page that is read now has all of it
            self.read_for(reader)
            return
        found = None if reader.since is None else missed(reader.since, page)
        reader.start = Position(page.epoch, page.top) if found is None else reader.since
        reader.given += found or []
        reader.floor = Position(page.epoch, page.top)
        self.joining.remove(reader)
        for item in reader.collected:
            reader.give(item)
        self.members.append(reader)

    # --- what holds

    @invariant()
    def nothing_is_doubled_or_left_out(self) -> None:
        for reader in self.members:
            self.check(reader)

    def check(self, reader: Reader) -> int:
        """The index of what comes next in the plain list."""
        index = {(one.epoch, one.offset): number for number, one in enumerate(self.published)}
        assert reader.start is not None
        if reader.start.offset:
            following = index[reader.start] + 1
        else:
            following = next((i for i, one in enumerate(self.published) if one.epoch == reader.start.epoch), -1)
            if following < 0:  # nothing was published in that epoch: the next one is that of a later epoch
                number = int(reader.start.epoch[1:])
                later = (i for i, one in enumerate(self.published) if int(one.epoch[1:]) > number)
                following = next(later, len(self.published))
        gap = False
        for item in reader.given:
            if isinstance(item, Gap):
                gap = True
                continue
            number = index[item.epoch, item.offset]
            assert number == following or (gap and number > following), (
                number,
                following,
                reader.given,
                reader.start,
                reader.page,
                reader.collected,
                self.published,
            )
            following, gap = number + 1, False
        return following

    def teardown(self) -> None:
        """All that is missing was reported, at the latest when one more has come through."""
        if self.unreported:
            self.publish(1)
        while self.stream or self.joining or self.page is not None or self.tracker.holding:
            if self.stream:
                self.deliver(1)
            elif self.page is not None:
                self.heal()
            elif self.may_read():
                self.read_page()
            elif self.joining:
                self.joined(0)
            else:
                break  # nothing has joined
        ends_with_a_gap = bool(self.given) and isinstance(self.given[-1], Gap)
        for reader in self.members:
            assert self.check(reader) == len(self.published) or ends_with_a_gap, reader.given


STEPS = {
    "publish": 4,
    "deliver": 4,
    "join": 3,
    "joined": 3,
    "read_page": 3,
    "heal": 3,
    "cut": 1,
    "repeat": 1,
    "restart": 2,
    "trim": 1,
}
"""How often each occurs in a walk: a generator that weighs all alike seldom reads pages around a restart."""


@pytest.mark.parametrize("seed", range(20))
def test_readers_in_random_walks(seed: int) -> None:
    """As ``TestGroups``, in many more interleavings; the seed repeats them."""
    random = Random(seed)
    for _ in range(100):
        machine = Groups()
        for name in random.choices(list(STEPS), list(STEPS.values()), k=40):
            if name == "publish":
                machine.publish(random.randint(1, 2))
            elif name == "deliver" and machine.stream:
                machine.deliver(random.randint(1, 3))
            elif name == "join":
                machine.join(random.randint(-1, 4))
            elif name == "joined" and machine.joining:
                machine.joined(random.randint(0, 3))
            elif name == "read_page" and machine.may_read():
                machine.read_page()
            elif name == "heal" and machine.page is not None:
                machine.heal()
            elif name == "cut" and machine.stream:
                machine.cut(random.randint(0, 3), random.randint(1, 3), random.random() < 0.5)
            elif name == "repeat" and machine.published:
                machine.repeat(random.randint(1, 4), random.randint(0, 3))
            elif name == "restart":
                machine.restart()
            elif name == "trim":
                machine.trim(random.randint(1, 3))
            machine.nothing_is_doubled_or_left_out()
        machine.teardown()


Groups.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestGroups = Groups.TestCase
TestGroups.__doc__ = Groups.__doc__
