"""The package itself: its names, its version and its marker for type checkers."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest
from trove_classifiers import classifiers

import gws_middleware
from gws_middleware.native import MODULES

ROOT = Path(__file__).parents[1]
PAGES_OF_THE_ADMIN = [
    path for folder in ("static", "templates") for path in (ROOT / "gws_middleware" / "django" / folder).rglob("*.*")
]
"""Templates, styles and scripts, which are no modules."""


def test_names_are_what_type_checkers_see() -> None:
    """Each name of ``__all__`` is imported under ``if TYPE_CHECKING``; at run time it is the object of that module."""
    tree = ast.parse(Path(gws_middleware.__file__).read_text())
    seen = {
        alias.name: getattr(importlib.import_module(f"gws_middleware.{node.module}"), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert {name: getattr(gws_middleware, name) for name in seen} == seen
    assert sorted([*seen, "__version__"]) == sorted(gws_middleware.__all__)


def test_star_import_gives_the_public_names() -> None:
    """For an interactive session."""
    namespace: dict[str, object] = {}
    exec("from gws_middleware import *", namespace)
    assert set(gws_middleware.__all__) <= set(namespace)


def test_dir_lists_the_public_names() -> None:
    """Also those that have not been loaded yet."""
    assert dir(gws_middleware) == sorted(gws_middleware.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """With the usual sentence, so that ``hasattr`` and friends work."""
    with pytest.raises(AttributeError, match="module 'gws_middleware' has no attribute 'Websocket'"):
        gws_middleware.Websocket  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(gws_middleware, "websockets")


def test_version_stands_in_one_place() -> None:
    """The package has it; the build reads it from there, and the installed metadata have the same."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'dynamic = ["version"]' in text
    assert 'version = { attr = "gws_middleware.__version__" }' in text
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", gws_middleware.__version__)
    assert version("gws-middleware") == gws_middleware.__version__, "install the package again: make .venv/.installed"


def test_classifiers_exist() -> None:
    """PyPI refuses a distribution with a classifier that it does not know."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    declared = re.findall(r'^    "([\w ]+ :: .*)",$', text, re.MULTILINE)
    assert "Framework :: Django :: 6.1" in declared
    assert set(declared) <= classifiers


def test_package_is_marked_as_typed() -> None:
    """PEP 561: an installed package's annotations count only with this file."""
    assert files(gws_middleware).joinpath("py.typed").is_file()


# --- what is built -------------------------------------------------------------------------------------------------


def build(source: Path, into: Path, kind: str, **environment: str) -> Path:
    """Build a ``sdist`` or a ``wheel`` of a folder with the build backend, in a process of its own."""
    script = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", script, f"build_{kind}", str(into)],
        cwd=source,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = into.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of a copy of the repository, with what a developer's copy has beside the sources."""
    copy = tmp_path_factory.mktemp("sdist") / "copy"
    made = shutil.ignore_patterns(".git", ".venv*", ".nox", "build", "dist", "_build", "*.egg-info", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=made)
    for junk in ("docs/_build/index.html", "gws_middleware/connection/_channel.so", "examples/chat/chat.sqlite3"):
        (copy / junk).parent.mkdir(exist_ok=True)
        (copy / junk).touch()
    return build(copy, tmp_path_factory.mktemp("dist"), "sdist")


@pytest.fixture
def unpacked(sdist: Path, tmp_path: Path) -> Path:
    """What is in the source distribution."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [folder] = tmp_path.iterdir()
    return folder


def test_source_distribution_has_what_the_repository_has(unpacked: Path) -> None:
    """Tests, documentation, examples and configuration files too; nothing that was built."""
    tracked = ("gws_middleware", "tests", "tools", "docs", "examples", "benchmarks", "stress", "fuzz", ".github")
    made = re.compile(r"__pycache__|_build|\.(?:so|sqlite3|secret|pyc)$|\.egg-info|screenshots")
    for folder in tracked:
        wanted = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        found = {path.relative_to(unpacked) for path in (unpacked / folder).rglob("*") if path.is_file()}
        assert {path for path in wanted ^ found if not made.search(str(path))} == set()
        assert {path for path in found if made.search(str(path))} == set()
    for name in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "gunicorn_conf.py",
        "noxfile.py",
    ):
        assert (unpacked / name).is_file(), name


@pytest.mark.parametrize(
    "environment",
    [{"GWS_SPEEDUPS": "0"}, {"GWS_SPEEDUPS": "", "CC": "false"}],
    ids=["GWS_SPEEDUPS=0", "a compiler that fails"],
)
def test_wheel_without_extensions_is_pure(environment: dict[str, str], unpacked: Path, tmp_path: Path) -> None:
    """It is bound to no machine and no version of Python, and has no C in it."""
    wheel = build(unpacked, tmp_path / "wheel", "wheel", **environment)
    assert wheel.name == f"gws_middleware-{gws_middleware.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "gws_middleware/py.typed" in names
    assert set(names) >= {str(path.relative_to(ROOT)) for path in PAGES_OF_THE_ADMIN}
    assert [name for name in names if name.endswith((".c", ".h", ".so")) or "/purelib/" in name] == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_wheel_with_extensions_is_for_one_machine(unpacked: Path, tmp_path: Path) -> None:
    """The modules in C are in it, and their sources are not."""
    wheel = build(unpacked, tmp_path / "wheel", "wheel", GWS_SPEEDUPS="1", CFLAGS="-O0")
    assert f"-cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    built = {name.partition(".")[0].replace("/", ".") for name in names if name.endswith(".so")}
    assert built == set(MODULES)
    assert [name for name in names if name.endswith((".c", ".h"))] == []
