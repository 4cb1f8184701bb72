"""One small view for each thing that the surroundings may spoil. Without ``login_not_required`` a view is private."""

from __future__ import annotations

from typing import Any

from crum import get_current_request
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from rest_framework_simplejwt.tokens import AccessToken
from silk.models import Response
from simple_history.models import HistoricalRecords

from gws_middleware import WebSocket
from gws_middleware.django.decorators import accept_websocket, require_websocket
from gws_middleware.django.users import refresh_user
from gws_middleware.django.views import WebSocketView

from .recording import RECORDS, record


@never_cache
@login_not_required
def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse("home")


@never_cache
@login_not_required
def records(request: HttpRequest) -> JsonResponse:
    """What was recorded for the ``id`` that ``?of=`` names; silk has it in the database."""
    stored = Response.objects.filter(request__query_params__contains=request.GET["of"])
    stored = stored.exclude(request__path=request.path)
    silk = [f"silk: {each.status_code}" for each in stored]
    return JsonResponse({"records": [*RECORDS[request.GET["of"]], *silk]})


@never_cache
@login_not_required
def enter(request: HttpRequest) -> HttpResponse:
    """A session for ``?user=``, and ``?later=`` in it."""
    if "user" in request.GET:
        user, _ = User.objects.get_or_create(username=request.GET["user"])
        login(request, user, "django.contrib.auth.backends.ModelBackend")
    if "later" in request.GET:
        request.session["later"] = request.GET["later"]
    return JsonResponse({name: request.session.get(name) for name in ("early", "late", "later")})


@never_cache
@login_not_required
def token(request: HttpRequest) -> HttpResponse:
    """A token for ``?user=``."""
    user, _ = User.objects.get_or_create(username=request.GET["user"])
    return HttpResponse(str(AccessToken.for_user(user)))


def answer(ws: WebSocket, message: Any) -> None:
    """What every view here does with a message."""
    if message == "leave":
        ws.close(4000)
    else:
        ws.send(message)


@login_not_required
@require_websocket
def echo(request: Any) -> None:
    for message in request.websocket:
        answer(request.websocket, message)


@method_decorator(login_not_required, name="dispatch")
class Echo(WebSocketView):
    def receive(self, message: str | bytes) -> None:
        answer(self.websocket, message)


@never_cache
@login_not_required
def by_meta(request: HttpRequest) -> HttpResponse:
    """Undecorated. Its response would be kept for the next handshake, if a cache could have it."""
    for message in request.META["wsgi.websocket"]:
        answer(request.META["wsgi.websocket"], message)
    return HttpResponse()


@accept_websocket
@login_not_required
def both(request: Any) -> HttpResponse:
    """A page, which caches may keep, and its WebSocket."""
    if request.websocket is None:
        return HttpResponse("a page")
    for message in request.websocket:
        answer(request.websocket, message)
    return HttpResponse("over")


@login_not_required
@require_websocket
def detached(request: Any) -> None:
    request.websocket.detach(on_message=query, on_close=record_end)


def query(ws: WebSocket, message: Any) -> None:
    """The database, far from any request."""
    User.objects.get_or_create(username="a user")
    answer(ws, message)


def record_end(ws: WebSocket) -> None:
    record(ws.environ["QUERY_STRING"], f"closed with {ws.close_code}")


@require_websocket
def private(request: Any) -> None:
    """Protected by LoginRequiredMiddleware alone."""
    for _ in request.websocket:
        request.websocket.send(f"{request.user} {refresh_user(request.websocket)}")


@login_required
@require_websocket
def decorated(request: Any) -> None:
    """Protected by the decorator too."""
    for _ in request.websocket:
        request.websocket.send(f"{request.user} {refresh_user(request.websocket)}")


@login_not_required
@require_websocket
def context(request: Any) -> None:
    """Whose request this greenlet is taken for."""
    for _ in request.websocket:
        known = get_current_request(), HistoricalRecords.context.request
        request.websocket.send(" ".join(each.GET["id"] for each in known))


@login_not_required
@require_websocket
def session(request: Any) -> None:
    """Sets a session value before the 101, another one after it, which is not saved, and a message to the user."""
    request.session["early"] = "early"
    request.websocket.accept()
    for message in request.websocket:
        request.session["late"] = message
        messages.info(request, "never shown")
        request.websocket.send(message)


@login_not_required
@require_websocket
def raises(request: Any) -> None:
    request.websocket.accept()
    raise LookupError("after the 101")


@login_not_required
@require_websocket
def refuses(request: Any, what: str) -> None:
    if what == "denied":
        raise PermissionDenied
    if what == "missing":
        raise Http404
    request.websocket.close()


def too_many(request: HttpRequest, exception: Exception) -> HttpResponse:
    """For django-ratelimit."""
    return HttpResponse("too many\n", status=429)
