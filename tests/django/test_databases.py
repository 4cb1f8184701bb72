"""Database connections of WebSockets under a real server: on PostgreSQL, whose role may have 20, and on SQLite."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import django
import psutil
import pytest

from tests.support.programs import run_python
from tests.support.rawclient import PING, RawClient, close_frame, upgrade_request
from tests.support.servers import Server, launch
from tests.support.waiting import eventually

from .postgres import LIMIT, Postgres, postgres  # noqa: F401 - importing the fixture here makes it one of this module's

VENDORS = ("postgresql", "sqlite")
GRACE = 0.2
LONG = 60.0
"""A grace that is longer than any test."""


# --- servers with databases ----------------------------------------------------------------------------------------


class Site(NamedTuple):
    """A server and its database."""

    server: Server
    count_connections: Callable[[], int]

    def connect(self, **options: Any) -> RawClient:
        """A new connection to the server."""
        return self.server.connect(**options)

    def connections(self) -> int:
        """How many database connections the server has now."""
        return self.count_connections()

    def until_left(self, number: int) -> None:
        """Wait until it has no more database connections than these."""
        eventually(lambda: self.connections() <= number, f"{number} database connections")

    def events(self, token: str, last: str) -> list[str]:
        """The events of the request with this ``?id=``, when ``last`` is among them."""

        def recorded() -> list[str]:
            events: list[str] = json.loads(self.server.get(f"/events/?of={token}").body)
            return events if last in events else []

        return eventually(recorded, f"{last!r} of {token}")


Sites = Callable[..., Site]


@pytest.fixture(scope="module")
def databases(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, Any]]:  # noqa: F811
    """``databases(vendor, name)``: settings of a fresh database with Django's tables."""
    folder = tmp_path_factory.mktemp("databases")
    templates = {
        "postgresql": postgres.settings("template"),
        "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "template")},
    }
    postgres.create("template")
    for template in templates.values():
        env = {"DJANGO_SETTINGS_MODULE": "tests.django.dbproject.settings", "DATABASE": json.dumps(template)}
        run_python("-m", "django", "migrate", "--verbosity=0", env=env).check_returncode()

    def fresh(vendor: str, name: str) -> dict[str, Any]:
        if vendor == "postgresql":
            postgres.create(name, "template")
            return postgres.settings(name)
        return {**templates[vendor], "NAME": shutil.copy(str(folder / "template"), str(folder / name))}

    return fresh


@pytest.fixture(scope="module")
def start(
    postgres: Postgres,  # noqa: F811
    databases: Callable[[str, str], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Sites:
    """``start(stack, vendor, grace, options, **database)``: a server with a database of its own."""

    def start(
        stack: ExitStack, vendor: str, grace: float | None, options: tuple[str, ...] = (), **database: Any
    ) -> Site:
        directory = tmp_path_factory.mktemp("site")
        settings = databases(vendor, directory.name)
        env = {"DATABASE": json.dumps({**settings, **database}), "GWS": json.dumps({"database_grace": grace})}
        app = "tests.django.dbproject.wsgi:application"
        server = stack.enter_context(launch("worker", directory, app, env=env, options=options))

        def count() -> int:
            if vendor == "postgresql":
                return postgres.backends(settings["NAME"])
            return sum(file.path == settings["NAME"] for file in worker.open_files())

        [worker] = psutil.Process(server.process.pid).children()
        return Site(server, count)

    return start


@pytest.fixture(scope="module")
def shared(start: Sites) -> Iterator[Sites]:
    """``shared(vendor, grace, **database)``: a server that runs until the last test of this module has ended."""
    running: dict[str, Site] = {}
    with ExitStack() as stack:

        def get(vendor: str, grace: float, **database: Any) -> Site:
            key = repr((vendor, grace, database))
            if key not in running:
                running[key] = start(stack, vendor, grace, **database)
            return running[key]

        yield get
        for site in running.values():  # all at once: the stack then waits for one after the other
            site.server.kill(signal.SIGTERM)


def used(site: Site) -> Iterator[Site]:
    """A site for one test. After it there must be no database connection, and no problem in the log."""
    yield site
    site.until_left(0)
    site.server.log.check()


@pytest.fixture(params=VENDORS)
def site(request: pytest.FixtureRequest, shared: Sites) -> Iterator[Site]:
    """A server whose grace is short."""
    yield from used(shared(request.param, GRACE))


@pytest.fixture(params=VENDORS)
def atomic_site(request: pytest.FixtureRequest, shared: Sites) -> Iterator[Site]:
    """The same with ``ATOMIC_REQUESTS``, for both of its aliases."""
    yield from used(shared(request.param, GRACE, ATOMIC_REQUESTS=True))


@pytest.fixture(params=[("postgresql", 0), ("postgresql", 60), ("postgresql", None), ("sqlite", None)], ids=str)
def keeping_site(request: pytest.FixtureRequest, shared: Sites) -> Iterator[Site]:
    """A server that keeps connections until the end, with this CONN_MAX_AGE."""
    vendor, age = request.param
    yield from used(shared(vendor, LONG, CONN_MAX_AGE=age))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Of servers that end with their test."""
    with ExitStack() as opened:
        yield opened


def next_text(client: RawClient) -> str:
    """The next message. A ping may come before it, where a test takes longer than the interval of pings."""
    frame = client.read_frame()
    while frame.opcode == PING:
        frame = client.read_frame()
    return frame.payload.decode()


# --- waiting -------------------------------------------------------------------------------------------------------


class TestReceiving:
    def test_waiting_view_holds_no_connection(self, site: Site) -> None:
        """Each of its queries opens a new one."""
        with site.connect() as client:
            client.upgrade("/talk/")
            numbers = []
            for _ in range(3):
                client.text("default")
                numbers.append(next_text(client))
                site.until_left(0)
        assert len(set(numbers)) == 3

    def test_connections_of_all_aliases_are_closed(self, site: Site) -> None:
        """Not only that of the default database."""
        with site.connect() as client:
            client.upgrade("/talk/")
            for alias in ("default", "other"):
                client.text(alias)
                next_text(client)
            site.until_left(0)

    def test_connection_is_kept_within_the_grace(self, keeping_site: Site) -> None:
        """20 messages in a row use one connection."""
        with keeping_site.connect() as client:
            client.upgrade("/talk/")
            numbers = set()
            for _ in range(20):
                client.text("default")
                numbers.add(next_text(client))
            assert keeping_site.connections() == len(numbers) == 1
            client.close_handshake()

    @pytest.mark.parametrize(("seconds", "kept"), [(GRACE / 4, True), (GRACE * 3, False)])
    def test_wait_with_a_timeout_counts(self, site: Site, seconds: float, kept: bool) -> None:
        """It closes the connection if it is longer than the grace."""
        with site.connect() as client:
            client.upgrade(f"/waits/?seconds={seconds}")
            before, after = json.loads(next_text(client))
        assert (before == after) is kept

    def test_query_before_the_101_counts(self, site: Site) -> None:
        """The view makes no other."""
        with site.connect() as client:
            client.upgrade("/early/")
            site.until_left(0)

    def test_short_waits_add_up(self, site: Site) -> None:
        """None of them is as long as the grace."""
        with site.connect() as client:
            client.upgrade("/polls/")
            site.until_left(0)

    def test_session_and_user_count(self, site: Site) -> None:
        """Django reads them before the 101."""
        cookie = re.search("sessionid=[^;]+", site.server.get("/enter/").headers["set-cookie"])
        assert cookie is not None
        with site.connect() as client:
            client.upgrade("/who/", ("Cookie", cookie[0]))
            assert next_text(client) == "ada"
            site.until_left(0)

    def test_transaction_is_kept_and_commits(self, site: Site) -> None:
        """The connection is closed after the transaction."""
        with site.connect() as client:
            client.upgrade("/transacts/")
            before = next_text(client)
            with site.connect() as other:  # its wait begins later, so the grace of the first view ends before its own
                other.upgrade(f"/waits/?seconds={GRACE * 3}")
                before_other, after_other = json.loads(next_text(other))
                assert before_other != after_other
            client.text("commit")
            assert next_text(client) == before
            site.until_left(0)
            client.text("count")
            assert next_text(client) == "1"

    def test_connection_of_another_greenlet_is_kept(self, site: Site) -> None:
        """The connection of the view is closed."""
        with site.connect() as client:
            client.upgrade("/spawns/")
            next_text(client)
            site.until_left(1)
            assert site.connections() == 1
            client.text("end")
            client.read_frame()


def test_peer_that_does_not_read_costs_no_connection(site: Site) -> None:
    """The view waits in ``send()``, and queries again after it."""
    with site.connect(receive_buffer=65536) as client:
        client.upgrade("/floods/")
        before = next_text(client)
        site.until_left(0)
        after = next(frame.payload for frame in iter(client.read_frame, None) if len(frame.payload) < 2**20)
    assert after.isdigit() and after.decode() != before


def test_grace_may_be_turned_off(stack: ExitStack, start: Sites) -> None:
    """``database_grace`` None: the connection is kept until the end. The wait is longer than the default."""
    site = start(stack, "postgresql", None)
    with site.connect() as client:
        client.upgrade("/waits/?seconds=1.5")
        before, after = json.loads(next_text(client))
    assert before == after
    site.until_left(0)


def test_connection_without_autocommit_is_in_a_transaction(stack: ExitStack, start: Sites) -> None:
    """The project commits itself. The connection is closed at the end."""
    site = start(stack, "postgresql", GRACE, AUTOCOMMIT=False)
    with site.connect() as client:
        client.upgrade(f"/waits/?seconds={GRACE * 3}")
        before, after = json.loads(next_text(client))
    assert before == after
    site.until_left(0)


# --- the ends ------------------------------------------------------------------------------------------------------


def read_to_the_end(site: Site, client: RawClient, token: str) -> None:
    client.send(close_frame())
    client.read_frames_until_eof()


def disconnect(site: Site, client: RawClient, token: str) -> None:
    client.close()


def reset(site: Site, client: RawClient, token: str) -> None:
    client.reset()


def kill(site: Site, client: RawClient, token: str) -> None:
    assert site.server.get(f"/kill/?of={token}").body == b"killed"


def raise_in_on_message(site: Site, client: RawClient, token: str) -> None:
    client.text("raise")
    assert client.read_frame().code == 1011


def kill_on_message(site: Site, client: RawClient, token: str) -> None:
    client.text("sleep")
    next_text(client)
    kill(site, client, token)


End = Callable[[Site, RawClient, str], None]
LOGGED = {
    "/ends/raises/": r"\[ERROR\] django.request: Internal Server Error: /ends/raises/",
    "/ends/times-out/": r"\[ERROR\] gws_middleware: WebSocket '/ends/times-out/': the application raised; "
    "closed with 1011",
}
WHOLE_LIFE = ["started", "opened", "finished", "closed"]
DETACHED_LIFE = ["started", "opened", "finished", "on_close", "closed"]


class TestEnd:
    @pytest.mark.parametrize("end", [read_to_the_end, disconnect, reset, kill])
    @pytest.mark.parametrize("how", ["receives", "receives-in-a-transaction", "receives-without-autocommit"])
    def test_connection_of_a_waiting_view_is_closed(self, keeping_site: Site, how: str, end: End, token: str) -> None:
        """For every kind of end, also a connection with CONN_MAX_AGE. Each signal is sent once."""
        site = keeping_site
        with site.connect() as client:
            client.upgrade(f"/ends/{how}/?id={token}")
            next_text(client)
            assert site.connections() == 2
            end(site, client, token)
            site.until_left(0)
            assert site.events(token, "closed") == WHOLE_LIFE

    @pytest.mark.parametrize(
        ("path", "end"),
        [
            ("/ends/returns/", read_to_the_end),
            ("/ends/raises/", read_to_the_end),
            ("/ends/times-out/", read_to_the_end),  # gevent.Timeout is no subclass of Exception
            ("/ends/sleeps/", kill),  # the view waits outside of this package
            ("/meta/", kill),  # not decorated: Django does not handle GreenletExit
        ],
    )
    def test_connection_is_closed_when_the_view_ends(self, keeping_site: Site, path: str, end: End, token: str) -> None:
        """By a return, by an exception, and when it is killed. Each signal is sent once."""
        with keeping_site.connect() as client:
            client.upgrade(f"{path}?id={token}")
            next_text(client)
            if end is kill:
                assert keeping_site.connections() > 0
            end(keeping_site, client, token)
            keeping_site.until_left(0)
            assert keeping_site.events(token, "closed") == WHOLE_LIFE
        if path in LOGGED:
            keeping_site.server.log.expect(LOGGED[path])

    def test_receiver_that_is_killed_gives_its_connection_back(self, keeping_site: Site, token: str) -> None:
        """That of ``websocket_closed``, after the view."""
        with keeping_site.connect() as client:
            client.upgrade(f"/ends/returns/?id={token}&receiver-sleeps")
            client.read_frame()
            read_to_the_end(keeping_site, client, token)
            assert keeping_site.events(token, "closed") == WHOLE_LIFE
            kill(keeping_site, client, token)
            keeping_site.until_left(0)

    @pytest.mark.parametrize(
        ("how", "status", "record"),
        [
            ("refuses", 403, r"\[WARNING\] django.request: Forbidden: /ends/refuses/"),
            ("breaks", 500, r"\[ERROR\] django.request: Internal Server Error: /ends/breaks/"),
        ],
        ids=["refuses", "breaks"],
    )
    def test_refused_handshake_leaves_nothing(self, site: Site, how: str, status: int, record: str, token: str) -> None:
        """The view has queried before. Only the signals of a request are sent."""
        with site.connect() as client:
            client.send(upgrade_request(f"/ends/{how}/?id={token}"))
            assert client.read_response().status == status
            assert client.read_until_eof() == b""
            site.until_left(0)
            assert site.events(token, "finished") == ["started", "finished"]
        site.server.log.expect(record)


class TestStop:
    @pytest.mark.parametrize("vendor", VENDORS)
    def test_connection_is_closed_while_the_worker_is_stopping(
        self, stack: ExitStack, start: Sites, vendor: str, tmp_path: Path
    ) -> None:
        """And not only at its exit: another view keeps it running meanwhile."""
        site = start(stack, vendor, LONG, CONN_MAX_AGE=None)
        released = tmp_path / "released"
        with site.connect() as other, site.connect() as client:
            other.upgrade(f"/lingers/?until={released}")
            client.upgrade("/ends/receives/")
            next_text(client)
            assert site.connections() == 2
            site.server.kill(signal.SIGTERM)
            assert client.read_frame().code == 1012
            client.send(close_frame(1012))
            assert client.read_until_eof() == b""
            site.until_left(0)
            assert site.server.process.poll() is None
            other.send(close_frame(1012))
            released.touch()

    def test_view_that_outlives_the_graceful_timeout_leaves_nothing(self, stack: ExitStack, start: Sites) -> None:
        """It is killed, and its database connection is closed."""
        site = start(stack, "postgresql", LONG, ("--graceful-timeout", "1"), CONN_MAX_AGE=None)
        with site.connect() as client:
            client.upgrade("/ends/sleeps/")
            next_text(client)
            site.server.kill(signal.SIGTERM)
            client.read_frames_until_eof()
            site.until_left(0)


# --- connections without a view ------------------------------------------------------------------------------------


class TestDetached:
    def test_connections_are_closed_after_each_run(self, keeping_site: Site, token: str) -> None:
        """That of the view, of each message and of ``on_close``, for every alias."""
        with keeping_site.connect() as client:
            client.upgrade(f"/detaches/?id={token}")
            keeping_site.until_left(0)
            for message in ("default", "both", "default"):
                client.text(message)
                next_text(client)
                keeping_site.until_left(0)
            client.close_handshake()
            keeping_site.until_left(0)
            assert keeping_site.events(token, "closed") == DETACHED_LIFE

    @pytest.mark.parametrize("end", [disconnect, reset])
    def test_disconnect_of_the_peer_leaves_nothing(self, keeping_site: Site, end: End, token: str) -> None:
        """``on_close`` has queried."""
        with keeping_site.connect() as client:
            client.upgrade(f"/detaches/?id={token}")
            client.text("default")
            next_text(client)
            end(keeping_site, client, token)
            keeping_site.events(token, "closed")
            keeping_site.until_left(0)

    @pytest.mark.parametrize(
        ("query", "end", "record"),
        [
            ("", raise_in_on_message, "LookupError: as requested"),
            ("&raise", read_to_the_end, "LookupError: at the end"),
            ("", kill_on_message, None),
        ],
    )
    def test_callback_that_does_not_return_leaves_nothing(
        self, keeping_site: Site, query: str, end: End, record: str | None, token: str
    ) -> None:
        """It raises or is killed. ``on_close`` is called all the same, and ``websocket_closed`` is sent."""
        with keeping_site.connect() as client:
            client.upgrade(f"/detaches/?id={token}{query}")
            end(keeping_site, client, token)
            assert keeping_site.events(token, "closed") == DETACHED_LIFE
            keeping_site.until_left(0)
        if record is not None:
            keeping_site.server.log.expect(record)


# --- transactions --------------------------------------------------------------------------------------------------

ACCEPTED_INSIDE = "TransactionManagementError: a WebSocket cannot be accepted inside transaction.atomic"
ACCEPTING = ["/accepts/", "/accepts/decorated/"]
"""A view without a decorator, and the same view with one."""
NOT_ACCEPTED = {
    "refuses": (403, True, "Forbidden: "),  # committed, as each response of plain HTTP
    "raises": (500, False, "LookupError: before the 101"),
    "times-out": (500, False, "gevent.timeout.Timeout"),
    "breaks": (500, False, "IntegrityError"),  # the commit fails, and this is not the end of an open WebSocket
    "inside": (500, False, ACCEPTED_INSIDE),  # nothing is half committed
    "elsewhere": (
        500,
        False,
        "TransactionManagementError: the transaction of this request belongs to its view's greenlet",
    ),
}
"""What the view does, the status of the answer, whether the transaction is committed, and the log record."""


def users(site: Site) -> list[str]:
    """The users that have been committed."""
    found: list[str] = json.loads(site.server.get("/users/").body)
    return found


@pytest.mark.parametrize("path", ACCEPTING)
class TestAtomicRequestsUntilAccepted:
    """The request's transaction is that of the handshake."""

    def test_transaction_ends_with_accept(self, atomic_site: Site, path: str, token: str) -> None:
        """It is committed, and the view continues in autocommit. The waiting view holds no connection."""
        with atomic_site.connect() as client:
            client.upgrade(f"{path}?name={token}&id={token}")
            assert [json.loads(next_text(client)), json.loads(next_text(client))] == [[True, True], [False, False]]
            assert token in users(atomic_site)
            assert atomic_site.events(token, "committed") == ["started", "committed", "opened"]
            atomic_site.until_left(0)
            client.close_handshake()

    @pytest.mark.parametrize("how", NOT_ACCEPTED)
    def test_transaction_ends_with_the_answer(self, atomic_site: Site, path: str, how: str, token: str) -> None:
        """To a handshake that is not accepted: it is committed or rolled back as for plain HTTP."""
        status, kept, record = NOT_ACCEPTED[how]
        with atomic_site.connect() as client:
            client.send(upgrade_request(f"{path}?name={token}&how={how}"))
            assert client.read_response().status == status
        assert (token in users(atomic_site)) is kept
        atomic_site.server.log.expect(record)

    def test_exception_after_accept_rolls_nothing_back(self, atomic_site: Site, path: str, token: str) -> None:
        """The client has been answered."""
        with atomic_site.connect() as client:
            client.upgrade(f"{path}?name={token}&how=raises-later")
            next_text(client)
            assert client.read_frame().code == 1011
        assert token in users(atomic_site)
        atomic_site.server.log.expect("LookupError: after the 101")


class TestAtomicRequests:
    def test_non_atomic_requests_holds_for_websockets(self, atomic_site: Site, token: str) -> None:
        """For the database that it names."""
        with atomic_site.connect() as client:
            client.upgrade(f"/accepts/non-atomic/?name={token}")
            assert [json.loads(next_text(client)), json.loads(next_text(client))] == [[False, True], [False, False]]

    def test_decorated_view_is_in_one_for_http(self, atomic_site: Site) -> None:
        """The transaction is rolled back when it raises."""
        assert json.loads(atomic_site.server.get("/atomic/?name=stays").body) == [True, True]
        assert atomic_site.server.get("/atomic/?name=goes&raise=1").status == 500
        assert "stays" in users(atomic_site) and "goes" not in users(atomic_site)
        atomic_site.server.log.expect("LookupError: after the insert")

    @pytest.mark.parametrize("path", ["/not-atomic/inside/", "/not-atomic/outside/"])
    def test_non_atomic_requests_holds(self, atomic_site: Site, path: str) -> None:
        """On either side of the decorator, for the database that it names."""
        assert json.loads(atomic_site.server.get(path).body) == [False, True]


def test_accept_inside_a_transaction_is_refused(site: Site) -> None:
    """Before the 101; the transaction is rolled back."""
    with site.connect() as client:
        client.send(upgrade_request("/accepts-inside/"))
        assert client.read_response().status == 500
    site.server.log.expect(ACCEPTED_INSIDE)
    assert "undone" not in json.loads(site.server.get("/users/").body)


# --- many ----------------------------------------------------------------------------------------------------------


def open_many(stack: ExitStack, site: Site, path: str, number: int) -> list[RawClient]:
    """This number of WebSockets, opened one after the other, because gunicorn waits two seconds for a request."""
    clients = []
    for _ in range(number):
        clients.append(stack.enter_context(site.connect(timeout=30.0)))
        clients[-1].upgrade(path)
    return clients


def query_each(site: Site, clients: list[RawClient], at_once: int) -> int:
    """Let each client query once, in random order, ``at_once`` at the same time; the highest number of connections."""
    chance = random.Random(1)
    waiting: list[RawClient] = []
    seen = 0
    for number, client in enumerate(chance.sample(clients, len(clients))):
        client.text("default")
        waiting.append(client)
        if len(waiting) == at_once:
            assert next_text(waiting.pop(chance.randrange(at_once))).isdigit()
        if number % 5 == 0:
            seen = max(seen, site.connections())
    for client in waiting:
        assert next_text(client).isdigit()
    return seen


@pytest.mark.parametrize("path", ["/talk/", "/detaches/"])
def test_many_share_a_few_connections(stack: ExitStack, start: Sites, path: str) -> None:
    """Each asks twice, in random order, four at once; the connection is kept for a hundredth of a second. The role may
    have 20: one more would be an error in the log. With a connection for each it would be five times as many.
    """
    site = start(stack, "postgresql", 0.01)
    clients = open_many(stack, site, path, 5 * LIMIT)
    seen = [query_each(site, clients, at_once=4) for _ in range(2)]
    assert max(seen) <= LIMIT * 3 // 4, seen
    site.until_left(0)
    while clients:  # few at once: on_close queries
        for client in clients[:4]:
            client.send(close_frame())
            client.read_frames_until_eof()
        del clients[:4]
        site.until_left(0)


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django 5.1 brought the pool")
@pytest.mark.parametrize("path", ["/talk/", "/detaches/"])
def test_pool_is_shared(stack: ExitStack, start: Sites, path: str) -> None:
    """Thirty WebSockets and four connections, which go back to psycopg's pool. All ask, and all go, at once."""
    site = start(stack, "postgresql", GRACE, OPTIONS={"pool": {"min_size": 1, "max_size": 4}})
    clients = open_many(stack, site, path, 30)
    for _ in range(3):
        query_each(site, clients, at_once=30)
    assert site.connections() <= 4
    for client in clients:
        client.send(close_frame())
    for client in clients:
        client.read_frames_until_eof()
