"""Tests of WebSocket applications in one process: the real middleware and engine over a socket pair, no server.

::

    with connect(app, "/ws") as ws:
        ws.send("x")
        assert ws.receive() == "x"
"""

from __future__ import annotations

import base64
import copy
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import gevent
from gevent import socket as gsocket
from gevent.event import AsyncResult, Event

from .codes import CloseCode
from .config import ClientOptions
from .connection import jsontext
from .connection.channel import Channel, plain_channel
from .exceptions import ConnectionClosed, HandshakeRefused
from .middleware import WebSocketMiddleware
from .protocol import deflate
from .protocol.connection import Connection, State
from .protocol.handshake import check_response
from .servers.base import SERVER_KEY, SWITCHING, Server
from .typing import Environ, Headers, Message, StartResponse, Write, WSGIApp
from .watchdog import StuckError, Watchdog

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Client", "connect"]

HOST = "testserver"
READ_SIZE = 65536
OF_THE_APPLICATION = (Exception, gevent.GreenletExit, gevent.Timeout, GeneratorExit, KeyboardInterrupt, SystemExit)
"""What an application raises that its server deals with. All else is meant for the test, e.g. pytest's outcomes."""

_watchdog = Watchdog()


def connect(
    app: WSGIApp,
    path: str = "/",
    *,
    subprotocols: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    origin: str | None = None,
    compression: deflate.Parameters | None = None,
    environ: Mapping[str, Any] | None = None,
    timeout: float = 5.0,
    **options: Unpack[ClientOptions],
) -> Client:
    """A client for one connection to ``app``; the handshake is done when its ``with`` block is entered.

    ``app`` is wrapped with ``options`` unless it is wrapped already. ``path`` may have a query. ``compression`` is what
    the client offers, ``environ`` is laid over the WSGI environ, and ``timeout`` (s) bounds each wait, so that no test
    hangs: not even on an application that never gives way to the client, in a test that runs in the main thread.

    HandshakeRefused: the application answered with HTTP. An exception that it raised before the 101 comes out as it is,
    and a BaseException of a test framework's, e.g. of ``pytest.fail()`` or ``pytest --timeout``, after it, too.
    """
    if not isinstance(app, WebSocketMiddleware):
        app = WebSocketMiddleware(app, **options)
    elif options:
        raise TypeError(f"the application is wrapped already, so these options have no effect: {', '.join(options)}")
    offers = tuple(subprotocols)
    key = base64.b64encode(os.urandom(16)).decode()
    fields = {"Host": HOST, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    fields["Sec-WebSocket-Key"] = key
    if offers:
        fields["Sec-WebSocket-Protocol"] = ", ".join(offers)
    if compression is not None:
        fields["Sec-WebSocket-Extensions"] = deflate.offer(compression)
    if origin is not None:
        fields["Origin"] = origin
    fields.update(headers or {})
    request = {**_environ(path, fields), **(environ or {})}
    return Client(app, request, key, offers, compression, timeout)


def _environ(path: str, headers: Mapping[str, str]) -> Environ:
    path, _, query = path.partition("?")
    environ: Environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": HOST,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers.items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    return environ


class _PairServer(Server):
    """The server's side of the socket pair; it tells ``answered`` whether a 101 or a response came out."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.answered: AsyncResult[tuple[str, Headers, bytes]] = AsyncResult()
        self.told: _Told | None = None
        self.failure: BaseException | None = None
        """What the application raised for the test."""
        self._environ: Environ = {}
        self._status: tuple[str, Headers] | None = None
        self._body: list[bytes] = []

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Write:
        self._status = status, headers
        return self._body.append

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        start_response(SWITCHING, headers)
        ws = self._environ["wsgi.websocket"]
        ws._adapter = self.told = _Told(ws._adapter)
        self.answered.set((SWITCHING, headers, b""))
        return plain_channel(self.sock), b""

    def serve(self, app: WebSocketMiddleware, environ: Environ) -> None:
        """One request, as a WSGI server serves it. Runs in a greenlet of its own."""
        self._environ = environ
        noting = copy.copy(app)
        noting._call = _Noting(app._call, self)
        try:
            result = noting(environ, self.start_response)
            try:
                for chunk in result:
                    self._body.append(chunk)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except Exception as error:
            if self.answered.ready():
                raise
            self.answered.set_exception(error)
        except BaseException as error:
            if error is not self.failure:
                raise
            self.answered.set_exception(error)
        else:
            if not self.answered.ready():
                status, headers = self._status or ("500 Internal Server Error", [])
                self.answered.set((status, headers, b"".join(self._body)))
        finally:
            self.sock.close()


class _Noting:
    """The application, or its response. What is raised in it after the 101 is logged by the middleware; this notes what
    of it is meant for the test.
    """

    def __init__(self, inside: Any, server: _PairServer) -> None:
        self._inside, self._server = inside, server

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OF_THE_APPLICATION:
            raise
        except BaseException as error:
            self._server.failure = error
            raise

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        with self._noted():
            result = self._inside(environ, start_response)
        return _Noting(result, self._server) if hasattr(result, "__iter__") else result

    def __iter__(self) -> Iterator[bytes]:
        with self._noted():
            yield from self._inside

    def close(self) -> None:
        with self._noted():
            getattr(self._inside, "close", lambda: None)()


class _Told:
    """A WebSocket's adapter, which notes that the connection has ended, and its view or ``on_close`` too."""

    def __init__(self, adapter: Any) -> None:
        self._adapter, self.end = adapter, Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def closed(self, ws: Any) -> None:
        try:
            self._adapter.closed(ws)
        finally:
            self.end.set()


class Client:
    """The client's end of one connection. Use it as a ``with`` block; its end waits for the application's: for that of
    the view, and of the callbacks of a detached connection.
    """

    def __init__(
        self,
        app: WebSocketMiddleware,
        environ: Environ,
        key: str,
        subprotocols: tuple[str, ...],
        compression: deflate.Parameters | None,
        timeout: float,
    ) -> None:
        self.timeout = timeout
        """Seconds that each wait may take before TimeoutError is raised."""
        self.subprotocol: str | None = None
        self.headers: Headers = []
        """The headers of the 101."""
        self._app, self._environ, self._key = app, environ, key
        self._subprotocols, self._compression = subprotocols, compression
        self._engine: Connection | None = None
        self._sock: Any = None
        self._greenlet: Any = None
        self._server: Any = None
        self._inbox: list[Message] = []
        self._lost = False
        self._told = False
        self._stuck: StuckError | None = None

    def __enter__(self) -> Client:
        _watchdog.start()
        theirs, self._sock = gsocket.socketpair()
        self._server = server = _PairServer(theirs)
        self._greenlet = gevent.spawn(server.serve, self._app, {**self._environ, SERVER_KEY: server})
        try:
            with self._within(self.timeout, f"no answer to the handshake in {self.timeout} s"):
                answer: Any = server.answered.get()
            status, headers, body = answer
            if status != SWITCHING:
                raise HandshakeRefused(status, headers, body)
            lower = {name.lower(): value for name, value in headers}
            self.subprotocol, agreed = check_response(101, lower, self._key, self._subprotocols, self._compression)
        except BaseException:
            self._leave()
            raise
        self.headers = headers
        self._engine = Connection(
            client=True,
            max_message_size=2**30,
            deflate=None if agreed is None else deflate.Deflate(agreed, client=True),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        raising = sys.exc_info()[0] is not None
        sentence = f"the application did not end within {self.timeout} s after the connection had ended"
        self._sock.close()
        try:
            with self._within(self.timeout, sentence):
                self._greenlet.join()
                if self._server.told is not None:
                    self._server.told.end.wait()
        except TimeoutError:
            if not raising:
                raise
        finally:
            try:
                with _watchdog.waiting(self.timeout):
                    self._greenlet.kill(timeout=self.timeout)
            finally:
                _watchdog.stop()

    @contextmanager
    def _within(self, timeout: float, sentence: str) -> Iterator[None]:
        """TimeoutError with the sentence if the block takes longer. What the application raised for the test is raised
        here, and where it holds the event loop, each further wait ends at once.
        """
        if self._stuck is not None:
            raise self._stuck
        try:
            with _watchdog.waiting(timeout), gevent.Timeout(timeout, TimeoutError(sentence)):
                yield
        except StuckError as error:
            self._stuck = error
            raise
        if self._server.failure is not None:
            raise self._server.failure

    # --- talking ---------------------------------------------------------------------------------------------------

    def send(self, message: Message, binary: bool | None = None) -> None:
        """Send a message: ``str`` as text, bytes as binary. ConnectionClosed on an ended connection."""
        engine = self._connection()
        if engine.state is not State.OPEN or self._lost:
            raise self._closed_error()
        frame = engine.encode(message, binary)
        assert isinstance(frame, bytes)
        self.send_raw(frame)

    def send_json(self, value: Any) -> None:
        """Send a value as JSON text. TypeError for a value that has no JSON, ValueError for NaN and infinity."""
        self.send(jsontext.dumps(value))

    def send_raw(self, data: bytes) -> None:
        """Put bytes on the wire as they are, to play a broken peer."""
        try:
            with self._within(self.timeout, f"the application did not read within {self.timeout} s"):
                self._sock.sendall(data)
        except TimeoutError:
            raise
        except OSError:  # the application has gone; what it said before, e.g. why, can still be read
            while not self._lost:
                self._read(self.timeout)

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message; None, once, when the connection has ended, then ConnectionClosed. TimeoutError in time."""
        while not self._inbox:
            if self._lost or self._connection().state is not State.OPEN:
                if self._told:
                    raise self._closed_error()
                self._told = True
                return None
            self._read(self.timeout if timeout is None else timeout)
        return self._inbox.pop(0)

    def receive_json(self, timeout: float | None = None) -> Any:
        """The next message as JSON; ConnectionClosed at the end, ValueError where the application sent none."""
        message = self.receive(timeout)
        if message is None:
            raise self._closed_error()
        return jsontext.loads(message)

    def __iter__(self) -> Iterator[Message]:
        """The messages until the connection ends."""
        while not self._told:
            message = self.receive()
            if message is None:
                return
            yield message

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close, and wait for the answer. Messages that come before it can still be received."""
        engine = self._connection()
        engine.close(code, reason)
        self.send_raw(engine.take_replies())
        while not self._lost and engine.state is State.CLOSING:
            self._read(self.timeout)

    def _read(self, timeout: float) -> None:
        engine = self._connection()
        try:
            with self._within(timeout, f"nothing came from the application within {timeout} s"):
                data = self._sock.recv(READ_SIZE)
        except TimeoutError:
            raise
        except OSError:
            data = b""
        if not data:
            self._lost = True
            return
        self._inbox += engine.feed(data)
        while engine.stalled:
            self._inbox += engine.feed(b"")
        if engine.has_replies:
            self.send_raw(engine.take_replies())

    def _connection(self) -> Connection:
        if self._engine is None:
            raise RuntimeError("the connection is opened by its with block: with connect(…) as ws:")
        return self._engine

    # --- the end ---------------------------------------------------------------------------------------------------

    @property
    def close_code(self) -> int | None:
        """The code of the application's close frame, 1006 if it sent none, None while the connection is open."""
        received = self._connection().received_close
        if received is not None:
            return received[0]
        return int(CloseCode.ABNORMAL) if self._lost else None

    @property
    def close_reason(self) -> str | None:
        """The reason beside ``close_code``."""
        received = self._connection().received_close
        if received is not None:
            return received[1]
        return "" if self._lost else None

    def _closed_error(self) -> ConnectionClosed:
        engine = self._connection()
        code, reason = engine.received_close or (CloseCode.ABNORMAL, "")
        return ConnectionClosed(code, reason, received=engine.received_close, sent=engine.sent_close)
