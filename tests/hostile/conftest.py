"""One worker for all attacks, an honest peer beside each, and a check of the worker's memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.servers import Server, launch
from .watch import KEEP_ALIVE, SETTINGS, Bystander, Memory


@pytest.fixture(scope="package")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A worker that runs through the whole package."""
    env = {f"GWS_{name.upper()}": str(value) for name, value in SETTINGS.items()}
    options = ["--keep-alive", str(KEEP_ALIVE)]
    directory = tmp_path_factory.mktemp("hostile")
    with launch("worker", directory, "tests.fixtureapps.hostile", env=env, options=options) as server:
        yield server


@pytest.fixture(scope="module")
def bystander(one_worker: Server) -> Iterator[Bystander]:
    """An honest peer of that worker, beside all the attacks of one module; after them descriptors, greenlets and
    watchers are back at their start.
    """
    before = one_worker.status()
    with Bystander(one_worker) as honest:
        yield honest
    one_worker.settled(**{name: before[name] for name in ("fds", "greenlets", "watchers", "websockets")})


@pytest.fixture
def worker(one_worker: Server, bystander: Bystander) -> Iterator[Server]:
    """That worker. Whatever the test does to it, the honest peer is answered and the log stays clean."""
    yield one_worker
    bystander.check()
    one_worker.log.check()


@pytest.fixture
def memory(worker: Server) -> Memory:
    """The worker's memory."""
    return Memory(worker.status()["pid"])
