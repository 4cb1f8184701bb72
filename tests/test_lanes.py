"""The markers of the lanes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .support import lanes, servers
from .support.servers import Server, launch


def calls_launch(directory: Path) -> None:
    with launch("worker", directory):
        pass


def calls_it_through_a_module(directory: Path) -> None:
    with servers.launch("worker", directory):
        pass


def calls_it_in_an_inner_function(directory: Path) -> Callable[[], None]:
    def inner() -> None:
        calls_launch(directory)

    return inner


class Starter:
    def begin(self, directory: Path) -> None:
        calls_launch(directory)


def uses_a_class(kind: str) -> object:
    return Starter()


def has_a_class_as_a_default(starter: type[Starter] = Starter) -> None: ...


def runs_an_interpreter() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def starts_nothing(server: Server) -> None:
    Path().exists()


@pytest.mark.parametrize(
    ("function", "markers"),
    [
        (calls_launch, {"real_server"}),
        (calls_it_through_a_module, {"real_server"}),
        (calls_it_in_an_inner_function, {"real_server"}),
        (uses_a_class, {"real_server"}),
        (has_a_class_as_a_default, {"real_server"}),
        (runs_an_interpreter, {"slow"}),
        (starts_nothing, set()),
    ],
)
def test_markers_are_those_of_what_a_function_reaches(function: Callable[..., object], markers: set[str]) -> None:
    """Through other functions, modules, classes, inner functions and defaults."""
    assert lanes.markers_of([function]) == markers


def test_test_without_a_marker_starts_no_process(request: pytest.FixtureRequest) -> None:
    """Whatever way it has found: the call fails."""
    assert not {mark.name for mark in request.node.iter_markers()} & set(lanes.MARKERS)
    start = getattr(subprocess, "".join(["Po", "pen"]))  # so that the search for calls does not find it
    with pytest.raises(AssertionError, match="has none of the markers"):
        start([sys.executable, "-c", ""])


@pytest.mark.slow
def test_test_with_a_marker_may_start_one() -> None:
    """The same call."""
    assert getattr(subprocess, "".join(["Po", "pen"]))([sys.executable, "-c", ""]).wait() == 0


def test_files_of_long_tests_come_first(request: pytest.FixtureRequest) -> None:
    """They exist, the longest is the first, and whatever else was collected comes after them."""
    assert [path for path in lanes.ORDER if not path.is_file()] == []
    numbers = [lanes.ORDER.get(item.path, len(lanes.LONG)) for item in request.session.items]
    assert numbers == sorted(numbers)
