"""``testing``: the client that applications test themselves with, around the real middleware."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any

import gevent
import pytest
from gevent.socket import wait_read

from gws_middleware import ConnectionClosed, HandshakeRefused, WebSocket, WebSocketMiddleware, watchdog
from gws_middleware.codes import Opcode
from gws_middleware.protocol.deflate import Parameters
from gws_middleware.testing import Client, connect
from gws_middleware.typing import Environ, StartResponse

from .support.inprocess import PING_FRAME, echo, forever, hub_errors, masked_frame, problems, ticks, until
from .support.programs import IGNORE_WARNINGS, run_pytest, run_python
from .support.seam import application_of, descriptor_of, limit_messages, socket_of, transport_of

__all__ = ["hub_errors"]


def close_with_4001(environ: Environ, start_response: StartResponse) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    ws.send("last")
    ws.close(4001, "bye")
    return []


def abort(environ: Environ, start_response: StartResponse) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    ws.accept()
    ws.abort()
    return []


def tell(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Sends the strings of its environ."""
    ws = environ["wsgi.websocket"]
    ws.send_json({name: value for name, value in environ.items() if isinstance(value, str)})
    return []


def answers_nothing(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return []


def sleep(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.websocket"].accept()
    gevent.sleep(60)
    return []


class TestConnect:
    def test_request_is_a_browsers_handshake(self) -> None:
        """Path and query are split and decoded as a server does it; headers, Origin and environ are added."""
        with connect(
            tell,
            "/caf%C3%A9/a%2Fb?q=%20&r",
            subprotocols=("chat", "superchat"),
            headers={"X-Token": "t", "Cookie": "a=b"},
            origin="http://testserver",
            environ={"REMOTE_USER": "ann", "REMOTE_ADDR": "10.0.0.1"},
        ) as client:
            environ = client.receive_json()
        expected = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/caf\u00c3\u00a9/a/b",
            "QUERY_STRING": "q=%20&r",
            "HTTP_HOST": "testserver",
            "HTTP_ORIGIN": "http://testserver",
            "HTTP_X_TOKEN": "t",
            "HTTP_COOKIE": "a=b",
            "HTTP_SEC_WEBSOCKET_PROTOCOL": "chat, superchat",
            "HTTP_SEC_WEBSOCKET_VERSION": "13",
            "REMOTE_USER": "ann",
            "REMOTE_ADDR": "10.0.0.1",
        }
        assert {name: environ[name] for name in expected} == expected

    def test_options_are_those_of_the_middleware(self) -> None:
        """The application is wrapped with them."""
        with connect(echo, max_message_size=10) as client:
            client.send("x" * 11)
            assert client.receive() is None
            assert client.close_code == 1009

    def test_wrapped_application_is_used_as_it_is(self) -> None:
        """Options would have no effect, so they are refused."""
        app = WebSocketMiddleware(echo, max_message_size=10)
        with pytest.raises(TypeError, match="is wrapped already, so these options have no effect: max_message_size"):
            connect(app, max_message_size=20)
        with connect(app) as client:
            client.send("x" * 11)
            assert client.receive() is None

    def test_answer_is_at_hand(self) -> None:
        """The subprotocol that was chosen, and the headers of the 101."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].accept("b", [("X-A", "1")])
            return []

        with connect(app, subprotocols=("a", "b")) as client:
            assert (client.subprotocol, ("X-A", "1") in client.headers) == ("b", True)

    @pytest.mark.parametrize("offer", [None, Parameters(), Parameters(True, True, 10, 10)], ids=["none", "all", "few"])
    @pytest.mark.parametrize("mode", ["off", "shared", "dedicated"])
    def test_compression_is_negotiated(self, offer: Parameters | None, mode: str) -> None:
        """Both sides then speak it; the client compresses too."""
        with connect(WebSocketMiddleware(echo, compression=mode), compression=offer) as client:
            for message in ("x" * 5000, b"y" * 5000, "z"):
                client.send(message)
                assert client.receive() == message
            agreed = any(name == "Sec-WebSocket-Extensions" for name, _ in client.headers)
            assert agreed is (offer is not None and mode != "off")


class TestRefusal:
    def test_response_instead_of_a_101_is_raised(self) -> None:
        """With all that a test may want to check."""

        def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
            write = start_response("302 Found", [("Location", "/login")])
            write(b"written, ")
            yield b"yielded"

        with pytest.raises(HandshakeRefused) as caught, connect(app):
            pass
        assert (caught.value.status_code, caught.value.headers, caught.value.body) == (
            302,
            [("Location", "/login")],
            b"written, yielded",
        )

    def test_wrong_101_is_an_error_and_leaves_nothing_open(self) -> None:
        """One for another key: the view ends with the ``with`` block that never began, and the socket is closed."""
        seen: list[Any] = []
        connection = connect(
            lambda environ, _: seen.append(environ["wsgi.websocket"].receive()) or [],
            headers={"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw=="},
        )
        with pytest.raises(ValueError, match="the 101 answers another key"):
            connection.__enter__()
        assert (seen, socket_of(connection).fileno()) == ([None], -1)

    def test_response_is_closed(self) -> None:
        """As a server does it: frameworks clean up there."""
        closed: list[bool] = []

        class Response(list[bytes]):
            def close(self) -> None:
                closed.append(True)

        def app(environ: Environ, start_response: StartResponse) -> Response:
            start_response("404 Not Found", [])
            return Response([b"nothing"])

        with pytest.raises(HandshakeRefused), connect(app):
            pass
        assert closed == [True]

    @pytest.mark.parametrize(
        ("app", "arguments", "status"),
        [
            (echo, {"origin": "http://elsewhere.example"}, "403 Forbidden"),
            (echo, {"headers": {"Sec-WebSocket-Version": "8"}}, "426 Upgrade Required"),
            (echo, {"headers": {"Sec-WebSocket-Key": "short"}}, "400 Bad Request"),
            (echo, {"environ": {"REQUEST_METHOD": "POST"}}, "405 Method Not Allowed"),
            (answers_nothing, {}, "500 Internal Server Error"),
            (answers_nothing, {"environ": {"HTTP_UPGRADE": "h2c"}}, "500 Internal Server Error"),
        ],
        ids=lambda value: getattr(value, "__name__", str(value)[:40]),
    )
    def test_status_is_that_of_a_server(self, app: Any, arguments: dict[str, Any], status: str) -> None:
        """The request can be broken in any way, and the middleware judges it. An application may start no response."""
        with pytest.raises(HandshakeRefused) as caught, connect(app, **arguments):
            pass
        assert caught.value.status == status

    def test_error_before_the_101_comes_out_as_it_is(self) -> None:
        """So that a test shows the application's own traceback."""
        error = KeyError("x")

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            raise error

        with pytest.raises(KeyError) as caught, connect(app):
            pass
        assert caught.value is error

    def test_application_that_does_not_answer_in_time_ends_the_test(self) -> None:
        """And is killed: the next test starts clean."""
        ended: list[bool] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            try:
                gevent.sleep(60)
            finally:
                ended.append(True)
            return []

        with pytest.raises(TimeoutError, match=r"no answer to the handshake in 0\.02 s"), connect(app, timeout=0.02):
            pass
        assert ended == [True]


class TestTalking:
    def test_messages_go_both_ways(self) -> None:
        """Text and binary, empty and large."""
        with connect(echo) as client:
            for message in ("text", b"binary", "", b"", "x" * 100_000):
                client.send(message)
                assert client.receive() == message
            client.send("text", binary=True)
            assert client.receive() == b"text"

    def test_json_goes_both_ways(self) -> None:
        """With the verbs of the WebSocket."""
        with connect(echo) as client:
            client.send_json({"a": [1, None]})
            assert client.receive_json() == {"a": [1, None]}

    @pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "{", ""])
    def test_application_s_wrong_json_fails_the_test(self, text: str) -> None:
        """What a browser would not parse is no JSON here either."""
        with connect(echo) as client:
            client.send(text)
            with pytest.raises(ValueError, match=r"not JSON|Expecting"):
                client.receive_json()

    def test_client_sends_no_wrong_json(self) -> None:
        """A test means NaN by mistake; to send such text on purpose there is ``send``."""
        with connect(echo) as client:
            with pytest.raises(ValueError, match="not JSON compliant"):
                client.send_json([float("nan")])
            client.send_json("still usable")
            assert client.receive_json() == "still usable"

    def test_nothing_within_the_timeout_raises(self) -> None:
        """No test hangs; the client's timeout counts where the call names none."""
        with connect(echo, timeout=0.05) as client:
            for timeout in (None, 0.02):
                with pytest.raises(TimeoutError, match=f"nothing came from the application within {timeout or 0.05} s"):
                    client.receive(timeout)
            client.send("still usable")
            assert client.receive() == "still usable"

    def test_application_that_does_not_read_ends_the_test(self) -> None:
        """``send`` waits as a client does, and no longer than the timeout."""
        with pytest.raises(TimeoutError), connect(sleep, timeout=0.05) as client:
            forever(client.send, bytes(2**20))

    def test_end_is_none_once_and_then_connection_closed(self) -> None:
        """After the messages that came before it; code and reason are the application's."""
        with connect(close_with_4001) as client:
            assert (client.close_code, client.close_reason) == (None, None)
            assert (client.receive(), client.receive()) == ("last", None)
            assert (client.close_code, client.close_reason) == (4001, "bye")
            for use in (client.receive, lambda: client.send("x")):
                with pytest.raises(ConnectionClosed) as caught:
                    use()
                assert (caught.value.code, caught.value.reason) == (4001, "bye")

    def test_json_at_the_end_raises(self) -> None:
        """None is a JSON value."""
        with connect(close_with_4001) as client:
            client.receive()
            with pytest.raises(ConnectionClosed):
                client.receive_json()

    def test_iteration_ends_with_the_connection(self) -> None:
        """And finds nothing more afterwards."""
        with connect(close_with_4001) as client:
            assert (list(client), list(client)) == (["last"], [])

    def test_connection_that_is_cut_is_1006(self) -> None:
        """There was no close frame."""
        with connect(abort) as client:
            assert (client.receive(), client.close_code, client.close_reason) == (None, 1006, "")
            with pytest.raises(ConnectionClosed, match="lost without a close frame"):
                client.send("x")

    def test_connection_that_is_reset_is_1006(self) -> None:
        """A socket that is closed with unread bytes in it is one."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.accept()
            transport_of(ws).pause()
            wait_read(descriptor_of(ws), timeout=5)
            ws.abort()
            return []

        with connect(app) as client:
            client.send("unread")
            assert (client.receive(), client.close_code) == (None, 1006)

    def test_bytes_go_out_as_they_are(self) -> None:
        """To play a broken peer; the application's side is the real engine."""
        with connect(echo) as client:
            client.send_raw(b"\x81\x01x")
            assert client.receive() is None
            assert (client.close_code, client.close_reason) == (1002, "a client's frame is not masked")

    def test_bytes_to_a_lost_connection_are_dropped(self) -> None:
        """The end shows in ``receive``."""
        with connect(abort) as client:
            until(lambda: client.send_raw(PING_FRAME) or client.close_code)
            assert client.receive() is None

    def test_reason_for_which_a_long_message_was_cut_off_is_seen(self) -> None:
        """Though the application had returned before all of it was sent."""
        with connect(echo) as ws:
            ws.send(bytes(2**22))
            assert ws.receive() is None
            assert ws.close_code == 1009

    def test_pings_are_answered(self) -> None:
        """Whenever the client reads."""
        latencies: list[float | None] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.ping()
            ws.send("x")
            ws.receive()
            latencies.append(ws.latency)
            return []

        with connect(app) as client:
            client.receive()
            client.send("y")
            client.receive()
        assert latencies[0] is not None

    def test_messages_that_inflate_much_all_come(self) -> None:
        """The engine gives them out in portions; the client asks until it has all."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.receive()
            for _ in range(10):
                ws.send("x" * 10_000)
            return []

        with connect(WebSocketMiddleware(app, compression="shared"), compression=Parameters()) as client:
            limit_messages(client, 10_000)
            client.send("go")
            ticks()
            assert list(client) == ["x" * 10_000] * 10


class TestEnd:
    def test_close_waits_for_the_answer(self) -> None:
        """What came before it can still be received."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.send("before")
            seen.extend([ws.receive(), ws.close_code, ws.close_reason])
            return []

        with connect(app) as client:
            client.receive()
            client.close(4002, "enough")
            assert client.close_code == 4002
            client.close()
        assert seen == [None, 4002, "enough"]

    def test_block_closes_with_1000_and_waits_for_the_application(self) -> None:
        """After it everything that the application does has been done."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.receive()
            ticks()
            seen.append(ws.close_code)
            return []

        with connect(app) as client:
            client.send_raw(PING_FRAME)
        assert seen == [1000]

    @pytest.mark.parametrize("raised", [None, KeyError])
    def test_block_waits_for_the_callbacks_of_a_detached_connection(self, raised: type[Exception] | None) -> None:
        """They may take their time, however the block ends."""
        seen: list[str] = []

        def note(*arguments: object) -> None:
            ticks()
            seen.append("message" if len(arguments) > 1 else "end")

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].detach(on_message=note, on_close=note)
            return []

        with suppress(KeyError), connect(app) as ws:
            ws.send("x")
            if raised is not None:
                raise raised
        assert seen == ["message", "end"]

    def test_callback_that_does_not_end_fails_the_test(self) -> None:
        """As a view does."""
        stuck: list[Any] = []

        def wait(ws: WebSocket) -> None:
            stuck.append(gevent.getcurrent())
            gevent.sleep(60)

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].detach(on_close=wait)
            return []

        with pytest.raises(TimeoutError, match="the application did not end"), connect(app, timeout=0.05):
            pass
        stuck[0].kill()

    def test_error_in_the_block_passes_through(self) -> None:
        """And ends the application by the end of the connection, without a close frame."""
        seen: list[Any] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.accept()
            seen.extend([ws.receive(), ws.close_code])
            return []

        with pytest.raises(KeyError), connect(app):
            raise KeyError
        assert seen == [None, 1006]

    def test_application_that_does_not_end_fails_the_test(self) -> None:
        """It is killed all the same."""
        with (
            pytest.raises(TimeoutError, match=r"the application did not end within 0\.05 s after the connection"),
            connect(sleep, timeout=0.05) as client,
        ):
            pass
        assert application_of(client).dead

    def test_application_that_does_not_end_hides_no_error(self) -> None:
        """The test's own error is the one to see."""
        with pytest.raises(KeyError), connect(sleep, timeout=0.05):
            raise KeyError

    def test_error_of_the_application_is_logged_as_on_a_server(self, caplog: pytest.LogCaptureFixture) -> None:
        """After the 101 it is a close with 1011."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].receive()
            raise KeyError("x")

        with connect(app) as client:
            client.send("x")
            assert client.receive() is None
            assert client.close_code == 1011
        assert len(problems(caplog)) == 1

    def test_error_that_the_middleware_lets_through_is_not_lost(self, hub_errors: list[BaseException]) -> None:
        """It would be a fault of the middleware, or of a wrapper around it: the hub reports it."""

        class Faulty(WebSocketMiddleware):
            def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
                super().__call__(environ, start_response)
                raise KeyError("a fault after the 101")

        with connect(Faulty(echo)):
            pass
        (error,) = hub_errors
        hub_errors.clear()
        assert isinstance(error, KeyError)

    @pytest.mark.parametrize("verb", ["send", "receive", "close"])
    def test_client_outside_of_its_block_says_how_to_use_it(self, verb: str) -> None:
        """The connection is opened by the block."""
        client: Client = connect(echo)
        with pytest.raises(RuntimeError, match=r"opened by its with block: with connect\(…\) as ws:"):
            getattr(client, verb)(*["x"] * (verb == "send"))

    def test_client_masks_its_frames(self) -> None:
        """As every client must (RFC 6455 5.3)."""
        with connect(echo) as client:
            sent: list[bytes] = []
            send_raw = client.send_raw
            client.send_raw = lambda data: (sent.append(data), send_raw(data))  # type: ignore[method-assign]
            client.send("x" * 5)
            client.receive()
        assert sent[0][:2] == masked_frame(Opcode.TEXT, b"x" * 5)[:2]


# --- applications that hold the event loop ----------------------------------------------------------------------------


def sends_and_sleeps(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """As one writes it for a patched server; Python's own ``sleep`` never gives way, but ``send`` does."""
    ws = environ["wsgi.websocket"]
    while not ws.closed:
        ws.send("tick")
        time.sleep(0.01)
    return []


def sleeps(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """The same, which waits for something else."""
    ws = environ["wsgi.websocket"]
    ws.send("tick")
    while not ws.closed:
        time.sleep(0.01)
    return []


def computes(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.websocket"].accept()
    while True:
        pass


def blocks(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Waits in C for ever."""
    environ["wsgi.websocket"].accept()
    Queue[None]().get()
    return []


def computes_early(environ: Environ, start_response: StartResponse) -> list[bytes]:
    while True:
        pass


def catches_all(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Nothing that is raised in it ends it."""
    environ["wsgi.websocket"].accept()
    while True:
        with suppress(BaseException):
            while True:
                pass


def detaches(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Its callback computes."""

    def on_message(ws: WebSocket, message: object) -> None:
        while True:
            pass

    environ["wsgi.websocket"].detach(on_message)
    return []


def spawns(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Another greenlet of the application's holds the loop."""
    ws = environ["wsgi.websocket"]
    ws.accept()
    gevent.spawn(computes_early, environ, start_response)
    ws.receive()
    return []


def computes_later(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """When the handshake is over."""
    environ["wsgi.websocket"].accept()
    ticks()
    return computes_early(environ, start_response)


def exchange(client: Client) -> None:
    client.send("x")
    list(client)


WAITS: dict[str, Callable[[Client], object]] = {
    "receive": lambda client: client.receive(),
    "send": lambda client: [client.send(bytes(2**20)) for _ in range(20)],
    "close": lambda client: client.close(),
    "the end of the block": lambda client: None,
}


@pytest.mark.slow  # each waits for a timeout
class TestHeldLoop:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The watchdog waits for less than a second after a timeout."""
        monkeypatch.setattr(watchdog, "OVERDUE", 0.1)

    @pytest.mark.parametrize(
        ("app", "function"),
        [
            (sleeps, "sleeps"),
            (computes, "computes"),
            (blocks, "blocks"),
            (computes_early, "computes_early"),
            (catches_all, "catches_all"),
            (detaches, "on_message"),
            (spawns, "computes_early"),
        ],
    )
    def test_wait_ends_with_the_line_that_holds_the_loop(self, app: Any, function: str) -> None:
        """Before the 101 and after it, in the view, in a callback and in a greenlet beside them."""
        with pytest.raises(TimeoutError) as caught, connect(app, timeout=0.2) as client:
            exchange(client)
        sentence = str(caught.value)
        assert sentence.startswith("the application has blocked the event loop for more than 0.2 s")
        assert f'File "{__file__}", line ' in sentence
        assert f", in {function}\n" in sentence
        assert "gevent has not patched this process" in sentence
        assert "gws_middleware/" not in sentence

    def test_view_that_sends_and_sleeps_is_tested_as_any(self) -> None:
        """Also where the test waits for nothing of it."""
        with connect(sends_and_sleeps) as client:
            assert [client.receive() for _ in range(3)] == ["tick"] * 3
        with connect(sends_and_sleeps):
            pass

    @pytest.mark.parametrize("wait", WAITS)
    def test_every_wait_ends(self, wait: str) -> None:
        """Whatever the test waits for; the application ends with the block."""
        with pytest.raises(TimeoutError, match="in computes_early"), connect(computes_later, timeout=0.2) as client:
            WAITS[wait](client)
        assert application_of(client).dead

    def test_waits_after_it_end_at_once(self) -> None:
        """With the same error, also where the test has caught the first."""
        errors: list[TimeoutError] = []
        with suppress(TimeoutError), connect(computes_later, timeout=0.2) as client:
            for timeout in (0.2, 100):
                try:
                    client.receive(timeout)
                except TimeoutError as error:
                    errors.append(error)
        assert errors[0] is errors[1]

    def test_application_may_clean_up(self) -> None:
        """It ends by GreenletExit, as at the end of a worker."""
        ended: list[str] = []

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            try:
                return computes(environ, start_response)
            finally:
                ended.append("cleaned up")

        with pytest.raises(TimeoutError), connect(app, timeout=0.2) as client:
            client.receive()
        assert ended == ["cleaned up"]

    def test_application_that_gives_way_late_is_not_interrupted(self) -> None:
        """It has until the timeout."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            time.sleep(0.4)  # no event shows that nothing interrupts it: twice as long as without the timeout
            environ["wsgi.websocket"].send("late")
            return []

        with connect(app, timeout=30) as client:
            assert client.receive() == "late"

    def test_other_client_is_not_harmed(self) -> None:
        """Its application goes on."""
        with connect(echo) as other:
            with pytest.raises(TimeoutError), connect(computes, timeout=0.2) as client:
                client.receive()
            other.send("x")
            assert other.receive() == "x"

    def test_nothing_is_left(self) -> None:
        """The signal has its handler again, and its thread ends, with the last client."""
        before, threads = signal.getsignal(signal.SIGURG), native_threads()
        with connect(echo), connect(echo):
            assert signal.getsignal(signal.SIGURG) is not before
            assert native_threads() > threads
        assert signal.getsignal(signal.SIGURG) is before
        until(lambda: native_threads() <= threads)

    def test_debugger_is_not_interrupted(self) -> None:
        """One stops at a line of the view for as long as its user likes."""
        # No event shows that nothing is raised: this is twice as long as it takes until something would be.
        commands = "import time\np time.sleep(0.8) or 'still ' + 'here'\ncontinue\n"
        done = run_python("-c", DEBUGGED, stdin=commands)
        assert "'still here'" in done.stdout, done.stdout + done.stderr

    def test_client_in_another_thread_works_without_it(self) -> None:
        """Signals come to the main thread alone."""
        received: list[Any] = []

        def talk() -> None:
            with connect(echo) as client:
                client.send("x")
                received.append(client.receive())
            gevent.get_hub().destroy(destroy_loop=True)

        thread = threading.Thread(target=talk)
        thread.start()
        thread.join(30)
        assert received == ["x"]


DEBUGGED = """
from gws_middleware import watchdog
from gws_middleware.testing import connect

watchdog.OVERDUE = 0.1

def app(environ, start_response):
    breakpoint()
    environ["wsgi.websocket"].accept()
    return []

with connect(app, timeout=0.2):
    pass
"""


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir())) if sys.platform == "linux" else threading.active_count()


class Outcome(BaseException):
    """As those of pytest: no Exception, so that no code under test takes it for one."""


def raises_at_once(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise Outcome


def raises_after_the_101(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.websocket"].accept()
    raise Outcome


def raises_in_its_iteration(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    environ["wsgi.websocket"].accept()
    yield b""
    raise Outcome


def raises_at_its_end(environ: Environ, start_response: StartResponse) -> Any:
    environ["wsgi.websocket"].accept()

    class Response(list[bytes]):
        def close(self) -> None:
            raise Outcome

    return Response()


class TestOutcomes:
    @pytest.mark.parametrize("app", [raises_at_once, raises_after_the_101, raises_in_its_iteration, raises_at_its_end])
    @pytest.mark.parametrize("use", [lambda client: client.receive(), lambda client: None], ids=["receive", "the end"])
    def test_outcome_of_the_test_that_is_raised_in_the_application_is_the_test_s(self, app: Any, use: Any) -> None:
        """``pytest.fail()`` and ``pytest.skip()``, and what ``pytest --timeout`` raises in whatever runs."""
        with pytest.raises(Outcome), connect(app) as client:
            use(client)

    def test_outcome_goes_before_what_it_led_to(self) -> None:
        """The error of the test is its context."""

        def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
            environ["wsgi.websocket"].accept()
            environ["wsgi.websocket"].receive()
            raise Outcome

        with pytest.raises(Outcome) as caught, connect(app):
            raise AssertionError
        assert isinstance(caught.value.__context__, AssertionError)

    def test_timeout_of_pytest_fails_the_test(self, tmp_path: Path) -> None:
        """Not only the view."""
        (tmp_path / "test_hangs.py").write_text(HANGS)
        done = run_pytest(tmp_path, "-p", "no:django", "--timeout=1")
        assert "2 failed" in done.stdout, done.stdout
        assert done.stdout.count("Timeout (>1.0s) from pytest-timeout") >= 2


HANGS = """
import time
from gws_middleware.testing import connect

def hangs(environ, start_response):
    ws = environ["wsgi.websocket"]
    ws.send("tick")
    while not ws.closed:
        time.sleep(0.1)
    return []

def test_messages():
    with connect(hangs, timeout=60) as ws:
        assert ws.receive() == "tick"

def test_nothing():
    with connect(hangs, timeout=60):
        pass
"""


def test_patched_process_gives_way(tmp_path: Path) -> None:
    """As the error says: there ``time.sleep()`` is gevent's."""
    (tmp_path / "test_hangs.py").write_text(HANGS)
    command = ["-m", "gevent.monkey", "--module", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:django"]
    done = run_python(*command, folder=tmp_path, env=IGNORE_WARNINGS)
    assert "2 passed" in done.stdout, done.stdout
