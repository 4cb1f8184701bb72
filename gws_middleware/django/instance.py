"""The ``Groups`` of the project: that of the setting ``groups``, and what it is in tests.

Rule: in tests no other process is reached, unless the settings have an explicit URL.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ..groups.client import Groups
from . import conf

__all__ = ["IN_MEMORY", "begin_test", "get_groups", "site_limits", "use_in_tests"]

IN_MEMORY = "memory://"

_instances: dict[conf.GroupSettings, Groups] = {}
"""By setting, so that members are found again when ``override_settings`` has ended."""
_url_in_tests = IN_MEMORY


def get_groups() -> Groups:
    """The groups of the project.

    Returns:
        The same object for the same value of the setting ``groups``. In tests ``"auto"`` is ``"memory://"``; for the
        tests of a ``WebSocketLiveServerTestCase`` both are a directory that they share with their server.

    Raises:
        ConfigError: The setting is wrong.

    """
    wanted = conf.load_groups()
    if wanted.url in ("auto", IN_MEMORY) and _in_tests():
        wanted = wanted._replace(url=_url_in_tests)
    found = _instances.get(wanted)
    if found is None:
        made = Groups(
            wanted.url,
            history=dict(wanted.history),
            presence=dict(wanted.presence),
            project=wanted.project,
            prefix=wanted.prefix,
        )
        found = _instances.setdefault(wanted, made)  # another thread may have been faster
    return found


class ProjectNumbers:
    """Those of the project's groups, whichever these are at the time."""

    def exchange_number(self, name: str, number: int) -> int:
        """See ``Groups``."""
        return get_groups().exchange_number(name, number)

    def put_numbers(self, numbers: Mapping[str, int]) -> None:
        """See ``Groups``."""
        get_groups().put_numbers(numbers)


site_limits = ProjectNumbers()
"""What the setting ``site_limits`` is where it is True."""


def _in_tests() -> bool:
    """Whether Django's ``setup_test_environment()`` was called, as a test runner does."""
    module = sys.modules.get("django.test.utils")
    return module is not None and hasattr(module._TestState, "saved_data")


def begin_test() -> None:
    """Forget all members and messages of this process; the test client calls this before each test."""
    while _instances:
        _instances.popitem()[1].release()


def use_in_tests(url: str = IN_MEMORY) -> None:
    """Set what ``"auto"`` and ``"memory://"`` are in tests; the live server calls this in both of its processes.

    Args:
        url: A URL of ``Groups``.

    """
    global _url_in_tests  # one for each process, as the settings
    begin_test()
    _url_in_tests = url
