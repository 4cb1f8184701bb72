"""``manage.py runserver`` on gevent: WebSockets beside HTTP and static files, all else as Django has it.

The reloader's parent process is Django's own. The one that serves is started through ``bootstrap``; where it was not
(``--noreload``, or code that was broken at first) it starts its program anew.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

from django.apps import apps
from django.utils import autoreload
from gevent import get_hub, monkey

from ... import bootstrap
from ...devserver import Server

if apps.ready and apps.is_installed("django.contrib.staticfiles"):
    from django.contrib.staticfiles.management.commands.runserver import Command as DjangoCommand
else:
    from django.core.management.commands.runserver import Command as DjangoCommand  # type: ignore[assignment]

__all__ = ["Command"]

GOODBYE = 0.5
"""Seconds for the goodbye of the WebSockets and for their views to end. On Ctrl-C the parent kills after 0.25 s."""
LOOK = 0.25
"""Seconds between two looks of the reloader at the files. Django's one second is most of what a restart would take."""
WAKE = 0.25
"""Seconds between two looks at signals. One that comes in the moment before gevent's loop waits does not wake it."""


class Command(DjangoCommand):
    """Options are Django's; ``--nothreading`` changes nothing, because every request has a greenlet."""

    help = "Starts a lightweight web server for development, which serves WebSockets too."
    _called_from_command_line: bool
    addr: str
    _raw_ipv6: bool
    _server: Server | None = None

    def run(self, **options: Any) -> None:
        """Serve in a process that gevent has patched, and end it with a goodbye."""
        parent = options["use_reloader"] and os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true"
        if not monkey.is_module_patched("threading") and os.path.exists(sys.argv[0]):
            if parent:
                autoreload.get_child_arguments = patched_program
            elif options["use_reloader"] or self._called_from_command_line:
                # Somebody else's process, in which call_command() runs, stays as it is. Then check W005 speaks.
                sys.stdout.flush()
                sys.stderr.flush()
                program = patched_program()
                os.execv(program[0], program)
        autoreload.StatReloader.SLEEP_TIME = LOOK  # type: ignore[assignment]
        try:
            super().run(**options)
        finally:
            if self._server is not None:
                self._server.shut_down(GOODBYE)

    def inner_run(self, *args: Any, **options: Any) -> None:
        """What the reloader runs in a thread, here a greenlet."""
        with suppress(ValueError):  # call_command() in somebody's thread: signals are not ours there
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _stop)
        wake = get_hub().loop.timer(WAKE, WAKE, ref=False)
        wake.start(_nothing)
        self.server_cls = self._listen  # type: ignore[assignment]
        try:
            super().inner_run(*args, **{**options, "use_threading": False})
        finally:
            wake.close()

    def _listen(self, *args: Any, **options: Any) -> Server:
        self._server = server = Server(*args, **options)
        server.greet = self._greet
        return server

    def _greet(self) -> None:
        """The line after Django's banner."""
        assert self._server is not None
        host = f"[{self.addr}]" if self._raw_ipv6 else {"0": "0.0.0.0"}.get(self.addr, self.addr)
        self.stdout.write(f"WebSockets are served too, at ws://{host}:{self._server.server_port}/")


def patched_program() -> list[str]:
    """The command line that starts this process' program again, through ``bootstrap``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name == "__main__":
        program = [sys.argv[0]]
    else:
        program = ["-m", spec.name.removesuffix(".__main__")]
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    unbuffered = ["-u"] if getattr(sys.stdout, "write_through", False) else []
    return [sys.executable, *flags, *unbuffered, os.path.realpath(bootstrap.__file__), *program, *sys.argv[1:]]


def _nothing() -> None:
    """Runs in the hub. That the loop has run is enough."""


def _stop(number: int, frame: FrameType | None) -> None:
    """The signal may come between two lines of any view: let that go on, and tell the main greenlet, which waits."""
    signal.signal(number, signal.SIG_DFL)  # a second one ends a process whose views never give way
    error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(0)
    hub: Any = get_hub()
    hub.loop.run_callback(hub.parent.throw, error)
