"""``CentrifugeView``: a view for the clients of Centrifuge's protocol, e.g. ``centrifuge`` (npm).

Rule: a client is refused in the protocol, not with HTTP: after a handshake that is refused it tries again for
ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.views import View

from ..connection.websocket import WebSocket
from ..groups.centrifuge.protocol import MAX_CHANNELS, PING_INTERVAL
from ..groups.centrifuge.serving import CentrifugeError, Policy, serve
from ..groups.client import Groups
from .decorators import accept_websocket, require_websocket
from .instance import get_groups
from .serving import attach

__all__ = ["LOGGED_OUT", "CentrifugeError", "CentrifugeView"]

LOGGED_OUT = 4501
"""The close code of a logout. After 4401, which other WebSockets get, these clients would connect again."""


class CentrifugeView(View):
    """A view for clients of Centrifuge's protocol. One instance serves one connection.

    A channel of the protocol is a group. Nothing is allowed unless a method allows it. The methods are ordinary
    synchronous code, which may query; they run one at a time for each connection. Each may raise ``PermissionDenied``
    (error 103) or ``CentrifugeError``. Any other exception is logged and answered with error 100.

    After a close code of 3500 to 3999 or 4500 to 4999, with a reason that is not empty, a client does not connect
    again.

    Decide about the login in ``connected()``. A decorator or mixin that redirects to a login page refuses the
    handshake, and the client tries again.
    """

    groups: ClassVar[Groups | None] = None
    """What the channels belong to. Default: the groups of the project (``get_groups()``)."""
    ping: ClassVar[int] = PING_INTERVAL
    """Seconds between two pings. Default: 25."""
    max_channels: ClassVar[int] = MAX_CHANNELS
    """Channels that a client may be in at the same time. Default: 128."""

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view function for the URLconf; ``initkwargs`` are those of Django's ``View.as_view``."""
        view = super().as_view(**initkwargs)
        return accept_websocket(view) if hasattr(cls, "get") else require_websocket(view)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Serve the client until its connection ends, without a greenlet while it waits; or answer plain HTTP."""
        ws = attach(request)
        if ws is None:
            return super().dispatch(request, *args, **kwargs)
        groups = get_groups() if self.groups is None else self.groups
        ws.logged_out_code = LOGGED_OUT  # type: ignore[attr-defined]
        serve(ws, groups, _ViewPolicy(self, request), ping=self.ping, max_channels=self.max_channels)
        return None

    def connected(self, request: HttpRequest) -> None:
        """A client wants to connect. Called before the handshake is answered. Default: it may, logged in or not.

        Raises:
            PermissionDenied: The client gets error 101, and does not connect again.

        """

    def disconnected(self, request: HttpRequest) -> None:
        """The connection has ended. Called once for each that ``connected()`` has allowed."""

    def info(self, request: HttpRequest) -> Mapping[str, Any]:
        """Facts about the client, which others get with what it publishes. Called once, after ``connected()``.

        Returns:
            ``"user"``, a ``str``, and if wanted ``"conn_info"``, which is any JSON. Default: the primary key of the
            user; empty for an anonymous one. In a group with presence it has 1,024 bytes at most.

        """
        key = getattr(getattr(request, "user", None), "pk", None)
        return {"user": "" if key is None else str(key)}

    def may_join(self, request: HttpRequest, name: str) -> bool:
        """Whether the client may subscribe to a channel, and read its history. Default: no."""
        return False

    def may_publish(self, request: HttpRequest, name: str, data: Any) -> bool:
        """Whether the client may publish this in a channel, in which it need not be. Default: no.

        Args:
            request: The handshake.
            name: The channel, which is the group.
            data: The value of any JSON.

        """
        return False

    def may_see_members(self, request: HttpRequest, name: str) -> bool:
        """Whether the client may read which clients are in a channel that it is in, and get an event when one joins or
        leaves. The group must have presence. Default: no.
        """
        return False

    def rpc(self, request: HttpRequest, method: str, data: Any) -> Any:
        """Call a method of the application. Default: error 104.

        Args:
            request: The handshake.
            method: Its name, as the client has it.
            data: The value of any JSON; None for none.

        Returns:
            What the client gets; it must have JSON.

        """
        raise CentrifugeError(104)


class _ViewPolicy(Policy):
    """The policy of a view for one connection."""

    def __init__(self, view: CentrifugeView, request: HttpRequest) -> None:
        self._view, self._request = view, request

    def connected(self, ws: WebSocket) -> None:
        with _denied(101):
            self._view.connected(self._request)

    def disconnected(self, ws: WebSocket) -> None:
        self._view.disconnected(self._request)

    def info(self, ws: WebSocket) -> Mapping[str, Any]:
        return self._view.info(self._request)

    def may_join(self, ws: WebSocket, name: str) -> bool:
        with _denied(103):
            return self._view.may_join(self._request, name)

    def may_publish(self, ws: WebSocket, name: str, data: Any) -> bool:
        with _denied(103):
            return self._view.may_publish(self._request, name, data)

    def may_see_members(self, ws: WebSocket, name: str) -> bool:
        with _denied(103):
            return self._view.may_see_members(self._request, name)

    def rpc(self, ws: WebSocket, method: str, data: Any) -> Any:
        with _denied(103):
            return self._view.rpc(self._request, method, data)


@contextmanager
def _denied(code: int) -> Iterator[None]:
    """PermissionDenied is this error, with its text if it has one."""
    try:
        yield
    except PermissionDenied as error:
        raise CentrifugeError(code, str(error)) from None
