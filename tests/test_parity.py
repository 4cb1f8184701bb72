"""Two implementations, one contract: what exists in C and in Python is compared, call by call.

The pairs are ``protocol.masking``, ``protocol.frames`` and ``protocol.payload`` with ``_speedups.c``,
``connection.fastpath`` with ``_fastpath.c``, and the plain socket of ``connection.channel`` with ``_channel.c``. What
is compared: names, signatures, docstrings, constants, what each call returns or raises, which methods of the subclass
it calls and with what, and the state that it leaves.

Five differences are accepted, and nothing but these:

1. An attribute that is annotated as ``bool``, ``int`` or ``float`` is a number in C. It refuses a value of another type
   when it is assigned (Python: when it is used), it cannot be deleted, and it is 0 before it is assigned.
2. An attribute that is annotated as ``list`` must be a list in C: else TypeError when it is used.
3. What a collaborator returns against its own annotation (a channel that has sent -1 bytes) is an exception in C and
   is passed on by Python.
4. C calls ``write()`` and ``queue()`` of a ``FastTransport`` without a lookup by name: no subclass overrides them.
5. A ``Payload`` has no attributes in C, and no subclasses: its methods show what it holds.
"""

from __future__ import annotations

import array
import inspect
import itertools
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from gws_middleware.connection import channel as channels
from gws_middleware.connection.states import CLOSED, OPEN, PENDING
from gws_middleware.protocol.connection import prepare

from .support.implementations import NAMES, Implementation, implementation
from .support.seam import (
    TLSChannel,
    deliver,
    set_inbox,
    set_up_engine,
    set_up_transport,
    set_up_turn,
    set_up_websocket,
    wake_reader,
)

pytestmark = pytest.mark.skipif("c" not in NAMES, reason="the C modules are not built: there is nothing to compare")

FUNCTIONS = ("masking.mask", "frames.encode_frame", "frames.parse_messages")
BASES = ("frames.FastEngine", "fastpath.Turn", "fastpath.FastTransport", "fastpath.FastWebSocket")
"""The classes with a slow path in a subclass."""
CLASSES = (*BASES, "payload.Payload")
OF_EVERY_CLASS = {*dir(object), "__slots__", "__annotations__", "__annotate_func__", "__annotations_cache__"}
OF_EVERY_CLASS |= {"__module__", "__static_attributes__", "__firstlineno__", "__conditional_annotations__"}


# --- the objects under test ---------------------------------------------------------------------------------------


class Fake:
    """A collaborator that records its calls. ``answers`` has what each method returns or raises."""

    def __init__(self, name: str, log: list[Any], answers: dict[str, Any], **attributes: Any) -> None:
        self._name, self._log, self._answers = name, log, answers
        self.__dict__.update(attributes)

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._answers:
            raise AttributeError(name)

        def method(*args: Any) -> Any:
            self._log.append((self._name, name, *map(described, args)))
            answer = self._answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return answer() if callable(answer) else answer

        return method


def described(value: Any) -> Any:
    """A value in a form in which those of the two implementations are equal."""
    if isinstance(value, BaseException):
        return type(value)
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [described(item) for item in value]
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (bytes, bytearray, str, type(None))):
        return type(value).__name__, value
    if callable(value):
        return "callable", getattr(value, "__name__", "")
    return repr(value) if isinstance(value, Fake) else type(value).__name__


def recording(base: type[Any], **answers: Any) -> type[Any]:
    """A subclass of ``base`` whose methods of the slow path record their calls in ``log``."""

    def method(name: str, answer: Any) -> Callable[..., Any]:
        def called(self: Any, *args: Any) -> Any:
            self.log.append((name, *map(described, args)))
            return answer(self) if callable(answer) else answer

        return called

    methods = {name: method(name, answer) for name, answer in answers.items()}
    return type("Recording", (base,), {"__slots__": ("log",), **methods})


def changed(made: Any, attributes: dict[str, Any]) -> Any:
    """The object, with other values of these attributes."""
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def make_turn(module: Any, log: list[Any], *, over: bool = False, foreign: bool = False, **attributes: Any) -> Any:
    """A turn of this thread's loop."""
    turn = recording(module.Turn, call="called in the loop's thread")()
    turn.log = log
    polls = Fake("polls", log, {}, iteration=7)
    set_up_turn(turn, polls, monotonic() - (10 if over else -1000), threading.get_ident() + foreign)
    return changed(turn, attributes)


def make_transport(module: Any, log: list[Any], *, sent: Any = 3, read: Any = 5, **attributes: Any) -> Any:
    """A transport of which the channel answers ``send()`` and ``recv_into()`` with ``sent`` and ``read``."""
    slow = dict.fromkeys(("_read_failed", "_lost", "_write_failed", "_keep", "_flush_later", "write_parts"))
    transport = recording(module.FastTransport, **slow)()
    transport.log = log
    channel = Fake("channel", log, {"send": sent, "recv_into": read})
    set_up_transport(transport, channel, make_turn(module, log), Fake("owner", log, {"_data_received": None}))
    return changed(transport, attributes)


def make_websocket(
    module: Any,
    log: list[Any],
    *,
    frame: Any = b"frame",
    fed: Any = ("new",),
    eventful: bool = False,
    over: bool = False,
    foreign: bool = False,
    outbox_size: int = 0,
    woken_with: Any = ("came",),
    detached: bool = False,
    inbox: Sequence[str] = ("second", "first"),
    **attributes: Any,
) -> Any:
    """A WebSocket of which the engine encodes to ``frame`` and reads the messages ``fed``; a wait puts ``woken_with``
    into the inbox.
    """
    slow: dict[str, Any] = dict.fromkeys(("_give_way", "_wake_later", "_relax", "_check_open", "_wait_writable"))
    slow |= dict.fromkeys(("_too_slow", "_eventful", "_put")) | {"_receive": "received slowly"}
    websocket = recording(module.FastWebSocket, **slow)()
    websocket.log = log
    answers = {"encode": frame, "feed": (lambda: list(fed)) if type(fed) is tuple else fed}
    set_up_websocket(
        websocket,
        engine=Fake("engine", log, answers, eventful=eventful),
        transport=make_transport(module, log, sent=5, outbox_size=outbox_size),
        hub=Fake("hub", log, {"switch": lambda: set_inbox(websocket, list(woken_with))}),
        turn=make_turn(module, log, over=over, foreign=foreign),
        callbacks=Fake("callbacks", log, {"start": None}) if detached else None,
    )
    set_inbox(websocket, list(inbox))
    return changed(websocket, attributes)


def make_engine(module: Any, log: list[Any], **attributes: Any) -> Any:
    """The engine's base, between two messages of a client that masks nothing."""
    engine = recording(module.FastEngine, _feed_rest=None, _encode=b"encoded slowly")()
    engine.log = log
    set_up_engine(engine)
    return changed(engine, attributes)


def make_payload(module: Any, *, came: Sequence[bytes] = (b"first", b"")) -> Any:
    """A payload of which these pieces have come."""
    payload = module.Payload()
    for piece in came:
        payload.add(piece, None, 0)
    return payload


MAKERS: dict[str, Callable[..., Any]] = {
    "payload.Payload": lambda both, log, **options: make_payload(both.payload, **options),
    "frames.FastEngine": lambda both, log, **options: make_engine(both.frames, log, **options),
    "fastpath.Turn": lambda both, log, **options: make_turn(both.fastpath, log, **options),
    "fastpath.FastTransport": lambda both, log, **options: make_transport(both.fastpath, log, **options),
    "fastpath.FastWebSocket": lambda both, log, **options: make_websocket(both.fastpath, log, **options),
}

TWO_FRAMES = b"\x81\x03one\x82\x03two"
ARGUMENTS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "masking.mask": lambda: (b"data", b"abcd"),
    "frames.encode_frame": lambda: (0x82, b"data", b"abcd"),
    "frames.parse_messages": lambda: (TWO_FRAMES, 0, len(TWO_FRAMES), 100, False, []),
    "frames.FastEngine.feed": lambda: (TWO_FRAMES, len(TWO_FRAMES)),
    "frames.FastEngine.encode": lambda: ("text", None),
    "payload.Payload.__len__": tuple,
    "payload.Payload.add": lambda: (b"data", b"abcd", 3),
    "payload.Payload.part": lambda: (1, 3),
    "payload.Payload.take": tuple,
    "fastpath.Turn.begin": tuple,
    "fastpath.Turn.is_over": tuple,
    "fastpath.Turn.is_foreign": tuple,
    "fastpath.FastTransport._readable": tuple,
    "fastpath.FastTransport.write": lambda: (b"one",),
    "fastpath.FastTransport.queue": lambda: (b"one",),
    "fastpath.FastWebSocket.receive": lambda: (None,),
    "fastpath.FastWebSocket.send": lambda: ("text", None),
    "fastpath.FastWebSocket.offer": lambda: ("text",),
    "fastpath.FastWebSocket._data_received": lambda: (bytearray(b"data"), 4),
    "fastpath.FastWebSocket.__next__": tuple,
    "fastpath.FastWebSocket.__iter__": tuple,
}
"""Every callable that exists twice, with arguments that it takes."""
METHODS = {kind: [name for name in ARGUMENTS if name.startswith(f"{kind}.")] for kind in CLASSES}


class Outcome(NamedTuple):
    """What a call came to."""

    result: Any
    log: list[Any]
    state: dict[str, Any]
    arguments: Any


def attributes_of(kind: str) -> list[str]:
    """The attributes that instances have, as the Python class lists them."""
    if kind not in BASES:
        return []
    slots: tuple[str, ...] = attrgetter(kind)(implementation("python")).__slots__
    return list(slots)


NOT_SET = "not set"
TRANSPORT = "fastpath.FastTransport"


def state_of(kind: str, made: Any) -> dict[str, Any]:
    """The attributes of an instance. ``_began`` is a moment: only whether it has changed can be compared."""
    if kind not in BASES:
        return {"holds": made.part(0, len(made))}
    values = {name: getattr(made, name, NOT_SET) for name in attributes_of(kind)}
    state = {name: described(value) for name, value in values.items()}
    transport, began = values.get("_transport"), values.get("_began")
    if hasattr(transport, "outbox_size"):
        state |= {f"_transport.{name}": value for name, value in state_of(TRANSPORT, transport).items()}
    if isinstance(began, (int, float)):
        state["_began"] = abs(began - monotonic()) < 5
    return state


def outcome(call: Callable[[], Any], log: list[Any], kind: str = "", made: Any = None, arguments: Any = ()) -> Outcome:
    """Make a call and describe all that can be seen of it. CPython raises SystemError where C code breaks its rules."""
    try:
        answer = call()
        result = type(answer).__name__, described(answer)
    except SystemError as error:
        result = str(error)
    except Exception as error:
        result = type(error)
    return Outcome(result, log, state_of(kind, made) if kind else {}, [described(item) for item in arguments])


def call_of(both: Implementation, name: str, **options: Any) -> tuple[Callable[..., Any], list[Any], str, Any]:
    """One callable of ``ARGUMENTS``, bound to a new object if it is a method. Returns it with log, class and object."""
    log: list[Any] = []
    kind, _, method = name.rpartition(".")
    if kind not in MAKERS:
        return attrgetter(name)(both), log, "", None
    made = MAKERS[kind](both, log, **options)
    return getattr(made, method), log, kind, made


def outcomes(
    name: str,
    args: Callable[[], tuple[Any, ...]],
    names: dict[str, Any] | None = None,
    change: Callable[[Any], object] | None = None,
    **options: Any,
) -> tuple[Outcome, Outcome]:
    """Make one call in Python and in C, on objects of their own; ``change`` is done to each of them before."""
    both = []
    for choice in ("python", "c"):
        call, log, kind, made = call_of(implementation(choice), name, **options)
        if change is not None:
            change(made)
        arguments = args()
        both.append(outcome(partial(call, *arguments, **(names or {})), log, kind, made, arguments))
    python, c = both
    return python, c


def compare(
    name: str, args: Callable[[], tuple[Any, ...]], names: dict[str, Any] | None = None, **options: Any
) -> str | None:
    """Make one call on both; what differs, or None."""
    return difference(*outcomes(name, args, names, **options))


def difference(python: Outcome, c: Outcome) -> str | None:
    """What differs between two outcomes, or None."""
    if python == c:
        return None
    parts = [
        f"{field}: Python {getattr(python, field)}, C {getattr(c, field)}"
        for field in ("result", "log", "arguments")
        if getattr(python, field) != getattr(c, field)
    ]
    parts += [
        f"{name}: Python {value}, C {c.state.get(name)}"
        for name, value in python.state.items()
        if c.state.get(name) != value
    ]
    return "; ".join(parts)


def check(found: dict[Any, str | None]) -> None:
    """Fail with the differences, one a line."""
    lines = [f"{case}: {text}" for case, text in found.items() if text is not None]
    if lines:
        pytest.fail(f"{len(lines)} of {len(found)} differ:\n" + "\n".join(lines[:20]), pytrace=False)


# --- what can be seen without a call ------------------------------------------------------------------------------


def both_of(name: str) -> tuple[Any, Any]:
    """The thing of this name in Python and in C."""
    return attrgetter(name)(implementation("python")), attrgetter(name)(implementation("c"))


def parameters_of(callable_: Any, *, method: bool) -> list[tuple[str, str, Any]]:
    """Name, kind and default of each parameter but ``self``."""
    parameters = list(inspect.signature(callable_).parameters.values())[method:]
    return [(parameter.name, parameter.kind.name, parameter.default) for parameter in parameters]


class TestInspection:
    """Names, signatures, docstrings and constants."""

    def test_the_two_are_two(self) -> None:
        """Nothing is compared with itself."""
        for name in (*FUNCTIONS, *CLASSES):
            python, c = both_of(name)
            assert python is not c
            assert inspect.isbuiltin(c) or "._" in c.__module__
            assert not inspect.isbuiltin(python)
            assert "._" not in python.__module__

    @pytest.mark.parametrize("kind", CLASSES)
    def test_names(self, kind: str) -> None:
        """Both classes have the same methods and attributes."""
        python, c = (set(dir(each)) - OF_EVERY_CLASS for each in both_of(kind))
        if kind not in BASES:
            python = {name for name in python if not name.startswith("_") or name.endswith("__")}
        assert (python - c, c - python) == (set(), set())

    @pytest.mark.parametrize("kind", CLASSES)
    def test_every_callable_is_compared(self, kind: str) -> None:
        """A method that is added to a class is added to ``ARGUMENTS``."""
        python, _ = both_of(kind)
        own = {name for name in set(dir(python)) - OF_EVERY_CLASS if callable(getattr(python, name))}
        assert {f"{kind}.{name}" for name in own if inspect.isfunction(getattr(python, name))} == set(METHODS[kind])

    @pytest.mark.parametrize("name", ARGUMENTS)
    def test_signature(self, name: str) -> None:
        """``inspect.signature`` shows the same parameters, kinds and defaults."""
        python, c = (parameters_of(each, method=name not in FUNCTIONS) for each in both_of(name))
        assert c == python

    @pytest.mark.parametrize("name", [*ARGUMENTS, *CLASSES])
    def test_docstring(self, name: str) -> None:
        """``help()`` shows the same text. (CPython writes those of special methods itself.)"""
        if name.endswith("__"):
            return
        python, c = (" ".join((inspect.getdoc(each) or "").split()) for each in both_of(name))
        assert c == python != ""

    @pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
    def test_name(self, name: str) -> None:
        """Errors and tracebacks name the same thing."""
        python, c = both_of(name)
        assert (python.__name__, python.__qualname__) == (c.__name__, c.__qualname__)

    @pytest.mark.parametrize(
        ("module", "extension", "least"), [("frames", "protocol._speedups", 8), ("fastpath", "connection._fastpath", 1)]
    )
    def test_constants(self, module: str, extension: str, least: int) -> None:
        """Each number that the C code is compiled with is the one of the Python module."""
        compiled = vars(__import__(f"gws_middleware.{extension}", fromlist=["*"]))
        numbers = {name: value for name, value in compiled.items() if isinstance(value, (int, float))}
        python = getattr(implementation("python"), module)
        assert numbers == {name: getattr(python, name, None) for name in numbers}
        assert len(numbers) >= least


# --- calls --------------------------------------------------------------------------------------------------------


class Index:
    """A number that is no ``int``."""

    def __index__(self) -> int:
        return 3


class Text(str):
    """A text whose methods return something else."""

    __slots__ = ()

    def encode(self, *args: Any) -> bytes:
        return b"another text"

    def __len__(self) -> int:
        return 1


class Data(bytes):
    """Bytes whose methods return something else."""

    def __len__(self) -> int:
        return 1


class Buffer(bytearray):
    """A buffer of a subclass."""


class Messages(list):  # type: ignore[type-arg]
    """A list of a subclass."""


def released() -> memoryview:
    """A view whose buffer has been given back."""
    view = memoryview(b"data")
    view.release()
    return view


ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "3": lambda: 3,
    "-1": lambda: -1,
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "-2**70": lambda: -(2**70),
    "2.0": lambda: 2.0,
    "an index": Index,
    "a str": lambda: "text",
    "no ASCII": lambda: "мир",
    "a surrogate": lambda: "\ud800",
    "a str of a subclass": lambda: Text("text"),
    "bytes": lambda: b"\x82\x01x",
    "four bytes": lambda: b"abcd",
    "bytes of a subclass": lambda: Data(b"\x82\x01x"),
    "a bytearray": lambda: bytearray(b"\x82\x01x"),
    "a bytearray of a subclass": lambda: Buffer(b"abcd"),
    "a view": lambda: memoryview(b"\x82\x01x"),
    "a view with steps": lambda: memoryview(b"abcdefgh")[::2],
    "a view of wide items": lambda: memoryview(array.array("H", [0x182, 0x4142])),
    "a view in two dimensions": lambda: memoryview(b"\x82\x02xy").cast("B", (2, 2)),
    "a released view": released,
    "a list": list,
    "a list of a subclass": Messages,
    "a tuple": tuple,
    "an object": lambda: object(),
    "a class": lambda: int,
}


class TestCalls:
    """What a call returns, raises and does."""

    @pytest.mark.parametrize("name", ARGUMENTS)
    def test_number_of_arguments(self, name: str) -> None:
        """Each number of arguments by position, up to two too many."""
        complete = ARGUMENTS[name]()
        counts = range(len(complete) + 3)
        found = {n: compare(name, lambda n=n: (*ARGUMENTS[name](), None, None)[:n], {}) for n in counts}
        check(found)

    @pytest.mark.parametrize("name", ARGUMENTS)
    def test_arguments_by_name(self, name: str) -> None:
        """Each parameter by its name, alone, after those before it, and twice; and names that no parameter has."""
        python, _ = both_of(name)
        parameters = [each[0] for each in parameters_of(python, method=name not in FUNCTIONS)]
        found: dict[Any, str | None] = {}
        for i, parameter in enumerate([*parameters, "nonsense", "frame", "self"]):
            value = (*ARGUMENTS[name](), None, None, None)[i]
            for n in range(len(parameters) + 2):
                found[parameter, n] = compare(name, lambda n=n: (*ARGUMENTS[name](), None)[:n], {parameter: value})
        found["all"] = compare(name, tuple, dict(zip(parameters, ARGUMENTS[name](), strict=True)))
        check(found)

    @pytest.mark.parametrize(
        ("name", "position"), [(name, i) for name, make in ARGUMENTS.items() for i in range(len(make()))]
    )
    def test_argument_of_another_type(self, name: str, position: int) -> None:
        """Every other kind of value in the place of each argument."""

        def arguments(odd: Callable[[], Any]) -> tuple[Any, ...]:
            complete = list(ARGUMENTS[name]())
            complete[position] = odd()
            return tuple(complete)

        found = {label: compare(name, lambda odd=odd: arguments(odd), {}) for label, odd in ODD.items()}
        check(found)

    @pytest.mark.parametrize("kind", CLASSES)
    def test_constructor(self, kind: str) -> None:
        """No arguments are taken: a subclass has its own ``__init__``."""
        outcomes = []
        for made in both_of(kind):
            calls: list[Callable[[], Any]] = [
                lambda made=made: isinstance(made(), made),
                lambda made=made: made(1),
                lambda made=made: made(x=1),
                lambda made=made: made.__new__(made, 1),
                lambda made=made: setattr(made(), "another", 1),
            ]
            outcomes.append([outcome(call, []).result for call in calls])
        python, c = outcomes
        assert c == python


@pytest.mark.parametrize("choice", NAMES)
def test_message_limit_beyond_a_machine_word(choice: str) -> None:
    """An engine with a limit that no C number holds reads messages all the same."""
    engine = implementation(choice).connection.Connection(client=True, max_message_size=2**64)
    assert engine.feed(TWO_FRAMES) == ["one", b"two"]


def states(**values: list[Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values."""
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


READS = [5, 1, 0, 2**31, BlockingIOError(), ConnectionResetError(), ValueError()]
WRITES = [3, 2, 0, 4, BlockingIOError(), BrokenPipeError(), TypeError()]
FRAMES = [b"frame", b"x" * 900, (b"header", b"payload"), ValueError()]
WRONG_FRAMES = ["x", 5, ["x"], {}]
WRONG_SIZES = [-1, -2, None, "3", 3.0, 2**70]


@pytest.mark.slow
class TestStates:
    """Each method in every combination of the states that it reads."""

    @pytest.mark.parametrize("name", METHODS["fastpath.Turn"])
    def test_turn(self, name: str) -> None:
        """The thread, the clock, and what the loop's counter says."""
        counters = [SimpleNamespace(iteration=value) for value in (7, 8, 0, 2**62)]
        found = {
            str(state): compare(name, tuple, {}, **state)
            for state in states(over=[False, True], foreign=[False, True], polls=[*counters, None, object()])
        }
        check(found)

    @pytest.mark.parametrize("read", READS, ids=repr)
    def test_transport_readable(self, read: Any) -> None:
        """Whatever the channel answers."""
        check({repr(read): compare("fastpath.FastTransport._readable", tuple, {}, read=read)})

    @pytest.mark.parametrize("name", ["fastpath.FastTransport.write", "fastpath.FastTransport.queue"])
    def test_transport_write(self, name: str) -> None:
        """Whatever waits already and whatever the channel answers."""
        cases = states(outbox_size=[0, 5], _write_turn=[3, 7], _flush_due=[False, True], sent=WRITES)
        found = {str(state): compare(name, lambda: (b"one",), {}, **state) for state in cases}
        check(found)

    @pytest.mark.parametrize("name", ["receive", "__next__"])
    def test_websocket_receive(self, name: str) -> None:
        """Who waits, what waits, and whether the turn is over."""
        cases = states(
            inbox=[(), ("one",), ("two", "one")],
            _state=[PENDING, OPEN, CLOSED],
            detached=[False, True],
            _reader=[None, "a greenlet"],
            _paused=[False, True],
            _end_delivered=[False, True],
            _holds=[False, True],
            over=[False, True],
            foreign=[False, True],
            woken_with=[(), ("came",), ("later", "came")],
        )
        check(
            {
                str((state, args)): compare(f"fastpath.FastWebSocket.{name}", lambda args=args: args, {}, **state)
                for state in cases
                for args in (((), (None,), (1.5,)) if name == "receive" else ((),))
            }
        )

    @pytest.mark.parametrize("name", ["send", "offer"])
    def test_websocket_send(self, name: str) -> None:
        """Whether it is open, what waits for the peer, and what the engine answers."""
        cases = states(
            inbox=[(), ("one",)],
            _state=[PENDING, OPEN, CLOSED],
            _plain=[False, True],
            over=[False, True],
            foreign=[False, True],
            outbox_size=[0, 100, 101, 998, 1000, 10**6],
            frame=FRAMES,
        )
        check(
            {
                str((state, message)): compare(
                    f"fastpath.FastWebSocket.{name}", lambda message=message: (message,), {}, **state
                )
                for state in cases
                for message in ("text", prepare("prepared"))
            }
        )

    def test_websocket_data_received(self) -> None:
        """What the engine reads, who waits for it, and whether the turn is over."""
        cases = states(
            fed=[(), ("one",), ("two", "one"), ValueError()],
            eventful=[False, True, 0, 1, None],
            detached=[False, True],
            _reader=[None, "a greenlet"],
            over=[False, True],
            foreign=[False, True],
            inbox=[(), ("one",)],
        )
        name = "fastpath.FastWebSocket._data_received"
        check({str(state): compare(name, lambda: (bytearray(8), 8), {}, **state) for state in cases})

    @pytest.mark.parametrize("answer", [*WRONG_SIZES, *WRONG_FRAMES], ids=repr)
    def test_wrong_answer_of_a_collaborator(self, answer: Any) -> None:
        """The third accepted difference: C raises some exception, and never returns NULL without one."""
        c = implementation("c").fastpath
        made = [
            lambda log: partial(wake_reader, make_transport(c, log, read=answer)),
            lambda log: partial(make_transport(c, log, sent=answer).write, b"one"),
            lambda log: make_turn(c, log, over=True, polls=SimpleNamespace(iteration=answer)).is_over,
            lambda log: partial(make_websocket(c, log, frame=answer).send, "text"),
            lambda log: partial(make_websocket(c, log, frame=answer, outbox_size=5).offer, "text"),
            lambda log: partial(deliver, make_websocket(c, log, fed=answer), bytes(8)),
        ]
        results = [outcome(make([]), []).result for make in made]
        assert [result for result in results if isinstance(result, str)] == []

    @pytest.mark.parametrize("between", [False, True])
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("size", [-1, 0, 2, 100])
    def test_engine_feed(self, between: bool, masked: bool, size: int) -> None:
        """Where the message begins, how it must be masked and how large it may be."""
        masked_frame = b"\x81\x83abcd" + bytes(a ^ b for a, b in zip(b"one", b"abc", strict=True))
        inputs = [b"", TWO_FRAMES, masked_frame * 3, b"\x81\x01\xff", b"\x89\x00", TWO_FRAMES[:-1], b"\x81\x00" * 300]
        found = {}
        for data in inputs:
            for end in (None, *range(-2, len(data[:20]) + 3)):
                for kind in (bytes, bytearray, memoryview, Data):
                    found[data[:20], end, kind] = compare(
                        "frames.FastEngine.feed",
                        lambda data=data, end=end, kind=kind: (kind(data), end),
                        {},
                        _between=between,
                        _masked=masked,
                        _max_message_size=size,
                    )
        check(found)

    @pytest.mark.parametrize("plain", [False, True])
    @pytest.mark.parametrize("binary", [None, False, True, 0, 1])
    def test_engine_encode(self, plain: bool, binary: Any) -> None:
        """Each kind of message, below and above the size at which the payload stays apart."""
        messages: list[Any] = ["", "text", "мир" * 100, "x" * 70000, b"", b"x" * 65535, b"x" * 65536, 5, None]
        messages += [Text("text"), Data(b"data"), bytearray(b"data"), memoryview(b"data"), "\ud800"]
        found: dict[Any, str | None] = {
            i: compare("frames.FastEngine.encode", lambda message=message: (message, binary), {}, plain=plain)
            for i, message in enumerate(messages)
        }
        check(found)


# --- attributes ---------------------------------------------------------------------------------------------------


NUMBERS = {"bool": bool, "int": int, "float": float}


ATTRIBUTES = [(kind, name) for kind in CLASSES for name in attributes_of(kind)]


class TestAttributes:
    """What happens where a subclass has not set an attribute, or not to what it has to be."""

    @staticmethod
    def number_type(kind: str, attribute: str) -> type[Any] | None:
        """The type of an attribute that is a number, or None."""
        python, _ = both_of(kind)
        return NUMBERS.get(inspect.get_annotations(python)[attribute])

    @pytest.mark.parametrize("kind", CLASSES)
    def test_every_attribute_is_annotated(self, kind: str) -> None:
        """The annotation says which ones are numbers in C."""
        python, _ = both_of(kind)
        assert set(inspect.get_annotations(python)) >= set(attributes_of(kind))

    @pytest.mark.parametrize(("kind", "attribute"), ATTRIBUTES)
    def test_value_of_another_type(self, kind: str, attribute: str) -> None:
        """Objects: every method then comes to the same. Numbers and lists: as the accepted differences say."""
        wanted = self.number_type(kind, attribute)
        is_list = inspect.get_annotations(both_of(kind)[0])[attribute].startswith("list[")
        found: dict[Any, str | None] = {}
        for label, odd in ODD.items():
            if wanted is not None and not self.taken(kind, attribute, label, wanted):
                continue
            for name in METHODS[kind]:
                python, c = outcomes(
                    name, ARGUMENTS[name], change=lambda made, odd=odd: setattr(made, attribute, odd())
                )
                refused = is_list and label != "a list" and c.result is TypeError
                found[label, name] = None if refused else difference(python, c)
        check(found)

    def taken(self, kind: str, attribute: str, label: str, wanted: type[Any]) -> bool:
        """Whether C takes a value for an attribute that is a number, which must be so where it has the right type."""
        value = ODD[label]()
        right = type(value) is wanted or (type(value), wanted) in ((bool, int), (int, float), (bool, float))
        taken = self.assigned(kind, attribute, value)
        if right:
            assert taken or value < 0 or value >= 2**31, f"C refuses {label} for {wanted}"
        else:
            assert not taken or label == "an index", f"C takes {label} for {wanted}"
        return taken and right

    @staticmethod
    def assigned(kind: str, attribute: str, value: Any) -> bool:
        """Whether the attribute in C takes the value; a warning that it was cut to size counts as a refusal."""
        made = MAKERS[kind](implementation("c"), [])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                setattr(made, attribute, value)
            except (TypeError, OverflowError, RuntimeWarning):
                return False
        return True

    @pytest.mark.parametrize(("kind", "attribute"), ATTRIBUTES)
    def test_deleted(self, kind: str, attribute: str) -> None:
        """Objects: every method then comes to the same. Numbers: C refuses."""
        if self.number_type(kind, attribute) is not None:
            with pytest.raises(TypeError):
                delattr(MAKERS[kind](implementation("c"), []), attribute)
            return
        for choice in ("python", "c"):
            made = MAKERS[kind](implementation(choice), [])
            delattr(made, attribute)
            with pytest.raises(AttributeError):
                delattr(made, attribute)
            with pytest.raises(AttributeError):
                getattr(made, attribute)
        check(
            {
                name: difference(*outcomes(name, ARGUMENTS[name], change=lambda made: delattr(made, attribute)))
                for name in METHODS[kind]
            }
        )

    @pytest.mark.parametrize("name", [name for kind in BASES for name in METHODS[kind]])
    def test_nothing_is_set(self, name: str) -> None:
        """As after a failed constructor: an AttributeError, or a C number that is 0, and no crash."""
        kind, _, method = name.rpartition(".")
        results = []
        for made in both_of(kind):
            results.append(outcome(lambda: getattr(made(), method)(*ARGUMENTS[name]()), []).result)  # noqa: B023
        python, c = results
        itself = ("FastWebSocket", "FastWebSocket")
        assert python == (itself if method == "__iter__" else AttributeError)
        assert c == python or (c == ("bool", True) and kind == "fastpath.Turn")  # the thread 0 is another one


# --- the plain socket ---------------------------------------------------------------------------------------------


CHANNEL_METHODS = ("fileno", "recv_into", "send", "sendmsg", "shutdown", "setsockopt", "close")
CHANNEL_CALLS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "fileno": tuple,
    "recv_into": lambda: (bytearray(8),),
    "send": lambda: (b"data",),
    "sendmsg": lambda: ([b"one", b"two"],),
    "shutdown": lambda: (socket.SHUT_WR,),
    "setsockopt": lambda: (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "close": tuple,
}


class TestChannel:
    """``SocketChannel`` and the socket of the standard library, as far as ``PlainChannel`` goes. A socket takes more
    arguments, which no caller passes: mypy holds them to ``PlainChannel``.
    """

    @staticmethod
    def made(choice: str) -> tuple[Any, socket.socket]:
        """A channel, and its peer, which has sent something."""
        ours, peer = socket.socketpair()
        peer.sendall(b"hello")
        return implementation(choice).channel.plain_channel(ours), peer

    def compared(self, name: str, args: Callable[[], tuple[Any, ...]], *, closed: bool = False) -> str | None:
        """Make one call on both; what differs in the result, the arguments or what the peer receives, or None."""
        both = []
        for choice in ("python", "c"):
            channel, peer = self.made(choice)
            arguments = args()
            with peer:
                try:
                    if closed:
                        channel.close()
                    done = outcome(partial(getattr(channel, name), *arguments), [], arguments=arguments)
                    is_open = channel.fileno() >= 0
                finally:
                    channel.close()
                peer.settimeout(5)
                try:
                    received = peer.recv(100)
                except ConnectionResetError:
                    received = b"reset"
            if name == "fileno" and is_open:
                done = done._replace(result=done.result[1] > 0)
            both.append(done._replace(state={"open": is_open, "received": received}))
        return difference(*both)

    def test_names(self) -> None:
        """Everything that ``PlainChannel`` promises, and nothing else."""
        channel, peer = self.made("c")
        with peer:
            channel.close()
        promised = {name for name in dir(channels.PlainChannel) if not name.startswith("_")}
        assert {name for name in dir(channel) if not name.startswith("_")} == promised == set(CHANNEL_METHODS)

    @pytest.mark.parametrize("name", CHANNEL_METHODS)
    def test_signature_and_docstring(self, name: str) -> None:
        """Those of ``PlainChannel``; the TLS channel has the same parameters."""
        channel, peer = self.made("c")
        with peer:
            channel.close()
        promised, in_c = getattr(channels.PlainChannel, name), getattr(type(channel), name)
        parameters = parameters_of(promised, method=True)
        assert parameters_of(in_c, method=True) == parameters
        assert (inspect.getdoc(in_c) or "").split() == (inspect.getdoc(promised) or "").split() != []
        if name != "sendmsg":
            in_tls = getattr(TLSChannel, name)  # recv_into is a slot that holds the method of the socket
            assert inspect.ismemberdescriptor(in_tls) or parameters_of(in_tls, method=True) == parameters

    @pytest.mark.parametrize("closed", [False, True])
    @pytest.mark.parametrize("name", CHANNEL_METHODS)
    def test_call(self, name: str, closed: bool) -> None:
        """The same result and effect, or the same exception, while it is open and after that."""
        check({name: self.compared(name, CHANNEL_CALLS[name], closed=closed)})

    @pytest.mark.parametrize(
        ("name", "position"), [(name, i) for name, make in CHANNEL_CALLS.items() for i in range(len(make()))]
    )
    def test_argument_of_another_type(self, name: str, position: int) -> None:
        """Every other kind of value for each argument. (Sockets also take options that are no numbers.)"""
        found: dict[Any, str | None] = {}
        for label, odd in ODD.items():
            if (name, position) == ("setsockopt", 2) and not isinstance(odd(), (int, float, str)):
                continue
            if (name, position, label) == ("sendmsg", 0, "a released view"):
                continue  # CPython's iterator of it leaves a ValueError pending, and sendmsg() may or may not see it
            complete = CHANNEL_CALLS[name]
            found[label] = self.compared(
                name, lambda odd=odd, complete=complete: (*complete()[:position], odd(), *complete()[position + 1 :])
            )
        check(found)

    @pytest.mark.parametrize("name", CHANNEL_METHODS)
    def test_too_few_arguments(self, name: str) -> None:
        """Each number of arguments that is too small."""
        complete = CHANNEL_CALLS[name]
        check({n: self.compared(name, lambda n=n: complete()[:n]) for n in range(len(complete()))})
