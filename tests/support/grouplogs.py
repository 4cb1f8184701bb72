"""Projects whose groups are ``"auto"``: they leave a directory outside of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gws_middleware.groups.backends.directory import automatic

__all__ = ["automatic_groups"]


@contextmanager
def automatic_groups(project: Path) -> Iterator[Path]:
    """The directory that ``Groups("auto")`` has for a project; it is removed at the end."""
    directory = automatic(project)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
