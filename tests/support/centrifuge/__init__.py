"""The clients of Centrifuge's protocol, unmodified, each in a process that lines of JSON drive.

::

    def test_it(start, server):  # for each of the clients
        client = start(server, "/live")
        client.do("connect")
        client.wait("connected")
        client.do("subscribe", channel="room.1")
        client.wait("publication", data="x")

The drivers beside this module (``driver.mjs``, ``driver.py``) print an event of the client as a line, with the same
names for both.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import playwright
import pytest

from ..servers import Server
from ..waiting import eventually

__all__ = ["ClientError", "Driver", "Start", "javascript", "needs_npm", "start"]

HERE = Path(__file__).parent
VERSION = "5.8.0"
"""Of ``centrifuge`` in the npm registry."""
INTEGRITY = "ENH1jz6VeRuGb3yHNhgB0V0SqRKX+iYdtM9Du/E59m484epjNPfsgJw4UbmOmjgSXGEita1UoOXlZ6Ba1ooT1g=="
"""SHA-512 of its archive."""
NODE = Path(playwright.__file__).parent / "driver" / "node"
"""It comes with Playwright."""


needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm was not found")
"""Without it the last lines of the run say so (``notices``)."""


class ClientError(Exception):
    """A call of the client has failed, with the error of a reply."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code}: {message}")


class Driver:
    """A client in its process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._results: dict[int, dict[str, Any]] = {}
        self._number = 0
        self.events: list[dict[str, Any]] = []
        """What has happened so far, in order."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            value = json.loads(line)
            if "event" in value:
                self.events.append(value)
            else:
                self._results[value["id"]] = value

    def do(self, what: str, **arguments: Any) -> Any:
        """Call a method of the client; its result.

        Raises:
            ClientError: It has failed.

        """
        return self.result(self.begin(what, **arguments))

    def result(self, number: int) -> Any:
        """The result of a call that ``begin()`` has begun.

        Raises:
            ClientError: It has failed.

        """
        result = eventually(lambda: self._results.pop(number, {}), f"the result of call {number}")
        if "error" in result:
            raise ClientError(result["error"]["code"], result["error"]["message"])
        return result["result"]

    def begin(self, what: str, **arguments: Any) -> int:
        """Call a method of the client, and do not wait for its result; the number of the call."""
        self._number += 1
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": self._number, "do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._number

    def found(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The events so far with this name and these fields."""
        wanted = {"event": event, **fields}
        return [one for one in list(self.events) if wanted.items() <= one.items()]

    def wait(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait until there are ``count`` such events; the last of these."""

        def enough() -> list[dict[str, Any]]:
            found = self.found(event, **fields)
            return found if len(found) >= count else []

        try:
            return eventually(enough, f"{count} × {event} {fields}")[count - 1]
        except AssertionError as error:
            raise AssertionError(f"{error}; there were {self.events}") from None

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert code == 0, f"the client's process ended with {code}"


@contextmanager
def _driven(command: Sequence[str]) -> Iterator[Driver]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    driver = Driver(process)
    try:
        yield driver
    except BaseException:
        process.kill()
        process.wait()
        raise
    driver.close()


def _fetch_javascript(directory: Path) -> Path:
    """The unpacked package of npm, which is fetched once for each machine.

    Args:
        directory: Keeps it.

    Raises:
        AssertionError: What the registry has sent is not the package.

    """
    package = directory / f"centrifuge-{VERSION}"
    if not package.exists():
        scratch = directory / f"scratch-{threading.get_native_id()}"
        scratch.mkdir(parents=True)
        command = ["npm", "pack", "--silent", f"centrifuge@{VERSION}", "--pack-destination", str(scratch)]
        subprocess.run(command, check=True, timeout=100, stdout=subprocess.DEVNULL)
        archive = scratch / f"centrifuge-{VERSION}.tgz"
        assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == INTEGRITY
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        try:
            (scratch / "package").rename(package)
        except OSError:
            assert package.exists()  # another process of this run was faster
        shutil.rmtree(scratch)
    return package


@pytest.fixture(scope="session")
def javascript(request: pytest.FixtureRequest) -> Path:
    """The unpacked package of npm. A module imports this fixture to use it."""
    cache = request.config.cache
    assert cache is not None
    return _fetch_javascript(cache.mkdir("centrifuge"))


Start = Callable[..., Driver]
"""Starts a client: of a server, and a path. Default: "/live"."""


@pytest.fixture(params=["python", pytest.param("javascript", marks=needs_npm)])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a client, which ends with the test. A module imports this fixture to use it."""
    with ExitStack() as stack:

        def started(server: Server, path: str = "/live") -> Driver:
            assert isinstance(server.tcp, tuple)
            url = f"ws://127.0.0.1:{server.tcp[1]}{path}"
            if request.param == "python":
                return stack.enter_context(_driven([sys.executable, str(HERE / "driver.py"), url]))
            module = request.getfixturevalue("javascript") / "build" / "index.mjs"
            return stack.enter_context(_driven([str(NODE), str(HERE / "driver.mjs"), url, str(module)]))

        yield started
