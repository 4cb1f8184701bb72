"""``manage.py runserver`` on gevent, with WebSockets. Options, output and reloader are those of Django.

Rule: the process that serves is patched by gevent. The reloader's parent process starts it through ``bootstrap``. A
process that was not started so (with ``--noreload``, or because the code was broken at first) replaces itself by one
that is (``exec``).
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

SHUTDOWN_TIMEOUT = 0.5
"""Seconds to close the WebSockets and to wait for their views. On Ctrl-C the parent process kills after 0.25 s."""
RELOAD_INTERVAL = 0.25
"""Seconds between two checks of the files by the reloader. Django's value, 1 s, would be most of the time of a restart.
"""
SIGNAL_INTERVAL = 0.25
"""Seconds between two wake-ups of gevent's loop, which handles signals then. A signal that comes right before the loop
starts to wait does not wake it.
"""


class Command(DjangoCommand):
    """Django's ``runserver``. ``--nothreading`` has no effect, because every request has a greenlet."""

    help = "Starts a lightweight web server for development, with WebSockets."
    _called_from_command_line: bool
    addr: str
    _raw_ipv6: bool
    _server: Server | None = None

    def run(self, **options: Any) -> None:
        """Serve in a process that gevent has patched, and close the WebSockets when it ends."""
        parent = options["use_reloader"] and os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true"
        if not monkey.is_module_patched("threading") and os.path.exists(sys.argv[0]):
            if parent:
                autoreload.get_child_arguments = patched_program
            elif options["use_reloader"] or self._called_from_command_line:
                # A process in which call_command() runs is not replaced. There check W005 warns.
                sys.stdout.flush()
                sys.stderr.flush()
                program = patched_program()
                os.execv(program[0], program)
        autoreload.StatReloader.SLEEP_TIME = RELOAD_INTERVAL  # type: ignore[assignment]
        try:
            super().run(**options)
        finally:
            if self._server is not None:
                self._server.shut_down(SHUTDOWN_TIMEOUT)

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Serve; the reloader runs this in a thread, which is a greenlet here."""
        with suppress(ValueError):  # call_command() in another thread than the main one, which gets no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _stop)
        wake = get_hub().loop.timer(SIGNAL_INTERVAL, SIGNAL_INTERVAL, ref=False)
        wake.start(_nothing)
        self.server_cls = self._listen  # type: ignore[assignment]
        try:
            super().inner_run(*args, **{**options, "use_threading": False})
        finally:
            wake.close()

    def _listen(self, *args: Any, **options: Any) -> Server:
        self._server = server = Server(*args, **options)
        server.on_start = self._print_address
        return server

    def _print_address(self) -> None:
        """Print the line after Django's banner."""
        assert self._server is not None
        host = f"[{self.addr}]" if self._raw_ipv6 else {"0": "0.0.0.0"}.get(self.addr, self.addr)
        self.stdout.write(f"WebSockets are served at ws://{host}:{self._server.server_port}/")


def patched_program() -> list[str]:
    """The command line that starts the program of this process again, through ``bootstrap``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name == "__main__":
        program = [sys.argv[0]]
    else:
        program = ["-m", spec.name.removesuffix(".__main__")]
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    unbuffered = ["-u"] if getattr(sys.stdout, "write_through", False) else []
    return [sys.executable, *flags, *unbuffered, os.path.realpath(bootstrap.__file__), *program, *sys.argv[1:]]


def _nothing() -> None:
    """Runs in the hub. Python handles signals when the loop has woken."""


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise the exception in the main greenlet, which waits, and not in the view that the signal interrupts."""
    signal.signal(number, signal.SIG_DFL)  # a second signal ends a process whose views block the event loop
    error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(0)
    hub: Any = get_hub()
    hub.loop.run_callback(hub.parent.throw, error)
