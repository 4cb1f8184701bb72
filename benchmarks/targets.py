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
        part = round(1 / self.limit)
        limit = f"1/{part} of" if part > 1 and abs(part * self.limit - 1) < 0.001 else f"{self.limit:g} ×"
        return f"{self.scenario}: at most {limit} {self.other}{f' in {self.beside}' if self.beside else ''}"

    def reached(self, figure: Callable[[str, str], float | None]) -> float | None:
        """The number that ``limit`` bounds, or None where it was not measured. ``figure(scenario, server)``."""
        ours = figure(self.scenario, self.ours)
        if ours is None or self.other is None:
            return ours
        other = figure(self.beside or self.scenario, self.other)
        return ours / other if other else None


_LARGE = tuple(
    f"{connections}x{size}{kind}"
    for connections in (1, 4)
    for size in ("64KiB", "1MiB", "16MiB")
    for kind in ("", "text")
)
_TLS = ("tls-64B", "tls-16KiB", "tls-1MiB", "tls-cycle")
_DEFLATE = tuple(f"deflate-{kind}" for kind in ("shared", "dedicated"))
_BURSTS = ("1x64B/16", "100x64B/16", "1x4KiB/16", "100x4KiB/16")

TARGETS: tuple[Target, ...] = (
    Target("100x64B", "gevent-websocket", 1 / 3),
    Target("100x64B", "picows", 0.9),
    Target("100x64B/16", "picows", 1 / 3),
    Target("100x4KiB", "gevent-websocket", 1 / 20),
    Target("100x4KiB", "picows", 0.9),
    Target("1x16KiB", "picows", 0.9),
    Target("100x16KiB", "gevent-websocket", 1 / 20),
    Target("100x16KiB", "picows", 0.9),
    Target("1x1MiB", "gevent-websocket", 1 / 50),
    Target("4x1MiB", "gevent-websocket", 1 / 50),
    *(Target(name, "picows", 1.0) for name in _LARGE),
    *(Target(name, "bun", 1.1) for name in ("100x64B", *_BURSTS, "fanout")),
    *(Target(name, "bun", 0.8) for name in ("1x16KiB", "100x16KiB", *_LARGE)),
    Target("cycle", "gevent-websocket", 0.65),
    Target("storm", "gevent-websocket", 0.5),
    *(Target(name, "picows", 1.15) for name in _TLS),
    *(Target(name, "uvicorn", 1.0) for name in _TLS),
    *(Target(f"{kind}-{size}", "uvicorn", 1.0) for kind in _DEFLATE for size in ("1KiB", "16KiB")),
    *(Target(f"idle-{kind}", "uvicorn", 1.0) for kind in _DEFLATE),
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
    Target("idle", None, 12),
    Target("idle-django", None, 22),
    Target("idle-detached", None, 3),
)
