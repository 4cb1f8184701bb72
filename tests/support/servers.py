"""Starts real servers for tests, each in a process of its own, and checks what they leave.

::

    with launch("worker", tmp_path) as server, server.connect() as client:
        client.upgrade("/echo")
        client.text("x")

A server listens on a TCP port of 127.0.0.1 and on a unix socket at once. Its sockets are bound before it starts, so the
first connection waits in the kernel's queue until the server answers: nothing sleeps, nothing races for a port. At the
end it is stopped by pid, and any record of its error log that is a warning, an error or a traceback fails the test,
unless the test has asked for it with ``server.log.expect(pattern)``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from gunicorn.config import Config

from gws_middleware.groups.backends.directory import automatic

from .rawclient import Address, RawClient, Response
from .waiting import eventually

__all__ = [
    "CARRIERS",
    "KINDS",
    "LATE",
    "POWERLESS",
    "SWITCHED",
    "Access",
    "Certificate",
    "Kind",
    "Log",
    "Record",
    "Server",
    "ServerDied",
    "carried",
    "launch",
]

ROOT = Path(__file__).resolve().parents[2]
BEHAVIOURS = "tests.fixtureapps.behaviours"
CARRIERS = ("tcp", "unix", "tls", "tls-unix")
START_TIMEOUT = 60.0
STOP_TIMEOUT = 45.0
"""More than gunicorn's graceful timeout: a stop takes all of that where a worker of gunicorn's own class boots."""


# --- the kinds of servers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One way to run an application."""

    name: str
    gunicorn: tuple[str, ...] | None = None
    """gunicorn's options, or None for a server of ``tests.fixtureapps.serve``."""
    wraps: bool = False
    """Whether the server wraps the application itself."""
    access: str = "pywsgi"
    """How the access log counts: "gunicorn": the bytes of frames; "pywsgi": those of the 101 too; "none": no 101."""


_WORKER = "gws_middleware.worker.GeventWebSocketWorker"
HAS_C_PARSER = "http_parser" in Config().settings
"""Whether gunicorn can use gunicorn_h1c; earlier releases have one parser, and no option for it."""


def _parser(name: str) -> tuple[str, ...]:
    return ("--http-parser", name) if HAS_C_PARSER else ()


_KINDS = (
    Kind("worker", ("-k", _WORKER), wraps=True, access="gunicorn"),
    Kind("worker-python-parser", ("-k", _WORKER, *_parser("python")), wraps=True, access="gunicorn"),
    Kind("gevent", ("-k", "gevent", *_parser("python")), access="gunicorn"),
    Kind("gevent-c-parser", ("-k", "gevent", *_parser("fast")), access="gunicorn"),
    Kind("gevent_pywsgi", ("-k", "gevent_pywsgi")),
    Kind("pywsgi", wraps=True),
    Kind("pywsgi-handler"),
    Kind("pywsgi-patched"),
    Kind(
        "geventwebsocket-worker",
        ("-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"),
        access="none",
    ),
    Kind("geventwebsocket-handler", access="none"),
    Kind("sync", ("-k", "sync"), access="gunicorn"),
    Kind("gthread", ("-k", "gthread", "--threads", "4"), access="gunicorn"),
    Kind("pywsgi-stock"),
    Kind("wsgiref"),
)
KINDS = {kind.name: kind for kind in _KINDS}
POWERLESS = ("sync", "gthread", "pywsgi-stock", "wsgiref")
"""Servers that cannot open WebSockets."""
SWITCHED = ("geventwebsocket-worker", "geventwebsocket-handler")
"""Servers that send the 101 before the application is called."""
LATE = tuple(name for name in KINDS if name not in (*POWERLESS, *SWITCHED))
"""Servers whose 101 waits for the application."""


def carried(kinds: Iterable[str], *carriers: str) -> list[str]:
    """Parameters of the fixture ``server``: each of these kinds on each of these sockets."""
    return [f"{kind}/{carrier}" for kind in kinds for carrier in carriers]


def missing(kind: str) -> str | None:
    """What has to be installed for this kind of server, or None."""
    if kind != "gevent-c-parser" or (HAS_C_PARSER and find_spec("gunicorn_h1c") is not None):
        return None
    return "gunicorn_h1c" if HAS_C_PARSER else "a gunicorn with a C parser"


class Certificate(NamedTuple):
    """A server's certificate for "localhost", and the context of a client that trusts it."""

    certfile: Path
    keyfile: Path
    client: ssl.SSLContext
    authority: Path
    """The certificate that a client is to trust."""


# --- logs ----------------------------------------------------------------------------------------------------------

_START = re.compile(
    r"\[\d{4}-\d\d-\d\d [^]]*\] \[\d+\] \[(?P<gunicorn>\w+)\]"
    r"|(?P<ours>[A-Z]{4,8}) [\w.]+: "
    r"|[\d.]+ - - \["  # wsgiref's access log
)
_SETUP = re.compile(r"WARNING gws_middleware: WebSocket '.*': refused: ")
"""A warning that is logged once: many tests are refused on purpose, and one counts these lines."""
_FOREIGN = re.compile(
    r"(?!.*During handling of).*\n  File \"[^\"]*geventwebsocket/handler\.py\", line \d+, in run_websocket\n"
    r" *del self\.server\.clients\[self\.client_address\]\n[ ~^]*\n?KeyError: ",
    re.DOTALL,
)
"""gevent-websocket's handler keeps its connections by address, and deletes the entry when one ends. Where the kernel
gives a port to a new connection while the handler of the old one has not ended, the entry is deleted twice. The product
has no part in it, so it fails no test.
"""
_TERMINATED = re.compile(r"\[[^]]*\] \[\d+\] \[ERROR\] Worker \(pid:\d+\) was sent SIGTERM!")
"""Before 24, gunicorn logs the end of a worker as an error at each reload."""
_PROBLEM = re.compile(r"Traceback \(most recent|Exception ignored|\w+Warning: | failed with |Fatal Python error")


class Record(NamedTuple):
    """One record of an error log; a traceback belongs to the record before it."""

    number: int
    level: str
    text: str

    @property
    def problem(self) -> bool:
        """Whether this must not be in a log."""
        if _SETUP.match(self.text) or _FOREIGN.match(self.text):
            return False
        if _PROBLEM.search(self.text):
            return True
        return self.level in ("WARNING", "ERROR", "CRITICAL") and not _TERMINATED.match(self.text)


class Log:
    """A server's error log, which is its stderr."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._expected: set[int] = set()

    def records(self) -> list[Record]:
        """What has been logged so far; a last line that is still being written is left out."""
        text = self.path.read_text("utf-8", "replace")
        records: list[Record] = []
        for line in text[: text.rfind("\n") + 1].splitlines():
            start = _START.match(line)
            if start is not None:
                records.append(Record(len(records), start["gunicorn"] or start["ours"] or "", line))
            elif records and _goes_on(records[-1]):
                records[-1] = records[-1]._replace(text=f"{records[-1].text}\n{line}")
            else:
                records.append(Record(len(records), "", line))
        return records

    def problems(self) -> list[Record]:
        """Warnings, errors and tracebacks that no test has asked for."""
        return [one for one in self.records() if one.problem and one.number not in self._expected]

    def find(self, pattern: str, count: int = 1) -> list[Record]:
        """The records that match, whatever their level, once there are ``count``."""
        return _await_matches(self.records, pattern, count)

    def expect(self, pattern: str, count: int = 1) -> list[Record]:
        """Wait for ``count`` problems that match; they, and no more of them, are as they should be."""
        found = _await_matches(self.problems, pattern, count)[:count]
        self._expected.update(one.number for one in found)
        return found

    def check(self) -> None:
        """Fail if there is a problem that no test has asked for, and forget it, so that it fails one test only."""
        problems = self.problems()
        self._expected.update(one.number for one in problems)
        assert not problems, "the server logged:\n" + "\n".join(one.text for one in problems)


def _goes_on(record: Record) -> bool:
    """Whether a line that begins no record belongs to this one: the traceback after a record of gunicorn's, or the
    next line of one that gevent prints.
    """
    if record.text.startswith("["):
        return record.level not in ("INFO", "WARNING")
    return not record.level and not re.search(r" failed with \w+$", record.text)


def _await_matches(look: Callable[[], list[Record]], pattern: str, count: int) -> list[Record]:
    match = re.compile(pattern, re.DOTALL).search

    def found() -> list[Record]:
        matches = [one for one in look() if match(one.text)]
        return matches if len(matches) >= count else []

    return eventually(found, f"{count} × {pattern!r} in the log")


class Access(NamedTuple):
    """One line of an access log."""

    request: str
    """The request line."""
    status: int
    sent: int
    """Bytes; see ``Kind.access``."""
    seconds: float


_GUNICORN_FORMAT = "%(r)s|%(s)s|%(B)s|%(L)s"
# gunicorn 22's worker gevent_pywsgi writes the status as b'101 Switching Protocols'.
_GUNICORN_LINE = re.compile(r"(?P<request>.*)\|(?:b')?(?P<status>\d+)(?: [\w ]+')?\|(?P<sent>\d+)\|(?P<seconds>[\d.]+)")
_PYWSGI_LINE = re.compile(r'.* "(?P<request>.*)" (?P<status>\d+) (?P<sent>[\d-]+) (?P<seconds>[\d.]+)')


def _access(line: str) -> Access | None:
    match = _GUNICORN_LINE.fullmatch(line) or _PYWSGI_LINE.fullmatch(line)
    if match is None:
        return None
    sent = match["sent"].replace("-", "0")
    return Access(match["request"], int(match["status"]), int(sent), float(match["seconds"]))


# --- a running server ----------------------------------------------------------------------------------------------


class ServerDied(Exception):  # noqa: N818 - it is a fact
    """The server ended instead of answering; its log rides along."""

    def __init__(self, code: int | None, log: str) -> None:
        self.code, self.log = code, log
        super().__init__(f"the server ended with {code}:\n{log}")


@dataclass(frozen=True)
class Server:
    """A running server, seen through one of its sockets (``carrier``)."""

    kind: Kind
    process: subprocess.Popen[bytes]
    tcp: Address
    unix: Address
    tls: ssl.SSLContext | None
    log: Log
    access_path: Path
    carrier: str = "tcp"
    signals: list[int] = field(default_factory=list)
    """What it was sent: a second signal would kill a gunicorn that is about to end."""

    def at(self, carrier: str) -> Server:
        """The same server through another of its sockets."""
        assert carrier.startswith("tls") == (self.tls is not None), carrier
        return replace(self, carrier=carrier)

    @property
    def address(self) -> Address:
        """Where this carrier's connections go."""
        return self.unix if self.carrier.endswith("unix") else self.tcp

    def connect(self, **options: Any) -> RawClient:
        """A new connection; ``options`` are those of ``RawClient``."""
        return RawClient(self.address, tls=self.tls, **options)

    def get(self, path: str, *headers: tuple[str, str]) -> Response:
        """One GET request on a connection of its own."""
        with self.connect() as client:
            return client.get(path, *headers, ("Connection", "close"))

    # --- what a fixture application reports (fixtureapps/common.py) ---------------------------------------------------

    def status(self) -> dict[str, int]:
        """The worker's own counts: pid, fds, greenlets, watchers, websockets, objects, rss."""
        counts: dict[str, int] = _json(self.get("/status"))
        return counts

    def next_worker(self, before: int) -> int:
        """The number of the worker that serves when this one, the only one, has ended. It is asked once it has started:
        a request that waits in the listening socket from before would wait for that end, too.
        """
        self.log.find(rf"Booting worker with pid: (?!{before}\b)")
        return eventually(lambda: (now := self.status()["pid"]) != before and now, "the next worker")

    def events(self, token: str, until: str = "") -> list[str]:
        """What the application recorded for ``?id=<token>``, once ``until`` is among it."""
        events: list[str] = _json(self.get(f"/events?id={token}&until={quote(until)}"))
        assert until in ("", *events), f"{until!r} never came; recorded: {events}"
        return events

    def settled(self, **counts: int) -> dict[str, int]:
        """The status once each of ``counts`` is down to the number given, e.g. ``websockets=0``."""
        status: dict[str, int] = {}

        def down() -> bool:
            status.update(self.status())
            return all(status[name] <= most for name, most in counts.items())

        try:
            eventually(down, str(counts))
        except AssertionError:
            raise AssertionError(f"wanted at most {counts}, left with {status}") from None
        return status

    # --- the access log --------------------------------------------------------------------------------------------

    def access(self, mark: str) -> list[Access]:
        """The lines so far whose request line has ``mark`` in it."""
        lines = self.access_path.read_text("utf-8", "replace").splitlines()
        return [found for line in lines if mark in line and (found := _access(line)) is not None]

    def await_access(self, mark: str) -> Access:
        """The one line whose request line has ``mark`` in it. What came later is in the log later, so another request
        is made and its line awaited before the count is believed.
        """
        eventually(lambda: self.access(mark), f"a line with {mark!r} in the access log")
        after = f"/?after-{mark}"
        self.get(after)
        eventually(lambda: self.access(after), f"a line with {after!r} in the access log")
        found = [line for line in self.access(mark) if after not in line.request]
        assert len(found) == 1, found
        return found[0]

    # --- the end ---------------------------------------------------------------------------------------------------

    def kill(self, number: int) -> None:
        """Send a signal to the server's first process (gunicorn's arbiter)."""
        self.signals.append(number)
        self.process.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """The exit code, once the server has ended."""
        return self.process.wait(timeout)

    def end(self) -> int | None:
        """Stop the server. Its exit code, or None if it had to be killed.

        SIGTERM even where a quick stop would do: on SIGQUIT gunicorn's gevent worker at times ends with a traceback.
        """
        if self.process.poll() is None and not {signal.SIGTERM, signal.SIGQUIT} & set(self.signals):
            self.kill(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
        finally:
            shutil.rmtree(automatic(self.access_path.parent), ignore_errors=True)  # groups "auto" of its directory

    def stop(self) -> None:
        """The same, and see that it ended as it should."""
        code = self.end()
        assert code == 0, f"{self.kind.name} ended with {code}:\n{self.log.path.read_text()}"


def _json(response: Response) -> Any:
    assert response.status == 200, response
    return json.loads(response.body)


@contextmanager
def launch(
    kind: str,
    directory: Path,
    app: str = BEHAVIOURS,
    *,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    certificate: Certificate | None = None,
    answers: bool = True,
    logs_access: bool = True,
) -> Iterator[Server]:
    """Run ``app`` - a module of ``tests.fixtureapps``, or ``module:name`` - in a server of this kind.

    ``directory`` takes its logs and its unix socket. ``options`` are further gunicorn options, ``env`` is laid over the
    environment, a ``certificate`` makes it a TLS server. ServerDied is raised when it ends instead of answering
    ``GET /``; ``answers=False`` does not ask. ``logs_access=False`` is for gunicorn without an access log.
    """
    server = start(kind, directory, app, options=options, env=env, certificate=certificate, logs_access=logs_access)
    try:
        if answers:
            await_answer(server)
        yield server
    except BaseException:
        server.end()
        log = server.log.path.read_text("utf-8", "replace")
        sys.stderr.write(f"the log of {kind} ends with:\n{log[-5000:]}")  # pytest shows it below the failure
        raise
    server.stop()
    server.log.check()


def start(
    kind: str,
    directory: Path,
    app: str = BEHAVIOURS,
    *,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    certificate: Certificate | None = None,
    logs_access: bool = True,
) -> Server:
    """The process alone; the caller stops it. ``launch`` is what most tests want."""
    what = KINDS[kind]
    if ":" not in app:
        app = f"{app}:{'app' if what.wraps else 'wrapped'}"
    directory.mkdir(parents=True, exist_ok=True)
    log, access, unix = directory / "error.log", directory / "access.log", directory / "ws.sock"
    unix.unlink(missing_ok=True)
    access.touch()
    with socket.create_server(("127.0.0.1", 0)) as on_tcp, socket.socket(socket.AF_UNIX) as on_unix:
        on_unix.bind(str(unix))
        on_unix.listen(128)
        listeners = [on_tcp.fileno(), on_unix.fileno()]
        with log.open("ab") as stderr:
            process = subprocess.Popen(
                _command(what, app, listeners, access if logs_access else None, options, certificate),
                cwd=directory,  # and not the repository: the first entry of PYTHONPATH decides which package is tested
                env=own_environment(env or {}),
                pass_fds=listeners,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        tls = None if certificate is None else certificate.client
        carrier = "tcp" if tls is None else "tls"
        return Server(what, process, on_tcp.getsockname(), str(unix), tls, Log(log), access, carrier)


def await_answer(server: Server) -> None:
    """Return when the server answers; ServerDied when it ends instead: then the kernel resets the connection."""
    try:
        with server.connect(timeout=START_TIMEOUT) as client:
            client.get("/", ("Connection", "close"))
    except (OSError, EOFError):
        server.process.kill()
        raise ServerDied(server.process.wait(STOP_TIMEOUT), server.log.path.read_text()) from None


def _command(
    kind: Kind,
    app: str,
    listeners: list[int],
    access: Path | None,
    options: Sequence[str],
    certificate: Certificate | None,
) -> list[str]:
    tls = [] if certificate is None else ["--certfile", str(certificate[0]), "--keyfile", str(certificate[1])]
    python = [sys.executable, "-m"]
    if kind.gunicorn is None:
        fds = [part for fd in listeners for part in ("--fd", str(fd))]
        return [*python, "tests.fixtureapps.serve", kind.name, app, *fds, "--access", str(access), *tls]
    binds = [part for fd in listeners for part in ("--bind", f"fd://{fd}")]
    logs = [] if access is None else ["--access-logfile", str(access), "--access-logformat", _GUNICORN_FORMAT]
    return [*python, "gunicorn", *kind.gunicorn, *binds, *logs, *no_control_socket(), *tls, *options, app]


def no_control_socket() -> list[str]:
    """Since gunicorn 25 an arbiter opens a control socket below the home directory."""
    from gunicorn.config import Config

    return ["--no-control-socket"] if "control_socket_disable" in Config().settings else []


def own_environment(extra: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not _is_setting(name)}
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
    return {**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


def _is_setting(name: str) -> bool:
    """Whether a variable of the tester's own shell would change the server under test."""
    return (name.startswith("GWS_") and name != "GWS_SPEEDUPS") or name in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY")
