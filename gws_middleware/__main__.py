"""``python -m gws_middleware``: what is installed, and whether the modules in C are used.

Rule: nothing of the servers and frameworks is imported, so that the report also appears where one of them is missing or
cannot be imported. Versions are read from the metadata of the installed packages.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from . import native

__all__ = ["main", "report"]

_PACKAGES = (
    ("gevent", "gevent", "needed: pip install gevent"),
    ("gevent-websocket", "gevent-websocket", "needed: pip install gevent-websocket"),
    ("gunicorn", "gunicorn", "not installed: pip install 'gws-middleware[gunicorn]'"),
    ("Django", "django", "not installed: pip install 'gws-middleware[django]'"),
    ("Flask", "flask", "not installed: pip install 'gws-middleware[flask]'"),
)
"""Name, distribution, and what to say where it is missing."""

_SERVES = {
    "gevent": "gevent.pywsgi: gws_middleware.pywsgi.WSGIServer",
    "gunicorn": "gunicorn -k gws_middleware.worker.GeventWebSocketWorker",
}
"""How the servers among them are started."""

_LOADED = "loaded"
_NOT_BUILT = "not built"
_NOT_LOADED = "cannot be loaded: "
_NOT_USED = "built, not used"

_BUILD = """\
Pure Python does the work of the modules that are not loaded, with the same results, and takes more time for it.
To build them: install a C compiler and the headers of Python (Debian: gcc, python3-dev), then install gws-middleware
again from its source with GWS_SPEEDUPS=1 in the environment, which makes a failed build an error."""

_REMOVE = "Pure Python is used because GWS_SPEEDUPS is 0. Remove the variable to use the modules that are built."


def report() -> str:
    """Describe this installation.

    Returns:
        Lines of text: versions, servers and frameworks, and the state of each module in C with what to do about it.

    """
    return "\n".join(_lines()) + "\n"


def main() -> None:
    """Write the report to standard output. The exit status is 0 whatever was found."""
    sys.stdout.write(report())


def _lines() -> Iterator[str]:
    system = f"{platform.system()} {platform.machine()}"
    own = _version("gws-middleware") or "(not installed by pip)"
    yield _row("gws_middleware", f"{own} in {Path(__file__).parent}")
    yield _row("Python", f"{platform.python_implementation()} {platform.python_version()} on {system}")
    yield ""
    yield "Servers and frameworks"
    for name, distribution, missing in _PACKAGES:
        found = _version(distribution)
        yield _row(f"  {name}", missing if found is None else f"{found:<10} {_SERVES.get(name, '')}".rstrip())
    yield ""
    yield "Modules in C"
    states = {name: _state(name) for name in native.MODULES}
    for name, state in states.items():
        yield _row(f"  {name.removeprefix('gws_middleware.')}", state)
    yield from _advice(set(states.values()))


def _row(name: str, value: str) -> str:
    return f"{name:<24}{value}"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _state(name: str) -> str:
    if find_spec(name) is None:
        return _NOT_BUILT
    try:
        if native.load(name) is not None:
            return _LOADED
        native.load(name, "1")  # raises with the reason, where the module cannot be loaded
    except ImportError as error:
        return f"{_NOT_LOADED}{error.__cause__}" if error.__cause__ else str(error)
    return _NOT_USED


def _advice(states: set[str]) -> Iterator[str]:
    """What to do where a module is not loaded. A wrong value of GWS_SPEEDUPS says itself which values there are."""
    if _NOT_USED in states:
        yield from ("", _REMOVE)
    if any(state == _NOT_BUILT or state.startswith(_NOT_LOADED) for state in states):
        yield from ("", _BUILD)


if __name__ == "__main__":
    main()
