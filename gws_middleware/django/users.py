"""Whose WebSocket it is: closing a user's, and reading the user anew.

Only the WebSockets of this worker process are known here.

Rule: a withdrawal (a logout, a deactivation, ``close_user_sockets``) applies to the open WebSockets and to the
handshakes that are under way: any of those may have read its user before. It is decided when the handshake is accepted,
because only then it is certain whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user, get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ValidationError
from django.core.signals import request_started
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save
from django.http import HttpRequest
from django.utils.functional import LazyObject, empty

from ..codes import may_travel
from ..connection.websocket import WebSocket
from ..process import registry
from ..typing import Environ
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
MAX_REASON = 123
"""Bytes of a close reason (RFC 6455 5.5)."""
REMEMBERED = 1000
"""How many of the sessions that have ended last are kept in ``_ended``."""


class Visitor(NamedTuple):
    """Who a WebSocket's handshake came from."""

    user_id: Any
    """The primary key of the user; None for nobody, and as long as nothing has looked at ``request.user``."""
    session_key: str | None = None
    session_user: str | None = None
    """The primary key of the user whose session it is, as text; None as long as nothing has read the session."""
    store: type[SessionBase] | None = None
    """The class of the session; None for that of ``SESSION_ENGINE``."""

    @property
    def by_session(self) -> bool:
        """Whether the session says who the user is, and not e.g. a token."""
        return self.session_user is not None and self.session_user == str(self.user_id)

    def belongs_to(self, user_id: Any) -> bool:
        """Whether it comes from this user. Where nothing has looked at ``request.user`` yet, the session says so: its
        user may be being read right now.
        """
        if self.user_id is None:
            return self.session_user is not None and self.session_user == str(user_id)
        return bool(self.user_id == user_id)


class _Withdrawal(NamedTuple):
    """Logins that are not valid any more."""

    applies: Callable[[Visitor], bool]
    code: int
    reason: str


_under_way: WeakKeyDictionary[WebSocket, list[_Withdrawal]] = WeakKeyDictionary()
"""The handshakes that Django has received and not accepted, each with the withdrawals since its beginning."""
_ended: dict[str, _Withdrawal] = {}
"""The sessions that have ended last, oldest first. No key comes back, but a handshake that begins before the end of the
session is stored and committed still finds its user.
"""


def connect() -> None:
    """Follow handshakes, and logouts, deactivations and deletions."""
    request_started.connect(_started, dispatch_uid="gws_middleware")
    if apps.is_installed("django.contrib.auth"):
        user_logged_in.connect(_logged_in, dispatch_uid="gws_middleware")
        user_logged_out.connect(_logged_out, dispatch_uid="gws_middleware")
        for model in _user_models():
            post_save.connect(_saved, sender=model, dispatch_uid="gws_middleware")
            post_delete.connect(_deleted, sender=model, dispatch_uid="gws_middleware")


def _user_models() -> Iterator[type[Model]]:
    """The user model, its proxies and its children: Django sends the signals of each under its own name."""
    user_model = get_user_model()
    for model in apps.get_models():
        if issubclass(model, user_model):
            yield model


def visitor(ws: WebSocket) -> Visitor:
    """Whom this WebSocket belongs to. No query is made to learn it."""
    remembered: Visitor | None = getattr(ws, "visitor", None)
    if remembered is not None:
        return remembered
    request = getattr(ws, "request", None)
    session, user = getattr(request, "session", None), getattr(request, "user", None)
    unknown = isinstance(user, LazyObject) and user._wrapped is empty  # to ask now would be a query for each socket
    user_id = None if unknown else getattr(user, "pk", None)
    if session is None:
        return Visitor(user_id, sessions.key_in(ws.environ))
    session_user = getattr(session, "_session_cache", {}).get(SESSION_KEY)
    return Visitor(user_id, getattr(session, "session_key", None), session_user, sessions.store_of(session))


def settle(ws: WebSocket) -> None:
    """Read the user now if that may give the session another key, as it does where SECRET_KEY has been replaced and an
    older one has signed the session: behind the 101 the browser would not learn the new key, and be logged out.
    """
    request: Any = getattr(ws, "request", None)
    user = getattr(request, "user", None)
    if settings.SECRET_KEY_FALLBACKS and isinstance(user, LazyObject) and hasattr(request, "session"):
        bool(user)


def user_key(ws: WebSocket) -> Any:
    """For the setting ``user_key``: the primary key of the user."""
    return visitor(ws).user_id


def remember(ws: WebSocket) -> None:
    """The request is about to go, or its user to be replaced."""
    ws.visitor = visitor(ws)  # type: ignore[attr-defined]


# --- withdrawals ----------------------------------------------------------------------------------------------------


def _started(*, environ: Environ | None = None, **arguments: Any) -> None:
    """A request has come in: nothing of it has been read."""
    ws = None if environ is None else environ.get("wsgi.websocket")
    if isinstance(ws, WebSocket):
        _under_way[ws] = []


def opened(ws: WebSocket) -> None:
    """The registry has it, and from now on each withdrawal finds it: apply those since the request came in."""
    withdrawals = _under_way.pop(ws, [])
    if not withdrawals and not _ended:
        return
    known = visitor(ws)
    of_the_session = _ended.get(known.session_key or "")
    for withdrawal in withdrawals if of_the_session is None else [*withdrawals, of_the_session]:
        if withdrawal.applies(known):
            ws.close(withdrawal.code, withdrawal.reason)
            return


def _withdraw(
    applies: Callable[[Visitor], bool],
    code: int = LOGGED_OUT,
    reason: str = "logged out",
    session_keys: Iterable[str] = (),
) -> int:
    """Close the WebSockets that this applies to, now or when they are accepted; how many were open. The sessions with
    these keys have ended for good.
    """
    withdrawal = _Withdrawal(applies, code, reason)
    for key in session_keys:
        _ended.pop(key, None)
        _ended[key] = withdrawal
    while len(_ended) > REMEMBERED:
        del _ended[next(iter(_ended))]
    for withdrawals in _under_way.values():  # before any query: a handshake may be accepted meanwhile
        withdrawals.append(withdrawal)
    open_sockets: list[Any] = list(registry.current())
    found = [ws for ws in open_sockets if applies(visitor(ws))]
    for ws in found:
        ws.close(code, reason)
    return len(found)


def close_user_sockets(user: Any, code: int = LOGGED_OUT, reason: str = "") -> int:
    """Close the WebSockets of this worker whose handshake came from ``user``: a user, or a primary key, also as text.

    A handshake comes from a user once its view, a decorator or a middleware has looked at ``request.user``; one that is
    under way closes as soon as it is accepted. Inside a transaction that takes something from the user, call this once
    it has been committed (``transaction.on_commit``). Returns how many were open. Never waits.

    ValueError: a code that may not travel, a reason of more than 123 bytes, or what is neither a user nor a primary
    key, e.g. a name, or a user that has been deleted.
    """
    if not may_travel(code) or len(reason.encode()) > MAX_REASON:
        raise ValueError(
            f"code {code} and reason {reason!r}: wanted a code of 1000-1003, 1007-1014 or 3000-4999, and a reason "
            f"of {MAX_REASON} bytes at the most"
        )
    user_id = _primary_key(user)
    return 0 if user_id is None else _withdraw(lambda known: known.belongs_to(user_id), code, reason)


def _primary_key(user: Any) -> Any:
    """None for AnonymousUser."""
    if user is None or (isinstance(user, Model) and user.pk is None):
        raise ValueError(f"{user!r} has no primary key: wanted a user that is stored, or a primary key")
    if hasattr(user, "pk"):  # of the project's own class, too
        return user.pk
    if not apps.is_installed("django.contrib.auth"):
        return user
    model = get_user_model()
    try:
        return model._meta.pk.to_python(user)
    except ValidationError:
        raise ValueError(f"{user!r} is neither a user nor a primary key of {model._meta.label}") from None


def _logged_in(*, request: HttpRequest | None = None, user: Any, **arguments: Any) -> None:
    """The session of another user in the same browser has ended; there is no signal of a logout."""
    keys = [] if request is None or not conf.load().close_on_logout else sessions.keys_before(request)

    def applies(known: Visitor) -> bool:
        replaced = known.session_key in keys and not known.belongs_to(user.pk)
        return replaced and (known.user_id is not None or known.session_user is not None)

    if keys:
        _withdraw(applies, session_keys=keys)


def _logged_out(*, request: HttpRequest | None = None, user: Any = None, **arguments: Any) -> None:
    """A user has one session in each browser, and ends one of them.

    An earlier key of the same session is found by its not being stored any more: e.g. the change of a password has
    given it a new one.
    """
    if user is None or not conf.load().close_on_logout:
        return
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key is None:
        _withdraw(lambda known: known.belongs_to(user.pk))
        return
    stored: dict[str, bool] = {}  # one query for each session, however many sockets it has

    def applies(known: Visitor) -> bool:
        if known.session_key == key:
            return True
        if not known.belongs_to(user.pk) or known.session_user != str(user.pk) or known.session_key is None:
            return False
        if known.session_key not in stored:
            stored[known.session_key] = sessions.stored(None, known.store).exists(known.session_key)
        return not stored[known.session_key]

    _withdraw(applies, session_keys=[key])


def _saved(*, instance: Any, using: str, **arguments: Any) -> None:
    if not _is_active(instance):
        _deleted(instance=instance, using=using)


def _is_active(user: Any) -> bool:
    """As Django's backends have it: a project's own model need not know of that."""
    return bool(getattr(user, "is_active", True))


def _deleted(*, instance: Any, using: str, **arguments: Any) -> None:
    if conf.load().close_on_logout:
        transaction.on_commit(partial(close_user_sockets, instance.pk, reason="no longer active"), using=using)


# --- reading the user anew -------------------------------------------------------------------------------------------


def refresh_user(ws: WebSocket) -> Any:
    """The user of this WebSocket as stored now; in a view, ``request.user`` becomes that one too.

    AnonymousUser when the session has ended, the password has changed, or the user has been deactivated or deleted. A
    user that came without a session, e.g. by a token, is read by the primary key.
    """
    from django.contrib.auth.models import AnonymousUser  # the app is there by now

    known = visitor(ws)
    if known.user_id is None or known.by_session:
        asked = HttpRequest()
        # Django gives a session that an older SECRET_KEY has signed another key, which the browser would not learn.
        asked.session = sessions.copied(known.session_key, known.store)
        user: Any = get_user(asked)
    else:
        user = get_user_model()._default_manager.filter(pk=known.user_id).first()
        if user is None or not _is_active(user):
            user = AnonymousUser()
    request = getattr(ws, "request", None)
    if request is not None:
        remember(ws)
        request.user = user
    return user
