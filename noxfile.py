"""The suite on every CPython that this machine has, and the tests of the Django app with every Django that supports it:
``python -m nox``, or ``make test-all``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nox

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
DJANGO = {
    "4.2": ("3.10", "3.11", "3.12"),
    "5.2": ("3.10", "3.11", "3.12", "3.13", "3.14"),
    "6.0": ("3.12", "3.13", "3.14"),
    "6.1": ("3.12", "3.13", "3.14"),
}
"""Which CPython each Django supports."""


def _candidates(version: str) -> Iterator[str]:
    """Where an interpreter of this version may be: on the PATH, or in a folder of pyenv."""
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True))


def _runs(interpreter: str) -> bool:
    """Whether it is more than a shim of pyenv's for a version that is not selected."""
    check = "import sys; sys.exit(sys.implementation.name != 'cpython')"
    return subprocess.run([interpreter, "-c", check], capture_output=True, check=False).returncode == 0


FOUND = {version: next(filter(_runs, _candidates(version)), None) for version in VERSIONS}
MISSING = ", ".join(version for version, interpreter in FOUND.items() if interpreter is None)

PARALLEL = ("--numprocesses=4", "--dist=loadfile", "--no-loadscope-reorder")
"""As ``make test``."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as there, too

nox.options.error_on_missing_interpreters = True


def tests(session: nox.Session) -> None:
    """Install the package with all that the tests need, and run them; arguments after ``--`` go to pytest."""
    session.install("--editable", ".[dev]")
    # gunicorn's C parser is tested where it can be built; elsewhere the last lines of the run report that it was not.
    session.run("python", "-m", "pip", "install", "--quiet", "gunicorn_h1c>=0.6.6", success_codes=[0, 1], silent=True)
    session.run("python", "-m", "pytest", *PARALLEL, *session.posargs)
    if MISSING:
        session.log(f"not on this machine, so not tested: CPython {MISSING}")


def django(session: nox.Session, version: str) -> None:
    """The tests of the Django app with one version of Django. The apps of other projects choose their own Django."""
    session.install("--editable", ".[dev]")
    session.install(f"django=={version}.*")
    others = "--ignore=tests/django/test_thirdparty.py"
    session.run(
        "python", "-m", "pytest", "tests/django", "tests/documents/test_chat.py", others, *PARALLEL, *session.posargs
    )


for version, interpreter in FOUND.items():
    if interpreter is not None:
        nox.session(tests, python=interpreter, name=f"tests-{version}")
        for release in (release for release, supported in DJANGO.items() if version in supported):
            with_release = partial(django, version=release)
            with_release.__doc__ = django.__doc__
            nox.session(with_release, python=interpreter, name=f"django-{release}-{version}")
