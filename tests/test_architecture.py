"""Imports point one way: tables of packages and modules, every import checked against them; importing has no effect."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import gws_middleware

from .support.inprocess import package_path

PACKAGE = Path(gws_middleware.__file__).parent
DESIGN = Path(__file__).parents[1] / "docs" / "design.md"

BASE = {"codes", "typing"}

PACKAGES: dict[str, tuple[int, set[str]]] = {
    "codes": (0, set()),
    "typing": (0, set()),
    "native": (0, set()),
    "coroutines": (0, set()),
    "watchdog": (0, set()),
    # Not exceptions: that loads the geventwebsocket package, and with it gevent.
    "protocol": (1, {"codes", "native"}),
    "exceptions": (1, {"codes"}),
    "hooks": (1, {"typing"}),
    "config": (2, {"codes", "exceptions", "hooks"}),
    "process": (3, {*BASE, "protocol", "config"}),
    "connection": (4, {*BASE, "native", "protocol", "exceptions", "hooks", "config", "process"}),
    "servers": (5, {"typing", "hooks", "process", "connection"}),
    "groups": (5, {*BASE, "protocol", "exceptions", "process", "connection"}),
    "metrics": (5, {"typing", "process", "groups"}),
    "middleware": (6, {*BASE, "protocol", "exceptions", "config", "process", "connection", "servers"}),
    "worker": (7, {"typing", "config", "process", "metrics", "servers", "middleware"}),
    "pywsgi": (7, {"typing", "process", "connection", "servers", "middleware"}),
    "monkey": (7, {"typing", "servers"}),
    "flask": (7, {*BASE, "exceptions", "connection"}),
    "flaskrun": (7, set()),
    "__main__": (7, {"native"}),
    "testing": (7, {*BASE, "protocol", "exceptions", "config", "connection", "servers", "middleware", "watchdog"}),
    "django": (
        8,
        {
            *BASE,
            "protocol",
            "exceptions",
            "hooks",
            "config",
            "process",
            "connection",
            "groups",
            "middleware",
            "pywsgi",
            "testing",
        },
    ),
}
"""Each package, and each module beside them, with its line in docs/design.md and what it may import."""

ORDER: dict[str, list[str]] = {
    "protocol": ["masking", "frames", "payload", "utf8", "headers", "deflate", "handshake", "connection"],
    "process": ["counters", "keepalive", "site", "limits", "registry", "shutdown"],
    "connection": [
        "states",
        "channel",
        "fastpath",
        "turns",
        "transport",
        "rates",
        "logs",
        "jsontext",
        "compat",
        "closing",
        "opening",
        "callbacks",
        "websocket",
        "control",
    ],
    "servers": ["base", "strings", "gunicornworker", "gunicorn", "pywsgi", "geventwebsocket", "find"],
    "metrics": ["table", "prometheus", "statsd", "health"],
    "groups": [
        "errors",
        "position",
        "message",
        "presence",
        "waiting",
        "base",
        "outages",
        "memory",
        "directory",
        "processes",
        "database",
        "handle",
        "sqlite",
        "redislink",
        "redis",
        "members",
        "records",
        "hub",
        "listening",
        "survey",
        "facts",
        "orders",
        "client",
        "protocol",
        "serving",
    ],
}
"""The modules of a package: each imports only what stands before it."""

LINES = [line for line, _ in PACKAGES.values()]

FOREIGN = {
    "gevent": {
        "coroutines",
        "watchdog",
        "process",
        "connection",
        "servers",
        "metrics",
        "groups",
        "middleware",
        "worker",
        "pywsgi",
        "monkey",
        "testing",
        "django",
    },
    "prometheus_client": {"metrics"},
    "django": {"django"},
    "asgiref": {"django"},
    "psycopg2": {"django"},
    "pytest": {"django"},
    "geventwebsocket": {"exceptions"},
    "gunicorn": {"worker", "flaskrun"},
    "flask": {"flask", "flaskrun"},
    "werkzeug": {"flask"},
    "click": {"flaskrun"},
    "redis": {"groups"},
    "hiredis": {"groups"},
    "typing_extensions": {"connection", "middleware", "testing"},
}
"""Packages of others, and what may import them. Nothing imports a package that is not here or in Python itself."""

SOCKETS = {"socket", "_socket", "ssl", "select", "selectors"}
"""Parts of Python's library that do input and output on the network."""

BY_DJANGO = {Path("django", "admin"), Path("django", "models")}
"""Modules that Django imports when its apps are ready, and no other program can: ``django/test_admin.py`` has them."""

MODULES = sorted(path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    """One import in the source: ``of`` is a package of ours, or the top-level name of another one."""

    package: str
    of: str
    target: str
    """The module of ours, as in ``MODULES``; empty where it is a package."""
    ours: bool
    kind: str
    """``top``, ``late`` (inside a function) or ``typing`` (under ``if TYPE_CHECKING``)."""
    where: str


def package_of(module: Path) -> str:
    """``protocol/frames`` is in the package ``protocol``."""
    return module.parts[0]


@cache
def imports() -> list[Import]:
    """Every import of the package, wherever it stands."""
    return [found for module in MODULES for found in _imports_of(module)]


def _imports_of(module: Path) -> Iterator[Import]:
    tree = ast.parse((PACKAGE / module).with_suffix(".py").read_text())
    for node, kind in _walk(tree, "top"):
        where = f"{module}.py:{node.lineno}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                ours = top == "gws_middleware"
                yield Import(package_of(module), rest.partition(".")[0] if ours else top, "", ours, kind, where)
        elif node.level or (node.module or "").partition(".")[0] == "gws_middleware":
            for target in _targets(module, node):
                inside = "/".join(target) if Path(*target) in MODULES else ""
                yield Import(package_of(module), target[0], inside, True, kind, where)
        else:
            yield Import(package_of(module), str(node.module).partition(".")[0], "", False, kind, where)


def _targets(module: Path, node: ast.ImportFrom) -> Iterator[list[str]]:
    """The modules of ours that ``from … import …`` names."""
    if node.level:
        base = ["gws_middleware", *module.parts[: -node.level if module.name != "__init__" or node.level > 1 else -1]]
        path = [*base, *(node.module or "").split(".")] if node.module else base
    else:
        path = str(node.module).split(".")
    for alias in node.names:
        whole = [*path[1:], alias.name]
        yield whole if len(path) == 1 or Path(*whole) in MODULES else path[1:]


def _walk(node: ast.AST, kind: str) -> Iterator[tuple[Any, str]]:
    """Import nodes with their kind."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, kind
        return
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        kind = "late"
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        kind = "typing"
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, kind)


def lines_of_the_document() -> dict[str, int]:
    """The rooms in the table of docs/design.md with their lines."""
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", DESIGN.read_text(), re.MULTILINE)
    return {name.rstrip("/"): int(line) for line, names in rows for name in re.findall(r"`([\w/]+)`", names)}


class TestImports:
    def test_every_module_has_a_row(self) -> None:
        """A new module is entered in the tables, with what it may import."""
        assert {package_of(module) for module in MODULES} == {"__init__", *PACKAGES}
        for package, modules in ORDER.items():
            inside = {module.name for module in MODULES if package_of(module) == package}
            assert inside == {"__init__", *modules}

    def test_document_has_the_same_packages(self) -> None:
        """docs/design.md says what each holds, on the same line."""
        assert lines_of_the_document() == {room: line for room, (line, _) in PACKAGES.items()}

    def test_table_points_downward(self) -> None:
        """None may import one on a higher line, so no cycle can appear; on one line the table is free of them too."""
        known: set[str] = set()
        for room, (line, may) in sorted(PACKAGES.items(), key=lambda row: row[1][0]):
            assert all(PACKAGES[other][0] <= line for other in may), room
        left = dict(PACKAGES)
        while left:
            free = {room for room, (_, may) in left.items() if may <= known}
            assert free, f"a cycle among {sorted(left)}"
            known |= free
            left = {room: row for room, row in left.items() if room not in free}

    @pytest.mark.parametrize("package", list(PACKAGES))
    def test_package_imports_what_it_may(self, package: str) -> None:
        """At the top, inside functions and for types alone."""
        may = PACKAGES[package][1] | {package}
        assert [found for found in imports() if found.ours and found.package == package and found.of not in may] == []

    @pytest.mark.parametrize("package", list(ORDER))
    def test_modules_import_what_stands_before_them(self, package: str) -> None:
        """So there is no cycle inside of a package either."""
        modules = ORDER[package]
        for found in imports():
            name = found.where.partition(".py:")[0].rpartition("/")[2]
            if found.package == package == found.of and name != "__init__":
                assert found.target, f"{found.where} imports the package instead of a module"
                assert found.target.rpartition("/")[2] in modules[: modules.index(name)], found

    def test_package_itself_imports_for_types_alone(self) -> None:
        """Its names are loaded when they are first used."""
        found = [found for found in imports() if found.package == "__init__" and found.ours]
        assert {one.kind for one in found} == {"typing"}

    def test_nothing_of_ours_is_imported_late(self) -> None:
        """Cycles are removed by order, not by imports inside functions; under ``if TYPE_CHECKING`` they would hide."""
        hidden = [found for found in imports() if found.ours and found.kind != "top"]
        assert [found for found in hidden if "__init__" not in found.where] == []  # a package's names are loaded late

    def test_foreign_packages_stand_where_they_may(self) -> None:
        """gunicorn, gevent-websocket and frameworks are imported where they are adapted, and nowhere else."""
        foreign = [found for found in imports() if not found.ours and found.of not in sys.stdlib_module_names]
        assert [found for found in foreign if found.package not in FOREIGN.get(found.of, ())] == []

    def test_redis_is_imported_in_one_module(self) -> None:
        """When a URL of Redis is given, and not before: it is an extra. So is hiredis."""
        found = {
            (found.where.partition(".py:")[0], found.kind)
            for found in imports()
            if found.of in ("redis", "hiredis") and not found.ours
        }
        assert found == {("groups/backends/redislink", "late")}

    def test_typing_extensions_are_for_type_checkers(self) -> None:
        """Type checkers bring their own; the package does not depend on it."""
        assert {found.kind for found in imports() if found.of == "typing_extensions"} == {"typing"}

    def test_sockets_stay_in_channel_and_transport(self) -> None:
        """No other module reads or writes; gevent's sockets are named by ``servers`` and ``testing``. (The live
        server for users' tests makes a listener.)
        """
        found = {found.where.partition(".py:")[0] for found in imports() if found.of in SOCKETS and not found.ours}
        assert found == {
            "connection/channel",
            "connection/transport",
            "django/liveserver",
            "groups/waiting",
            "groups/backends/processes",
            "groups/backends/redis",
            "groups/backends/redislink",
            "groups/backends/sqlite",
        }

    def test_private_names_of_servers_stand_in_servers_alone(self) -> None:
        """What a server keeps to itself is read in one package."""
        keys = {"gunicorn.socket", "gunicorn.sock", "wsgi.input", "unreader", "take_buffered", "force_close", "rfile"}
        reading = set()
        for module in MODULES:
            tree = ast.parse((PACKAGE / module).with_suffix(".py").read_text())
            for node in ast.walk(tree):
                name = node.value if isinstance(node, ast.Constant) else getattr(node, "attr", None)
                if isinstance(name, str) and name in keys:
                    reading.add((str(module), name))
        assert {module for module, _ in reading} <= {
            "servers/base",
            "servers/gunicorn",
            "servers/pywsgi",
            "servers/find",
            "testing",
        }
        assert {name for module, name in reading if module == "testing"} == {"wsgi.input"}  # it makes an environ


# --- a fresh interpreter ------------------------------------------------------------------------------------------

LOADED = """
import sys
before = set(sys.modules)
import importlib, json
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""

EFFECTS = """
import importlib, json, logging, os, select, signal, socket, ssl, subprocess, sys, threading, time
import gevent.pywsgi
from gevent._hub_local import get_hub_if_exists

def state():
    return {
        "socket": (socket.socket, socket.create_connection, socket.getaddrinfo, select.select),
        "ssl": (ssl.SSLSocket, ssl.SSLContext),
        "threading": (threading.Thread, threading.Lock, threading.get_ident),
        "time": time.sleep,
        "subprocess": subprocess.Popen,
        "os": (os.fork, os.read),
        "pywsgi": dict(vars(gevent.pywsgi.WSGIHandler)),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "logging": [logging.getLogger(name).handlers[:] for name in (None, "gws_middleware")],
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "threads": threading.active_count(),
        "hub": get_hub_if_exists(),
        "descriptors": sorted(os.listdir("/dev/fd")),
    }

before = state()
importlib.import_module(sys.argv[1])
after = state()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""

LOADABLE = [module for module in MODULES if module not in BY_DJANGO]
IMPORTABLE = [".".join(("gws_middleware", *module.parts)).removesuffix(".__init__") for module in LOADABLE]
WITH_NAMES = [name for name, module in zip(IMPORTABLE, LOADABLE, strict=True) if module.name != "__init__"]
WITHOUT_IO = [name for name in IMPORTABLE if package_of(Path(name.partition(".")[2] or "x")).startswith("protocol")]


def ask(script: str, module: str) -> Any:
    """What a fresh interpreter says that imports one module."""
    command = [sys.executable, "-c", script, module]
    answer = subprocess.run(command, env=package_path(), capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


class TestFreshInterpreter:
    def test_package_alone_loads_no_module_of_ours(self) -> None:
        """``import gws_middleware`` costs nothing."""
        assert [name for name in ask(LOADED, "gws_middleware") if name.startswith("gws_middleware.")] == []

    @pytest.mark.parametrize("module", ["gws_middleware.codes", "gws_middleware.typing", *WITHOUT_IO])
    def test_engine_loads_no_server_and_no_socket(self, module: str) -> None:
        """``protocol`` is without I/O: it can be used, tested and fuzzed with nothing but Python."""
        loaded = {name.partition(".")[0] for name in ask(LOADED, module)}
        assert loaded & {"gevent", "geventwebsocket", "greenlet", "gunicorn", "django", "redis", *SOCKETS} == set()

    @pytest.mark.parametrize("module", ["middleware", "testing", "pywsgi", "monkey"])
    def test_everything_but_the_worker_does_without_gunicorn(self, module: str) -> None:
        """And nothing needs Django or redis."""
        loaded = {name.partition(".")[0] for name in ask(LOADED, f"gws_middleware.{module}")}
        assert loaded & {"gunicorn", "django", "redis"} == set()

    @pytest.mark.parametrize("package", [room for room, (line, _) in PACKAGES.items() if line >= max(LINES) - 1])
    def test_import_has_no_effect(self, package: str) -> None:
        """Nothing is patched, started, opened or registered; the application decides about that. The uppermost rooms
        load all the others.
        """
        assert ask(EFFECTS, f"gws_middleware.{package}") == []


@pytest.mark.parametrize("module", IMPORTABLE)
def test_every_public_name_exists(module: str) -> None:
    """What ``__all__`` lists can be imported, once each, and none is private."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", [])
    assert sorted(set(names)) == sorted(names)
    assert [name for name in names if not hasattr(loaded, name) or (name[0] == "_" and name != "__version__")] == []


@pytest.mark.parametrize("module", ["gws_middleware", *WITH_NAMES])
def test_every_module_names_what_is_public(module: str) -> None:
    """By ``__all__``; and its first lines say what it is."""
    loaded = importlib.import_module(module)
    assert loaded.__all__
    assert (loaded.__doc__ or "").strip()
