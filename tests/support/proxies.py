"""Starts the real nginx, HAProxy and Caddy with the files of ``examples/deploy/``, in front of a real gunicorn.

A file is used as it is shipped. What differs from machine to machine - addresses, paths, certificates, users, and here
the time that a test can wait - stands on lines with a mark; ``adapt`` replaces that alone, and insists on finding it.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from websockets.asyncio.client import connect as connect_websocket

from .notices import find
from .rawclient import RawClient
from .servers import ROOT, STOP_TIMEOUT, Certificate
from .waiting import eventually

__all__ = ["DEPLOY", "FRONTS", "PROXIES", "Client", "Front", "Proxy", "Way", "adapt", "launch"]

DEPLOY = ROOT / "examples" / "deploy"
MARK = "# yours"
ADDRESS = "127.0.0.1"
HOST = "localhost"
TIMEOUT = 20.0

PROXIES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}
"""The proxies and their files."""


# --- the shipped files ---------------------------------------------------------------------------------------------


def adapt(text: str, replacements: Mapping[str, str]) -> str:
    """The file with each text replaced on the lines that bear the mark, or stand below a comment that bears it."""
    lines = text.splitlines()
    marked = {number for number, line in enumerate(lines) if MARK in line}
    marked |= {number + 1 for number in marked if lines[number].startswith("#")}
    for old, new in replacements.items():
        found = [number for number in marked if old in lines[number]]
        assert found, f"no marked line has {old!r}"
        for number in found:
            lines[number] = lines[number].replace(old, new)
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Front:
    """A port of a proxy."""

    name: str
    proxy: str
    tls: bool = False
    reads_http: bool = True
    """Whether the proxy reads requests, or passes bytes on."""
    cuts_silence: bool = True
    """Whether it ends a WebSocket on which nothing happens."""


_FRONTS = (
    Front("nginx", "nginx"),
    Front("nginx-tls", "nginx", tls=True),
    Front("haproxy", "haproxy"),
    Front("haproxy-tls", "haproxy", tls=True),
    Front("haproxy-bytes", "haproxy", reads_http=False),
    Front("haproxy-bytes-tls", "haproxy", tls=True, reads_http=False),
    Front("caddy", "caddy", cuts_silence=False),
    Front("caddy-tls", "caddy", tls=True, cuts_silence=False),
)
FRONTS = {front.name: front for front in _FRONTS}


@dataclass(frozen=True)
class _Place:
    """What the test has instead of the shipped file's machine."""

    directory: Path
    upstream: str
    certificate: Certificate
    silence: str
    ports: dict[str, int]
    admin: int
    """The port of a proxy's own interface."""

    def write(self, proxy: str, replacements: Mapping[str, str]) -> str:
        """The path of the adapted file."""
        shipped = DEPLOY / PROXIES[proxy]
        file = self.directory / shipped.name
        file.write_text(adapt(shipped.read_text(), replacements))
        return str(file)


def _nginx(place: _Place) -> list[str]:
    log = str(place.directory / "error.log")
    replacements = {
        "user www-data;": f"user {pwd.getpwuid(os.getuid()).pw_name};",
        "/run/nginx.pid": str(place.directory / "nginx.pid"),
        "/var/log/nginx/error.log": log,
        "/var/log/nginx/access.log": str(place.directory / "access.log"),
        "unix:/run/gunicorn.sock": f"unix:{place.upstream}",
        "listen 80;": f"listen {ADDRESS}:{place.ports['nginx']};",
        "listen 443 ssl;": f"listen {ADDRESS}:{place.ports['nginx-tls']} ssl;",
        "example.com": HOST,
        "/etc/ssl/site/fullchain.pem": str(place.certificate.certfile),
        "/etc/ssl/site/privkey.pem": str(place.certificate.keyfile),
        "proxy_read_timeout 60s;": f"proxy_read_timeout {place.silence};",
    }
    return ["-e", log, "-c", place.write("nginx", replacements), "-g", "daemon off;"]


def _haproxy(place: _Place) -> list[str]:
    both = place.directory / "site.pem"
    both.write_text(place.certificate.certfile.read_text() + place.certificate.keyfile.read_text())
    replacements = {
        "user haproxy": f"user {pwd.getpwuid(os.getuid()).pw_name}",
        "group haproxy": f"group {grp.getgrgid(os.getgid()).gr_name}",
        "maxconn 20000": "maxconn 1000",  # more than the descriptors that a test may have
        "bind :80 ": f"bind {ADDRESS}:{place.ports['haproxy']} ",
        "bind :443 ": f"bind {ADDRESS}:{place.ports['haproxy-tls']} ",
        "bind 127.0.0.1:8080 ": f"bind {ADDRESS}:{place.ports['haproxy-bytes']} ",
        "bind 127.0.0.1:8443 ": f"bind {ADDRESS}:{place.ports['haproxy-bytes-tls']} ",
        "/etc/ssl/site/site.pem": str(both),
        "unix@/run/gunicorn.sock": f"unix@{place.upstream}",
        "timeout tunnel 60s": f"timeout tunnel {place.silence}",
    }
    return ["-Ws", "-db", "-f", place.write("haproxy", replacements)]


def _caddy(place: _Place) -> list[str]:
    replacements = {
        "0.0.0.0 [::]": ADDRESS,
        "http_port 80": f"http_port {place.ports['caddy']}",
        "https_port 443": f"https_port {place.ports['caddy-tls']}",
        "admin localhost:2019": f"admin {ADDRESS}:{place.admin}",
        "unix//run/gunicorn.sock": f"unix/{place.upstream}",
        "example.com": HOST,
        "/etc/ssl/site/fullchain.pem": str(place.certificate.certfile),
        "/etc/ssl/site/privkey.pem": str(place.certificate.keyfile),
    }
    return ["run", "--adapter", "caddyfile", "--config", place.write("caddy", replacements)]


_MAKERS = {"nginx": _nginx, "haproxy": _haproxy, "caddy": _caddy}


def _free_ports(count: int) -> list[int]:
    """So many different ones: all are bound at the same time."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((ADDRESS, 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


# --- the client ----------------------------------------------------------------------------------------------------


class Client:
    """A connection of ``websockets``: of its asyncio client, on a loop that runs while a call waits.

    Its client with threads will not do: one of them reads from an SSLSocket while the other writes to it, and now and
    then the handshake never leaves.
    """

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._ws = self._loop.run_until_complete(_connect(options))
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._end()

    def _end(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on."""
        agreed: str | None = self._ws.subprotocol
        return agreed

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        self._loop.run_until_complete(self._ws.send(message))

    def pong(self) -> None:
        """Send a pong that was not asked for, and that is not answered."""
        self._loop.run_until_complete(self._ws.pong())

    def recv(self, timeout: float) -> str | bytes:
        """The next message; TimeoutError when none comes in time."""
        try:
            message: str | bytes = self._loop.run_until_complete(asyncio.wait_for(self._ws.recv(), timeout))
        except asyncio.TimeoutError:  # before 3.11 not the builtin one
            raise TimeoutError from None
        return message

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close and wait for the end."""
        self._loop.run_until_complete(self._ws.close(code, reason))
        self._loop.run_until_complete(self._ws.wait_closed())
        self._ws.transport.close()  # before 3.11 asyncio has a TLS transport for unclosed that the peer has closed


async def _connect(options: dict[str, Any]) -> Any:
    return await connect_websocket(**options)


# --- a running proxy -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way through a running proxy."""

    front: Front
    port: int
    client: ssl.SSLContext | None

    @property
    def origin(self) -> str:
        """The site's own origin."""
        return f"{'https' if self.front.tls else 'http'}://{HOST}:{self.port}"

    def open(self, path: str = "/echo", *, source: str = ADDRESS, **options: Any) -> Client:
        """A WebSocket of a real client that sends no pings, from an address of one's choice."""
        return Client(
            uri=self.origin.replace("http", "ws", 1) + path,
            sock=socket.create_connection((ADDRESS, self.port), TIMEOUT, (source, 0)),
            ssl=self.client,
            **{"open_timeout": TIMEOUT, "max_size": None, "ping_interval": None, "proxy": None, **options},
        )

    def http(self, source: str = ADDRESS) -> HTTPConnection:
        """A connection for plain requests."""
        options: Any = {"timeout": TIMEOUT, "source_address": (source, 0)}
        if self.client is None:
            return HTTPConnection(ADDRESS, self.port, **options)
        return HTTPSConnection(ADDRESS, self.port, context=self.client, **options)

    def ask(
        self, connection: HTTPConnection, path: str = "/", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and text of one request on a connection."""
        connection.request("GET", path, headers={**dict([self.host]), **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read().decode()

    def get(
        self, path: str = "/", headers: Mapping[str, str] | None = None, *, source: str = ADDRESS
    ) -> tuple[int, str]:
        """The same, on a connection of its own."""
        with closing(self.http(source)) as connection:
            return self.ask(connection, path, headers)

    def raw(self) -> RawClient:
        """A client that sends any byte."""
        return RawClient((ADDRESS, self.port), tls=self.client, server_hostname=HOST)

    @property
    def host(self) -> tuple[str, str]:
        """The Host header."""
        return "Host", f"{HOST}:{self.port}"


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    name: str
    process: subprocess.Popen[bytes]
    command: list[str]
    environment: dict[str, str]
    place: _Place
    notices: socket.socket
    """What it tells systemd."""

    def at(self, front: Front) -> Way:
        """The way through one of its ports."""
        return Way(front, self.place.ports[front.name], self.place.certificate.client if front.tls else None)

    def reload(self) -> set[int]:
        """Let it read its file again, and return when the new one serves: the pids of the old one's processes."""
        before = self._workers()
        if self.name == "caddy":  # one process, which says itself when it is done
            command = [self.command[0], "reload", "--force", *self.command[2:]]
            subprocess.run(command, env=self.environment, check=True, capture_output=True)
            return set()
        self.process.send_signal(signal.SIGHUP if self.name == "nginx" else signal.SIGUSR2)
        self.await_master()
        eventually(lambda: self._listening() and not self._listening() & before, "listeners in new processes alone", 30)
        return before

    def _workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def _listening(self) -> set[int]:
        """Those of them that take connections."""
        found = set()
        for pid in self._workers():
            with suppress(psutil.Error):
                if any(each.status == psutil.CONN_LISTEN for each in psutil.Process(pid).net_connections("tcp")):
                    found.add(pid)
        return found

    def _listens(self, port: int) -> bool:
        with suppress(OSError), socket.create_connection((ADDRESS, port), 1):
            return True
        return False

    def await_master(self) -> None:
        """Return when HAProxy's master is ready, as systemd does.

        Its worker serves before that, and a signal that the master gets meanwhile is lost.
        """
        if self.name == "haproxy":
            while b"READY=1" not in self.notices.recv(4096):
                pass

    def await_listeners(self) -> None:
        """Return when each port is open; AssertionError with what the proxy has printed when it ends instead."""
        log = self.place.directory / "output.log"

        def open_or_dead() -> bool:
            assert self.process.poll() is None, f"{self.name} ended:\n{log.read_text()}"
            return all(map(self._listens, self.place.ports.values()))

        eventually(open_or_dead, f"the ports of {self.name}")

    def stop(self) -> None:
        """End it, its open connections too."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextmanager
def launch(
    proxy: str, directory: Path, upstream: str, certificate: Certificate, *, silence: str = "60s"
) -> Iterator[Proxy]:
    """Run a proxy in front of the unix socket ``upstream``; ``silence`` is the time after which it cuts."""
    directory.mkdir(parents=True, exist_ok=True)
    fronts = [front.name for front in _FRONTS if front.proxy == proxy]
    admin, *ports = _free_ports(1 + len(fronts))
    place = _Place(directory, upstream, certificate, silence, dict(zip(fronts, ports, strict=True)), admin)
    program = find(proxy)
    assert program is not None
    command = [program, *_MAKERS[proxy](place)]
    environment = {**os.environ, **dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(directory))}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind("")  # the kernel gives it a name, which is as short as a name must be
        notices.settimeout(TIMEOUT)
        environment["NOTIFY_SOCKET"] = "@" + notices.getsockname()[1:].decode()
        with (directory / "output.log").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        running = Proxy(proxy, process, command, environment, place, notices)
        try:
            running.await_listeners()
            running.await_master()
            yield running
        finally:
            running.stop()
