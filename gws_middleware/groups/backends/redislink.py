"""Connections to Redis or Valkey.

Rule: ``redis`` and ``hiredis`` are imported here alone, and none of their exceptions leaves this module.

redis-py connects, logs in and speaks TLS. Its clients are not used: they repeat commands by themselves, so that a
message can be published twice, and they subscribe again and do not report that messages were lost. After the login it
neither writes nor reads: commands are packed and replies are parsed by hiredis, in C.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from .. import waiting
from .base import TIMEOUT

__all__ = ["Command", "Link", "LinkError", "RefusedError", "Server"]

log = logging.getLogger("gws_middleware.groups")

RETRY = (0.1, 0.5)
"""Seconds until it is tried to connect again: after the first failure, and at most. Logouts wait for it: they are
carried out in all workers within a second after the return of the server.
"""
OLDEST = (7, 0)
"""The oldest version whose scripts may read the clock and write."""

CHUNK = 65536
"""Bytes that are read at once."""

_INCOMPLETE = object()
"""What hiredis returns while a reply is not complete. Its default is False, which an integer reply of 0 equals."""

Command = tuple[str | bytes | int, ...]


class LinkError(Exception):
    """There is no connection, or it has ended."""


class RefusedError(Exception):
    """The server's reply is an error. It is a reply like others, and is not raised by a link."""

    def __init__(self, text: str) -> None:
        super().__init__(text.removeprefix("ERR "))


@dataclass(frozen=True)
class _Address:
    """Where to connect, and how."""

    text: str
    """For messages: without a password."""
    connection: Any
    """The class of the connection."""
    options: dict[str, Any]
    sentinels: list[tuple[str, int]] = field(default_factory=list)
    service: str = ""
    sentinel_options: dict[str, Any] = field(default_factory=dict)


class Server:
    """A server, or the master that a group of Sentinels names.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``unix://`` with a path, or ``redis+sentinel://host:port,…/service``.

    Raises:
        ValueError: The URL is wrong.
        ImportError: redis-py or hiredis is not installed.

    """

    def __init__(self, url: str) -> None:
        try:
            import hiredis  # noqa: F401  (Link uses it)
            import redis
        except ImportError as error:
            text = f"groups on Redis need redis-py and hiredis: pip install 'gws_middleware[redis]' ({error})"
            raise ImportError(text) from None
        self._redis = redis
        self._address = _parse(url)
        self._failures, self._retry_at, self._reason = 0, 0.0, ""
        self.run_id = ""
        """Of the process that was connected to last. Epochs belong to it."""
        self.evicts = False
        """Whether it may delete what it keeps when its memory is full."""
        self._has_warned = False
        self.on_change: Callable[[], object] = lambda: None
        """Is called when that is another one."""

    def __str__(self) -> str:
        return self._address.text

    def connect(self, timeout: float = TIMEOUT) -> Link:
        """A new connection. For some time after a failure this fails at once.

        Args:
            timeout: Seconds to wait at most for the connection, and then for each answer of the server.

        Raises:
            LinkError: There is none now.

        """
        now = time.monotonic()
        if now < self._retry_at:
            raise LinkError(self._reason)
        try:
            link = self._connect(timeout)
        except LinkError as error:
            least, most = RETRY
            seconds = min(least * 2 ** min(self._failures, 10), most)
            self._failures += 1
            # A random part, because all workers of a site lose their connections at the same time.
            self._retry_at = time.monotonic() + seconds * random.uniform(0.5, 1)
            self._reason = str(error)
            raise
        self._failures, self._retry_at = 0, 0.0
        if link.run_id != self.run_id:
            self.run_id = link.run_id
            self.on_change()
        return link

    @property
    def retry_after(self) -> float:
        """Seconds for which ``connect()`` fails at once."""
        return max(0.0, self._retry_at - time.monotonic())

    def _connect(self, timeout: float) -> Link:
        address, options = self._address, dict(self._address.options)
        for name in ("socket_timeout", "socket_connect_timeout"):
            options[name] = max(min(options[name], timeout), 0.001)
        errors = (self._redis.RedisError, OSError)
        try:
            if address.sentinels:
                options["host"], options["port"] = self._master()
            connection = address.connection(**options)
            try:
                connection.connect()
                return Link(connection, self._greet(connection))
            except BaseException:
                connection.disconnect()
                raise
        except errors as error:
            raise LinkError(f"{address.text}: {error or type(error).__name__}") from error

    def _greet(self, connection: Any) -> str:
        """Check that the server is one; its ``run_id``."""
        connection.send_command("INFO", "server", "memory", "persistence", "replication")
        text = str(connection.read_response(disable_decoding=True), "utf-8", "replace")
        facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        version = facts.get("redis_version", "")
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < OLDEST:
            raise OSError(f"version {version or 'unknown'} is too old: wanted is Redis 7.0 or newer, or Valkey")
        if facts.get("loading") == "1":
            raise OSError("the server is loading its data")
        if facts.get("role") != "master":
            raise OSError("this is a replica, and messages are published at the master")
        if not facts.get("run_id"):
            raise OSError("INFO has no run_id")
        policy = facts.get("maxmemory_policy", "noeviction")
        self.evicts = facts.get("maxmemory", "0") != "0" and policy != "noeviction"
        if self.evicts:
            self._warn_of_eviction(policy)
        return str(facts["run_id"])

    def _warn_of_eviction(self, policy: str) -> None:
        """Nearly all that is kept for groups expires, so that the volatile policies delete it, too."""
        if not self._has_warned:
            self._has_warned = True
            sentence = "groups: %s may delete what it keeps for groups: set its maxmemory-policy to noeviction, not %s"
            log.warning(sentence, self, policy)

    def _master(self) -> tuple[str, int]:
        """What the Sentinels say."""
        from redis import sentinel as module

        address, make = self._address, cast("Any", module.Sentinel)
        sentinel = make(address.sentinels, sentinel_kwargs=address.sentinel_options)
        try:
            host, port = sentinel.discover_master(address.service)
        finally:
            for client in sentinel.sentinels:
                client.close()
        return str(host), int(port)


class Link:
    """An open connection.

    Args:
        connection: That of redis-py, on which nothing is to be read.
        run_id: Of the process that it is connected to.

    """

    def __init__(self, connection: Any, run_id: str) -> None:
        import hiredis

        self._connection, self._sock = connection, connection._sock
        self._pack: Callable[[Command], bytes] = cast("Any", hiredis.pack_command)
        self._reader = hiredis.Reader(protocolError=ValueError, replyError=RefusedError, notEnoughData=_INCOMPLETE)
        self._unread: deque[Any] = deque()
        """Replies that are complete."""
        self._pending = getattr(self._sock, "pending", None)
        """Of TLS: how many bytes it has decrypted that were not read."""
        self.run_id = run_id

    def fileno(self) -> int:
        """The descriptor of its socket."""
        return int(self._sock.fileno())

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands. Waits where the server does not read.

        Raises:
            LinkError: The connection has ended.

        """
        try:
            self._sock.settimeout(TIMEOUT)
            self._sock.sendall(b"".join(map(self._pack, commands)))
        except OSError as error:
            raise self._ended(error) from error

    def read(self, deadline: float) -> Any:
        """The next reply; a ``RefusedError`` is returned, and not raised.

        Args:
            deadline: When it has to be there (``time.monotonic()``).

        Raises:
            LinkError: The connection has ended, or none has come.

        """
        unread = self._unread
        while not unread:
            left = deadline - time.monotonic()
            # What has come counts, however late it is read: this process may have been stopped.
            if not self._receive(max(left, 0.0)) and left <= 0:
                raise self._ended(TimeoutError("no answer in time"))
        return unread.popleft()

    def received(self, enough: int) -> list[Any]:
        """The replies that have come. Never waits.

        Args:
            enough: If there are so many, others may be left.

        Raises:
            LinkError: The connection has ended.

        """
        unread = self._unread
        while len(unread) < enough and (size := self._receive(0)):
            if size < CHUNK and not (self._pending is not None and self._pending()):
                break  # there is no more
        found = list(unread)
        unread.clear()
        return found

    def has_data(self) -> bool:
        """Whether something has come that was not read. Never waits."""
        number = self.fileno()
        return number >= 0 and waiting.wait_readable([number], 0)

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._connection.disconnect()

    def _receive(self, timeout: float) -> int:
        """Read once; the number of bytes, 0 where none have come in time."""
        try:
            self._sock.settimeout(timeout)
            data = self._sock.recv(CHUNK)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as error:
            raise self._ended(error) from error
        if not data:
            raise self._ended(ConnectionError("the server has closed the connection"))
        try:
            self._reader.feed(data)
            self._unread.extend(iter(self._reader.gets, _INCOMPLETE))
        except ValueError as error:
            raise self._ended(error) from error
        return len(data)

    def _ended(self, error: Exception) -> LinkError:
        self.close()
        return LinkError(str(error) or type(error).__name__)


# --- URLs -----------------------------------------------------------------------------------------------------------


def _parse(url: str) -> _Address:
    from redis import connection as module
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    scheme, _, rest = url.partition("://")
    scheme = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
    # Nothing is repeated by redis-py: one message would be published twice. RESP2, because with RESP3 the server may
    # send what was not asked for.
    common: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT / 2,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "health_check_interval": 0,
        "protocol": 2,
    }
    sentinels: list[tuple[str, int]] = []
    service = ""
    sentinel_options: dict[str, Any] = {}
    given: dict[str, Any]
    kind: Any
    try:
        if scheme == "redis+sentinel":
            sentinels, service, given, sentinel_options = _parse_sentinels(url)
            kind = module.SSLConnection if given.pop("ssl", False) else module.Connection
        else:
            given = cast("Any", module.parse_url)(f"{scheme}://{rest}")
            kind = given.pop("connection_class", module.Connection)
        options = {**given, **common}
        options.setdefault("client_name", f"gws-{socket.gethostname()[:40]}-{os.getpid()}".replace(" ", "-"))
        if kind is not module.UnixDomainSocketConnection:
            options.setdefault("socket_keepalive", True)
        kind(**({**options, "host": "x", "port": 1} if sentinels else options))  # checks them, and opens nothing
    except (TypeError, ValueError) as error:
        raise ValueError(f"the URL {_hidden(url)!r} is wrong: {error}") from None
    return _Address(_hidden(url), kind, options, sentinels, service, {**common, **sentinel_options})


def _parse_sentinels(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any], dict[str, Any]]:
    """Sentinels, service, options for the master, options for the Sentinels."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    sentinels = []
    for each in hosts.split(","):
        host, _, port = each.rpartition(":") if ":" in each.rpartition("]")[2] else (each, "", "26379")
        if not host or not port.isdigit():
            raise ValueError(f"{each!r} is no host:port of a Sentinel")
        sentinels.append((host.strip("[]"), int(port)))
    service = unquote(parts.path.strip("/"))
    if not service:
        raise ValueError("it does not name the service: wanted is redis+sentinel://host:port,host:port/service")
    options: dict[str, Any] = {}
    user, _, password = login.partition(":")
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    for_sentinels: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query):
        if name == "db":
            options["db"] = int(value)
        elif name == "ssl":
            options["ssl"] = value.lower() in ("1", "true", "yes")
        elif name in ("sentinel_username", "sentinel_password"):
            for_sentinels[name.removeprefix("sentinel_")] = value
        elif name.startswith("ssl_"):
            options[name] = value
        else:
            raise ValueError(f"{name!r} is unknown: wanted is db, ssl, ssl_…, sentinel_username or sentinel_password")
    if options.get("ssl"):
        for_sentinels["ssl"] = True
        for_sentinels |= {name: value for name, value in options.items() if name.startswith("ssl_")}
    return sentinels, service, options, for_sentinels


def _hidden(url: str) -> str:
    """A URL without what is secret in it."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user = login.partition(":")[0]
    return f"{parts.scheme}://{user + ':***' + at if at else ''}{hosts}{parts.path}"
