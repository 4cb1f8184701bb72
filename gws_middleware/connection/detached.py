"""A ``WebSocket`` without a view: callbacks get what comes, in a greenlet that is there as long as there is work."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import gevent

from ..codes import CloseCode
from ..exceptions import ConnectionClosed
from ..hooks import Adapter
from ..process.shutdown import ends_process
from ..typing import Environ, Message
from . import logs
from .fastpath import ATTACHED, IDLE, WORKING
from .wire import Wire

__all__ = ["Detached", "OnClose", "OnMessage"]

log = logging.getLogger("gws_middleware")

OnMessage = Callable[[Any, Message], object]
OnClose = Callable[[Any], object]


class Detached(Wire):
    """What the view has left behind, and what follows its end."""

    __slots__ = ("_adapter", "_is_over", "_log_line", "_on_close", "_on_message", "environ")

    environ: Environ
    _adapter: Adapter
    _is_over: bool
    _log_line: Callable[[Environ, float, int], None] | None
    _on_close: OnClose | None
    _on_message: OnMessage | None

    @property
    def path(self) -> str:
        """The request's path below the application."""
        path: str = self.environ.get("PATH_INFO", "")
        return path

    def detach(self, on_message: OnMessage | None = None, on_close: OnClose | None = None) -> None:
        """Let the connection live on after the view has returned; it then holds no greenlet and no frame.

        ``on_message(ws, message)`` is called for each message in order, in one greenlet at a time for this connection,
        and no more after ``close()``; without it messages are dropped. ``on_close(ws)`` is called exactly once, at the
        end. An exception in either, SystemExit too, is logged once and closes with 1011. ``ws.environ`` keeps the
        request's strings only. RuntimeError when it is detached already, and while another greenlet waits in
        ``receive()``, which would take the messages.
        """
        self._turn.refuse_foreign()
        if self._stage != ATTACHED:
            raise RuntimeError("this WebSocket is detached already")
        if self._reader is not None:
            raise RuntimeError(
                "another greenlet is waiting in receive() of this WebSocket: it must have ended before detach()"
            )
        if self._engine is None and not self._ended:
            self._check_open()  # accepts
        self._stage = IDLE
        self._told = False  # on_close tells it once more where receive() has
        self._on_message, self._on_close = on_message, on_close
        self.environ = {sys.intern(key): value for key, value in self.environ.items() if type(value) is str}
        if self._inbox or self._ended:
            self._start_work()

    @property
    def detached(self) -> bool:
        """Whether ``detach()`` was called."""
        return self._stage != ATTACHED

    def _start_work(self) -> None:
        """One greenlet at a time works through the inbox of a detached connection."""
        if self._stage == IDLE:
            gevent.spawn(self._work)
            self._stage = WORKING

    def _work(self) -> None:
        try:
            while self._inbox:
                if self._turn.is_over():
                    self._give_way()
                    continue
                message = self._inbox.pop()
                if self._paused:
                    self._relax()
                if self._on_message is not None:
                    self._call(self._on_message, message)
        finally:
            self._stage = IDLE
            if self._ended and not self._told:
                self._told = True
                on_close, self._on_message, self._on_close = self._on_close, None, None
                try:
                    if on_close is not None:
                        self._call(on_close)
                finally:
                    self._over()
            else:
                self._adapter.ran(self)

    def _leave(self, log_line: Callable[[Environ, float, int], None] | None) -> None:
        """The view has left, and the connection stays; ``log_line`` is for its end."""
        if not self._is_over:
            self._registry.view_returned(self)
        self._log_line = log_line
        self._adapter.ran(self)

    def _over(self) -> None:
        """The connection has ended, and so have its view and ``on_close``. Called once."""
        try:
            self._is_over = True
            if log.isEnabledFor(logging.INFO):
                log.info(*logs.closing(self), extra=logs.of(self))
            self._adapter.closed(self)
        finally:
            self._registry.finished(self)
            log_line, self._log_line = self._log_line, None
            if log_line is not None:
                log_line(self.environ, self.duration, self.stats.bytes_sent)

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            callback(self, *arguments)
        except BaseException as error:
            if isinstance(error, ConnectionClosed) and self._is_closed:
                return  # the end of the connection, seen from a callback
            if isinstance(error, gevent.GreenletExit) or ends_process(error):
                self.close(self._config.shutdown_close_code)
                raise
            log.error("WebSocket %s: %r raised; closed with 1011", ascii(self.path), callback, exc_info=error)
            self._inbox.clear()
            self.close(CloseCode.INTERNAL_ERROR)
