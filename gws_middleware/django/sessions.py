"""The session of a WebSocket is that of its handshake.

``SessionMiddleware`` saves a session when the response is made, which for a WebSocket is hours later: it would
overwrite what other requests have stored since, or find that the session is gone. So the session is saved when the
WebSocket is accepted, and afterwards only when the view says so.
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
    "copied",
    "key_in",
    "keys_before",
    "retire",
    "save_at_handshake",
    "save_session",
    "store_of",
    "stored",
]


def save_at_handshake(ws: WebSocket) -> Headers:
    """Let the project's session middleware save the session, as at the end of a request. Its cookies go with the 101.

    Whether and where it saves, and with which cookie, is decided by a project's own subclass, and nowhere here.
    """
    request: Any = getattr(ws, "request", None)
    session = getattr(request, "session", None)
    if session is None:
        return []
    request._session_at_handshake = session
    try:
        response = _own_middleware(tuple(settings.MIDDLEWARE))(request)
    finally:
        request.session = session
        del request._session_at_handshake
    return [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]


@lru_cache(maxsize=1)
def _own_middleware(names: tuple[str, ...]) -> Callable[[HttpRequest], HttpResponse]:
    """The session middlewares among these, as Django chains them, around nothing.

    They are called whole, because some decide in ``__call__``, and some hand from the request on to the response.
    """
    handler = _respond
    for middleware in reversed(_session_middlewares(names)):
        with suppress(MiddlewareNotUsed):
            handler = middleware(handler)
    return handler


def _respond(request: Any) -> HttpResponse:
    """In place of the view: nothing of the session that the view has is changed."""
    request.session = request._session_at_handshake
    return HttpResponse()


def _session_middlewares(names: Iterable[str]) -> list[Any]:
    """Django's and its subclasses, and those that have its name, e.g. django-user-sessions' own."""
    found = map(import_string, names)
    return [
        each for each in found if isinstance(each, type) and (issubclass(each, SessionMiddleware) or _is_named(each))
    ]


def _is_named(middleware: type) -> bool:
    return middleware.__name__ == SessionMiddleware.__name__


def save_session(request: HttpRequest) -> bool:
    """Save ``request.session`` now, from inside a WebSocket view; False if it has been deleted meanwhile, e.g. by a
    logout: then nothing is stored.

    All of the session is written: what another request has stored since the handshake is overwritten. RuntimeError for
    sessions that live in the cookie, which cannot be set any more.
    """
    session = request.session
    if session.session_key is None:
        raise RuntimeError("this session has never been saved: set a value in it before the WebSocket is accepted")
    if type(session).__module__.endswith(".signed_cookies"):
        raise RuntimeError("a session in a signed cookie cannot be saved after the handshake")
    try:
        session.save()
    except UpdateError:
        return False
    return True


def retire(request: HttpRequest) -> None:
    """The view is done: what runs after it finds a session that is never stored."""
    session = getattr(request, "session", None)
    if session is not None:
        request.session = _spent(session)


class _Spent(SessionBase):
    """In front of a store: what the session held, and nothing is stored any more."""

    spends: type[SessionBase]
    """The store."""
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
def _spent_class(store: type[SessionBase]) -> type[_Spent]:
    return type("Spent", (_Spent, store), {"spends": store})


def _spent(session: SessionBase) -> SessionBase:
    """A copy that is never stored; it has the methods of the project's own store."""
    spent_class = _spent_class(store_of(session))
    spent = spent_class.__new__(spent_class)
    spent.__dict__.update(session.__dict__)
    spent._session_cache = dict(getattr(session, "_session_cache", {}))
    spent.modified = False
    return spent


def key_in(environ: Environ) -> str | None:
    """The session key in a request's cookies, for a request that has no session."""
    return parse_cookie(environ.get("HTTP_COOKIE", "")).get(settings.SESSION_COOKIE_NAME)


def keys_before(request: HttpRequest) -> list[str]:
    """The keys that the request's session may have had before a login gave it another one.

    A middleware of the project's own may have another cookie for it, whose name only that knows: then they are what the
    cookies hold and no session has any more.
    """
    if _session_middlewares(settings.MIDDLEWARE) == [SessionMiddleware]:
        key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        return [] if key is None else [key]
    session = stored(None, store_of(request.session))
    keys = [value for value in request.COOKIES.values() if value and value.isascii() and value.isprintable()]
    return [key for key in keys if not session.exists(key)]


def store_of(session: SessionBase) -> type[SessionBase]:
    """The class that stores this session."""
    return session.spends if isinstance(session, _Spent) else type(session)


def stored(key: str | None, store: type[SessionBase] | None = None) -> SessionBase:
    """The session as it is stored now; empty if it is not there. ``store`` is a class other than SESSION_ENGINE's."""
    default: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
    return (store or default)(key)


def copied(key: str | None, store: type[SessionBase] | None = None) -> SessionBase:
    """The same, for reading alone: whatever is done with it, what is stored stays."""
    session = stored(key, store)
    session.items()  # it is read when somebody asks
    return _spent(session)
