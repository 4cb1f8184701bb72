"""``native``: GWS_SPEEDUPS chooses between C and pure Python."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from gws_middleware.native import MODULES, load

ROOT = Path(__file__).resolve().parents[1]
NAME = "gws_middleware.protocol._speedups"


def test_extension_zero() -> None:
    """GWS_SPEEDUPS=0 means pure Python, built extension or not."""
    assert load(NAME, "0") is None


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("choice", ["", "1"])
def test_extension_built(choice: str, name: str) -> None:
    """Unset, and with 1, the extension is taken where it is built."""
    if find_spec(name) is None:
        pytest.skip("the extension is not built")
    assert load(name, choice) is importlib.import_module(name)


def test_extension_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset, a missing extension means pure Python."""
    monkeypatch.setitem(sys.modules, NAME, None)
    assert load(NAME, "") is None


def test_extension_one_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """With GWS_SPEEDUPS=1 a missing extension is an error that says what to do."""
    monkeypatch.setitem(sys.modules, NAME, None)
    with pytest.raises(ImportError) as caught:
        load(NAME, "1")
    assert str(caught.value) == (
        "GWS_SPEEDUPS is 1, but the C extension gws_middleware.protocol._speedups cannot be imported: "
        "install with a C compiler at hand, or leave GWS_SPEEDUPS unset to run in pure Python"
    )


@pytest.mark.parametrize("choice", ["2", "yes", "false", " 1"])
def test_extension_unknown_value(choice: str) -> None:
    """Any other value is an error that names it."""
    with pytest.raises(ImportError) as caught:
        load(NAME, choice)
    assert str(caught.value) == (
        f"GWS_SPEEDUPS is {choice!r}: set it to 1 (C or nothing), 0 (pure Python) or leave it unset"
    )


def test_headers_are_known_to_the_build() -> None:
    """A header of ours that a C file includes is in its ``depends``: so it is in the sdist, and a change rebuilds."""
    program = (
        "import setuptools, distutils.core, json\n"
        "made = distutils.core.run_setup('setup.py', stop_after='init')\n"
        "print(json.dumps([[e.name, e.sources, e.depends] for e in made.ext_modules]))\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "GWS_SPEEDUPS"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    extensions = json.loads(done.stdout.splitlines()[-1])
    assert sorted(name for name, _, _ in extensions) == sorted(MODULES)
    for _, (source,), depends in extensions:
        included = re.findall(r'^#include "(.*)"', (ROOT / source).read_text(), re.MULTILINE)
        assert {(ROOT / source).parent.joinpath(name).resolve() for name in included} <= {ROOT / d for d in depends}
