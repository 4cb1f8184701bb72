"""The type of ``settings.GWS``. Rule: Django is not imported here, because settings are read before it is ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from ..config import Compression, SharedOptions

__all__ = ["GroupOptions", "HistoryOptions", "PresenceOptions", "Settings"]


class HistoryOptions(TypedDict, total=False):
    """What groups with a prefix keep: the arguments of ``groups.History``."""

    size: int
    age: float


class PresenceOptions(TypedDict, total=False):
    """What is visible of the members of groups with a prefix: the arguments of ``groups.Presence``."""

    events: bool
    leave_delay: float


class GroupOptions(TypedDict, total=False):
    """The setting ``groups``, where it is a dict."""

    url: str
    history: Mapping[str, HistoryOptions]
    presence: Mapping[str, PresenceOptions]
    prefix: str


class Settings(SharedOptions, total=False):
    """All keys of ``settings.GWS``, for type checkers and editors: ``GWS: Settings = {"max_connections": 5000}``."""

    compression: Compression
    site_limits: bool
    database_grace: float | None
    close_on_logout: bool
    groups: str | GroupOptions
