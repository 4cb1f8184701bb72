"""The method names of older libraries, beside ``WebSocket``'s own, so that code written for them runs unchanged.

They are django-websocket's and dwebsocket's (``wait``, ``read``, ``has_messages``, ``count_messages``, ``is_closed``),
eventlet's (``wait``), and gevent-websocket's ``handler`` with the clients of its server. The rest of gevent-websocket's
are ``WebSocket``'s own. The functions are methods of ``WebSocket``.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, Protocol

from ..exceptions import ConnectionClosed
from ..process import registry
from ..typing import Environ, Message

__all__ = [
    "Client",
    "Clients",
    "Handler",
    "WorkerServer",
    "client_of",
    "handler",
    "has_messages",
    "is_closed",
    "read",
    "wait",
]


class Client:
    """One connection, as gevent-websocket's server lists it; applications set attributes of their own on it."""

    def __init__(self, address: Any, ws: Any) -> None:
        self.address = address
        """What distinguishes it from other open connections: host and port of the peer, where there are any."""
        self.ws = ws


class Clients(Mapping[Any, Client]):
    """``server.clients``: the open connections of that server in this process, by address. What its methods return is a
    copy, so that a loop over ``values()`` may send, and meanwhile connections open and close.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def _open(self) -> dict[Any, Client]:
        found: list[Any] = [ws for ws in registry.current() if getattr(ws, "_server", None) is self._server]
        return {client.address: client for client in [client_of(ws) for ws in found if not ws.closed]}

    def __getitem__(self, address: Any) -> Client:
        return self._open()[address]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._open())

    def __len__(self) -> int:
        return len(self._open())

    def values(self) -> ValuesView[Client]:
        """The clients."""
        return self._open().values()

    def items(self) -> ItemsView[Any, Client]:
        """Addresses and clients."""
        return self._open().items()


class WorkerServer:
    """``ws.handler.server`` where no server object can be reached (gunicorn's gevent worker): one for each process. It
    takes attributes of the application's, as gevent-websocket's server does.
    """

    def __init__(self) -> None:
        self.clients = Clients(None)


_worker_server = WorkerServer()


class Handler:
    """``ws.handler``: what applications written for gevent-websocket ask of the handler of a connection."""

    def __init__(self, ws: Any) -> None:
        self.websocket = ws

    @property
    def environ(self) -> Environ:
        """The request's."""
        environ: Environ = self.websocket.environ
        return environ

    @property
    def client_address(self) -> Any:
        """Host and port of the peer."""
        return self.active_client.address

    @property
    def active_client(self) -> Client:
        """This connection's entry in ``server.clients``: the same object each time."""
        return client_of(self.websocket)

    @property
    def server(self) -> Any:
        """The server of ``gevent.pywsgi`` that the connection came to, or what stands for a gunicorn worker. It has
        ``clients``.
        """
        server = self.websocket._server
        if server is None:
            return _worker_server
        if not hasattr(server, "clients"):
            server.clients = Clients(server)
        return server


class Older(Protocol):
    """What the functions below need of a WebSocket."""

    environ: Environ
    _client: Client | None

    @property
    def closed(self) -> bool:
        """See ``WebSocket``."""

    def receive(self, timeout: float | None = ...) -> Message | None:
        """See ``WebSocket``."""

    def count_messages(self) -> int:
        """See ``WebSocket``."""

    def _accept_if_pending(self) -> None:
        """Accept, because the application uses the connection."""


def wait(self: Older, timeout: float | None = None) -> Message | None:
    """The next message, as ``receive()`` returns it; None when the connection has ended, however often it is called, or
    when ``timeout`` seconds have passed.
    """
    try:
        return self.receive(timeout)
    except (ConnectionClosed, TimeoutError):
        return None


def read(self: Older, fallback: Any = None) -> Any:
    """The next message if one waits, else ``fallback``; never waits."""
    return self.receive() if self.count_messages() else fallback


def has_messages(self: Older) -> bool:
    """Whether ``receive()`` would return a message at once."""
    return self.count_messages() > 0


def is_closed(self: Older) -> bool:
    """The same as ``closed``."""
    return self.closed


def handler(self: Older) -> Handler:
    """gevent-websocket's: ``handler.active_client``, ``handler.client_address``, ``handler.server.clients``.

    Accepts, so that this connection is among the clients.
    """
    self._accept_if_pending()
    return Handler(self)


def client_of(ws: Any) -> Client:
    """The entry of a WebSocket in ``server.clients``: the same object each time."""
    client: Client | None = ws._client
    if client is None:
        host, port = ws.environ.get("REMOTE_ADDR", ""), str(ws.environ.get("REMOTE_PORT") or "")
        # On a unix socket no peer has an address: the identity of the WebSocket distinguishes connections.
        client = ws._client = Client((host, int(port) if port.isdecimal() else id(ws)), ws)
    return client
