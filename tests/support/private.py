"""Finds where tests use what the package keeps to itself.

A private name is one with an underscore: ``thing._name`` of another object than ``self`` and ``cls``, its name as a
string for ``setattr`` and the like, or in an import from the package. Tests use the public interface; where that does
not suffice, they use ``seam``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

__all__ = ["private_names"]

TESTS = Path(__file__).resolve().parents[1]
PRIVATE = re.compile(r"_[A-Za-z]\w*")
OTHERS = {"_exit", "_replace", "_fields", "_asdict", "_fixtureinfo"}
"""Of the standard library and of pytest."""
MODULES = {"_channel", "_fastpath", "_speedups"}
"""In C: their names are what is private, not what they hold."""
BY_NAME = {"setattr", "getattr", "delattr", "hasattr"}


def _is_private(name: str) -> bool:
    return PRIVATE.fullmatch(name) is not None and name not in OTHERS


def _names(node: ast.AST) -> list[str]:
    """The private names that one node of the syntax tree uses."""
    match node:
        case (
            ast.Attribute(value=ast.Name(id="self" | "cls")) | ast.Attribute(value=ast.Call(func=ast.Name(id="super")))
        ):
            return []
        case ast.Attribute(attr=name) if _is_private(name):
            return [name]
        case ast.Call(
            func=ast.Name(id=function) | ast.Attribute(attr=function), args=[_, ast.Constant(value=str(name)), *_]
        ) if function in BY_NAME and _is_private(name):
            return [name]
        case ast.ImportFrom(module=str(module), names=names) if module.startswith("gws_middleware"):
            return [each.name for each in names if _is_private(each.name) and each.name not in MODULES]
    return []


def private_names(file: Path) -> list[str]:
    """``line: name`` for each use in a file."""
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    found = [(getattr(node, "lineno", 0), name) for node in nodes for name in _names(node)]
    return [f"{line}: {name}" for line, name in sorted(found)]
