"""The command of the eight programs: ``python -m stress chaos --seconds 60``.

Their clients are greenlets around blocking sockets, so the standard library is patched before anything else is
imported. So the programs cannot be started as modules of their own.
"""

from __future__ import annotations

import sys
from importlib import import_module

from gevent import monkey

PROGRAMS = ("chaos", "soak", "restart", "responsive", "fair", "groups", "logout", "conformance")


def main(arguments: list[str]) -> int:
    """Run the program that the first argument names; its exit status."""
    if not arguments or arguments[0] not in PROGRAMS:
        print(f"usage: python -m stress {{{','.join(PROGRAMS)}}} [--help]", file=sys.stderr)
        return 2
    monkey.patch_all()
    program = import_module(f"stress.{arguments[0]}")
    status: int = program.run(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
