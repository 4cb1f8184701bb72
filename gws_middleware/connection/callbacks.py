"""A connection without a view: callbacks receive the messages, in a greenlet that exists while there are any.

============  =============================================  ==================================================
stage         meaning                                        left by
============  =============================================  ==================================================
``IDLE``      no greenlet                                    ``start()`` to RUNNING
``RUNNING``   one greenlet takes the messages in order       an empty inbox to IDLE; the end to FINISHED
``FINISHED``  ``on_close`` was called                        (final)
============  =============================================  ==================================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import gevent

from ..codes import CloseCode
from ..exceptions import ConnectionClosed
from ..process.shutdown import ends_process
from ..typing import Environ, Message

__all__ = ["Callbacks", "LogLine", "OnClose", "OnMessage"]

log = logging.getLogger("gws_middleware")

OnMessage = Callable[[Any, Message], object]
OnClose = Callable[[Any], object]
LogLine = Callable[[Environ, float, int], None]
"""Writes the line of a request in the server's access log: environ, seconds, bytes sent."""

IDLE, RUNNING, FINISHED = range(3)


class Detached(Protocol):
    """What the callbacks need of their WebSocket."""

    @property
    def path(self) -> str:
        """For the log."""

    def close(self, code: int = ...) -> None:
        """Close it."""

    def _take_message(self) -> Message | None:
        """The next message, or None where none waits."""

    def _take_end(self) -> bool:
        """Whether the connection has ended and this was not delivered before."""

    def _drop_messages(self) -> None:
        """Forget those that wait."""

    def _is_ended(self) -> bool:
        """Whether it has ended or is ending."""

    def _greenlet_ends(self) -> None:
        """The greenlet is about to end, and the connection stays open."""

    def _finish(self, log_line: LogLine | None) -> None:
        """Nothing of the application's runs any more."""

    def _shutdown_code(self) -> int:
        """The close code of a process that ends."""


class Callbacks:
    """What ``detach()`` was called with, and the greenlet that calls it."""

    __slots__ = ("_on_close", "_on_message", "_stage", "_ws", "log_line")

    def __init__(self, ws: Detached, on_message: OnMessage | None, on_close: OnClose | None) -> None:
        self._ws = ws
        self._on_message, self._on_close = on_message, on_close
        self._stage = IDLE
        self.log_line: LogLine | None = None
        """For the end of the connection."""

    @property
    def is_finished(self) -> bool:
        """Whether ``on_close`` was called."""
        return self._stage == FINISHED

    def start(self) -> None:
        """Messages have come, or the end: run, unless the greenlet runs already."""
        if self._stage == IDLE:
            gevent.spawn(self._run)
            self._stage = RUNNING

    def _run(self) -> None:
        ws = self._ws
        try:
            while (message := ws._take_message()) is not None:
                if self._on_message is not None:
                    self._call(self._on_message, message)
        finally:
            self._stage = IDLE
            if ws._take_end():
                self._end()
            else:
                ws._greenlet_ends()

    def _end(self) -> None:
        """The last thing that runs for the connection."""
        on_close, self._on_message, self._on_close = self._on_close, None, None
        try:
            if on_close is not None:
                self._call(on_close)
        finally:
            self._stage = FINISHED
            ws, log_line, self.log_line = self._ws, self.log_line, None
            del self._ws  # each refers to the other: part them, so that none waits for the garbage collector
            ws._finish(log_line)

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Whatever it raises ends its own connection: it is logged once and closes with 1011."""
        ws = self._ws
        try:
            callback(ws, *arguments)
        except BaseException as error:
            if isinstance(error, ConnectionClosed) and ws._is_ended():
                return  # a callback has used a connection that has ended
            if isinstance(error, gevent.GreenletExit) or ends_process(error):
                ws.close(ws._shutdown_code())
                raise
            log.error("WebSocket %s: %r raised; closed with 1011", ascii(ws.path), callback, exc_info=error)
            ws._drop_messages()
            ws.close(CloseCode.INTERNAL_ERROR)
