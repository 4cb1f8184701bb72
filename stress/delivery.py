"""What was published to groups, what each member got of it, and whether that is right.

Rule 1: nothing here waits or does I/O. Rule 2: what a member did not get is a violation unless the server has reported
it: ``recovered`` was false, ``gap`` was sent, or the connection ended.

In a group with history, offsets say what is missing, within an epoch. In one without, each message has the same
successor for all members; a member that misses one, or gets two in another order, has another successor somewhere.

==========  ===========================================================================================
violation   means
==========  ===========================================================================================
missing     a member has not got a message that came before one that it has got, or after the last one
order       members have got messages of their group in different orders, or one twice
lost        a publisher has got an acknowledgement for what no member has got
refused     a publisher has got a refusal for what a member has got
recovery    a position within the history was not recovered, or an epoch went back
position    a message is at two positions of an epoch, or two at one
==========  ===========================================================================================
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from gws_middleware.groups import Position

from .rooms import KEPT

__all__ = ["Message", "Room", "Seat", "delays", "text_of"]

Violation = Callable[[str, str], None]


def text_of(message_id: str, size: int) -> str:
    """The text of a message that is published now: its id, the time, and so many bytes."""
    return f"{message_id} {time.monotonic()} {'x' * size}"


class Message:
    """One that was published, or that a member has got."""

    __slots__ = ("acknowledged", "delivered", "is_delivered", "is_refused", "position", "sent")

    def __init__(self, sent: float) -> None:
        self.sent = sent
        """When the call of its publisher began."""
        self.acknowledged = 0.0
        self.delivered = 0.0
        """When the last of those got it that were members when it was published."""
        self.is_delivered = False
        """Whether any member has got it."""
        self.is_refused = False
        """Whether its publisher was answered that it was not published."""
        self.position = ""
        """What its publisher was answered; empty in a group without history."""


class Room:
    """One group.

    Args:
        name: Its name.
        size: Messages that it keeps at most, if it has a history.
        violation: Is called with the kind, and a sentence.

    """

    def __init__(self, name: str, size: int, violation: Violation) -> None:
        self.name, self.size = name, size
        self.has_history = name.startswith(KEPT)
        self._violation = violation
        self.messages: dict[str, Message] = {}
        self.seats: list[Seat] = []
        self.counts: Counter[str] = Counter()
        self._at: dict[str, str] = {}
        """Messages by position, as members have got them."""
        self._where: dict[tuple[str, str], str] = {}
        """Positions by epoch and message."""
        self._after: dict[str, str] = {}
        self._before: dict[str, str] = {}

    def violation(self, kind: str, sentence: str) -> None:
        self._violation(kind, f"{self.name}: {sentence}")

    def message(self, message_id: str, sent: float) -> Message:
        """The message with this id."""
        found = self.messages.get(message_id)
        if found is None:
            found = self.messages[message_id] = Message(sent)
        return found

    def answered(self, answer: str, sent: float, now: float) -> None:
        """A publisher has got the answer of ``rooms.publish()``."""
        word, message_id, *position = answer.split(" ")
        self.counts[word] += 1
        message = self.message(message_id, sent)
        message.is_refused = word == "refused"
        if word == "ack":
            message.acknowledged = now
            message.position = position[0].strip("-")

    # --- called by seats -------------------------------------------------------------------------------------------

    def is_at(self, position: str, message_id: str) -> None:
        """A member has got this message at this position."""
        other = self._at.setdefault(position, message_id)
        if other != message_id:
            self.violation("position", f"{other} and {message_id} are both at {position}")
        where = self._where.setdefault((position.rpartition(".")[0], message_id), position)
        if where != position:
            self.violation("position", f"{message_id} is at {where} and at {position}")

    def follows(self, message_id: str, before: str) -> None:
        """A member has got one message after another one, and nothing in between."""
        if message_id == before:
            self.violation("order", f"a member has got {message_id} twice")
            return
        wanted = self._after.setdefault(before, message_id)
        found = self._before.setdefault(message_id, before)
        if wanted != message_id:
            self.violation("order", f"one member has got {wanted} after {before}, and another one {message_id}")
        elif found != before:
            self.violation("order", f"one member has got {message_id} after {found}, and another one after {before}")

    # --- at the end ------------------------------------------------------------------------------------------------

    def incomplete(self) -> list[Seat]:
        """The members that have not got the last message, or one that none has got. Nothing is published any more."""
        seats = [seat for seat in self.seats if seat.is_member]
        if self.has_history:
            top = self._top(seats)
            return [seat for seat in seats if seat.position is None or seat.position != top]
        # One of two publishers may be quicker: the message that was sent last is not the last one that comes.
        late = [message for message in self.messages.values() if message.acknowledged and not message.is_delivered]
        if waiting := [seat for seat in seats if any(map(seat.should_have, late))]:
            return waiting
        latest = {seat.last for seat in seats if seat.last} - self._after.keys()
        since = max((self.messages[name].sent for name in latest), default=0.0)
        if len(latest) > 1:
            return seats
        return [seat for seat in seats if (seat.last not in latest if seat.last else seat.is_member_since(since))]

    def _top(self, seats: Iterable[Seat]) -> Position | None:
        """The last position of the current epoch, which is that of what was sent, or has become a member, last."""
        found = [(self.messages[name].sent, Position.parse(at)) for at, name in self._at.items()]
        found += [(m.sent, Position.parse(m.position)) for m in self.messages.values() if m.position]
        found += [(seat.began, seat.joined) for seat in seats if seat.joined is not None]
        if not found:
            return None
        current = max(found)[1].epoch
        return max(position for _, position in found if position.epoch == current)

    def check(self) -> None:
        """What can be found only when nothing is on the way any more."""
        for name, message in self.messages.items():
            if message.is_refused and message.is_delivered:
                self.violation("refused", f"{name} was refused, and a member has got it")
            if not message.acknowledged:
                continue
            if message.position and self._at.get(message.position, name) != name:
                self.violation("position", f"{name} was acknowledged at {message.position}, and another one is there")
            elif not message.is_delivered and any(seat.should_have(message) for seat in self.seats):
                self.violation("lost", f"{name} was acknowledged, and no member has got it")
        for seat in self.seats:
            before = self._before.get(seat.first)
            if before is not None and seat.is_member_since(self.messages[before].sent):
                after = self.messages[before].sent - seat.began
                sentence = f"not {before}, which came before it and was sent {after * 1000:.1f} ms after the join"
                self.violation("missing", f"{seat.name} has got {seat.first}, and {sentence}")


class Seat:
    """One connection that is a member of a room.

    Args:
        room: The group.
        name: For violations.
        since: The position that it had when it connected.

    """

    def __init__(self, room: Room, name: str, since: Position | None = None) -> None:
        self.room, self.name = room, name
        self.position = self._since = since
        self.joined: Position | None = None
        """Where it has become a member."""
        self.first = self.last = ""
        """Ids, in a group without history; empty after a gap."""
        self.began = self.ended = 0.0
        self._newest = 0.0
        """The latest time at which one of its messages was sent."""
        self._gap_at = 0.0
        """When a gap was reported to it."""
        self._early: list[tuple[str, str]] | None = [] if room.has_history else None
        """What came before ``joined``."""
        room.seats.append(self)

    @property
    def is_member(self) -> bool:
        return bool(self.began and not self.ended)

    def should_have(self, message: Message) -> bool:
        """Whether it has got a later message than this one, or can still get it, and no gap was reported since."""
        if message.sent <= self._gap_at:
            return False
        return self.is_member_since(message.sent) and (self._newest > message.acknowledged or self.is_member)

    def is_member_since(self, at: float) -> bool:
        """Whether it was a member before this time."""
        return 0 < self.began < at

    def receive(self, text: str) -> None:
        """What the server has sent; see rooms.py."""
        word, _, rest = text.partition(" ")
        if word == "message":
            position, message_id, sent = rest.split(" ", 3)[:3]
            self._take(position, message_id, float(sent))
        elif word == "joined":
            recovered, position = rest.split(" ")
            self._join(recovered == "1", position)
        elif word == "gap":
            self.room.counts["gaps"] += 1
            self.last = ""
            self._gap_at = time.monotonic()
        else:
            self.room.violation("order", f"{self.name} has got {text[:80]!r}")

    def end(self) -> None:
        """The connection has ended."""
        self.ended = time.monotonic()

    def _join(self, recovered: bool, text: str) -> None:
        self.began = time.monotonic()
        if not self.room.has_history:
            return
        since, self.joined = self._since, Position.parse(text)
        position = self.joined
        early, self._early = self._early or [], None
        if recovered:
            self.room.counts["recovered"] += 1
        else:
            self.position = position
            if since is not None:
                self.room.counts["not recovered"] += 1
                if since.epoch == position.epoch and position.offset - since.offset <= self.room.size:
                    self.room.violation("recovery", f"{self.name} had {since}, and was not recovered up to {position}")
        for where, message_id in early:
            self._take_kept(where, message_id)

    def _take(self, position: str, message_id: str, sent: float) -> None:
        message = self.room.message(message_id, sent)
        message.is_delivered = True
        self._newest = max(self._newest, sent)
        if self.is_member_since(sent):
            message.delivered = time.monotonic()
        if self._early is not None:
            self._early.append((position, message_id))
        elif self.room.has_history:
            self._take_kept(position, message_id)
        else:
            if self.last:
                self.room.follows(message_id, self.last)
            elif not self.first and not self._gap_at:
                self.first = message_id
            self.last = message_id

    def _take_kept(self, text: str, message_id: str) -> None:
        self.room.is_at(text, message_id)
        position, mine = Position.parse(text), self.position
        if mine is None or position.epoch != mine.epoch:
            self.room.violation("order", f"{self.name} has {mine}, and has got {message_id} at {position}")
        elif position.offset <= mine.offset:
            self.room.violation("order", f"{self.name} has got {message_id} at {position} after {mine}")
            return
        elif position.offset > mine.offset + 1:
            self.room.violation("missing", f"{self.name} has got {message_id} at {position} after {mine}")
        self.position = position


def delays(messages: Iterable[Message], disturbances: Iterable[tuple[float, float]]) -> list[float]:
    """Seconds from the publisher's call to the last member, of messages that were sent outside of these times."""
    times = list(disturbances)
    return [
        message.delivered - message.sent
        for message in messages
        if message.delivered and not any(begin <= message.sent <= end for begin, end in times)
    ]
