"""Private names of the package stay out of the tests, except in one module that says what it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .support.private import TESTS, private_names

SEAM = TESTS / "support" / "seam.py"
FILES = [file for file in sorted(TESTS.rglob("*.py")) if file != SEAM]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_tests_use_no_private_names(file: Path) -> None:
    """What they need beside the public interface stands in ``support.seam``."""
    assert private_names(file) == []


def test_private_names_are_found(tmp_path: Path) -> None:
    """As an attribute, as a string and in an import; those of the test's own classes do not count."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "from gws_middleware.testing import _Server, connect\n"
        "from gws_middleware.protocol import _speedups\n"
        "import os\n"
        "ws._transport.pause()\n"
        "monkeypatch.setattr(ws, '_paused', True)\n"
        "getattr(ws, '_paused')\n"
        "self._own, cls._own, super()._own, os._exit(0), ws.__dict__\n"
    )
    assert private_names(file) == ["1: _Server", "4: _transport", "5: _paused", "6: _paused"]


@pytest.mark.parametrize("folder", ["", "connection", "documents", "hostile", "process", "protocol", "servers"])
def test_test_modules_do_not_import_each_other(folder: str) -> None:
    """What several of them use stands in ``support``."""
    files = sorted((TESTS / folder).glob("*.py"))
    imports = [
        f"{file.name}: {module}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        for module in [node.module or "", *(name.name for name in node.names)]
        if module.rpartition(".")[2].startswith("test_")
    ]
    assert imports == []
