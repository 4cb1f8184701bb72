"""The session of a WebSocket is that of its handshake.

``SessionMiddleware`` saves a session when the response is made, which for a WebSocket is hours later: it would
overwrite what other requests have stored since, or find that the session is gone. So the session is saved when the
WebSocket is accepted, and afterwards only when the view says so.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest, HttpResponse, parse_cookie

from ..typing import Environ, Headers
from ..websocket import WebSocket

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


@cache
def _middleware() -> SessionMiddleware:
    return SessionMiddleware(lambda request: HttpResponse())


def save_at_handshake(ws: WebSocket) -> Headers:
    """Save the session as Django does at the end of a request. The cookie goes with the 101."""
    request: Any = getattr(ws, "request", None)
    session = getattr(request, "session", None)
    if session is None or not (session.modified or settings.SESSION_SAVE_EVERY_REQUEST):
        return []
    response = _middleware().process_response(request, HttpResponse())
    return [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]


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
    """The view is done: what runs behind it finds a session that is never stored."""
    session = getattr(request, "session", None)
    if session is not None:
        request.session = _Spent(session)


class _Spent(SessionBase):
    """What the session held, without a store."""

    def __init__(self, session: SessionBase) -> None:
        super().__init__(session.session_key)
        self.store = store_of(session)
        self._session_cache: dict[str, Any] = dict(getattr(session, "_session_cache", {}))

    def exists(self, session_key: str) -> bool:
        return False

    def create(self) -> None:
        """Nothing is created."""

    def save(self, must_create: bool = False) -> None:
        """Nothing is saved."""

    def delete(self, session_key: str | None = None) -> None:
        """Nothing is deleted."""

    def load(self) -> dict[str, Any]:
        return self._session_cache


def key_in(environ: Environ) -> str | None:
    """The session key in a request's cookies, for a request that has no session."""
    return parse_cookie(environ.get("HTTP_COOKIE", "")).get(settings.SESSION_COOKIE_NAME)


def keys_before(request: HttpRequest) -> list[str]:
    """The keys that the request's session may have had before a login gave it another one."""
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    return [] if key is None else [key]


def store_of(session: SessionBase) -> type[SessionBase]:
    """The class that stores this session."""
    return session.store if isinstance(session, _Spent) else type(session)


def stored(key: str | None, store: type[SessionBase] | None = None) -> SessionBase:
    """The session as it is stored now; empty if it is not there. ``store`` is a class other than SESSION_ENGINE's."""
    default: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
    return (store or default)(key)


def copied(key: str | None, store: type[SessionBase] | None = None) -> SessionBase:
    """The same, for reading alone: whatever is done with it, what is stored stays."""
    session = stored(key, store)
    session.items()  # it is read when somebody asks
    return _Spent(session)
