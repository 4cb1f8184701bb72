"""The session of a WebSocket.

Rule: the session is saved when the WebSocket is accepted, and later only by ``save_session``. ``SessionMiddleware``
saves a session when the response has been made. For a WebSocket that may be hours later: it would overwrite values
that other requests have stored meanwhile, or find that the session has been deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse, parse_cookie
from django.utils.module_loading import import_string

from ..connection.websocket import WebSocket
from ..typing import Environ, Headers

__all__ = [
    "cookie_key",
    "read_copy",
    "replace_by_copy",
    "replaced_keys",
    "save_at_handshake",
    "save_session",
    "store_of",
    "stored_session",
]


def save_at_handshake(ws: WebSocket) -> Headers:
    """Let the project's session middleware save the session, as at the end of a request.

    That middleware alone decides whether and where the session is saved, and which cookie is set.

    Args:
        ws: The WebSocket that is about to be accepted.

    Returns:
        The ``Set-Cookie`` headers for the 101.

    """
    request: Any = getattr(ws, "request", None)
    session = getattr(request, "session", None)
    if session is None:
        return []
    request._session_at_handshake = session
    try:
        response = _session_chain(tuple(settings.MIDDLEWARE))(request)
    finally:
        request.session = session
        del request._session_at_handshake
    return [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]


@lru_cache(maxsize=1)
def _session_chain(names: tuple[str, ...]) -> Callable[[HttpRequest], HttpResponse]:
    """The session middlewares among these names, chained as in Django, around a view that returns an empty response.

    Each is called as a whole, not only its ``process_response``: some decide in ``__call__``, and some keep data of the
    request for the response.
    """
    handler = _respond
    for middleware in reversed(_session_middlewares(names)):
        with suppress(MiddlewareNotUsed):
            handler = middleware(handler)
    return handler


def _respond(request: Any) -> HttpResponse:
    """The innermost view of the chain. It puts the view's session back, which the middlewares have replaced."""
    request.session = request._session_at_handshake
    return HttpResponse()


def _session_middlewares(names: Iterable[str]) -> list[Any]:
    """Django's class, its subclasses, and classes with the same name, e.g. that of django-user-sessions."""
    found = map(import_string, names)
    return [
        each for each in found if isinstance(each, type) and (issubclass(each, SessionMiddleware) or _is_named(each))
    ]


def _is_named(middleware: type) -> bool:
    return middleware.__name__ == SessionMiddleware.__name__


def save_session(request: HttpRequest) -> bool:
    """Save ``request.session`` in a WebSocket view.

    The whole session is written. It overwrites values that other requests have stored since the handshake.

    Args:
        request: The request of the view.

    Returns:
        False if the session has been deleted meanwhile, e.g. by a logout. Nothing is stored then.

    Raises:
        RuntimeError: The session was never saved, or it is stored in a cookie, which cannot be set after the 101.

    """
    session = request.session
    if session.session_key is None:
        raise RuntimeError("this session was never saved: set a value in it before the WebSocket is accepted")
    if type(session).__module__.endswith(".signed_cookies"):
        raise RuntimeError("a session in a signed cookie cannot be saved after the handshake")
    try:
        session.save()
    except UpdateError:
        return False
    return True


def replace_by_copy(request: HttpRequest) -> None:
    """Replace ``request.session`` by a copy that is never stored, for the middlewares that run after the view."""
    session = getattr(request, "session", None)
    if session is not None:
        request.session = _unsaved_copy(session)


class _UnsavedSession(SessionBase):
    """A base class in front of the class of a session, with methods that store nothing."""

    session_class: type[SessionBase]
    """The class of the session that was copied."""
    _session_cache: dict[str, Any]

    def exists(self, session_key: str) -> bool:
        return False

    def create(self) -> None:
        """Nothing is created."""

    def save(self, must_create: bool = False) -> None:
        """Nothing is saved."""

    def delete(self, session_key: str | None = None) -> None:
        """Nothing is deleted."""

    def load(self) -> dict[str, Any]:
        return {}


@cache
def _unsaved_class(session_class: type[SessionBase]) -> type[_UnsavedSession]:
    return type("UnsavedSession", (_UnsavedSession, session_class), {"session_class": session_class})


def _unsaved_copy(session: SessionBase) -> SessionBase:
    """A copy that is never stored. It has the methods of the project's own session class."""
    unsaved_class = _unsaved_class(store_of(session))
    copy = unsaved_class.__new__(unsaved_class)
    copy.__dict__.update(session.__dict__)
    copy._session_cache = dict(getattr(session, "_session_cache", {}))
    copy.modified = False
    return copy


def cookie_key(environ: Environ) -> str | None:
    """The session key in the cookies of a request, or None; for a request without ``request.session``."""
    return parse_cookie(environ.get("HTTP_COOKIE", "")).get(settings.SESSION_COOKIE_NAME)


def replaced_keys(request: HttpRequest) -> list[str]:
    """The keys that the session of the request may have had before a login gave it another key.

    With a session middleware of the project's own the name of its cookie is unknown. Then these are the values of all
    cookies that are the key of no stored session.
    """
    if _session_middlewares(settings.MIDDLEWARE) == [SessionMiddleware]:
        key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        return [] if key is None else [key]
    session = stored_session(None, store_of(request.session))
    keys = [value for value in request.COOKIES.values() if value and value.isascii() and value.isprintable()]
    return [key for key in keys if not session.exists(key)]


def store_of(session: SessionBase) -> type[SessionBase]:
    """The class that stores this session."""
    return session.session_class if isinstance(session, _UnsavedSession) else type(session)


def stored_session(key: str | None, store: type[SessionBase] | None = None) -> SessionBase:
    """The session with this key as it is stored now, empty if there is none.

    Args:
        key: The session key.
        store: The class of the session; None for that of ``SESSION_ENGINE``.

    """
    default: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
    return (store or default)(key)


def read_copy(key: str | None, store: type[SessionBase] | None = None) -> SessionBase:
    """The same as a copy: changes of it are never stored."""
    session = stored_session(key, store)
    session.items()  # reads it, because sessions are lazy
    return _unsaved_copy(session)
