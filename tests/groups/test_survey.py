"""The survey in one process: facts, filters, limits, and what other workers may answer or not."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import pytest

from gws_middleware import __version__
from gws_middleware.groups import ConnectionInfo, Groups, GroupsUnavailable, Survey, UnknownOutcome, WorkerInfo, facts
from gws_middleware.groups.backends.base import Backend, Publish
from gws_middleware.groups.backends.memory import MemoryBackend
from gws_middleware.groups.backends.redis import RedisBackend
from gws_middleware.groups.backends.sqlite import SqliteBackend
from gws_middleware.groups.message import BINARY, Envelope
from gws_middleware.groups.survey import Found, Question, Worker, answer, ask, register, summary
from gws_middleware.process.registry import Registry
from gws_middleware.testing import Client, connect
from gws_middleware.typing import Environ, StartResponse, WSGIApp

from ..support.inprocess import hub_errors, in_a_thread, spin, until
from ..support.registries import here

__all__ = ["here", "hub_errors"]


@pytest.fixture
def groups() -> Iterator[Groups]:
    """Of this process alone."""
    made = Groups("memory://")
    yield made
    made.release()


def echo(groups: Groups, *names: str) -> WSGIApp:
    """Joins these groups, and answers each message."""

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.accept()
        for name in names:
            groups.join(name, ws)
        ws.send("joined")
        for message in ws:
            ws.send(message)
        return []

    return application


def opened(stack: ExitStack, groups: Groups, path: str = "/", *names: str, **options: Any) -> Client:
    """An open connection; the application waits for a message."""
    client = stack.enter_context(connect(echo(groups, *names), path, **options))
    assert client.receive() == "joined"
    return client


# --- facts ------------------------------------------------------------------------------------------------------------


def test_facts_of_a_connection(groups: Groups) -> None:
    """All of them."""
    begin = time.time()
    with ExitStack() as stack:
        client = opened(stack, groups, "/room/%C3%A4", "room.1", "user.7", environ={"REMOTE_ADDR": "192.0.2.7"})
        client.send("hello")
        assert client.receive() == "hello"
        [found] = groups.connections()
        [worker] = groups.workers()
    assert found._replace(id="", since=0, last_activity=0) == ConnectionInfo(
        id="",
        worker=worker.name,
        user=None,
        user_name=None,
        address="192.0.2.7",
        path="/room/ä",
        since=0,
        last_activity=0,
        messages_received=1,
        messages_sent=2,
        bytes_received=11,
        bytes_sent=15,
        outbox=0,
        latency=None,
        groups=("room.1", "user.7"),
    )
    assert begin - 0.1 <= found.since <= found.last_activity <= time.time() + 0.1
    assert found.id


def test_facts_of_a_worker(groups: Groups, here: Registry) -> None:
    """This process."""
    here.keepalive.lag = 0.25
    with ExitStack() as stack:
        opened(stack, groups, "/", "room.1", "room.2")
        opened(stack, groups, "/", "room.1")
        here.keepalive.lag = 0.25
        [found] = groups.workers()
    assert found.name == f"{found.host}:{found.pid}"
    assert (found.connections, found.groups, found.lag, found.version) == (2, 2, 0.25, __version__)
    assert found.since <= time.time()


def test_address_is_that_of_the_setting(groups: Groups) -> None:
    """``client_address``. Where it returns None there is none, and what it raises is logged once."""
    with ExitStack() as stack:
        opened(stack, groups, "/header", client_address=lambda environ: environ["HTTP_X"], headers={"X": "192.0.2.1"})
        opened(stack, groups, "/none", client_address=lambda environ: None)
        found = groups.connections()
    assert [(each.path, each.address) for each in found] == [("/header", "192.0.2.1"), ("/none", "")]


def test_address_that_cannot_be_had_is_logged_once(groups: Groups, caplog: pytest.LogCaptureFixture) -> None:
    """The survey goes on."""
    with ExitStack() as stack:
        opened(stack, groups, "/", client_address=lambda environ: environ["HTTP_MISSING"])
        for _ in range(3):
            assert [each.address for each in groups.connections()] == [""]
    assert [record.levelname for record in caplog.records if "client_address" in record.message] == ["ERROR"]


def test_long_texts_and_many_groups_are_cut(groups: Groups) -> None:
    """An answer has an end, whatever peers send."""
    names = [f"room.{number:03}" for number in range(facts.MAX_GROUPS + 5)]
    with ExitStack() as stack:
        opened(stack, groups, "/" + "x" * 5000, *names)
        [found] = groups.connections()
    assert (len(found.path), found.groups) == (500, tuple(names[: facts.MAX_GROUPS]))


def test_connection_that_has_ended_is_not_there(groups: Groups) -> None:
    """While others are."""
    with ExitStack() as stack:
        opened(stack, groups, "/stays")
        with ExitStack() as inner:
            opened(inner, groups, "/ends")
        until(lambda: [each.path for each in groups.connections()] == ["/stays"])


# --- which ones -------------------------------------------------------------------------------------------------------


def test_filters(groups: Groups) -> None:
    """The beginning of the path, the name of the worker, the user, the group, and several of them."""
    with ExitStack() as stack:
        for path, name in (("/a/1", "room.1"), ("/a/2", "room.2"), ("/b", "room.1")):
            opened(stack, groups, path, name)
        [worker] = groups.workers()

        def paths(**filters: Any) -> list[str]:
            return [each.path for each in groups.connections(**filters)]

        assert paths() == ["/a/1", "/a/2", "/b"]
        assert paths(path="/a/") == ["/a/1", "/a/2"]
        assert paths(path="/a/", worker=worker.name) == ["/a/1", "/a/2"]
        assert paths(group="room.1") == ["/a/1", "/b"]
        assert paths(group="room.1", path="/a/") == ["/a/1"]
        assert paths(group="room") == []
        assert groups.survey(group="room.2", limit=1).more is False
        assert paths(user="7") == []
        assert groups.survey(worker="elsewhere:1") == Survey([], [], [], more=False)


@pytest.mark.parametrize(("limit", "more"), [(0, True), (1, True), (2, True), (3, False), (4, False)])
def test_limit(groups: Groups, limit: int, more: bool) -> None:
    """The connections that were opened first; the survey says whether there are more."""
    with ExitStack() as stack:
        for number in range(3):
            opened(stack, groups, f"/{number}")
        found = groups.survey(limit=limit)
    assert ([each.path for each in found.connections], found.more) == (["/0", "/1", "/2"][:limit], more)
    assert [worker.connections for worker in found.workers] == [3]


@pytest.mark.parametrize("arguments", [{"limit": -1}, {"timeout": 0}, {"timeout": -1.0}])
def test_wrong_number_is_an_error(groups: Groups, arguments: dict[str, Any]) -> None:
    """The sentence says what is wanted."""
    with pytest.raises(ValueError, match="wanted are 0 or more, and above 0"):
        groups.survey(**arguments)


# --- in pieces --------------------------------------------------------------------------------------------------------


def asked(limit: int = 1000, seconds: float = 5.0) -> Question:
    """A question for all connections."""
    return Question.new(limit=limit, seconds=seconds)


def test_answer_comes_in_parts(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one has the facts about the worker."""
    monkeypatch.setattr(facts, "SLICE", 2)
    with ExitStack() as stack:
        for number in range(5):
            opened(stack, groups, f"/{number}")
        parts = list(facts.find(Worker.here(), asked(), lambda ws: (), 0))
    assert [len(part.connections) for part in parts] == [2, 2, 1]
    assert [part.worker is not None for part in parts] == [False, False, True]


def test_worker_sends_no_more_than_is_wanted(groups: Groups) -> None:
    """And says that it has more."""
    with ExitStack() as stack:
        for number in range(3):
            opened(stack, groups, f"/{number}")
        [part] = facts.find(Worker.here(), asked(limit=2), lambda ws: (), 0)
    assert ([each.path for each in part.connections], part.more) == (["/0", "/1"], True)


def test_event_loop_goes_on_meanwhile(groups: Groups) -> None:
    """Between two connections, once a turn has lasted long enough."""
    runs: list[int] = []

    def other() -> None:
        while True:
            runs.append(len(seen))
            gevent.sleep(0.001)

    seen: list[Any] = []

    def groups_of(ws: Any) -> list[str]:
        seen.append(ws)
        spin(0.01)
        return []

    with ExitStack() as stack:
        for _ in range(5):
            opened(stack, groups)
        running = gevent.spawn(other)
        list(facts.find(Worker.here(), asked(), groups_of, 0))
        running.kill()
    assert {1, 2, 3, 4} & set(runs)


# --- other workers ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.database)])
def backends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Backend, Backend]]:
    """Of the asker, and of another worker, which the test plays."""
    made: list[Backend]
    if request.param == "sqlite":
        made = [SqliteBackend(tmp_path / "log") for _ in range(2)]
    else:
        prefix = f"test-{time.monotonic_ns()}"
        made = [RedisBackend(request.getfixturevalue("valkey"), prefix=prefix) for _ in range(2)]
    yield made[0], made[1]
    for backend in made:
        backend.close()


ELSEWHERE = Worker("an-id", "elsewhere:1", "elsewhere", 1, 100.0, "1.0")
FACTS = WorkerInfo("elsewhere:1", "elsewhere", 1, 100.0, 2, 0, 0.0, "1.0")


def info(number: int, path: str = "/") -> ConnectionInfo:
    """Of the other worker; those with a greater number were opened later."""
    return ConnectionInfo(f"id{number}", FACTS.name, None, None, "", path, number, number, 0, 0, 0, 0, 0, None, ("a",))


class TestAsk:
    def test_parts_are_put_together(self, backends: tuple[Backend, Backend]) -> None:
        """Of all workers, in the order in which they were opened; of all parts."""
        asker, other = backends
        register(other, ELSEWHERE)
        question = asked()
        parts = [Found([info(3)], None), Found([info(1)], FACTS)]
        own = [Found([info(2)], FACTS._replace(name="here:1"))]
        found = ask(asker, question, lambda seconds: answer(other, ELSEWHERE, question, parts), lambda: own, "own")
        assert found == Survey([info(1), info(2), info(3)], [FACTS, FACTS._replace(name="here:1")], [], more=False)

    def test_limit_is_that_of_all_workers(self, backends: tuple[Backend, Backend]) -> None:
        """Together; and one of them may say that it has more."""
        asker, other = backends
        register(other, ELSEWHERE)
        question = asked(limit=2)
        parts = [Found([info(3), info(4)], FACTS)]
        own = [Found([info(1), info(2)], None)]
        found = ask(asker, question, lambda seconds: answer(other, ELSEWHERE, question, parts), lambda: own, "own")
        assert ([each.id for each in found.connections], found.more) == (["id1", "id2"], True)
        found = ask(
            asker, question, lambda seconds: answer(other, ELSEWHERE, question, [Found([], FACTS, True)]), list, "own"
        )
        assert (found.connections, found.more) == ([], True)

    @pytest.mark.parametrize("seconds", [0.05, 0.3])
    def test_worker_without_an_answer_is_missing(self, backends: tuple[Backend, Backend], seconds: float) -> None:
        """After the time of the question. What has come of it is there."""
        asker, other = backends
        register(other, ELSEWHERE)
        question = asked(seconds=seconds)
        begin = time.monotonic()
        found = ask(
            asker, question, lambda seconds: answer(other, ELSEWHERE, question, [Found([info(1)], None)]), list, "own"
        )
        assert time.monotonic() - begin >= seconds
        assert found == Survey([info(1)], [], ["elsewhere:1"], more=False)

    @pytest.mark.parametrize(
        "data",
        [
            b"nonsense",
            zlib.compress(b"nonsense"),
            zlib.compress(b"[1,2,3,4]"),
            zlib.compress(b'["an-id",[[1]],null,0]'),
        ],
    )
    def test_bytes_that_are_no_answer_are_none(self, backends: tuple[Backend, Backend], data: bytes) -> None:
        """A worker with another version has written them; the asker goes on."""
        asker, other = backends
        register(other, ELSEWHERE)
        question = asked(seconds=0.3)

        def give(seconds: float) -> None:
            other.publish([Publish(question.to, Envelope(BINARY, data).pack(), None)])
            answer(other, ELSEWHERE, question, [Found([info(1)], None)])

        assert ask(asker, question, give, list, "own") == Survey([info(1)], [], ["elsewhere:1"], more=False)

    def test_worker_that_has_ended_is_not_waited_for(self, tmp_path: Path) -> None:
        """Its record has ended with it. So the time does not pass."""
        asker, other = SqliteBackend(tmp_path / "log"), SqliteBackend(tmp_path / "log")
        register(other, ELSEWHERE)
        other.close()
        begin = time.monotonic()
        assert ask(asker, asked(seconds=60), refuse, list, "own") == Survey([], [], [], more=False)
        assert time.monotonic() - begin < 30
        asker.close()

    def test_own_record_is_not_waited_for(self, backends: tuple[Backend, Backend]) -> None:
        """This process answers for itself, and nothing is asked."""
        asker, _ = backends
        register(asker, ELSEWHERE)
        own = [Found([info(1)], FACTS)]
        found = ask(asker, asked(seconds=60), refuse, lambda: own, ELSEWHERE.id)
        assert found == Survey([info(1)], [FACTS], [], more=False)

    def test_other_workers_than_the_one_that_is_meant_are_not_waited_for(
        self, backends: tuple[Backend, Backend]
    ) -> None:
        """Nothing is asked where there is none of this name."""
        asker, other = backends
        register(other, ELSEWHERE)
        question = asked(seconds=60)._replace(worker="another:1")
        assert ask(asker, question, refuse, list, "own") == Survey([], [], [], more=False)

    def test_unknown_outcome_of_the_question_is_waited_for(self, backends: tuple[Backend, Backend]) -> None:
        """Workers that have got it answer."""
        asker, other = backends
        register(other, ELSEWHERE)
        question = asked()

        def give(seconds: float) -> None:
            answer(other, ELSEWHERE, question, [Found([], FACTS)])
            raise UnknownOutcome

        assert ask(asker, question, give, list, "own").workers == [FACTS]

    def test_question_that_cannot_be_given_is_an_error(self, backends: tuple[Backend, Backend]) -> None:
        """Nothing stays open."""
        asker, other = backends
        register(other, ELSEWHERE)

        def give(seconds: float) -> None:
            raise GroupsUnavailable("not now")

        with pytest.raises(GroupsUnavailable, match="not now"):
            ask(asker, asked(), give, list, "own")

    def test_native_thread_may_ask(self, backends: tuple[Backend, Backend]) -> None:
        """As a view of a server with threads."""
        asker, other = backends
        register(other, ELSEWHERE)
        question = asked()
        answering = [Found([], FACTS)]
        found = in_a_thread(
            lambda: ask(asker, question, lambda seconds: answer(other, ELSEWHERE, question, answering), list, "own")
        )
        assert found.workers == [FACTS]


def refuse(seconds: float) -> None:
    """Nothing is to be asked."""
    raise AssertionError("a question was given")


def test_connections_of_the_same_moment_keep_their_order() -> None:
    """That of their worker: of ids, which are numbers, the text has another one."""
    found = [info(9)._replace(since=1.0), info(10)._replace(since=1.0)]
    assert summary([Found(found, FACTS)], 10).connections == found


class TestAnswer:
    def test_late_part_is_not_sent(self) -> None:
        """It would be of no use: no asker waits for it."""
        backend = MemoryBackend()
        question = asked(seconds=0.05)
        feed = backend.feed()
        feed.subscribe([question.to])

        def parts() -> Iterator[Found]:
            yield Found([], None)
            gevent.sleep(0.06)
            yield Found([], FACTS)

        answer(backend, ELSEWHERE, question, parts())
        assert len(feed.wait(0)) == 1
        feed.close()

    def test_backend_that_fails_ends_it(self) -> None:
        """It has logged that; the worker has more to do."""

        class Failing(MemoryBackend):
            calls = 0

            def publish(self, batch: Any) -> Any:
                self.calls += 1
                raise GroupsUnavailable("not now")

        backend = Failing()
        answer(backend, ELSEWHERE, asked(), [Found([], None), Found([], FACTS)])
        assert backend.calls == 1


# --- one connection ---------------------------------------------------------------------------------------------------


def test_close_connection(groups: Groups) -> None:
    """By its id; others stay open. A second call makes no difference."""
    with ExitStack() as stack:
        one, other = opened(stack, groups, "/1"), opened(stack, groups, "/2")
        ids = [each.id for each in groups.connections()]
        for _ in range(2):
            groups.close_connection(ids[0], 4000, "bye")
        assert (one.receive(), one.close_code, one.close_reason) == (None, 4000, "bye")
        groups.close_connections(ids[1:])
        assert (other.receive(), other.close_code) == (None, 1008)


def test_send_to(groups: Groups) -> None:
    """One connection gets the message, of each kind; no other one does."""
    with ExitStack() as stack:
        one, other = opened(stack, groups, "/1"), opened(stack, groups, "/2")
        number = groups.connections()[0].id
        for message in ("text ä", b"\x00\xff", {"json": "ä"}):
            groups.send_to(number, message)
        groups.send_to("nothing", "x")
        assert [one.receive(), one.receive(), one.receive()] == ["text ä", b"\x00\xff", '{"json":"ä"}']
        other.send("own")
        assert other.receive() == "own"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1005, ""), "1005 is no close code that may be sent"),
        ((4000, "x" * 124), "the reason has 124 bytes, and 123 is the most"),
    ],
)
def test_wrong_code_or_reason_is_an_error(groups: Groups, arguments: tuple[int, str], sentence: str) -> None:
    """Whether there is such a connection or not."""
    with pytest.raises(ValueError, match=sentence):
        groups.close_connection("nothing", *arguments)
