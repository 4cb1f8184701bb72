"""The type of ``settings.GWS``: its keys and their types are those of the settings."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from collections.abc import Mapping

import pytest

from gws_middleware.config import Options
from gws_middleware.django.conf import DjangoConfig
from gws_middleware.django.options import GroupOptions, HistoryOptions, PresenceOptions, Settings
from gws_middleware.groups import Groups, History, Presence


def test_keys_and_types_are_those_of_the_settings() -> None:
    """What is converted is as in ``Options``; ``site_limits`` are the groups of the project, so it is a switch."""
    wanted = {
        **typing.get_type_hints(DjangoConfig),
        **typing.get_type_hints(Options),
        "site_limits": bool,
        "groups": str | GroupOptions,
    }
    assert typing.get_type_hints(Settings) == wanted
    assert Settings.__required_keys__ == frozenset()


def test_keys_of_groups_are_arguments() -> None:
    """Of ``Groups``, but for those that Django's settings give in another way."""
    assert set(GroupOptions.__annotations__) == set(inspect.signature(Groups).parameters) - {"project"}


@pytest.mark.parametrize(("options", "kind"), [(HistoryOptions, History), (PresenceOptions, Presence)])
def test_keys_of_a_prefix_are_arguments(options: type[Mapping[str, object]], kind: type) -> None:
    """Of the class that they become."""
    assert typing.get_type_hints(options) == typing.get_type_hints(kind)


def test_settings_module_can_import_it() -> None:
    """Django is not ready then, and is not imported by it."""
    program = "import sys; from gws_middleware.django import Settings; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
