"""Whose WebSocket it is: closing a user's, and reading the user anew.

Only the WebSockets of this worker process are known here.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user, get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.http import HttpRequest
from django.utils.functional import LazyObject, empty

from .. import registry
from ..websocket import WebSocket
from . import conf, sessions

__all__ = [
    "LOGGED_OUT",
    "Visitor",
    "close_user_sockets",
    "connect",
    "opened",
    "refresh_user",
    "remember",
    "settle",
    "user_key",
    "visitor",
]

LOGGED_OUT = 4401
"""The close code of a user's sockets: 4000 to 4999 are for applications (RFC 6455 7.4.2), and 401 is HTTP's."""
REMEMBERED = 1000
"""Sessions that have ended of late: a handshake may have been under way, whose view had seen its user before."""

_ended: dict[str, None] = {}
"""Their keys, oldest first. None of them comes back."""


def connect() -> None:
    """Follow logouts, deactivations and deletions."""
    if apps.is_installed("django.contrib.auth"):
        user_logged_in.connect(_logged_in, dispatch_uid="gws_middleware")
        user_logged_out.connect(_logged_out, dispatch_uid="gws_middleware")
        post_save.connect(_saved, sender=settings.AUTH_USER_MODEL, dispatch_uid="gws_middleware")
        post_delete.connect(_deleted, sender=settings.AUTH_USER_MODEL, dispatch_uid="gws_middleware")


class Visitor(NamedTuple):
    """Who a WebSocket's handshake came from."""

    user_id: Any
    """The primary key of the user; None for nobody, and as long as nothing has looked at ``request.user``."""
    session_key: str | None
    by_session: bool
    """Whether the session says who the user is, and not e.g. a token."""


def visitor(ws: WebSocket) -> Visitor:
    """Whom this WebSocket belongs to. No query is made to learn it."""
    remembered: Visitor | None = getattr(ws, "visitor", None)
    if remembered is not None:
        return remembered
    request = getattr(ws, "request", None)
    session, user = getattr(request, "session", None), getattr(request, "user", None)
    unknown = isinstance(user, LazyObject) and user._wrapped is empty  # to ask now would be a query for each socket
    user_id = None if unknown else getattr(user, "pk", None)
    of_the_session = getattr(session, "_session_cache", {}).get(SESSION_KEY)
    session_key = getattr(session, "session_key", None) or sessions.key_in(ws.environ)
    return Visitor(user_id, session_key, of_the_session == str(user_id))


def settle(ws: WebSocket) -> None:
    """Read the user now if that may give the session another key, as it does where SECRET_KEY has been replaced and an
    older one has signed the session: behind the 101 the browser would not learn the new key, and be logged out.
    """
    request: Any = getattr(ws, "request", None)
    user = getattr(request, "user", None)
    if settings.SECRET_KEY_FALLBACKS and isinstance(user, LazyObject) and hasattr(request, "session"):
        bool(user)


def opened(ws: WebSocket) -> None:
    """It was not there yet when its session ended."""
    if _ended and visitor(ws).session_key in _ended:
        ws.close(LOGGED_OUT, "logged out")


def user_key(ws: WebSocket) -> Any:
    """For the setting ``user_key``: the primary key of the user."""
    return visitor(ws).user_id


def remember(ws: WebSocket) -> None:
    """The request is about to go, or its user to be replaced."""
    ws.visitor = visitor(ws)  # type: ignore[attr-defined]


def close_user_sockets(user: Any, code: int = LOGGED_OUT, reason: str = "") -> int:
    """Close the WebSockets of this worker whose handshake came from ``user``, a user or a primary key; how many.

    A handshake comes from a user once its view, a decorator or a middleware has looked at ``request.user``. Never
    waits. ValueError for a code that may not travel.
    """
    user_id = getattr(user, "pk", user)
    found = [ws for ws in _sockets() if user_id is not None and visitor(ws).user_id == user_id]
    for ws in found:
        ws.close(code, reason)
    return len(found)


def _sockets() -> list[Any]:
    return list(registry.current())


def _logged_in(*, request: HttpRequest | None = None, user: Any, **arguments: Any) -> None:
    """Whoever was here before in the same browser has left without a word."""
    key = None if request is None else request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if key is not None and conf.load().close_on_logout:
        for ws in _sockets():
            known = visitor(ws)
            if known.session_key == key and known.user_id not in (None, user.pk):
                ws.close(LOGGED_OUT, "logged out")


def _logged_out(*, request: HttpRequest | None = None, user: Any = None, **arguments: Any) -> None:
    """A user has one session in each browser, and leaves one of them."""
    if user is None or not conf.load().close_on_logout:
        return
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key is None:
        close_user_sockets(user, reason="logged out")
        return
    _ended[key] = None
    if len(_ended) > REMEMBERED:
        del _ended[next(iter(_ended))]
    for ws in _sockets():
        known = visitor(ws)
        if known.session_key == key or (known.user_id == user.pk and _session_has_ended(known)):
            ws.close(LOGGED_OUT, "logged out")


def _session_has_ended(known: Visitor) -> bool:
    """E.g. because a change of the password has given the session another key."""
    return known.by_session and not sessions.stored(None).exists(known.session_key or "")


def _saved(*, instance: Any, using: str, **arguments: Any) -> None:
    if not _is_active(instance):
        _deleted(instance=instance, using=using)


def _is_active(user: Any) -> bool:
    """As Django's backends have it: a project's own model need not know of that."""
    return bool(getattr(user, "is_active", True))


def _deleted(*, instance: Any, using: str, **arguments: Any) -> None:
    if conf.load().close_on_logout:
        transaction.on_commit(partial(close_user_sockets, instance.pk, reason="no longer active"), using=using)


def refresh_user(ws: WebSocket) -> Any:
    """The user of this WebSocket as stored now; in a view, ``request.user`` becomes that one too.

    AnonymousUser when the session has ended, the password has changed, or the user has been deactivated or deleted. A
    user that came without a session, e.g. by a token, is read by the primary key.
    """
    from django.contrib.auth.models import AnonymousUser  # the app is there by now

    user_id, session_key, by_session = visitor(ws)
    if user_id is None or by_session:
        asked = HttpRequest()
        # Django gives a session that an older SECRET_KEY has signed another key, which the browser would not learn.
        asked.session = sessions.copied(session_key)
        user: Any = get_user(asked)
    else:
        user = get_user_model()._default_manager.filter(pk=user_id).first()
        if user is None or not _is_active(user):
            user = AnonymousUser()
    request = getattr(ws, "request", None)
    if request is not None:
        remember(ws)
        request.user = user
    return user
