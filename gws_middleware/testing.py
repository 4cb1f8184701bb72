"""A client for tests of WebSocket applications.

Rule: the application runs in the process of the test, with the real middleware and engine, over a socket pair. There is
no server, and each wait of the client has a timeout.

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
"""Exceptions of an application that its server handles. All others are for the test, e.g. those of ``pytest.fail()``.
"""

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
    """Create a client for one connection, for a ``with`` block, which does the handshake.

    An exception of the application before the 101 is raised by the ``with`` statement. So is at any time a
    BaseException of a test framework, e.g. that of ``pytest.fail()`` or ``pytest --timeout``.

    Args:
        app: The WSGI application. It is wrapped in ``WebSocketMiddleware`` unless it is wrapped already.
        path: The path, with a query if there is one.
        subprotocols: The subprotocols to offer, the preferred one first. Default: none.
        headers: More headers of the handshake, or other values for its headers.
        origin: The header ``Origin``. Default: none.
        compression: The parameters of permessage-deflate to offer. Default: none.
        environ: Values that are added to the WSGI environ, or replace its values.
        timeout: Seconds that each wait may take. Default: 5. In the main thread it also holds for an application that
            blocks the event loop.
        **options: Settings of ``WebSocketMiddleware``.

    Returns:
        The client.

    Raises:
        TypeError: There are ``options``, but ``app`` is wrapped already.
        HandshakeRefused: The ``with`` statement raises it where the application answered with HTTP.
        TimeoutError: A wait took more than ``timeout`` seconds. An application that blocks the event loop gives a
            subclass, whose message has its stack.

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
    """The server's side of the socket pair. ``answered`` gets the 101 or the response."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.answered: AsyncResult[tuple[str, Headers, bytes]] = AsyncResult()
        self.end_recorder: _EndRecorder | None = None
        self.failure: BaseException | None = None
        """An exception of the application that is for the test."""
        self._environ: Environ = {}
        self._status: tuple[str, Headers] | None = None
        self._body: list[bytes] = []

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Write:
        self._status = status, headers
        return self._body.append

    def switch(self, start_response: StartResponse, headers: Headers) -> tuple[Channel, bytes]:
        start_response(SWITCHING, headers)
        ws = self._environ["wsgi.websocket"]
        ws._adapter = self.end_recorder = _EndRecorder(ws._adapter)
        self.answered.set((SWITCHING, headers, b""))
        return plain_channel(self.sock), b""

    def serve(self, app: WebSocketMiddleware, environ: Environ) -> None:
        """Serve one request as a WSGI server does. Runs in a greenlet of its own."""
        self._environ = environ
        recording = copy.copy(app)
        recording._call = _FailureRecorder(app._call, self)
        try:
            result = recording(environ, self.start_response)
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


class _FailureRecorder:
    """Wraps the application or its response, and records an exception that is for the test. After the 101 the
    middleware only logs it.
    """

    def __init__(self, inside: Any, server: _PairServer) -> None:
        self._inside, self._server = inside, server

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        try:
            yield
        except OF_THE_APPLICATION:
            raise
        except BaseException as error:
            self._server.failure = error
            raise

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        with self._recorded():
            result = self._inside(environ, start_response)
        return _FailureRecorder(result, self._server) if hasattr(result, "__iter__") else result

    def __iter__(self) -> Iterator[bytes]:
        with self._recorded():
            yield from self._inside

    def close(self) -> None:
        with self._recorded():
            getattr(self._inside, "close", lambda: None)()


class _EndRecorder:
    """Wraps the adapter of a WebSocket, and records that the connection and its view or ``on_close`` have ended."""

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
    """The client of one connection, made by ``connect()``. Use it in a ``with`` statement.

    The end of the ``with`` block closes the connection and waits until the view, or the callbacks of a detached
    connection, have ended.
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
        """Seconds that each wait may take."""
        self.subprotocol: str | None = None
        """The selected subprotocol, or None."""
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
        self._end_delivered = False
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
                if self._server.end_recorder is not None:
                    self._server.end_recorder.end.wait()
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
        """Raise TimeoutError with the sentence if the block takes more than ``timeout`` s, and an exception of the
        application that is for the test. After a StuckError each further wait ends at once.
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

    # --- messages --------------------------------------------------------------------------------------------------

    def send(self, message: Message, binary: bool | None = None) -> None:
        """Send a message.

        Args:
            message: ``str`` or bytes.
            binary: Whether to send it as a binary message. Default: ``str`` as text, bytes as binary.

        Raises:
            ConnectionClosed: The connection has ended.
            TimeoutError: The application did not read in time.

        """
        engine = self._connection()
        if engine.state is not State.OPEN or self._lost:
            raise self._closed_error()
        frame = engine.encode(message, binary)
        assert isinstance(frame, bytes)
        self.send_raw(frame)

    def send_json(self, value: Any) -> None:
        """Send a value as a JSON text message.

        Args:
            value: A value that JSON can represent.

        Raises:
            TypeError: The value has no JSON representation.
            ValueError: The value has NaN or an infinity.
            ConnectionClosed: The connection has ended.

        """
        self.send(jsontext.dumps(value))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, e.g. an invalid frame.

        Args:
            data: The bytes.

        Raises:
            TimeoutError: The application did not read in time.

        """
        try:
            with self._within(self.timeout, f"the application did not read within {self.timeout} s"):
                self._sock.sendall(data)
        except TimeoutError:
            raise
        except OSError:  # the application has closed; what it sent before, e.g. a close frame, can still be read
            while not self._lost:
                self._read(self.timeout)

    def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message.

        Args:
            timeout: Seconds to wait. Default: ``timeout`` of the client.

        Returns:
            ``str`` for a text message, ``bytes`` for a binary one; None, once, when the connection has ended.

        Raises:
            ConnectionClosed: The end has been returned already.
            TimeoutError: No message came in time.

        """
        while not self._inbox:
            if self._lost or self._connection().state is not State.OPEN:
                if self._end_delivered:
                    raise self._closed_error()
                self._end_delivered = True
                return None
            self._read(self.timeout if timeout is None else timeout)
        return self._inbox.pop(0)

    def receive_json(self, timeout: float | None = None) -> Any:
        """Wait for the next message, and decode it as JSON.

        Args:
            timeout: Seconds to wait. Default: ``timeout`` of the client.

        Returns:
            The value.

        Raises:
            ConnectionClosed: The connection has ended.
            TimeoutError: No message came in time.
            ValueError: The message is not JSON.

        """
        message = self.receive(timeout)
        if message is None:
            raise self._closed_error()
        return jsontext.loads(message)

    def __iter__(self) -> Iterator[Message]:
        """The messages until the connection ends."""
        while not self._end_delivered:
            message = self.receive()
            if message is None:
                return
            yield message

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send a close frame, and wait for that of the application. Messages before it can still be received.

        Args:
            code: The close code. Default: 1000.
            reason: The close reason, at most 123 bytes in UTF-8. Default: empty.

        Raises:
            TimeoutError: The close frame of the application did not come in time.

        """
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
        """The reason in the application's close frame, "" if it sent none, None while the connection is open."""
        received = self._connection().received_close
        if received is not None:
            return received[1]
        return "" if self._lost else None

    def _closed_error(self) -> ConnectionClosed:
        engine = self._connection()
        code, reason = engine.received_close or (CloseCode.ABNORMAL, "")
        return ConnectionClosed(code, reason, received=engine.received_close, sent=engine.sent_close)
