"""One view for each behaviour, chosen by path. Views record what happens to them, for ``/events``."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import gevent.event
from werkzeug.middleware.proxy_fix import ProxyFix

from gws_middleware import ConnectionClosed, WebSocketMiddleware
from gws_middleware.connection import control
from gws_middleware.coroutines import run
from gws_middleware.typing import Environ, StartResponse

from .common import Router, configure_logging, hold, query, record, text_response

configure_logging(logging.DEBUG)

app = Router()
wrapped = WebSocketMiddleware(app)
tiny = WebSocketMiddleware(app, max_message_size=10)
tiny_inside = ProxyFix(tiny)

log = logging.getLogger("tests")

PLAIN = [("Content-Type", "text/plain")]


class Body:
    """A response body that records each ``close()``."""

    def __init__(self, environ: Environ, chunks: Iterable[bytes]) -> None:
        self._environ, self._chunks = environ, chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        """The server is done with the response."""
        record(self._environ, "closed")


# --- talking -------------------------------------------------------------------------------------------------------


@app.at("/echo")
def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends back what comes."""
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    record(environ, "ended")
    return []


@app.at("/native")
def native(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Native threads send back what comes, in upper case."""
    ws = environ["wsgi.websocket"]
    for message in ws:
        gevent.get_hub().threadpool.apply(ws.send, (message.upper(),))
    return []


@app.at("/coroutine")
def coroutine(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Coroutines do."""
    ws = environ["wsgi.websocket"]

    async def answer(message: str) -> None:
        ws.send(message.upper())

    for message in ws:
        run(answer(message))
    return []


@app.at("/facts")
def facts(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends what the view finds."""
    ws = environ["wsgi.websocket"]
    if not ws.accepted:
        ws.accept()
    ws.send(
        json.dumps(
            {
                "type": f"{type(ws).__module__}.{type(ws).__qualname__}",
                "version": environ["wsgi.websocket_version"],
                "subprotocol": ws.subprotocol,
                "input": environ["wsgi.input"].read().decode(),
            }
        )
    )
    return []


@app.at("/second")
def second(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The request that must never be served."""
    record(environ, "second")
    return text_response(start_response, "SMUGGLED")


@app.at("/plain")
def plain(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """An ordinary page: it tells whether a WebSocket stands in environ."""
    return text_response(start_response, "websocket" if "wsgi.websocket" in environ else "no websocket")


@app.at("/duration")
def duration(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends a few messages, sleeps, and ends."""
    ws = environ["wsgi.websocket"]
    ws.send("x" * 10)
    ws.send(b"y" * 70000)
    gevent.sleep(0.3)
    return []


@app.at("/pushing")
def pushing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends and never receives; ConnectionClosed escapes when the peer has disconnected."""
    ws = environ["wsgi.websocket"]
    try:
        while True:
            ws.send("tick")
            gevent.sleep(0.01)
    finally:
        record(environ, f"left by {type(sys.exc_info()[1]).__name__}")


@app.at("/sleeping")
def sleeping(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Accepts and sleeps, and uses the connection only when it has ended."""
    ws = environ["wsgi.websocket"]
    ws.send("ready")
    deadline = time.monotonic() + 5
    while not ws.closed and time.monotonic() < deadline:
        gevent.sleep(0.01)
    record(environ, f"woke up after {ws.close_code}")
    gevent.sleep(float(query(environ, "nap", "0")))
    return Body(environ, [b"HTTP"])


@app.at("/forever")
def forever(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sleeps and checks nothing, until the worker is asked to stop."""
    ws = environ["wsgi.websocket"]
    ws.send("ready")
    try:
        gevent.sleep(3600)
    finally:
        log.info("finally of %s", query(environ, "id"))
    return []


@app.at("/blocking")
def blocking(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Computes, and lets no other greenlet run."""
    environ["wsgi.websocket"].accept()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pass
    return []


@app.at("/waiting")
def waiting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Waits for messages until the worker is asked to stop."""
    ws = environ["wsgi.websocket"]
    ws.send("ready")
    try:
        for _ in ws:
            pass
    finally:
        log.info("finally of %s after %s", query(environ, "id"), ws.close_code)
    return []


@app.at("/detached")
def detached(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Leaves, and the connection stays: it echoes in upper case."""
    ws = environ["wsgi.websocket"]
    token = {"QUERY_STRING": environ["QUERY_STRING"]}

    def on_close(ws: Any) -> None:
        record(token, f"left after {ws.close_code}")
        log.info("on_close of %s after %s", query(ws.environ, "id"), ws.close_code)

    ws.detach(on_message=lambda ws, message: ws.send(message.upper()), on_close=on_close)
    return Body(environ, [b"HTTP"])


@app.at("/detached/closes")
def detached_closes(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Echoes until it receives "bye", and closes then. With ``?raise=`` the view leaves by an exception."""
    ws = environ["wsgi.websocket"]
    token = {"QUERY_STRING": environ["QUERY_STRING"]}

    def on_message(ws: Any, message: str) -> None:
        if message == "bye":
            ws.close(4002)
        else:
            ws.send(message)

    ws.detach(on_message, lambda ws: record(token, f"left after {ws.close_code}"))
    if query(environ, "raise"):
        raise LookupError("the reason")
    return []


@app.at("/detached/outlived")
def detached_outlived(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Is still there when the connection that it has detached has ended: it returns after ``on_close``, or while that
    still runs (``?first=view``).
    """
    ws, closing, view_left = environ["wsgi.websocket"], gevent.event.Event(), gevent.event.Event()

    def on_close(ws: Any) -> None:
        closing.set()
        if query(environ, "first") == "view":
            view_left.wait()
            gevent.sleep(0.05)
        record(environ, "on_close")

    ws.detach(lambda ws, message: ws.send(message), on_close)
    closing.wait()
    if query(environ, "first") == "view":
        record(environ, "view")
        view_left.set()
    else:
        while not control.is_finished(ws):
            gevent.sleep(0.01)
        record(environ, "view")
    return []


# --- the response after the 101 -----------------------------------------------------------------------------------

Ending = Callable[[Environ, StartResponse, Any], Iterable[bytes]]


def _ends(name: str) -> Callable[[Ending], Ending]:
    """Decorator: ``/after/NAME`` accepts, says "ready" and ends in this way."""

    def add(ending: Ending) -> Ending:
        def view(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            ws = environ["wsgi.websocket"]
            ws.send("ready")
            return ending(environ, start_response, ws)

        app.at(f"/after/{name}")(view)
        return ending

    return add


@_ends("nothing")
def _nothing(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    return Body(environ, [])


@_ends("list")
def _list(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, ("Content-Length", "4")])
    return Body(environ, [b"HTTP"])


@_ends("not-found")
def _not_found(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    start_response("404 Not Found", PLAIN)
    return Body(environ, [b"HTTP"])


@_ends("big")
def _big(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    return Body(environ, [b"HTTP" * 2**18] * 4)


@_ends("generator")
def _generator(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)

    def chunks() -> Iterator[bytes]:
        record(environ, "iterated")
        yield b"HTTP"

    return Body(environ, chunks())


@_ends("write")
def _write(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    write = start_response("200 OK", PLAIN)
    write(b"HTTP")
    return Body(environ, [])


@_ends("error-page")
def _error_page(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    start_response("500 Internal Server Error", PLAIN)
    return Body(environ, [b"HTTP"])


@_ends("twice")
def _twice(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    start_response("200 OK", PLAIN)
    return Body(environ, [b"HTTP"])


@_ends("exc_info")
def _exc_info(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    try:
        raise LookupError("the reason")
    except LookupError:
        start_response("500 Internal Server Error", PLAIN, sys.exc_info())
    return Body(environ, [b"HTTP"])


@_ends("raise")
def _raise(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    raise LookupError("the reason")


app.at("/after/raise/\nforged\x1b[31m\xc3\xa9")(app.view("/after/raise"))


@_ends("timeout")
def _timeout(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    with gevent.Timeout(0.01):  # which is no Exception
        gevent.sleep(60)
    return Body(environ, [b"HTTP"])


@_ends("base-exception")
def _base_exception(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    class Odd(BaseException):
        pass

    raise Odd("the reason")


@_ends("exit")
def _exit(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    raise SystemExit(3)


@_ends("status")
def _status(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    start_response(f"500 {query(environ, 'id')}\nforged\x1b", PLAIN)
    return Body(environ, [])


@_ends("raise-while-iterated")
def _raise_while_iterated(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    def chunks() -> Iterator[bytes]:
        yield b"HTTP"
        raise LookupError("the reason")

    return Body(environ, chunks())


@_ends("raise-in-close")
def _raise_in_close(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    class Closing(Body):
        def close(self) -> None:
            super().close()
            raise LookupError("the reason")

    return Closing(environ, [b"HTTP"])


@_ends("killed")
def _killed(environ: Environ, start_response: StartResponse, ws: Any) -> Iterable[bytes]:
    try:
        raise gevent.GreenletExit
    finally:
        record(environ, "closed")


@app.at("/after/lazily")
def lazily(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """A generator: nothing of it runs before the server iterates."""
    try:
        ws = environ["wsgi.websocket"]
        ws.send("ready")
        yield b"HTTP"
        start_response("200 OK", PLAIN)
        yield b"HTTP"
    finally:
        record(environ, "closed")


@app.at("/after/lazily-raise")
def lazily_raise(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """The same, and it raises."""
    try:
        environ["wsgi.websocket"].send("ready")
        yield b"HTTP"
        raise LookupError("the reason")
    finally:
        record(environ, "closed")


# --- the response instead of the 101 -------------------------------------------------------------------------------


@app.at("/answer")
def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with ``?status=`` instead of accepting."""
    status = query(environ, "status")
    headers = [*PLAIN, ("Content-Length", "9"), ("Set-Cookie", "a=b")]
    if status[:3] == "302":
        headers.append(("Location", "/login"))
    start_response(status, headers)
    return Body(environ, [b"the ", b"body\n"])


@app.at("/answer/generator")
def answer_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Answers when it is iterated."""
    try:
        start_response("403 Forbidden", [*PLAIN, ("Content-Length", "9")])
        yield b"the "
        yield b"body\n"
    finally:
        record(environ, "closed")


@app.at("/answer/write")
def answer_write(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the ``write`` callable."""
    write = start_response("403 Forbidden", [*PLAIN, ("Content-Length", "9")])
    write(b"the body\n")
    return Body(environ, [])


@app.at("/answer/again")
def answer_again(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Begins an answer and replaces it by an error page (PEP 3333)."""
    start_response("200 OK", [])
    try:
        raise LookupError
    except LookupError:
        start_response("403 Forbidden", [*PLAIN, ("Content-Length", "9")], sys.exc_info())
    return Body(environ, [b"the body\n"])


@app.at("/answer/then-accept")
def answer_then_accept(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers, and then tries to accept."""
    start_response("403 Forbidden", [*PLAIN, ("Content-Length", "9")])
    try:
        environ["wsgi.websocket"].accept()
    except RuntimeError as error:
        record(environ, str(error))
    return Body(environ, [b"the body\n"])


@app.at("/answer/raise")
def answer_raise(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Raises instead of accepting."""
    raise LookupError("the reason")


@app.at("/answer/close")
def answer_close(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Refuses by closing."""
    environ["wsgi.websocket"].close()
    return Body(environ, [])


@app.at("/answer/nothing")
def answer_nothing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Neither accepts nor answers."""
    return Body(environ, [])


# --- accepting -----------------------------------------------------------------------------------------------------


@app.at("/accept")
def accept(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Accepts with the subprotocol and the headers of ``?arguments=`` (JSON); a ValueError becomes a 400."""
    ws = environ["wsgi.websocket"]
    arguments = json.loads(query(environ, "arguments"))
    try:
        ws.accept(arguments.get("subprotocol"), [tuple(header) for header in arguments.get("headers", ())])
    except ValueError as error:
        return text_response(start_response, str(error), "400 Bad Request")
    ws.send(repr(ws.subprotocol))
    return []


def _accept_late(environ: Environ) -> None:
    """Accepts when the peer has disconnected: after ``/go``, or in a request without ``?id=`` after a moment."""
    record(environ, "called")
    if query(environ, "id"):
        hold(environ)
    else:
        gevent.sleep(0.1)
    try:
        environ["wsgi.websocket"].accept()
    except ConnectionClosed as error:
        record(environ, f"ConnectionClosed {error.code}")
        raise


@app.at("/accept/late")
def accept_late(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Leaves the exception to the middleware."""
    _accept_late(environ)
    return []


@app.at("/accept/late/and-return")
def accept_late_and_return(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Handles the exception itself."""
    try:
        _accept_late(environ)
    except ConnectionClosed:
        pass
    return Body(environ, [])


@app.at("/accept/late/and-answer")
def accept_late_and_answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Handles the exception as a framework does: with an error page."""
    try:
        _accept_late(environ)
    except ConnectionClosed:
        start_response("500 Internal Server Error", PLAIN)
    return Body(environ, [b"HTTP"])


@app.at("/accept/late/lazily")
def accept_late_lazily(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """A generator."""
    try:
        _accept_late(environ)
        yield b"HTTP"
    finally:
        record(environ, "closed")
