"""Fixtures for tests against real servers; see ``servers``."""

from __future__ import annotations

import gc
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from .support import servers
from .support.lanes import pytest_collection_modifyitems, pytest_configure, pytest_runtest_protocol  # noqa: F401
from .support.notices import pytest_sessionfinish  # noqa: F401 - importing the hook here registers it
from .support.servers import BEHAVIOURS, Certificate, Server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for localhost, and the context of a client that trusts it."""
    import ssl

    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    certfile, keyfile = directory / "cert.pem", directory / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(certfile, append=True)
    issued.private_key_pem.write_to_path(keyfile)
    authority.cert_pem.write_to_path(directory / "authority.pem")
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Certificate(certfile, keyfile, client, directory / "authority.pem")


def pytest_collection_finish() -> None:
    """Take what the collection made out of the garbage collector's sight.

    Thousands of tests lie in memory. Each test that collects garbage or counts objects would go through them all.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def quiet_loop() -> Iterator[None]:
    """Fails after the tests of a file that leave something on this thread's loop: the next file would meet it.

    It waits for longer than groups without members keep their feed (ten seconds). On libuv gevent cannot count.
    """
    yield
    if "gevent" in sys.modules:
        import gevent

        from .support.inprocess import until_stopped

        until_stopped(gevent.get_hub().loop, 0, 15)


SharedServer = Callable[..., Server]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[SharedServer]:
    """``shared_server(kind, carrier, app)``: a server that runs until the session ends; the first call starts it."""
    running: dict[tuple[str, bool, str], Server] = {}
    with ExitStack() as stack:

        def get(kind: str, carrier: str = "tcp", app: str = BEHAVIOURS) -> Server:
            key = kind, carrier.startswith("tls"), app
            if key not in running:
                directory = tmp_path_factory.mktemp("server")
                launched = servers.launch(kind, directory, app, certificate=certificate if key[1] else None)
                running[key] = stack.enter_context(launched)
            return running[key].at(carrier)

        yield get
        for server in running.values():  # all at once: the stack then waits for one after the other
            server.kill(signal.SIGTERM)


@pytest.fixture
def server(request: pytest.FixtureRequest, shared_server: SharedServer) -> Iterator[Server]:
    """The shared server of the kind that the test is parametrized with, ``kind`` or ``kind/carrier``; its log is
    checked after each test.
    """
    kind, _, carrier = request.param.partition("/")
    lacking = servers.missing(kind)
    if lacking:
        pytest.skip(f"{lacking} is not installed")
    running = shared_server(kind, carrier or "tcp")
    yield running
    running.log.check()


@pytest.fixture
def token() -> str:
    """A name for one test's events in a server that many tests share."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def server_directory(tmp_path: Path) -> Path:
    """Where a test's own server keeps its logs and its unix socket."""
    return tmp_path / "server"


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``tmp_path``, without the test's name: the path of a socket has 107 bytes at most."""
    return tmp_path_factory.mktemp("s")
