"""What tests need of the package beside its public interface, each thing once.

A change inside of the package changes a line here, and no test. ``private`` counts private names in all other files.
"""

from __future__ import annotations

from typing import Any

from gws_middleware.connection.transport import Transport
from gws_middleware.testing import Client

__all__ = [
    "application_of",
    "cut",
    "descriptor_of",
    "limit_messages",
    "log_line_of",
    "socket_of",
    "transport_of",
]


# --- a WebSocket ---------------------------------------------------------------------------------------------------


def transport_of(ws: Any) -> Transport:
    """What reads and writes the socket of an accepted WebSocket."""
    transport: Transport = ws._transport
    return transport


def descriptor_of(ws: Any) -> int:
    """The file descriptor of its socket."""
    number: int = transport_of(ws)._channel.fileno()
    return number


def log_line_of(ws: Any) -> Any:
    """What is kept for its line in the access log, None where nothing is."""
    return ws._callbacks.log_line


# --- the test client -----------------------------------------------------------------------------------------------


def socket_of(client: Client) -> Any:
    """The client's end of the connection."""
    return client._sock


def application_of(client: Client) -> Any:
    """The greenlet that runs the application."""
    return client._greenlet


def cut(client: Client) -> None:
    """End the connection without a close frame, as a client that crashes."""
    client._sock.close()
    client._lost = True


def limit_messages(client: Client, size: int) -> None:
    """Set the most bytes of a message that the client's engine takes."""
    assert client._engine is not None
    client._engine._max_message_size = size
