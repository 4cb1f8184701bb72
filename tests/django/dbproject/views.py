"""One small view for each way to hold a database connection."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import gevent
import gevent.event
from django.contrib.auth import login
from django.contrib.auth.models import Permission, User
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden, JsonResponse

from gws_middleware import WebSocket
from gws_middleware.django.decorators import accept_websocket, require_websocket
from tests.support.waiting import eventually

from .recording import EVENTS, backend, token

VIEWS: dict[str, Any] = {}
"""The greenlets of views that a test may kill."""


# --- plain HTTP, without a query -----------------------------------------------------------------------------------


def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse("home")


def events(request: HttpRequest) -> JsonResponse:
    """What happened to the WebSocket with this ``?of=``."""
    return JsonResponse(EVENTS[request.GET["of"]], safe=False)


def kill(request: HttpRequest) -> HttpResponse:
    """Kill the greenlet of the WebSocket with this ``?of=``, and return when it has ended."""
    VIEWS[request.GET["of"]].kill()
    return HttpResponse("killed")


# --- waiting -------------------------------------------------------------------------------------------------------


@require_websocket
def talk(request: Any) -> None:
    """A message is the name of a database. The answer is the number of the connection."""
    for alias in request.websocket:
        request.websocket.send(str(backend(alias)))


@require_websocket
def waits(request: Any) -> None:
    """Two queries, with a wait of ``?seconds=`` between them."""
    first = backend()
    try:
        request.websocket.receive(timeout=float(request.GET["seconds"]))
    except TimeoutError:
        request.websocket.send_json([first, backend()])


@require_websocket
def early(request: Any) -> None:
    """No query but one before the 101."""
    backend()
    request.websocket.accept()
    request.websocket.receive()


@require_websocket
def polls(request: Any) -> None:
    """The same, and waits in turns of a twentieth of a second."""
    backend()
    request.websocket.accept()
    while not request.websocket.closed:
        with suppress(TimeoutError):
            request.websocket.receive(timeout=0.05)


def enter(request: HttpRequest) -> HttpResponse:
    login(request, User.objects.create_user("ada"))
    return HttpResponse("entered")


@require_websocket
def who(request: Any) -> None:
    """No query but those of Django's own for the session and the user, before the 101."""
    request.websocket.send(request.user.username)
    request.websocket.receive()


@require_websocket
def floods(request: Any) -> None:
    """More than the kernel's buffers take."""
    ws: WebSocket = request.websocket
    ws.send(str(backend()))
    for _ in range(12):
        ws.send(bytes(2**20))
    ws.send(str(backend()))


@require_websocket
def transacts(request: Any) -> None:
    """Waits inside a transaction and after it."""
    ws: WebSocket = request.websocket
    ws.accept()
    with transaction.atomic():
        User.objects.create(username="inside")
        ws.send(str(backend()))
        ws.receive()
        ws.send(str(backend()))
    ws.receive()
    ws.send(str(User.objects.filter(username="inside").count()))


@require_websocket
def spawns(request: Any) -> None:
    """A greenlet that the view starts keeps its connection until the end of the view."""
    ws: WebSocket = request.websocket
    ended = gevent.event.Event()

    def work() -> None:
        ws.send(str(backend()))
        ended.wait()
        connections.close_all()

    backend()
    greenlet = gevent.spawn(work)
    ws.receive()
    ended.set()
    greenlet.join()


# --- the ends ------------------------------------------------------------------------------------------------------


@require_websocket
def ends(request: Any, how: str) -> Any:
    """Queries both databases, and ends in this way."""
    VIEWS[token(request.META)] = gevent.getcurrent()
    number = backend()
    backend("other")
    ws: WebSocket = request.websocket
    if how == "refuses":
        return HttpResponseForbidden()
    if how == "breaks":
        raise LookupError("before the 101")
    ws.send(str(number))
    if how == "receives":
        ws.receive()
    if how == "receives-in-a-transaction":
        with transaction.atomic():
            ws.receive()
    if how == "receives-without-autocommit":
        transaction.set_autocommit(False)
        ws.receive()
    if how == "sleeps":
        gevent.sleep(3600)
    if how == "raises":
        raise LookupError("after the 101")
    if how == "times-out":
        raise gevent.Timeout
    return None


@require_websocket
def lingers(request: Any) -> None:
    """Holds no connection, and runs until the file ``?until=`` exists, also in a stopping worker."""
    request.websocket.accept()
    eventually(lambda: os.path.exists(request.GET["until"]), "the file", 60, sleep=gevent.sleep)


@require_websocket
def detaches(request: Any) -> None:
    """Queries in the view, for each message and at the end."""
    backend()
    request.websocket.detach(on_message=query, on_close=query_at_the_end)


def query(ws: WebSocket, message: Any) -> None:
    """Query both databases or one, and then do what the message says."""
    number = backend()
    if message == "both":
        backend("other")
    if message == "raise":
        raise LookupError("as requested")
    ws.send(str(number))
    if message == "sleep":
        VIEWS[token(ws.environ)] = gevent.getcurrent()
        gevent.sleep(3600)


def query_at_the_end(ws: WebSocket) -> None:
    backend()
    EVENTS[token(ws.environ)].append("on_close")
    if "raise" in ws.environ["QUERY_STRING"]:
        raise LookupError("at the end")


# --- transactions --------------------------------------------------------------------------------------------------


def _in_a_transaction() -> str:
    return json.dumps([connections[alias].in_atomic_block for alias in connections])


@accept_websocket
def atomic(request: Any) -> HttpResponse:
    """Creates a user, and returns which databases are in a transaction, or raises."""
    User.objects.create(username=request.GET["name"])
    if "raise" in request.GET:
        raise LookupError("after the insert")
    return HttpResponse(_in_a_transaction())


def accepts(request: Any) -> HttpResponse | None:
    """Creates a user, accepts, and sends in which transactions it is before and after. ``?how=`` changes that."""
    ws, how = request.META["wsgi.websocket"], request.GET.get("how")
    User.objects.create(username=request.GET["name"])
    before = _in_a_transaction()
    transaction.on_commit(lambda: EVENTS[token(request.META)].append("committed"))
    if how == "raises":
        raise LookupError("before the 101")
    if how == "times-out":
        raise gevent.Timeout
    if how == "refuses":
        return HttpResponseForbidden()
    if how == "breaks":  # what the database finds out when it commits
        Permission.objects.create(content_type_id=10**6, codename="broken", name="broken")
    if how == "elsewhere":
        gevent.spawn(ws.accept).get()
    if how == "inside":
        with transaction.atomic():
            ws.accept()
    if not ws.accepted:
        ws.accept()
    ws.send(before)
    if how == "raises-later":
        raise LookupError("after the 101")
    ws.send(_in_a_transaction())
    ws.receive()
    return None


accepts_decorated = require_websocket(accepts)
accepts_non_atomic = transaction.non_atomic_requests(require_websocket(accepts))


@accept_websocket
@transaction.non_atomic_requests
def not_atomic_inside(request: Any) -> HttpResponse:
    return HttpResponse(_in_a_transaction())


@transaction.non_atomic_requests
@accept_websocket
def not_atomic_outside(request: Any) -> HttpResponse:
    return HttpResponse(_in_a_transaction())


def users(request: HttpRequest) -> JsonResponse:
    return JsonResponse(list(User.objects.order_by("username").values_list("username", flat=True)), safe=False)


def by_meta(request: HttpRequest) -> HttpResponse:
    """Undecorated."""
    ws: WebSocket = request.META["wsgi.websocket"]
    VIEWS[token(request.META)] = gevent.getcurrent()
    ws.accept()
    ws.send(str(backend()))
    ws.receive()
    return HttpResponse()


@require_websocket
def accepts_inside(request: Any) -> None:
    with transaction.atomic():
        User.objects.create(username="undone")
        request.websocket.accept()
