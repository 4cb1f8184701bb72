"""Whatever fails before and at the 101, the request's slots, timers and entries are released (rows 29, 30)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from ..support.rawclient import TEXT, Frame, close_frame, upgrade_request
from ..support.servers import LATE, SWITCHED, Certificate, Server, launch
from ..support.waiting import eventually

LIFETIMES = "tests.fixtureapps.lifetimes"
SLOTS = 3
ENV = {
    "GWS_SEND_TIMEOUT": "1",
    "GWS_CLOSE_TIMEOUT": "1",
    "GWS_MAX_CONNECTIONS": str(SLOTS),
    "GWS_MAX_CONNECTIONS_PER_ADDRESS": "100",
    "GWS_MAX_CONNECTIONS_PER_USER": "100",
    "GWS_CLIENT_ADDRESS": "tests.fixtureapps.keys.client_address",
    "GWS_USER_KEY": "tests.fixtureapps.keys.user_key",
}


OVER_TLS = ["worker/tls", "gevent_pywsgi/tls", "pywsgi/tls"]


@pytest.fixture(scope="module", params=[*LATE, *OVER_TLS, *SWITCHED])
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Server]:
    """A server of each kind, with a few slots and a short deadline."""
    name, _, carrier = request.param.partition("/")
    directory = tmp_path_factory.mktemp("released")
    with launch(name, directory, LIFETIMES, env=ENV, certificate=certificate if carrier else None) as server:
        yield server


@pytest.fixture
def limited(kind: Server) -> Iterator[Server]:
    """That server: a request that failed keeps nothing reserved, and no descriptor, greenlet or watcher."""
    before = kind.status()
    yield kind
    kind.settled(**{name: before[name] for name in ("fds", "greenlets", "watchers")})
    eventually(partial(is_empty, kind), "every slot is released")
    with kind.connect() as client:
        client.upgrade("/echo")
        client.text("served")
        assert client.read_frame() == Frame(TEXT, b"served")
        client.close_handshake()
    eventually(partial(is_empty, kind), "every slot is released")
    kind.log.check()


def is_empty(server: Server) -> bool:
    return bool(json.loads(server.get("/reserved").body) == [0, 0, 0])


@pytest.mark.parametrize(
    ("header", "value", "error"),
    [
        ("X-Address", "raise", "LookupError: the reason"),
        ("X-Address", "list", r"TypeError: client_address returned \['a list'\]: wanted something hashable, or None"),
        ("X-User", "raise", "LookupError: the reason"),
        ("X-User", "list", r"TypeError: user_key returned \['a list'\]: wanted something hashable, or None"),
    ],
)
def test_function_that_fails_costs_no_slot(limited: Server, header: str, value: str, error: str) -> None:
    """500, or 1011 where the 101 has been sent, and one record in the log; the next client is served."""
    times = SLOTS + 1
    answers: list[Any] = []
    for _ in range(times):
        with limited.connect() as client:
            client.send(upgrade_request("/echo", (header, value)))
            response = client.read_response()
            answers.append(response.status)
            if response.status == 101:
                answers[-1] = client.read_frame().code
                client.send(close_frame(1011))
            client.read_until_eof()
    switched = limited.kind.name in SWITCHED
    limited.log.expect(error, count=times)
    assert answers == [1011 if switched else 500] * times


# Servers that send the 101 themselves write it before anything of ours is asked.
late = pytest.mark.parametrize("kind", [*LATE, *OVER_TLS], indirect=True, scope="module")


@late
def test_accept_has_a_deadline(limited: Server, token: str) -> None:
    """A peer that reads nothing holds ``accept()``, and its slot, no longer than ``send_timeout`` seconds."""
    with ExitStack() as stack:
        for _ in range(SLOTS):
            client = stack.enter_context(limited.connect(receive_buffer=4096))
            client.send(upgrade_request(f"/full/accept?id={token}"))
        eventually(lambda: limited.events(token) == ["ConnectionClosed"] * SLOTS, "every accept() has raised")
        eventually(partial(is_empty, limited), "every slot is released")


@late
@pytest.mark.parametrize("how", ["list", "iterator", "empty", "write", "lazily"])
def test_answer_has_a_deadline(limited: Server, token: str, how: str) -> None:
    """The same for an answer by HTTP, however the application gives it; the application's response is closed."""
    with limited.connect(receive_buffer=4096) as client:
        client.send(upgrade_request(f"/full/answer?how={how}&id={token}"))
        assert limited.events(token, "closed") == ["closed"]
        eventually(partial(is_empty, limited), "every slot is released")
