"""The errors of groups.

::

    Exception
    └── GroupsError
        ├── GroupsUnavailable    the backend cannot be used now; nothing was published
        └── UnknownOutcome       the backend did not answer: the message was published, or not
"""

from __future__ import annotations

__all__ = ["GroupsError", "GroupsUnavailable", "UnknownOutcome"]


class GroupsError(Exception):
    """The base class of the errors of groups."""


class GroupsUnavailable(GroupsError):  # noqa: N818 - its name is what it says
    """The backend cannot be used now. Nothing was published; the text says what was found."""


class UnknownOutcome(GroupsError):  # noqa: N818 - the same
    """The backend did not answer. The message was published, or it was not; it is never sent again by itself."""
