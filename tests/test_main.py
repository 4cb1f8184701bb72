"""``python -m gws_middleware``: the report about an installation."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

import gws_middleware
from gws_middleware import __main__, __version__, native

from .support.inprocess import package_path

BUILT = all(find_spec(name) is not None for name in native.MODULES)
ONE = native.MODULES[0]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program in an interpreter of its own."""
    command = [sys.executable, *(arguments or ("-m", "gws_middleware"))]
    environment = {**package_path(), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def rows(text: str) -> dict[str, str]:
    """The lines of the report that have a name and a value."""
    return {line[:24].strip(): line[24:] for line in text.splitlines() if line[24:]}


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these distributions be missing."""

    def installed(name: str) -> str:
        if name in names:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(__main__, "version", installed)


def test_program_ends_with_status_zero() -> None:
    """It prints the report, and nothing on standard error."""
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(done.stdout)["gws_middleware"] == f"{__version__} in {Path(gws_middleware.__file__).parent}"


def test_report_names_versions() -> None:
    """Python, gevent, and each server and framework with how it is started."""
    shown = rows(__main__.report())
    assert shown["Python"].startswith(f"CPython {sys.version_info[0]}.{sys.version_info[1]}.")
    assert shown["gevent"].split() == [version("gevent"), "gevent.pywsgi:", "gws_middleware.pywsgi.WSGIServer"]
    assert shown["gunicorn"].split(maxsplit=1) == [
        version("gunicorn"),
        "gunicorn -k gws_middleware.worker.GeventWebSocketWorker",
    ]
    assert (shown["Django"], shown["Flask"]) == (version("django"), version("flask"))


def test_report_without_servers_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django, Flask and gunicorn may all be missing."""
    without(monkeypatch, "gunicorn", "django", "flask")
    shown = rows(__main__.report())
    assert [shown[name] for name in ("gunicorn", "Django", "Flask")] == [
        "not installed: pip install 'gws-middleware[gunicorn]'",
        "not installed: pip install 'gws-middleware[django]'",
        "not installed: pip install 'gws-middleware[flask]'",
    ]


def test_report_imports_no_server_and_no_framework() -> None:
    """So it also appears where one of them cannot be imported."""
    script = (
        "import runpy, sys\n"
        "runpy.run_module('gws_middleware', run_name='__main__')\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'gunicorn', 'django', 'flask'})\n"
    )
    done = run("-c", script)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "set()"), done.stderr


def test_report_has_a_line_for_each_module_in_c() -> None:
    """All that ``native`` knows."""
    shown = rows(__main__.report())
    assert {f"gws_middleware.{name}" for name in shown} >= set(native.MODULES)


@pytest.mark.skipif(not BUILT, reason="the extensions are not built")
@pytest.mark.parametrize(
    ("choice", "state", "end"),
    [
        ("", "loaded", "loaded"),
        ("1", "loaded", "loaded"),
        ("0", "built, not used", "Remove the variable to use the modules that are built."),
        (
            "yes",
            "GWS_SPEEDUPS is 'yes': set it to 1 (C or nothing), 0 (pure Python) or leave it unset",
            "leave it unset",
        ),
    ],
)
def test_report_follows_the_variable(choice: str, state: str, end: str) -> None:
    """What GWS_SPEEDUPS makes of modules that are built, and what to do, in the last line."""
    done = run(GWS_SPEEDUPS=choice)
    shown = rows(done.stdout)
    assert {shown[name.removeprefix("gws_middleware.")] for name in native.MODULES} == {state}
    assert done.stdout.endswith(f"{end}\n")
    assert done.returncode == 0


def test_report_says_how_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a module was not built."""
    monkeypatch.setattr(__main__, "find_spec", lambda name: None if name == ONE else find_spec(name))
    text = __main__.report()
    assert rows(text)[ONE.removeprefix("gws_middleware.")] == "not built"
    assert "install a C compiler" in text
    assert "GWS_SPEEDUPS=1" in text


def test_report_says_why_a_module_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that was built for another Python, for example: the reason, and how to build it again."""
    monkeypatch.setattr(__main__, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, ONE, None)
    monkeypatch.setattr(native.load, "__defaults__", ("",))
    text = __main__.report()
    assert f"cannot be loaded: import of {ONE} halted; None in sys.modules" in text
    assert "install a C compiler" in text
