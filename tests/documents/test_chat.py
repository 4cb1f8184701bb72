"""The chat of ``examples/chat``, set up and started with the commands of its README, and used by ordinary clients."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from websockets.sync.client import ClientConnection

from gws_middleware.groups import Position

from ..support.brokers import broker
from ..support.chat import CHAT, Chat, serve_chat
from ..support.documents import TIMEOUT, close_frame, exported, opened, url
from ..support.rawclient import Response, upgrade_request
from ..support.servers import ROOT
from ..support.waiting import eventually

# --- the server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """One server for the tests of this file."""
    with serve_chat(tmp_path_factory.mktemp("chat")) as chat:
        yield chat


@pytest.fixture
def chat(running: Chat) -> Iterator[Chat]:
    """The same; its log is checked after each test."""
    yield running
    running.server.log.check()


@pytest.fixture
def room(chat: Chat) -> str:
    """A room of this test's own."""
    return chat.room()


# --- its users -----------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What HTTP answered."""

    status: int
    headers: Any
    text: str

    @property
    def location(self) -> str | None:
        """Where it redirects to."""
        found: str | None = self.headers["Location"]
        return found


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """Nowhere: the redirect is the answer."""


class User:
    """A user's browser: HTTP and WebSockets with the same cookies."""

    def __init__(self, chat: Chat, name: str = "") -> None:
        self.server = chat.server
        self.name = name
        self.cookies = CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies), _Stay()
        )

    def get(self, path: str) -> Answer:
        """A page."""
        return self._answer(urllib.request.Request(self._url(path)))

    def post(self, path: str, **fields: str) -> Answer:
        """A form, with the token of the page that was seen before."""
        token = next((cookie.value or "" for cookie in self.cookies if cookie.name == "csrftoken"), "")
        data = urlencode({"csrfmiddlewaretoken": token, **fields}).encode()
        return self._answer(urllib.request.Request(self._url(path), data))

    def join(self, name: str = "", password: str = "secret") -> Answer:
        """Fill in the form of the page that all users see first."""
        self.get("/join/")
        return self.post("/join/", username=name or self.name, password=password)

    def leave(self) -> Answer:
        """Log out."""
        return self.post("/leave/")

    @contextmanager
    def socket(self, room: str, query: str = "", **options: Any) -> Iterator[Socket]:
        """A WebSocket into a room; ``options`` are those of ``connect``."""
        headers, origin = {"Cookie": self._cookies()}, url(self.server, "", "http")
        address = url(self.server, f"/ws/rooms/{room}/{query}")
        with opened(address, additional_headers=headers, origin=origin, **options) as ws:
            yield Socket(ws)

    @contextmanager
    def inside(self, room: str) -> Iterator[Socket]:
        """The same, when it has been welcomed."""
        with self.socket(room) as joined:
            joined.welcome = joined.receive("welcome")
            [joined.me] = [user for user in joined.welcome["people"] if user["name"] == self.name]
            yield joined

    def refused(self, path: str, *headers: tuple[str, str]) -> Response:
        """The HTTP answer to a handshake."""
        with self.server.connect() as client:
            client.send(upgrade_request(path, ("Host", "localhost"), ("Cookie", self._cookies()), *headers))
            return client.read_response()

    def _cookies(self) -> str:
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)

    def _url(self, path: str) -> str:
        return url(self.server, path, "http")

    def _answer(self, request: urllib.request.Request) -> Answer:
        try:
            with self.opener.open(request, timeout=TIMEOUT) as response:
                return Answer(response.status, response.headers, response.read().decode())
        except HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read().decode())


class Socket:
    """One WebSocket, in the words of the chat."""

    welcome: dict[str, Any]
    me: dict[str, Any]

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws

    def send(self, **event: Any) -> None:
        """An event."""
        self.ws.send(json.dumps(event))

    def say(self, *texts: str) -> None:
        """Messages."""
        for text in texts:
            self.send(type="say", text=text)

    def next(self) -> dict[str, Any]:
        """The next event."""
        event: dict[str, Any] = json.loads(self.ws.recv(timeout=TIMEOUT))
        return event

    def receive(self, kind: str) -> dict[str, Any]:
        """The next event, which is of this kind.

        What was published just before a connection becomes a member can reach it: joins, and before the welcome also
        leaves of members that were there before.
        """
        passed = {"join", "leave"} if kind == "welcome" else {"join"}
        while (event := self.next())["type"] in passed - {kind}:
            pass
        assert event["type"] == kind, event
        return event

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of this kind, whatever comes before it."""
        while (event := self.next())["type"] != kind:
            pass
        return event

    def texts(self, count: int) -> list[str]:
        """The next events, which are messages."""
        return [self.receive("message")["text"] for _ in range(count)]

    def close_frame(self) -> tuple[int, str] | None:
        """Code and reason of the server's close frame; None if it closed without one."""
        return close_frame(self.ws)


def new_user(chat: Chat) -> User:
    """A user who has just chosen a name."""
    user = User(chat, f"user-{uuid.uuid4().hex[:8]}")
    assert user.join().status == 302
    return user


@pytest.fixture(scope="module")
def ada(running: Chat) -> User:
    """A user, in the rooms of all tests: to compute a password's hash takes long."""
    return new_user(running)


@pytest.fixture(scope="module")
def bob(running: Chat) -> User:
    """Another one."""
    return new_user(running)


@pytest.fixture
def both(ada: User, bob: User, room: str) -> Iterator[tuple[Socket, Socket]]:
    """Their sockets in a room of this test's own; hers has received that he joined."""
    with ada.inside(room) as hers, bob.inside(room) as his:
        hers.receive("join")
        yield hers, his


# --- coming in -----------------------------------------------------------------------------------------------------


def test_first_page_leads_to_the_form_and_on_into_a_room(chat: Chat) -> None:
    """Name and password are all that stands between the address and the chat."""
    user = User(chat)
    seen = [user.get("/").location, user.get("/rooms/lobby/").location]
    user.get("/join/")
    joined = user.post(str(seen[1]), username=f"ada-{uuid.uuid4().hex[:8]}", password="x")
    assert [*seen, joined.location] == ["/rooms/lobby/", "/join/?next=/rooms/lobby/", "/rooms/lobby/"]
    assert 'data-socket="/ws/rooms/lobby/"' in user.get("/rooms/lobby/").text


def test_migrate_makes_three_rooms(ada: User) -> None:
    """No user has to make a room first."""
    page = ada.get("/rooms/lobby/").text
    assert re.findall(r'href="/rooms/(\w+)/"', page) == ["lobby", "coffee", "help"]


def test_known_name_asks_for_its_password(chat: Chat, ada: User) -> None:
    """A name belongs to the first user of it, however it is spelt."""
    thief, herself = User(chat), User(chat)
    refused = thief.join(ada.name, "another")
    assert (refused.status, "has another password" in refused.text) == (200, True)
    assert herself.join(ada.name.upper()).status == 302
    assert f"<b>{ada.name}</b>" in herself.get("/rooms/lobby/").text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "This field is required."),
        ("<b>", "This name cannot be used. Letters, digits and @ . + - _, without spaces."),
        ("two words", "This name cannot be used. Letters, digits and @ . + - _, without spaces."),
        ("n" * 25, "Ensure this value has at most 24 characters (it has 25)."),
    ],
)
def test_name_is_refused(chat: Chat, name: str, sentence: str) -> None:
    """The form says what is allowed, and no user is logged in."""
    user = User(chat, name)
    answer = user.join(name)
    assert (answer.status, re.findall(r'role="alert"[^>]*>([^<]*)<', answer.text)) == (200, [sentence])
    assert user.get("/rooms/lobby/").status == 302


def test_pages_have_a_policy_and_obey_it(chat: Chat, ada: User) -> None:
    """Scripts and styles are files of our own, which gunicorn serves with DEBUG off."""
    pages = [User(chat).get("/join/"), ada.get("/rooms/lobby/")]
    files = sorted({path for page in pages for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)})
    assert files == ["/static/chat/chat.css", "/static/chat/chat.js", "/static/chat/icon.svg", "/static/chat/limits.js"]
    assert [ada.get(path).status for path in files] == [200, 200, 200, 200]
    for page in pages:
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert not re.search(r"<style|<script(?! src)| style=| on\w+=|://", page.text)


# --- the handshake -------------------------------------------------------------------------------------------------


def test_handshake_without_a_login_is_redirected_to_the_form(chat: Chat) -> None:
    """By Django: there is no WebSocket without a user."""
    answer = User(chat).refused("/ws/rooms/lobby/")
    assert (answer.status, answer.headers["location"]) == (302, "/join/?next=/ws/rooms/lobby/")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("nowhere/", [], 404),
        ("a%20b/", [], 404),
        ("lobby/?since=yesterday", [], 400),
        ("lobby/?since=-1", [], 400),
        (f"lobby/?since={'9' * 30}", [], 400),
        ("lobby/", [("Origin", "https://evil.example")], 403),
    ],
)
def test_socket_is_refused(ada: User, path: str, headers: list[tuple[str, str]], status: int) -> None:
    """An address that means nothing, and a page of another site, which could use the cookie of the user."""
    assert ada.refused(f"/ws/rooms/{path}", *headers).status == status


def test_socket_over_http_answers_426(ada: User) -> None:
    """The address speaks WebSocket alone."""
    assert ada.get("/ws/rooms/lobby/").status == 426


# --- messages ------------------------------------------------------------------------------------------------------


def test_welcome_lists_the_users_of_the_room(ada: User, room: str) -> None:
    """In an empty room that is the user who joins."""
    with ada.inside(room) as hers:
        number, position = hers.welcome["worker"].pop("number"), Position.parse(hers.welcome["position"])
        assert number in (1, 2)
        assert hers.welcome == {
            "type": "welcome",
            "people": [hers.me],
            "messages": [],
            "earlier": False,
            "position": f"{position.epoch}.0",
            "worker": {"of": 2},
        }


def test_message_reaches_all_alike(both: tuple[Socket, Socket], ada: User, bob: User, room: str) -> None:
    """Both get the same event, and it is in the history."""
    hers, his = both
    his.say("  Grüße, 你好 👋\n<b>  ")
    received = hers.receive("message")
    assert his.receive("message") == received
    assert (received["text"], received["user"]["name"]) == ("Grüße, 你好 👋\n<b>", bob.name)
    with ada.inside(room) as later:
        assert later.welcome["position"] == received.pop("position")
        assert later.welcome["messages"] == [received]


def test_message_stays_in_its_room(chat: Chat, ada: User, bob: User, room: str) -> None:
    """Other rooms receive nothing, and have a history of their own."""
    with ada.inside(chat.room()) as elsewhere, bob.inside(room) as his:
        his.say("here")
        his.receive("message")
        elsewhere.say("there")
        assert elsewhere.texts(1) == ["there"]


def test_history_is_the_last_fifty(ada: User, room: str) -> None:
    """More would make all users wait; the page says that there are more."""
    with ada.inside(room) as hers:
        hers.say(*map(str, range(53)))
        hers.texts(53)
    with ada.inside(room) as hers:
        assert [message["text"] for message in hers.welcome["messages"]] == [str(number) for number in range(3, 53)]
        assert hers.welcome["earlier"] is True


def test_return_brings_what_was_missed(ada: User, bob: User, room: str) -> None:
    """``since`` is the position that the page has: the messages after it come, and no other."""
    with bob.inside(room) as his:
        with ada.inside(room) as hers:
            his.receive("join")
            his.say("before")
            position = hers.receive("message")["position"]
        his.receive("message")
        his.receive("leave")
        his.say("one", "two")
        his.texts(2)
        with ada.socket(room, f"?since={position}") as hers:
            assert hers.texts(2) == ["one", "two"]
            welcome = hers.receive("welcome")
            his.receive("join")
            his.say("three")
            assert (welcome["messages"], welcome["earlier"]) == ([], False)
            assert hers.texts(1) == ["three"]


@pytest.mark.parametrize("since", ["", "?since=another.0", "?since=another.7"])
def test_position_that_is_not_known_brings_the_newest_messages(ada: User, room: str, since: str) -> None:
    """Those of the database, as for a page that is opened."""
    with ada.inside(room) as hers:
        hers.say("one", "two")
        hers.texts(2)
        with ada.socket(room, since) as later:
            assert [message["text"] for message in later.receive("welcome")["messages"]] == ["one", "two"]


# --- presence ------------------------------------------------------------------------------------------------------


def test_join_and_leave_are_events(ada: User, bob: User, room: str) -> None:
    """The new member gets the list of all users, and the others get the new member."""
    with ada.inside(room) as hers:
        with bob.inside(room) as his:
            both = [hers.me, his.me]
            assert sorted(his.welcome["people"], key=lambda user: user["id"]) == both
            assert hers.receive("join") == {"type": "join", "user": both[1]}
        assert hers.receive("leave") == {"type": "leave", "user": both[1]}


def test_lost_connection_is_a_leave(both: tuple[Socket, Socket]) -> None:
    """Also without a close frame."""
    hers, his = both
    his.ws.socket.shutdown(socket.SHUT_RDWR)
    hers.receive("leave")


def test_two_tabs_are_one_user(ada: User, bob: User, room: str) -> None:
    """The second tab joins as the same user, who stays until the last one is closed."""
    with bob.inside(room) as his:
        with ada.inside(room) as first:
            his.receive("join")
            with ada.inside(room) as second:
                for other in (his, first):
                    assert other.receive("join")["user"] == second.me
                assert len(second.welcome["people"]) == 2
                second.say("from the second")
                assert [his.texts(1), first.texts(1), second.texts(1)] == [["from the second"]] * 3
            first.say("still here")
            assert his.texts(1) == ["still here"]
        his.receive("leave")


# --- typing --------------------------------------------------------------------------------------------------------


def test_typing_is_sent_to_others_and_not_stored(ada: User, bob: User, room: str) -> None:
    """It is not in the history."""
    with ada.inside(room) as hers, ada.inside(room) as her_other, bob.inside(room) as his:
        hers.receive("join")
        for each in (hers, her_other):
            each.receive("join")
        hers.send(type="typing", after=0)
        for each in (her_other, his):
            assert each.receive("typing") == {"type": "typing", "user": hers.me, "after": 0}
        hers.say("done")
        assert [each.texts(1) for each in (hers, her_other, his)] == [["done"]] * 3
        with bob.inside(room) as later:
            assert [message["text"] for message in later.welcome["messages"]] == ["done"]


def test_typing_is_throttled(both: tuple[Socket, Socket]) -> None:
    """A page that sends an event for each key costs the others one event for each message."""
    hers, his = both
    for _ in range(2):
        for _ in range(20):
            hers.send(type="typing", after=0)
        hers.say("done")
    # Typing and messages are two groups, which have no common order.
    assert sorted(his.next()["type"] for _ in range(4)) == ["message"] * 2 + ["typing"] * 2


# --- what is not right ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("hello", 1007),
        ("", 1007),
        (b"\xff\xfe", 1007),
        ("[" * 20_000, 1007),
        ("1" * 20_000, 1007),
        ("[]", 1008),
        ("null", 1008),
        ("{}", 1008),
        ('{"type": "dance"}', 1008),
        ('{"type": ["say"]}', 1008),
        ('{"type": "say"}', 1008),
        ('{"type": "typing"}', 1008),
        ('{"type": "typing", "after": "now"}', 1008),
        ('{"type": "say", "text": 5}', 1008),
        ('"' + "x" * 32 * 1024 + '"', 1009),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_no_page_sends_ends_the_connection(
    ada: User, bob: User, room: str, message: str | bytes, code: int
) -> None:
    """With a code, without a traceback, and the others go on."""
    with bob.inside(room) as his:
        with ada.inside(room) as hers:
            hers.ws.send(message)
            closed = hers.close_frame()
        assert closed is not None
        assert closed[0] == code
        his.receive("join")
        his.receive("leave")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "An empty message is not sent."),
        (" \n\t ", "An empty message is not sent."),
        ("x" * 2001, "A message has at most 2000 characters; this one has 2001."),
        ("x\0y", "Null characters are not allowed."),
    ],
    ids=["empty", "blank", "long", "null"],
)
def test_what_a_user_may_get_wrong_is_answered(both: tuple[Socket, Socket], text: str, detail: str) -> None:
    """With a sentence, to this user alone; the connection stays."""
    hers, his = both
    hers.say(text, "right")
    assert hers.receive("error") == {"type": "error", "detail": detail}
    assert hers.texts(1) == his.texts(1) == ["right"]


@pytest.mark.parametrize(
    ("escaped", "received"), [(r"\ud800", "?"), (r"\ud83d\ude00" * 2000, "😀" * 2000)], ids=["surrogate", "longest"]
)
def test_text_is_what_json_can_escape(ada: User, room: str, escaped: str, received: str) -> None:
    """Half a surrogate pair is no character; the longest message fits, however it is escaped."""
    with ada.inside(room) as hers:
        hers.ws.send(f'{{"type": "say", "text": "{escaped}"}}')
        assert hers.texts(1) == [received]


# --- the end -------------------------------------------------------------------------------------------------------


def test_logout_closes_the_sockets_of_the_session(chat: Chat, bob: User, room: str) -> None:
    """In all rooms; the same user's other browser and all other users stay."""
    desk = new_user(chat)
    phone = User(chat, desk.name)
    phone.join()
    with ExitStack() as stack:
        hers = [stack.enter_context(desk.inside(slug)) for slug in (room, room, chat.room())]
        others = [stack.enter_context(user.inside(room)) for user in (phone, bob)]
        assert desk.leave().location == "/join/"
        assert [each.close_frame() for each in hers] == [(4401, "logged out")] * 3
        others[1].say("still here")
        assert [each.texts(1) for each in others] == [["still here"]] * 2
    assert desk.refused(f"/ws/rooms/{room}/").status == 302


def test_restart_closes_with_1012_and_keeps_sessions(socket_path: Path) -> None:
    """A new worker knows the sessions and the history; the key that signs them is not made anew."""
    with serve_chat(socket_path) as chat:
        ada, room = new_user(chat), chat.room()
        with ada.inside(room) as hers:
            hers.say("before")
            last = hers.receive("message")
            chat.server.kill(signal.SIGHUP)
            assert hers.close_frame() == (1012, "")
        chat.server.log.find("Worker exiting", 2)
        with ada.inside(room) as hers:
            position = last.pop("position")
            assert hers.welcome["messages"] == [last]
            hers.say("after")
            assert hers.texts(1) == ["after"]
        with ada.socket(room, f"?since={position}") as hers:
            assert hers.texts(1) == ["after"]


def test_key_can_be_read_by_its_owner_alone(chat: Chat) -> None:
    """It lies beside the database."""
    assert chat.database.with_suffix(".key").stat().st_mode & 0o777 == 0o600


# --- two workers ---------------------------------------------------------------------------------------------------


@contextmanager
def in_worker(user: User, room: str, number: int) -> Iterator[Socket]:
    """A WebSocket to the worker with this number: the kernel chooses one, so it is opened until it is that one."""
    with ExitStack() as stack:
        for _ in range(100):
            member = stack.enter_context(user.inside(room))
            if member.welcome["worker"] == {"number": number, "of": 2}:
                yield member
                return
            stack.close()
    pytest.fail(f"a hundred connections and none in worker {number}")


def test_members_in_two_workers_are_in_one_room(chat: Chat, ada: User, bob: User, room: str) -> None:
    """Messages, joins, typing and the list of users reach both."""
    with in_worker(ada, room, 1) as hers, in_worker(bob, room, 2) as his:
        eventually(lambda: hers.next() == {"type": "join", "user": his.me}, "the join")
        assert sorted(user["name"] for user in his.welcome["people"]) == sorted([ada.name, bob.name])
        hers.send(type="typing", after=0)
        eventually(lambda: his.next() == {"type": "typing", "user": hers.me, "after": 0}, "the typing")
        for number in range(20):
            (hers if number % 2 else his).say(str(number))
        received = [[member.until("message") for _ in range(20)] for member in (hers, his)]
        assert received[0] == received[1]
        assert sorted(int(message["text"]) for message in received[0]) == list(range(20))


def test_killed_worker_loses_nothing(socket_path: Path) -> None:
    """Its members connect to another worker, and get what came meanwhile; the list of users is right again."""
    with serve_chat(socket_path) as chat:
        ada, bob, eve, room = new_user(chat), new_user(chat), new_user(chat), chat.room()
        with in_worker(ada, room, 1) as hers:
            with in_worker(bob, room, 2) as his, in_worker(eve, room, 2):
                his.say("before")
                position = his.until("message")["position"]
                os.kill(int(chat.database.with_suffix(".worker-2.lock").read_text()), signal.SIGKILL)
                assert his.close_frame() is None
            hers.until("message")
            hers.say("meanwhile")
            hers.until("message")
            with bob.socket(room, f"?since={position}") as his:
                assert his.until("message")["text"] == "meanwhile"
                hers.send(type="people")
                assert sorted(user["name"] for user in hers.until("people")["people"]) == sorted([ada.name, bob.name])
        with in_worker(bob, room, 2):  # the next one; gunicorn loses a stop that comes while it starts
            pass
        chat.server.log.expect("Worker .* was sent SIGKILL")


def test_members_in_two_workers_are_in_one_room_by_redis(tmp_path: Path, socket_path: Path) -> None:
    """With the variable of README. Nothing is shared in a directory then."""
    at = exported(CHAT / "README.md", "GROUPS_URL")
    assert at == "redis://127.0.0.1:6379/0"
    with broker(tmp_path / "redis") as redis, serve_chat(socket_path, GROUPS_URL=f"{redis.url}/0") as chat:
        ada, bob, room = new_user(chat), new_user(chat), chat.room()
        with in_worker(ada, room, 1) as hers, in_worker(bob, room, 2) as his:
            his.say("by Redis")
            assert [member.until("message")["text"] for member in (hers, his)] == ["by Redis", "by Redis"]
            position = his.welcome["position"]
            with ada.socket(room, f"?since={position}") as resumed:
                assert resumed.until("message")["text"] == "by Redis"
        assert not chat.database.with_suffix(".groups").exists()


# --- many at once --------------------------------------------------------------------------------------------------

SLOW_DATABASE = '''
"""The settings of the example, with a database that lets others run before and after each query, as one over the
network does. Not after a write, whose lock SQLite releases when its row has been read.
"""
import gevent
from django.db.backends.signals import connection_created
from project.settings import *

def slowly(execute, sql, params, many, context):
    gevent.sleep(0.003)
    result = execute(sql, params, many, context)
    if sql.startswith("SELECT"):
        gevent.sleep(0.003)
    return result

def slow_down(connection, **arguments):
    connection.connection.execute("PRAGMA journal_mode=WAL")  # before Django 5.1 no setting says so
    connection.execute_wrappers.append(slowly)

connection_created.connect(slow_down)
'''


def test_nothing_is_lost_or_doubled_or_out_of_order_while_many_speak_and_come(socket_path: Path) -> None:
    """Each member has all messages, those of the history and those received since. Sorted by id, as the page does, they
    are one list; all that is received from the group has one order.
    """
    (socket_path / "slow_settings.py").write_text(SLOW_DATABASE)
    with (
        serve_chat(
            socket_path, PYTHONPATH=f"{socket_path}:{CHAT}:{ROOT}", DJANGO_SETTINGS_MODULE="slow_settings"
        ) as chat,
        ExitStack() as stack,
    ):
        ada, bob, room = new_user(chat), new_user(chat), chat.room()
        speakers = [stack.enter_context(user.socket(room)) for user in (ada, bob)]
        for each in speakers:
            each.say(*map(str, range(20)))
        members = speakers + [stack.enter_context(ada.socket(room)) for _ in range(8)]
        received = [forty_messages(each) for each in members]
        assert [sorted(set(ids)) for ids in received] == [sorted(received[0])] * len(members)


def forty_messages(member: Socket) -> list[int]:
    """The ids of as many different messages, as they came."""
    found: list[int] = []
    while len(set(found)) < 40:
        event = member.next()
        messages = event["messages"] if event["type"] == "welcome" else [event] if event["type"] == "message" else []
        found += [message["id"] for message in messages]
    return found


def test_member_who_does_not_read_delays_no_other(socket_path: Path) -> None:
    """Others receive everything meanwhile; a client that is too slow is closed with 1013, and may come back."""
    with serve_chat(socket_path, GWS_SEND_LIMIT="65536") as chat:
        ada, bob, room = new_user(chat), new_user(chat), chat.room()
        with socket.socket() as narrow:
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            narrow.connect(chat.server.tcp)
            with ada.inside(room) as hers, bob.socket(room, sock=narrow) as his:
                hers.receive("join")
                kinds = set()
                for _ in range(2000):  # the kernel takes some megabytes
                    hers.say("😀" * 2000)
                    kinds.add(hers.next()["type"])
                    if "leave" in kinds:
                        break
                assert kinds == {"message", "leave"}
                assert his.close_frame() == (1013, "too slow")
