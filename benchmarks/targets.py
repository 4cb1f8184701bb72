"""What this project wants to reach. Information for the reader of a report: no test asserts on time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """``ours`` divided by ``other`` (or ours alone, in ``unit``, where there is no other) is at most ``limit``."""

    scenario: str
    other: str | None
    limit: float
    unit: str = "KiB per connection"
    ours: str = "ours"
    beside: str | None = None
    """The scenario of the other's figure, if it is not the same."""

    @property
    def sentence(self) -> str:
        if self.other is None:
            return f"{self.scenario}: at most {self.limit:g} {self.unit}"
        limit = f"{self.limit:g} ×" if self.limit >= 1 else f"1/{1 / self.limit:.0f} of"
        return f"{self.scenario}: at most {limit} {self.other}{f' in {self.beside}' if self.beside else ''}"

    def reached(self, figure: Callable[[str, str], float | None]) -> float | None:
        """The number that ``limit`` bounds, or None where it was not measured. ``figure(scenario, server)``."""
        ours = figure(self.scenario, self.ours)
        if ours is None or self.other is None:
            return ours
        other = figure(self.beside or self.scenario, self.other)
        return ours / other if other else None


def _pairs(scenario: str, gevent_websocket: float, picows: float) -> tuple[Target, Target]:
    return Target(scenario, "gevent-websocket", gevent_websocket), Target(scenario, "picows", picows)


TARGETS: tuple[Target, ...] = (
    *_pairs("100x64B", 1 / 3, 1.2),
    Target("100x64B/16", "picows", 1 / 3),
    *_pairs("100x4KiB", 1 / 20, 1.4),
    *_pairs("100x16KiB", 1 / 20, 1.4),
    *_pairs("1x1MiB", 1 / 50, 1.4),
    *_pairs("4x1MiB", 1 / 50, 1.4),
    Target("cycle", "gevent-websocket", 1.0),
    Target("fanout", "picows", 1.0),
    Target("groups", "ours", 1.3, beside="fanout"),
    Target("groups", "channels", 1 / 40),
    Target("groups", "ours", 1.3, ours="ours-redis", beside="fanout"),
    Target("groups", "channels", 1 / 40, ours="ours-redis"),
    Target("groups-hop", None, 15, "µs of worker CPU", ours="ours-redis"),
    Target("groups-hop", "channels", 1 / 10, ours="ours-redis"),
    Target("groups-resume", None, 1000, "µs of CPU, which is 1,000 in a second"),
    Target("groups-delay", None, 25, "ms (p99)", ours="ours-4"),
    Target("groups-delay", None, 25, "ms (p99)", ours="ours-redis-4"),
    Target("groups-delay-stuck", "ours-4", 1.1, ours="ours-4", beside="groups-delay"),
    Target("groups-delay-stuck", "ours-redis-4", 1.1, ours="ours-redis-4", beside="groups-delay"),
    Target("idle", None, 16),
    Target("idle-django", None, 24),
    Target("idle-detached", None, 4),
)
