"""What is logged of an outage: its beginning and its end, once each."""

from __future__ import annotations

import logging
import time

__all__ = ["Outages"]

log = logging.getLogger("gws_middleware.groups")


class Outages:
    """The outages of a backend, by what cannot be done meanwhile."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def report(self, kind: str, error: Exception | None) -> None:
        """Something has failed, or has worked.

        Args:
            kind: What was tried, e.g. ``"publish"``.
            error: What it has failed with; None where it has worked.

        """
        if error is not None:
            if self._since.setdefault(kind, now := time.monotonic()) == now:
                log.error("groups: outage (%s): %s", kind, error)
        elif kind in self._since:
            log.warning("groups: the outage (%s) of %.1f s is over", kind, time.monotonic() - self._since.pop(kind))
