"""The user of a WebSocket: closing all that a user has, e.g. at a logout, and reading the user from the database again.

Rule 1: a revocation is carried out in this process at once, and then by all other workers that have the same groups
(the setting ``groups``).
Rule 2: a revocation (a logout, a deactivation, a call of ``close_user_sockets``) applies to the open WebSockets and to
the handshakes in progress, which may have read their user before. Whether it applies to a handshake is decided when
that is accepted, because its user is certain only then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import gevent
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
from . import conf, databases, sessions
from .instance import IN_MEMORY, get_groups

__all__ = [
    "LOGGED_OUT",
    "Login",
    "check_close",
    "close_user_sockets",
    "connect",
    "find_key",
    "keep_login",
    "load_rotated_session",
    "login_of",
    "opened",
    "primary_key",
    "refresh_user",
    "user_key",
]

log = logging.getLogger("gws_middleware.django")

LOGGED_OUT = 4401
"""The close code of a user's WebSockets: 4000 to 4999 are for applications (RFC 6455 7.4.2), and 401 is the HTTP
status of a missing login.
"""
MAX_REASON = 123
"""The most bytes of a close reason (RFC 6455 5.5)."""
CHECKS_PER_SECOND = 100
"""Users that are read again in a second, where revocations may have been missed."""
MAX_ENDED_SESSIONS = 1000
"""The most entries of ``_ended_sessions``. The oldest are removed."""


class Login(NamedTuple):
    """The user and the session of a handshake."""

    user_id: Any
    """The primary key of the user; None for an anonymous one, and before ``request.user`` has been read."""
    session_key: str | None = None
    session_user: str | None = None
    """The primary key of the user in the session, as text; None before the session has been read."""
    store: type[SessionBase] | None = None
    """The class of the session; None for that of ``SESSION_ENGINE``."""
    user_name: str | None = None
    """The value of the user model's ``USERNAME_FIELD``; None where it has not been read."""

    @property
    def key(self) -> str | None:
        """The primary key as text: of the user, or before ``request.user`` has been read of the user in the session."""
        return self.session_user if self.user_id is None else str(self.user_id)

    @property
    def by_session(self) -> bool:
        """Whether the user comes from the session, and not e.g. from a token."""
        return self.session_user is not None and self.session_user == str(self.user_id)

    def belongs_to(self, user_id: Any) -> bool:
        """Whether it is a login of this user. Before ``request.user`` has been read, the user in the session counts,
        because another greenlet may be reading it.
        """
        if self.user_id is None:
            return self.session_user is not None and self.session_user == str(user_id)
        return bool(self.user_id == user_id)


class _Revocation(NamedTuple):
    """Logins that are no longer valid, and how their WebSockets are closed."""

    applies: Callable[[Login], bool]
    code: int
    reason: str


_handshakes: WeakKeyDictionary[WebSocket, list[_Revocation]] = WeakKeyDictionary()
"""The handshakes in progress, each with the revocations since its request came in."""
_ended_sessions: dict[str, _Revocation] = {}
"""The keys of the sessions that have ended most recently, oldest first. A key is never used again. But a handshake that
starts before the end of the session is stored and committed still finds the user.
"""


def connect() -> None:
    """Register the receivers for handshakes, logins, logouts, deactivations and deletions."""
    request_started.connect(_started, dispatch_uid="gws_middleware")
    if apps.is_installed("django.contrib.auth"):
        user_logged_in.connect(_logged_in, dispatch_uid="gws_middleware")
        user_logged_out.connect(_logged_out, dispatch_uid="gws_middleware")
        for model in _user_models():
            post_save.connect(_saved, sender=model, dispatch_uid="gws_middleware")
            post_delete.connect(_deleted, sender=model, dispatch_uid="gws_middleware")


def _user_models() -> Iterator[type[Model]]:
    """The user model, its proxies and its child models. Django sends the signals of each with another sender."""
    user_model = get_user_model()
    for model in apps.get_models():
        if issubclass(model, user_model):
            yield model


def login_of(ws: WebSocket) -> Login:
    """The user and the session of this WebSocket, as far as they have been read. This makes no query."""
    kept: Login | None = getattr(ws, "login", None)
    if kept is not None:
        return kept
    request = getattr(ws, "request", None)
    session, user = getattr(request, "session", None), getattr(request, "user", None)
    if isinstance(user, LazyObject):
        user = None if user._wrapped is empty else user._wrapped  # reading it would be a query for each WebSocket
    user_id, name = getattr(user, "pk", None), _name_of(user)
    if session is None:
        return Login(user_id, sessions.cookie_key(ws.environ), user_name=name)
    session_user = getattr(session, "_session_cache", {}).get(SESSION_KEY)
    return Login(user_id, getattr(session, "session_key", None), session_user, sessions.store_of(session), name)


def _name_of(user: Any) -> str | None:
    """The name of a user. A deferred field is not read."""
    name = getattr(user, "__dict__", {}).get(getattr(user, "USERNAME_FIELD", None))
    return None if name is None else str(name)


def load_rotated_session(ws: WebSocket) -> None:
    """Read the user before the 101 if that may give the session another key.

    Django does so where an older SECRET_KEY has signed the session. After the 101 no cookie could be set, and the
    browser would be logged out.
    """
    request: Any = getattr(ws, "request", None)
    user = getattr(request, "user", None)
    if settings.SECRET_KEY_FALLBACKS and isinstance(user, LazyObject) and hasattr(request, "session"):
        bool(user)


def user_key(ws: WebSocket) -> Any:
    """The default of the setting ``user_key``.

    Returns:
        The primary key of the user, or None for an anonymous one.

    """
    return login_of(ws).user_id


def keep_login(ws: WebSocket) -> None:
    """Store the login in the WebSocket, before the request is released or ``request.user`` is replaced."""
    ws.login = login_of(ws)  # type: ignore[attr-defined]


# --- revocations ----------------------------------------------------------------------------------------------------


def _started(*, environ: Environ | None = None, **arguments: Any) -> None:
    """A request has come in, and nothing of its user has been read."""
    ws = None if environ is None else environ.get("wsgi.websocket")
    if isinstance(ws, WebSocket):
        _handshakes[ws] = []
        _follow()  # from before the session is read


def opened(ws: WebSocket) -> None:
    """Apply the revocations since the request came in. Later ones find the WebSocket in the registry."""
    revocations = _handshakes.pop(ws, [])
    if not revocations and not _ended_sessions:
        return
    login = login_of(ws)
    of_the_session = _ended_sessions.get(login.session_key or "")
    for revocation in revocations if of_the_session is None else [*revocations, of_the_session]:
        if revocation.applies(login):
            _close(ws, revocation.code, revocation.reason)
            return


def _close(ws: WebSocket, code: int, reason: str) -> None:
    """Close it. A connection whose client has a protocol of its own may have a code of its own for a logout; there the
    reason is never empty, because centrifuge-js does not read the code then.
    """
    own: int | None = getattr(ws, "logged_out_code", None)
    if own is None or code != LOGGED_OUT:
        ws.close(code, reason)
    else:
        ws.close(own, reason or "logged out")


def _revoke(
    applies: Callable[[Login], bool],
    code: int = LOGGED_OUT,
    reason: str = "logged out",
    session_keys: Iterable[str] = (),
) -> int:
    """Close the WebSockets to whose login this applies: the open ones now, handshakes in progress when they are
    accepted.

    Args:
        applies: Whether a login is revoked. It may query.
        code: The close code.
        reason: The close reason.
        session_keys: The keys of sessions that have ended.

    Returns:
        How many WebSockets were open.

    """
    revocation = _Revocation(applies, code, reason)
    for key in session_keys:
        _ended_sessions.pop(key, None)
        _ended_sessions[key] = revocation
    while len(_ended_sessions) > MAX_ENDED_SESSIONS:
        del _ended_sessions[next(iter(_ended_sessions))]
    for revocations in _handshakes.values():  # before any query, during which a handshake may be accepted
        revocations.append(revocation)
    open_sockets: list[Any] = list(registry.current())
    found = [ws for ws in open_sockets if applies(login_of(ws))]
    for ws in found:
        _close(ws, code, reason)
    return len(found)


def close_user_sockets(user: Any, code: int = LOGGED_OUT, reason: str = "") -> int:
    """Close the WebSockets of a user, in all workers.

    The user of a handshake is known after its view, a decorator or a middleware has read ``request.user``. A handshake
    in progress is closed when it is accepted. Inside a transaction call this with ``transaction.on_commit``, so that a
    new handshake already reads the changed data.

    Args:
        user: A stored user, or a primary key, also as text. For AnonymousUser nothing is closed.
        code: The close code: 1000-1003, 1007-1014 or 3000-4999. Default: 4401.
        reason: The close reason, at most 123 bytes in UTF-8. Default: empty.

    Returns:
        How many WebSockets were open in this process. Those of the other workers are closed a moment later.

    Raises:
        ValueError: A wrong code, a reason that is too long, or a value that is neither a user nor a primary key, e.g. a
            name or a user that has been deleted.

    """
    check_close(code, reason)
    user_id = primary_key(user)
    if user_id is None:
        return 0
    found = _close_user(user_id, code, reason)
    _order("user", user=str(user_id), code=int(code), reason=reason)
    return found


def _close_user(user_id: Any, code: int = LOGGED_OUT, reason: str = "logged out") -> int:
    return _revoke(lambda login: login.belongs_to(user_id), code, reason)


def check_close(code: int, reason: str) -> None:
    """Check the code and the reason of a close frame.

    Raises:
        ValueError: One of them cannot be sent.

    """
    if not may_travel(code) or len(reason.encode()) > MAX_REASON:
        raise ValueError(
            f"code {code} and reason {reason!r}: wanted a code of 1000-1003, 1007-1014 or 3000-4999, and a reason "
            f"of at most {MAX_REASON} bytes"
        )


def primary_key(user: Any) -> Any:
    """The primary key of a user, or of what is a primary key itself. None for AnonymousUser.

    Raises:
        ValueError: It is neither, or the user is not stored.

    """
    if user is None or (isinstance(user, Model) and user.pk is None):
        raise ValueError(f"{user!r} has no primary key: wanted a user that is stored, or a primary key")
    if hasattr(user, "pk"):  # also a class of the project's own
        return user.pk
    if not apps.is_installed("django.contrib.auth"):
        return user
    model = get_user_model()
    try:
        return model._meta.pk.to_python(user)
    except ValidationError:
        raise ValueError(f"{user!r} is neither a user nor a primary key of {model._meta.label}") from None


def find_key(text: str) -> str | None:
    """The primary key of a user that is named by that, or else by the username.

    Args:
        text: Either of them. Where it is both, of two users, it is the primary key.

    Returns:
        The primary key as text, also that of a user who was deleted and may have connections; None where it is neither.

    """
    if not apps.is_installed("django.contrib.auth"):
        return text
    model: Any = get_user_model()
    try:
        key = primary_key(text)
    except ValueError:
        key = None
    # Where keys are texts, every name could be one.
    if key is not None and model._default_manager.filter(pk=key).exists():
        return str(key)
    named = model._default_manager.filter(**{model.USERNAME_FIELD: text}).first()
    if named is not None:
        return str(named.pk)
    return None if key is None else str(key)


def _logged_in(*, request: HttpRequest | None = None, user: Any, **arguments: Any) -> None:
    """A login ends the session of another user in the same browser. Django sends no signal of a logout for it."""
    keys = [] if request is None or not conf.load().close_on_logout else sessions.replaced_keys(request)
    if keys:
        _replace_sessions(keys, user.pk)
        _order("replaced", keys=keys, user=str(user.pk))


def _replace_sessions(keys: list[str], user_id: Any) -> None:
    """These sessions are those of another user now."""

    def applies(login: Login) -> bool:
        replaced = login.session_key in keys and not login.belongs_to(user_id)
        return replaced and (login.user_id is not None or login.session_user is not None)

    _revoke(applies, session_keys=keys)


def _logged_out(*, request: HttpRequest | None = None, user: Any = None, **arguments: Any) -> None:
    """A logout ends one session of the user, who may have one in each browser.

    The session may have had another key before, e.g. until a change of the password. Such a key is recognized because
    no session with it is stored.
    """
    if user is None or not conf.load().close_on_logout:
        return
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key is None:
        _close_user(user.pk)
        _order("user", user=str(user.pk), code=LOGGED_OUT, reason="logged out")
    else:
        _end_session(key, user.pk)
        _order("session", key=key, user=str(user.pk))


def _end_session(key: str, user_id: Any) -> None:
    """A session of this user has ended."""
    stored: dict[str, bool] = {}  # so that there is one query for each session and not for each WebSocket

    def applies(login: Login) -> bool:
        if login.session_key == key:
            return True
        if not login.belongs_to(user_id) or login.session_user != str(user_id) or login.session_key is None:
            return False
        if login.session_key not in stored:
            stored[login.session_key] = sessions.stored_session(None, login.store).exists(login.session_key)
        return not stored[login.session_key]

    _revoke(applies, session_keys=[key])


def _saved(*, instance: Any, using: str, **arguments: Any) -> None:
    if not _is_active(instance):
        _deleted(instance=instance, using=using)


def _is_active(user: Any) -> bool:
    """As in Django's backends: a user of a model without ``is_active`` is active."""
    return bool(getattr(user, "is_active", True))


def _deleted(*, instance: Any, using: str, **arguments: Any) -> None:
    if conf.load().close_on_logout:
        transaction.on_commit(partial(close_user_sockets, instance.pk, reason="no longer active"), using=using)


# --- all workers ------------------------------------------------------------------------------------------------------


def _follow() -> None:
    """Carry out the revocations of other workers."""
    groups = get_groups()
    if groups.url != IN_MEMORY:
        groups.orders.carry_out(_carry_out, _check_all)
        groups.follow()


def _order(do: str, **fields: Any) -> None:
    """Let the other workers do what this one has done."""
    groups = get_groups()
    if groups.url != IN_MEMORY:
        groups.orders.give({"do": do, **fields})


def _carry_out(order: dict[str, Any]) -> None:
    """What another worker has done. Runs in a greenlet of its own."""
    try:
        match order:
            case {"do": "user", "user": user, "code": code, "reason": reason}:
                _close_user(primary_key(user), code, reason)
            case {"do": "session", "key": key, "user": user}:
                _end_session(key, primary_key(user))
            case {"do": "replaced", "keys": keys, "user": user}:
                _replace_sessions(keys, primary_key(user))
    finally:
        databases.release_all()


def _check_all() -> None:
    """Revocations may have been missed: close the WebSockets whose user is no longer logged in. Runs in a greenlet of
    its own.
    """
    log.warning("logouts of other workers may have been missed: the users of all WebSockets are checked")
    for ws in list(registry.current()):
        try:
            if isinstance(ws, WebSocket) and login_of(ws).user_id is not None and not _stored_user(ws).is_authenticated:
                _close(ws, LOGGED_OUT, "logged out")
        finally:
            databases.release_all()
        gevent.sleep(1 / CHECKS_PER_SECOND)


# --- reading the user again ------------------------------------------------------------------------------------------


def refresh_user(ws: WebSocket) -> Any:
    """Read the user of this WebSocket from the database. In a view, ``request.user`` is replaced by it.

    A user that came by other means than a session, e.g. by a token, is read by the primary key.

    Args:
        ws: The WebSocket, also a detached one.

    Returns:
        The user. AnonymousUser if the session has ended, the password has changed, or the user has been deactivated or
        deleted.

    """
    user = _stored_user(ws)
    request = getattr(ws, "request", None)
    if request is not None:
        keep_login(ws)
        request.user = user
    return user


def _stored_user(ws: WebSocket) -> Any:
    """The user of a WebSocket as the database has it; AnonymousUser where the login is no longer valid."""
    from django.contrib.auth.models import AnonymousUser  # at import of this module the app may not be loaded

    login = login_of(ws)
    if login.user_id is None or login.by_session:
        request_of_session = HttpRequest()
        # A copy: Django gives a session that an older SECRET_KEY has signed another key, and the browser keeps the old.
        request_of_session.session = sessions.read_copy(login.session_key, login.store)
        user: Any = get_user(request_of_session)
    else:
        user = get_user_model()._default_manager.filter(pk=login.user_id).first()
        if user is None or not _is_active(user):
            user = AnonymousUser()
    return user
