"""The page "WebSockets" of the admin: the connections and workers of the site, closing, and messages to try one.

Rule 1: the page shows a survey of all workers as it was a moment ago, and states what is missing in it.
Rule 2: the page is live for ``LIFETIME`` seconds, and then opens another WebSocket. So whatever protects the admin of a
project (sessions, permissions, middlewares, an ``AdminSite`` of its own) decides about it again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.http import urlencode
from django.utils.timezone import localtime

from ..codes import CloseCode
from ..groups.errors import GroupsError
from ..groups.survey import ConnectionInfo, Survey, WorkerInfo
from . import groups, users
from .decorators import require_websocket
from .models import Connection

__all__ = ["ConnectionAdmin"]

LIMIT = 1000
"""Connections that a survey is asked for."""
PER_PAGE = 100
"""Connections on one page."""
MAX_GROUPS = 50
"""Groups that are listed: those with the most members."""
INTERVAL = 2.0
"""Seconds between two updates of a live page."""
LIFETIME = 60.0
"""Seconds after which a live page opens another WebSocket."""
TEMPLATES = "admin/gws_middleware/connection"


# --- forms ------------------------------------------------------------------------------------------------------------


class FilterForm(forms.Form):
    """Which connections are shown. An empty field admits all."""

    user = forms.CharField(required=False, label="User")
    path = forms.CharField(required=False, label="Path begins with")
    worker = forms.CharField(required=False, label="Worker")
    group = forms.CharField(required=False, label="Group")

    def clean_user(self) -> str:
        """The primary key of the user with this name or primary key."""
        text = self.cleaned_data["user"]
        found = users.find_key(text) if text else ""
        if found is None:
            raise ValidationError("There is no such user.")
        return found

    @property
    def query(self) -> str:
        """The fields that are set, for links to other pages of the list."""
        return urlencode([(name, value) for name in self.fields if (value := self.data.get(name))])

    def survey(self) -> Survey:
        """The connections that pass; none where a field is wrong.

        Raises:
            GroupsUnavailable: The workers cannot be asked now.

        """
        if not self.is_valid():
            return groups.survey(limit=0)._replace(more=False)
        wanted: dict[str, Any] = {name: value for name, value in self.cleaned_data.items() if value}
        return groups.survey(**wanted, limit=LIMIT)


class CloseForm(forms.Form):
    """Closes connections."""

    use_required_attribute = False  # the fields of both forms are in one element
    code = forms.IntegerField(initial=int(CloseCode.POLICY_VIOLATION), label="Code")
    reason = forms.CharField(required=False, label="Reason")

    def clean(self) -> dict[str, Any]:
        """Check the two by the rules of a close frame."""
        cleaned: dict[str, Any] = self.cleaned_data
        if "code" in cleaned and "reason" in cleaned:
            try:
                users.check_close(cleaned["code"], cleaned["reason"])
            except ValueError as error:
                raise ValidationError(str(error)) from None
        return cleaned

    def carry_out(self, ids: Sequence[str]) -> str:
        """Close them; what the log of the admin has of it."""
        code, reason = self.cleaned_data["code"], self.cleaned_data["reason"]
        groups.close_connections(ids, code, reason)
        return f"Closed with {code}: {reason}" if reason else f"Closed with {code}"


class SendForm(forms.Form):
    """Sends a message to connections, e.g. to see whether it arrives."""

    use_required_attribute = False
    message = forms.CharField(label="Message", strip=False, max_length=1000)

    def carry_out(self, ids: Sequence[str]) -> str:
        """Send it to them; what the log of the admin has of it."""
        for number in ids:
            groups.send_to(number, self.cleaned_data["message"])
        return f"Sent: {self.cleaned_data['message']}"


# --- the page ---------------------------------------------------------------------------------------------------------


@admin.register(Connection)
class ConnectionAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The page. Those with the permission ``view_connection`` see it, those with ``change_connection`` may close
    connections and send to them.
    """

    def get_urls(self) -> list[Any]:
        """The page and its WebSocket, and none of the pages for one object."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name=self._name("changelist")),
            path("live/", view(require_websocket(self.live_view)), name=self._name("live")),
        ]

    def _name(self, view: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{view}"

    def changelist_view(self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None) -> HttpResponse:
        """Show the page; for a POST, do what its form says and show it again."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        close, send = CloseForm(), SendForm()
        if request.method == "POST":
            if not self.has_change_permission(request):
                raise PermissionDenied
            form: CloseForm | SendForm
            if request.POST.get("do") == "close":
                form = close = CloseForm(request.POST)
            else:
                form = send = SendForm(request.POST)
            if form.is_valid():
                self._carry_out(request, form)
                return HttpResponseRedirect(request.get_full_path())
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            **self._context(request, FilterForm(request.GET)),
            "title": "WebSockets",
            "opts": self.opts,
            "actions": [(close, "close", "Close selected"), (send, "send", "Send to selected")],
            "live": reverse(f"admin:{self._name('live')}", current_app=self.admin_site.name),
            **(extra_context or {}),
        }
        return TemplateResponse(request, f"{TEMPLATES}/change_list.html", context)

    def live_view(self, request: Any) -> None:
        """Send the tables of the page again and again."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        ws, wanted = request.websocket, FilterForm(request.GET)
        ws.accept()
        while ws.duration < LIFETIME:
            context = self._context(request, wanted)
            ws.send("".join(render_to_string(f"{TEMPLATES}/{name}.html", context) for name in ("workers", "rows")))
            try:
                ws.receive(timeout=INTERVAL)
            except TimeoutError:
                continue
            return  # it has ended, or has sent something, which a page does not

    def _context(self, request: HttpRequest, wanted: FilterForm) -> dict[str, Any]:
        """The variables of the templates of the tables."""
        survey, error, now = Survey([], [], [], False), "", time.time()
        try:
            survey = wanted.survey()
        except GroupsError as raised:
            error = str(raised)
        found = sorted(survey.connections, key=lambda one: (-one.since, one.id))
        members = Counter(name for one in found for name in one.groups)
        page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
        return {
            "error": error,
            "filter": wanted,
            "survey": survey,
            "workers": [_worker(one) for one in survey.workers],
            "groups": members.most_common(MAX_GROUPS),
            "group_count": len(members),
            "page": page,
            "rows": [_row(one, now) for one in page],
            "now": _time(now),
            "may_change": self.has_change_permission(request),
            "selected": request.POST.getlist("id"),
        }

    def _carry_out(self, request: HttpRequest, form: CloseForm | SendForm) -> None:
        """Do it with each of the selected connections, and log it."""
        selected = list(dict.fromkeys(request.POST.getlist("id")))
        if not selected:
            messages.warning(request, "No connection is selected.")
            return
        try:
            found = {one.id: one for one in FilterForm(request.GET).survey().connections}
            done = form.carry_out(selected)
        except GroupsError as error:
            messages.error(request, f"The groups cannot be used now: {error}")
            return
        for number in selected:
            connection = Connection(id=number)
            connection.text = _text(found.get(number))
            self.log_change(request, connection, done)
        plural = "" if len(selected) == 1 else "s"
        messages.success(request, f"{len(selected)} connection{plural}. {done}")


# --- what the tables have ---------------------------------------------------------------------------------------------


def _row(info: ConnectionInfo, now: float) -> dict[str, Any]:
    """What the table has of a connection."""
    return {
        **info._asdict(),
        "since": _time(info.since),
        "last_activity": _time(info.last_activity),
        "age": _duration(now - info.since),
        "idle": _duration(now - info.last_activity),
        "latency": None if info.latency is None else round(1000 * info.latency),
    }


def _worker(info: WorkerInfo) -> dict[str, Any]:
    """What the table has of a worker."""
    return {**info._asdict(), "since": _time(info.since), "lag": round(1000 * info.lag)}


def _time(seconds: float) -> datetime:
    """A time in the time zone of the page."""
    return localtime(datetime.fromtimestamp(seconds, timezone.utc))


def _duration(seconds: float) -> str:
    """A duration in its largest unit; below 0 where the clocks of two hosts differ."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def _text(info: ConnectionInfo | None) -> str:
    """A connection in the log of the admin."""
    return "" if info is None else f"{info.user_name or 'anonymous'} at {info.address}: {info.path}"
