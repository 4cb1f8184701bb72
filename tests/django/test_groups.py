"""``gws_middleware.django.groups`` in one process: transactions, names, settings, and what is different in tests.

``test_groups_servers`` has the same under real servers.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import unittest
import uuid
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.db import connections, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject

from gws_middleware import ConfigError, WebSocket
from gws_middleware.django import groups, instance
from gws_middleware.django.signals import websocket_opened
from gws_middleware.django.test import WebSocketClient, WebSocketTestMixin
from gws_middleware.groups import Groups, GroupsUnavailable, History, Position, Publication

from .support import answer

KEEPING = {"groups": {"history": {"room": {"size": 100, "age": 600}, "user": {}}}}
ROOM = "room.1"


@pytest.fixture(autouse=True)
def keeping() -> Iterator[None]:
    """Groups whose messages can be read at any time."""
    with override_settings(GWS=KEEPING):
        yield


def sent(name: str = ROOM) -> list[Any]:
    """What was sent to a group so far."""
    return [publication.data for publication in groups.history(name)]


@pytest.fixture
def other() -> Iterator[str]:
    """The alias of a second database."""
    default = connections["default"]
    connections.settings["other"] = {**default.settings_dict, "NAME": ":memory:"}
    yield "other"
    connections["other"].close()
    del connections["other"], connections.settings["other"]


# --- the functions -------------------------------------------------------------------------------------------------


def test_functions_are_those_of_the_instance() -> None:
    """Each does what the method of ``Groups`` does."""
    position = groups.send(ROOM, {"n": 1}, info={"by": "ada"})
    assert position == groups.position(ROOM) == Position(position.epoch, 1)  # type: ignore[union-attr]
    assert groups.send_many([(ROOM, "two"), ("other", "x")]) == [Position(position.epoch, 2), None]  # type: ignore[union-attr]
    [first, second] = groups.history(ROOM)
    assert (first.data, first.info, second.data) == ({"n": 1}, {"by": "ada"}, "two")
    assert groups.history(ROOM, since=position) == groups.history(ROOM, limit=1) == [second]
    assert next(iter(groups.listen(ROOM, since=position, timeout=5))) == second
    assert asyncio.run(groups.asend(ROOM, "three", info=1)) == Position(position.epoch, 3)  # type: ignore[union-attr]


def test_view_that_waits_is_a_member(client: WebSocketClient) -> None:
    """It gets what any code sends, until it is no member any more."""
    with client.websocket(f"/groups/{ROOM}/") as one, client.websocket(f"/groups/{ROOM}/listening/") as other:
        assert one.receive() and other.receive()
        assert groups.count(ROOM) == 2
        one.send("from a view")
        assert [one.receive(), other.receive()] == ["from a view"] * 2
        for message in ("others", "others, in a transaction"):
            one.send(message)
            assert other.receive() == message
        groups.send(ROOM, {"from": "the test"})
        assert one.receive_json() == other.receive_json() == {"from": "the test"}
        groups.close(ROOM, 4000, "closed")
        assert other.receive() is None
        assert (other.close_code, other.close_reason) == (4000, "closed")


def test_member_resumes(client: WebSocketClient) -> None:
    """By the text of a position."""
    position = groups.send(ROOM, "before")
    groups.send(ROOM, "missed")
    with client.websocket(f"/groups/{ROOM}/?since={position}") as ws:
        assert ws.receive() == "missed"


def test_member_leaves(client: WebSocketClient) -> None:
    """It is open, and gets nothing more."""
    members: list[WebSocket] = []

    def remember(websocket: WebSocket, **arguments: Any) -> None:
        members.append(websocket)

    websocket_opened.connect(remember)
    try:
        with client.websocket(f"/groups/{ROOM}/listening/") as ws:
            ws.receive()
            assert groups.leave(ROOM, members[0]) is True
            assert groups.leave(ROOM, members[0]) is False
            groups.send(ROOM, "x")
            assert groups.count(ROOM) == 0
            groups.join("room.2", members[0])
            groups.send("room.2", "y")
            assert ws.receive() == "y"
    finally:
        websocket_opened.disconnect(remember)


def test_handler_may_query(client: WebSocketClient) -> None:
    """It runs in a greenlet, as a callback of a detached connection does."""

    def handle(ws: WebSocket, publication: Publication) -> None:
        ws.send(f"{publication.data} {User.objects.count()}")

    def joining(request: Any, name: str) -> None:
        groups.join(name, request.websocket, handler=handle)
        request.websocket.send("joined")
        request.websocket.detach()

    urls: Any = ModuleType("urls")
    urls.urlpatterns = [path("<name>/", joining)]
    with override_settings(ROOT_URLCONF=urls), client.websocket(f"/{ROOM}/") as ws:
        assert ws.receive() == "joined"
        groups.send(ROOM, "users:")
        assert ws.receive() == f"users: {User.objects.count()}"


# --- transactions --------------------------------------------------------------------------------------------------


def test_message_without_a_transaction_is_sent_at_once() -> None:
    """It opens no database connection for that."""
    found: list[Any] = []

    def send() -> None:  # in a thread, because this one has a connection
        found.append(groups.send(ROOM, "x"))
        found.extend(connections.all(initialized_only=True))

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    assert found == [groups.position(ROOM)]


def test_messages_of_a_transaction_are_sent_with_the_commit() -> None:
    """In the order of the calls, and not before it."""
    with transaction.atomic():
        results = [
            groups.send(ROOM, 1),
            groups.send_many([(ROOM, 2), (ROOM, "3")]),
            groups.send(ROOM, b"4", info={"by": "ada"}),
        ]
        with transaction.atomic():
            groups.send(ROOM, 5)
        before = sent()
    assert (results, before) == ([None, [None, None], None], [])
    assert sent() == [1, 2, "3", b"4", 5]
    assert groups.history(ROOM)[3].info == {"by": "ada"}


def test_rollback_drops_messages() -> None:
    """Of the whole transaction, or of the part that is rolled back."""
    with suppress(ZeroDivisionError), transaction.atomic():
        groups.send(ROOM, "never")
        groups.send_many([(ROOM, "never")])
        raise ZeroDivisionError
    with transaction.atomic():
        groups.send(ROOM, "first")
        with suppress(ZeroDivisionError), transaction.atomic():
            groups.send(ROOM, "never")
            raise ZeroDivisionError
        groups.send(ROOM, "second")
    assert sent() == ["first", "second"]


def test_message_is_that_of_the_call() -> None:
    """What the caller changes before the commit has no effect."""
    message, facts, data = {"n": [1]}, {"by": ["ada"]}, bytearray(b"ab")
    with transaction.atomic():
        groups.send(ROOM, message, info=facts)
        groups.send_many([(ROOM, message), (ROOM, data)])
        message["n"].append(2)
        facts["by"].append("bob")
        data[:] = b"cd"
    assert sent() == [{"n": [1]}, {"n": [1]}, b"ab"]
    assert groups.history(ROOM)[0].info == {"by": ["ada"]}


WRONG = [
    (lambda: groups.send("a b", "x"), ValueError, "'a b' cannot be the name of a group"),
    (lambda: groups.send(ROOM, object()), TypeError, "not JSON serializable"),
    (lambda: groups.send(ROOM, float("nan")), ValueError, "not JSON compliant"),
    (lambda: groups.send(ROOM, "x", info=object()), TypeError, "not JSON serializable"),
    (lambda: groups.send_many([(ROOM, "x"), ("gws.x", "x")]), ValueError, "begins the names of this package"),
    (lambda: groups.close("a b"), ValueError, "cannot be the name of a group"),
    (lambda: groups.close(ROOM, 1005), ValueError, "code"),
    (lambda: groups.close(ROOM, 4000, "x" * 124), ValueError, "reason"),
]


@pytest.mark.parametrize(("call", "error", "sentence"), WRONG)
@pytest.mark.parametrize("inside", [True, False])
def test_wrong_argument_raises_at_the_call(call: Any, error: type[Exception], sentence: str, inside: bool) -> None:
    """In a transaction as without one, and nothing is sent."""
    if inside:
        with transaction.atomic(), pytest.raises(error, match=sentence):
            call()
    else:
        with pytest.raises(error, match=sentence):
            call()
    assert sent() == []


def test_message_may_be_sent_before_the_commit() -> None:
    """``on_commit=False``: a rollback has no effect on it."""
    with transaction.atomic():
        position = groups.send(ROOM, 1, on_commit=False)
        [second] = groups.send_many([(ROOM, 2)], on_commit=False)
        assert (position, second) == tuple(publication.position for publication in groups.history(ROOM))
        transaction.set_rollback(True)
    assert sent() == [1, 2]


def test_close_waits_for_the_commit(client: WebSocketClient) -> None:
    """After what was sent before it."""
    with client.websocket(f"/groups/{ROOM}/listening/") as ws:
        ws.receive()
        with transaction.atomic():
            groups.close(ROOM)
            transaction.set_rollback(True)
        with transaction.atomic():
            groups.send(ROOM, "last")
            groups.close(ROOM, 4001)
            groups.send(ROOM, "not seen")
            groups.send("room.2", "x", on_commit=False)
        assert [ws.receive(), ws.receive(), ws.close_code] == ["last", None, 4001]
    with client.websocket(f"/groups/{ROOM}/listening/") as ws, transaction.atomic():
        ws.receive()
        groups.close(ROOM, 4002, on_commit=False)
        assert [ws.receive(), ws.close_code] == [None, 4002]


def test_message_waits_for_all_databases_that_are_in_a_transaction(other: str) -> None:
    """It is sent after the last commit."""
    with transaction.atomic(using=other):
        groups.send(ROOM, "one")
        with transaction.atomic():
            groups.send(ROOM, "both")
        assert sent() == []
    assert sent() == ["one", "both"]


@pytest.mark.parametrize("rolled_back", ["default", "other"])
def test_rollback_of_one_database_drops_the_message(other: str, rolled_back: str) -> None:
    """What the message is about may be in either."""
    with transaction.atomic(using=other), transaction.atomic():
        groups.send(ROOM, "never")
        transaction.set_rollback(True, using=rolled_back)
    assert sent() == []


def test_database_may_be_named(other: str) -> None:
    """Then no other one counts."""
    with transaction.atomic(using=other):
        groups.send(ROOM, "default is in none", using="default")
        with transaction.atomic():
            groups.send(ROOM, "default is in one", using="default")
            groups.send_many([(ROOM, "other")], using=other)
            assert sent() == ["default is in none"]
        assert sent() == ["default is in none", "default is in one"]
    assert sent() == ["default is in none", "default is in one", "other"]
    with pytest.raises(Exception, match="The connection 'thrid' doesn't exist"):
        groups.send(ROOM, "x", using="thrid")


def test_message_without_autocommit_is_refused(other: str) -> None:
    """Django does not know of the commit."""
    transaction.set_autocommit(False, using=other)
    with pytest.raises(transaction.TransactionManagementError, match="manual transaction management"):
        groups.send(ROOM, "x")
    groups.send(ROOM, "now", on_commit=False)
    transaction.rollback(using=other)
    transaction.set_autocommit(True, using=other)
    assert sent() == ["now"]


def test_failure_after_the_commit_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The caller goes on, and the other messages are sent. Without a transaction it is raised."""
    broken = {"groups": "sqlite:///dev/null/groups"}
    with transaction.atomic():
        with override_settings(GWS=broken):
            groups.send(ROOM, "lost")
            groups.send_many([(ROOM, "lost"), ("room.2", "lost"), (ROOM, "lost")])
            groups.close(ROOM)
        groups.send(ROOM, "sent")
    with override_settings(GWS=broken), pytest.raises(GroupsUnavailable):
        groups.send(ROOM, "x")
    records = [record for record in caplog.records if record.getMessage().startswith("after a commit")]
    whats = ["a message for room.1", "messages for room.1, room.2", "the order to close room.1"]
    why = "groups cannot use the directory /dev/null/groups: it cannot be made: Not a directory"
    assert [(record.levelno, record.exc_info) for record in records] == [(logging.ERROR, None)] * 3
    for record, what in zip(records, whats, strict=True):
        assert record.getMessage().startswith(f"after a commit {what} could not be sent: {why}")
    assert sent() == ["sent"]


def test_mistake_after_the_commit_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Django, with its traceback. The caller goes on, and the other messages are sent."""

    def broken(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError

    with transaction.atomic():
        with monkeypatch.context() as patch:
            patch.setattr(Groups, "publish", broken)
            groups.send(ROOM, "lost")
        groups.send(ROOM, "sent")
    [record] = caplog.records
    assert (record.name, record.exc_info is not None) == ("django.db.backends.base", True)
    assert sent() == ["sent"]


def test_coroutine_sends_at_once_and_its_thread_with_the_commit() -> None:
    """``asend`` is in no transaction; ``send`` in ``sync_to_async`` is in that of its thread."""

    def in_a_transaction() -> list[Any]:
        with transaction.atomic():
            groups.send(ROOM, "with the commit")
            return sent()

    async def program() -> list[Any]:
        await groups.asend(ROOM, "at once")
        return await sync_to_async(in_a_transaction)()

    before = asyncio.run(program())
    assert (before, sent()) == (["at once"], ["at once", "with the commit"])


class TestAtomicRequests(WebSocketTestMixin, TransactionTestCase):
    client: WebSocketClient

    def setUp(self) -> None:
        patch = pytest.MonkeyPatch()
        patch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
        self.addCleanup(patch.undo)

    def test_message_before_the_101_is_sent_with_its_commit(self) -> None:
        """Of a WebSocket that is accepted. What comes later is in no transaction."""
        with self.client.websocket(f"/groups/{ROOM}/?early") as ws:
            assert ws.receive()
            assert answer(ws, "after") == "after"
        with pytest.raises(AssertionError), self.client.websocket(f"/groups/{ROOM}/?early&fails"):
            pass
        assert sent() == ["before the 101", "after"]

    def test_message_of_a_request_is_sent_with_its_commit(self) -> None:
        """And not where the view raises."""
        self.client.raise_request_exception = False
        assert self.client.get(f"/groups/{ROOM}/send/?text=sent").status_code == 200
        assert self.client.get(f"/groups/{ROOM}/send/?text=never&fails=1").status_code == 500
        assert sent() == ["sent"]


# --- tests of projects ---------------------------------------------------------------------------------------------


class TestInATestCase(WebSocketTestMixin, TestCase):
    client: WebSocketClient

    def test_transaction_of_the_test_does_not_count(self) -> None:
        """A message is sent at once, as it is without a test."""
        assert groups.send(ROOM, "x") is not None
        with self.client.websocket(f"/groups/{ROOM}/") as ws:
            assert ws.receive()
            assert answer(ws, "from a view") == "from a view"
        assert sent() == ["x", "from a view"]

    def test_other_transactions_count(self) -> None:
        """Their commits can be captured, as all of Django's."""
        with transaction.atomic():
            groups.send(ROOM, "never")
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            with transaction.atomic():
                groups.send(ROOM, "captured")
            assert sent() == []
        assert (len(callbacks), sent()) == (1, ["captured"])

    def test_commit_in_a_view_can_be_captured(self) -> None:
        """Where the block ends when the view has sent."""
        with self.client.websocket(f"/groups/{ROOM}/") as ws:
            ws.receive()
            with self.captureOnCommitCallbacks(execute=True):
                ws.send("in a transaction")
                assert answer(ws, "done") == "done"
            assert ws.receive() == "in a transaction"

    def test_wait_for_a_commit_that_does_not_come_says_so(self) -> None:
        """In the TimeoutError of the test client."""
        sentence = r"; messages to groups that wait for a commit: 2\. A TestCase does not commit: .*captureOnCommit"
        with pytest.raises(TimeoutError, match=sentence):
            self.wait_for(lambda ws: [ws.send("in a transaction") for _ in range(2)])

    def wait_for(self, send: Any) -> None:
        """Wait for a message in vain."""
        with self.client.websocket(f"/groups/{ROOM}/", timeout=0.2) as ws:
            ws.receive()
            send(ws)
            ws.receive()

    def test_other_timeouts_do_not(self) -> None:
        """Nothing waits, or it was sent."""
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            groups.send(ROOM, "sent")
        with pytest.raises(TimeoutError) as raised:
            self.wait_for(lambda ws: None)
        assert "commit" not in str(raised.value)


class TestBetweenTests:
    """Each test of the mixin begins with empty groups."""

    class Case(WebSocketTestMixin, TestCase):  # noqa: D106
        __test__ = False

        def test_one(self) -> None:
            groups.send(ROOM, "x")
            assert sent() == ["x"]

        test_other = test_one

    def test_nothing_is_left_of_another_test(self) -> None:
        """Neither messages nor members."""
        suite = unittest.TestSuite([self.Case("test_one"), self.Case("test_other")])
        result = unittest.TestResult()
        suite.run(result)
        assert (result.testsRun, result.errors, result.failures) == (2, [], [])


# --- the instance --------------------------------------------------------------------------------------------------


def test_instance_is_that_of_the_setting() -> None:
    """The same until the setting is another, and again after that."""
    first = groups.get_groups()
    with override_settings(GWS={"groups": {"history": {"room": {"size": 5}}}}):
        second = groups.get_groups()
        assert second.history_of(ROOM) == History(5, 300.0)
    with override_settings(GWS={**KEEPING, "max_message_size": 5}):
        assert groups.get_groups() is first
    assert (groups.get_groups() is first, first is second) == (True, False)
    assert first.history_of(ROOM) == History(100, 600)


def test_override_that_ends_leaves_members(client: WebSocketClient) -> None:
    """They are those of the setting."""
    with client.websocket(f"/groups/{ROOM}/listening/") as ws:
        ws.receive()
        with override_settings(GWS={}):
            groups.send(ROOM, "not seen")
        groups.send(ROOM, "seen")
        assert ws.receive() == "seen"


def test_tests_reach_no_other_process(tmp_path: Any) -> None:
    """``"auto"`` is in memory, and an explicit URL is what it says."""
    assert groups.get_groups().url == "memory://"
    url = f"sqlite://{tmp_path}/groups"
    with override_settings(GWS={"groups": url}):
        assert groups.get_groups().url == url
        groups.send("x", "y")
    instance.begin_test()
    assert (tmp_path / "groups").is_dir()


def test_wrong_setting_raises() -> None:
    """At the first use, too."""
    with override_settings(GWS={"groups": "reddis://"}), pytest.raises(ConfigError, match="'reddis://' is no backend"):
        groups.send(ROOM, "x")


def test_threads_get_the_same_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all of them make one."""
    found: list[Groups] = []
    barrier = threading.Barrier(4)

    def make(*arguments: Any, **options: Any) -> Groups:
        barrier.wait()
        return Groups(*arguments, **options)

    monkeypatch.setattr(instance, "Groups", make)
    threads = [threading.Thread(target=lambda: found.append(groups.get_groups())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one is groups.get_groups() for one in found] == [True] * 4


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (7, "user.7"),
        ("7", "user.7"),
        ("ada", "user.ada"),
        ("ada.l@x-y_z.org", "user.ada.l@x-y_z.org"),
        ("a:b", "user.a:3ab"),
        ("a b/ü", "user.a:20b:2f:c3:bc"),
        ("", "user."),
        (uuid.UUID(int=1), "user.00000000-0000-0000-0000-000000000001"),
        (-1, "user.-1"),
        ("x" * 195, "user." + "x" * 195),
        ("x" * 196, "user.::" + sha256(b"user." + b"x" * 196).hexdigest()),
        ("\n" * 70, "user.::" + sha256(b"user." + b":0a" * 70).hexdigest()),
    ],
)
def test_user_has_a_group(key: Any, name: str) -> None:
    """With any primary key: of a user, and of a lazy one as ``request.user`` is."""
    user = SimpleNamespace(pk=key)
    found = {groups.user_group(user), groups.user_group(SimpleLazyObject(lambda: user))}
    assert found == {name}
    groups.send(name, "it is a name")
    assert sent(name) == ["it is a name"]


def test_primary_key_stands_for_its_user() -> None:
    """Also as text; anything else is refused."""
    user = User(pk=7)
    assert groups.user_group(user) == groups.user_group(7) == groups.user_group("7") == "user.7"
    for wrong in ("ada", None, User()):
        with pytest.raises(ValueError, match="primary key"):
            groups.user_group(wrong)


def test_anonymous_user_has_no_group() -> None:
    """All of them would share it."""
    for user in (AnonymousUser(), SimpleLazyObject(AnonymousUser)):
        with pytest.raises(ValueError, match="is anonymous, and has no group: wanted is a user that is stored"):
            groups.user_group(user)
