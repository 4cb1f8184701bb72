"""Patches the standard library for gevent, and then runs a program: ``python bootstrap.py manage.py runserver``, or
``python bootstrap.py -m project runserver``.

Rule: gevent patches before anything else is imported. ``runserver`` starts its serving process like this, because a
project that is already loaded cannot be patched.
"""

from __future__ import annotations

import os
import runpy
import sys

__all__ = ["main"]


def main() -> None:
    """Patch, and run the program in the arguments as ``python`` does. Only ``sys.argv[0]`` differs: it is absolute."""
    module = sys.argv[1] == "-m"
    del sys.argv[: 2 if module else 1]
    # Python has put the folder of this file first, unless "-P" or "-I" is set. Replace it before any other import.
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
