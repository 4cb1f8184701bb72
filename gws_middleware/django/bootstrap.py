"""Runs a program of which every import is to see gevent's patches: ``python bootstrap.py manage.py runserver``, or
``python bootstrap.py -m project runserver``.

``runserver`` starts its serving process like this, because a project that is loaded cannot be patched any more.
"""

from __future__ import annotations

import os
import runpy
import sys

__all__ = ["main"]


def main() -> None:
    """Patch, and run what the arguments say as ``python`` would, but for ``sys.argv[0]``, which is absolute."""
    module = sys.argv[1] == "-m"
    del sys.argv[: 2 if module else 1]
    # Python has put this file's folder in the first place, unless it was told not to: before anything else is imported.
    if sys.path[0] == os.path.dirname(os.path.realpath(__file__)):
        sys.path[0] = os.getcwd() if module else os.path.dirname(os.path.realpath(sys.argv[0]))
    from gevent import monkey

    monkey.patch_all()
    if module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(os.path.abspath(sys.argv[0]), run_name="__main__")


if __name__ == "__main__":
    main()
