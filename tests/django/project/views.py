"""One small view for each behaviour."""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from typing import Any

from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required, permission_required, user_passes_test
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.models import User
from django.contrib.messages import info
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from gevent import GreenletExit, Timeout, sleep

from gws_middleware import ConnectionClosed, WebSocket
from gws_middleware.coroutines import run
from gws_middleware.django import groups
from gws_middleware.django.decorators import accept_websocket, require_websocket
from gws_middleware.django.sessions import save_session
from gws_middleware.django.users import refresh_user
from gws_middleware.django.views import WebSocketView
from gws_middleware.groups import Publication

EVENTS: list[Any] = []
"""What the views of this process record."""


def plain(request: HttpRequest) -> HttpResponse:
    """A view without WebSockets."""
    return HttpResponse("plain")


def by_meta(request: HttpRequest) -> HttpResponse:
    """Undecorated; it takes its WebSocket from META."""
    for message in request.META["wsgi.websocket"]:
        request.META["wsgi.websocket"].send(message)
    return HttpResponse()


def user_by_meta(request: HttpRequest) -> HttpResponse:
    """Undecorated, and asks who it is."""
    ws = request.META["wsgi.websocket"]
    ws.send(str(refresh_user(ws)))
    for _ in ws:
        ws.send(str(refresh_user(ws)))
    return HttpResponse()


@accept_websocket
def both(request: Any, room: int = 0) -> HttpResponse | None:
    """HTTP and WebSocket."""
    if not request.is_websocket():
        return HttpResponse(f"http {request.websocket}")
    for message in request.websocket:
        request.websocket.send(f"{room}: {message}")
    return None


def undecorated(request: Any) -> HttpResponse | None:
    """It has ``request.websocket`` without a decorator."""
    if request.websocket is None:
        return HttpResponse(f"http {request.is_websocket()}")
    for message in request.websocket:
        request.websocket.send(message)
    return None


def undecorated_raises(request: Any) -> None:
    """An exception after the 101."""
    request.websocket.accept()
    raise LookupError("nothing here")


async def asynchronous(request: HttpRequest) -> HttpResponse:
    """Django runs it in a loop of asyncio."""
    return HttpResponse("async")


def forgets(request: Any) -> None:
    """Neither accepts nor answers."""


@require_websocket
def echo(request: Any) -> None:
    """WebSocket alone."""
    for message in request.websocket:
        request.websocket.send(message)


@require_websocket
def answers(request: Any, what: str) -> Any:
    """What a view may do before the 101, and what is then an ordinary answer."""
    if what == "forbidden":
        return HttpResponse("no", status=403)
    if what == "denied":
        raise PermissionDenied
    if what == "missing":
        raise Http404
    if what == "broken":
        raise LookupError("before the 101")
    if what == "closed":
        request.websocket.close()
    if what == "cookie":
        response = HttpResponse(status=403)
        response.set_cookie("b", "2")
        return response
    return None


@require_websocket
def streams(request: Any) -> StreamingHttpResponse:
    """Returns a response that has something open."""
    request.websocket.send("hello")

    class Body:
        def __iter__(self) -> Any:
            return iter([b"over"])

        def close(self) -> None:
            EVENTS.append("closed")

    return StreamingHttpResponse(Body())


@require_websocket
def environ_values(request: Any, what: str) -> None:
    """What is in META, or the path."""
    for names in request.websocket:
        found = {**request.META, "path": request.path}
        request.websocket.send_json([found[name] for name in names.split()])


@require_websocket
def sleeps(request: Any, when: str) -> None:
    """Neither receives nor sends."""
    if when == "late":
        request.websocket.accept()
    sleep(30)


@require_websocket
def raises(request: Any) -> None:
    """An error after the 101."""
    request.websocket.accept()
    raise LookupError("after the 101")


@require_websocket
def raises_at_the_end(request: Any) -> None:
    """An exception after the end of the connection."""
    for _ in request.websocket:
        pass
    raise LookupError("after the end")


@require_websocket
def killed(request: Any) -> None:
    """As a worker that stops does it."""
    request.websocket.accept()
    raise GreenletExit


def killed_by_meta(request: HttpRequest) -> None:
    """The same without a decorator."""
    request.META["wsgi.websocket"].accept()
    raise GreenletExit


@require_websocket
def timeout(request: Any) -> None:
    """gevent's, which is no Exception."""
    with Timeout(0.01):
        request.websocket.receive()


def undecorated_chatter(request: Any) -> None:
    """Sends until the peer disconnects."""
    while True:
        request.websocket.send("x" * 1000)


chatter = require_websocket(undecorated_chatter)


@require_websocket
def closed_elsewhere(request: Any) -> None:
    """ConnectionClosed of a connection that is not this one's."""
    request.websocket.accept()
    raise ConnectionClosed


@require_websocket
def in_transaction(request: Any) -> None:
    with transaction.atomic():
        request.websocket.accept()


@login_required
@require_websocket
def private(request: Any) -> None:
    request.websocket.send(request.user.username)
    for message in request.websocket:
        fresh = str(refresh_user(request.websocket))
        request.websocket.send(f"{fresh} {request.user}" if message == "request" else fresh)


@require_websocket
def who(request: Any) -> None:
    """The same, detached and without login."""
    request.websocket.send(str(request.user))
    request.websocket.detach(on_message=lambda ws, message: ws.send(str(refresh_user(ws))))


@require_websocket
def late(request: Any) -> None:
    """Reads the user after the 101."""
    request.websocket.accept()
    request.websocket.send(str(request.user))


@login_required
@require_websocket
def leaves(request: Any) -> None:
    """The user logs out, in another request, while this handshake is under way."""
    other = HttpRequest()
    other.session, other.user = type(request.session)(request.session.session_key), request.user
    logout(other)
    request.websocket.accept()
    request.websocket.receive()


def by_token(get_response: Any) -> Any:
    """A middleware: the token is the primary key."""

    def middleware(request: Any) -> Any:
        request.user = User.objects.get(pk=request.GET["token"])
        return get_response(request)

    return middleware


@require_websocket
@permission_required("auth.add_user", raise_exception=True)
def permitted(request: Any) -> None:
    request.websocket.send("permitted")


@user_passes_test(lambda user: user.username.startswith("b"))
@require_websocket
def tested(request: Any) -> None:
    request.websocket.send("passed")


def undecorated_session(request: Any) -> None:
    """Uses the session as the messages request."""
    if "early" in request.GET:
        request.session["early"] = request.GET["early"]
    ws: WebSocket = request.websocket
    for message in ws:
        assert isinstance(message, str)
        verb, _, value = message.partition(" ")
        if verb == "set":
            request.session["late"] = value
        if verb == "save":
            ws.send(str(save_session(request)))
        ws.send_json({"early": request.session.get("early"), "late": request.session.get("late")})


session = require_websocket(undecorated_session)


@require_websocket
def messages(request: Any) -> None:
    """What a form's view does before it redirects."""
    request.websocket.accept()
    info(request, "sent")
    request.websocket.send("noted")


@require_websocket
def users(request: Any) -> None:
    """Counts and creates."""
    for message in request.websocket:
        if message != "count":
            User.objects.create(username=message)
        request.websocket.send(str(User.objects.count()))


@require_websocket
def queries(request: Any) -> None:
    """Needs a database, and no table in it."""
    for _ in request.websocket:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            request.websocket.send(str(cursor.fetchone()[0]))


@require_websocket
def detached(request: Any) -> None:
    """Each message is a new user."""
    request.websocket.detach(on_message=create, on_close=EVENTS.append)


def create(ws: WebSocket, message: Any) -> None:
    User.objects.create(username=message)
    ws.send(str(User.objects.count()))


class Conversation(WebSocketView):
    """The class-based view, with everything overridden."""

    subprotocols = ("second", "first")

    def connect(self, *args: Any, **kwargs: Any) -> HttpResponse | None:
        self.room = kwargs["room"]
        what = self.request.GET.get("what")
        if what == "refuse":
            return HttpResponse("full", status=409)
        if what == "close":
            self.websocket.close()
        if what == "accept":
            self.websocket.accept(headers=[("X-Room", str(self.room))])
        if what == "raise":
            self.websocket.accept()
            raise LookupError("in connect")
        return None

    def receive(self, message: str | bytes) -> None:
        if message == "raise":
            raise LookupError("in receive")
        self.websocket.send(f"{self.room}: {message!r}")

    def disconnect(self, code: int | None) -> None:
        EVENTS.append(("disconnect", code))


class Private(LoginRequiredMixin, Conversation):
    """With a mixin of Django's."""


class Page(WebSocketView):
    """A class with both."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("a page")

    def receive(self, message: str | bytes) -> None:
        self.websocket.send(message)


@require_websocket
def room(request: Any, name: str) -> None:
    """A member of a group, whose view waits; the first message is the process it is in."""
    ws = request.websocket
    if "early" in request.GET:
        groups.send(name, "before the 101")
        assert "fails" not in request.GET
    groups.join(name, ws, since=request.GET.get("since"))
    ws.send(str(os.getpid()))
    for message in ws:
        with transaction.atomic() if "transaction" in message else nullcontext():
            groups.send(name, message, exclude=ws if "others" in message else None)


@require_websocket
def listening(request: Any, name: str) -> None:
    """A member without a greenlet of its own."""
    groups.join(name, request.websocket)
    request.websocket.send(str(os.getpid()))
    request.websocket.detach()


@require_websocket
def member(request: Any, kind: str, name: str) -> None:
    """A member that shows its user and what it gets."""
    ws = request.websocket
    groups.join(f"{kind}.{name}", ws)
    if request.user.is_authenticated:
        groups.join(groups.user_group(request.user), ws)
    ws.send(str(os.getpid()))
    for message in ws:
        ws.send(message)


@require_websocket
def handling(request: Any, name: str) -> None:
    """A member whose messages are made for it alone, with a query."""

    def handle(ws: WebSocket, publication: Publication) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            ws.send(f"{publication.data} {cursor.fetchone()[0]}")

    groups.join(name, request.websocket, handler=handle)
    request.websocket.send(str(os.getpid()))
    request.websocket.detach()


@require_websocket
def present(request: Any, name: str) -> None:
    """A member that others see, and that gets the events of all of them."""
    ws = request.websocket
    groups.join(groups.presence_group(name), ws)
    groups.join(name, ws, info={"user": request.GET["user"]})
    ws.send(str(os.getpid()))
    ws.detach()


def members(request: HttpRequest, name: str) -> JsonResponse:
    """The users of the members."""
    return JsonResponse(sorted(member.info["user"] for member in groups.members(name)), safe=False)


def send_by_coroutines(request: HttpRequest, name: str) -> HttpResponse:
    """Twenty messages in order, and twenty at once."""

    async def program() -> None:
        for number in range(20):
            await groups.asend(name, number)
        await asyncio.gather(*(groups.asend(name, "at once") for _ in range(20)))

    run(program())
    return HttpResponse()


def send(request: HttpRequest, name: str) -> HttpResponse:
    """Plain HTTP; the answer is the process."""
    groups.send(name, request.GET["text"])
    if "fails" in request.GET:
        raise LookupError("after the message")
    return HttpResponse(str(os.getpid()))


def send_in_transactions(request: HttpRequest, name: str) -> HttpResponse:
    """Twenty transactions, of which each second one is rolled back."""
    for number in range(20):
        with transaction.atomic():
            groups.send(name, number)
            transaction.set_rollback(number % 2 == 1)
    return HttpResponse()


def count(request: HttpRequest, name: str) -> HttpResponse:
    """The number of members."""
    return HttpResponse(str(groups.count(name)))


def pid(request: HttpRequest) -> HttpResponse:
    """The process."""
    return HttpResponse(str(os.getpid()))
