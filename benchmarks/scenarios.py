"""The table of all that is measured."""

from __future__ import annotations

from .frames import (
    BINARY_1M,
    BINARY_16K,
    BINARY_16M,
    BINARY_64K,
    TEXT_1M,
    TEXT_4K,
    TEXT_16M,
    TEXT_64,
    TEXT_64K,
    Payload,
)
from .kinds import (
    Beside,
    Cycle,
    Deflated,
    Delay,
    Echo,
    Fanout,
    Hop,
    Idle,
    IdleDeflated,
    Pinged,
    Resume,
    Scenario,
    Storm,
)

__all__ = ["SCENARIOS"]

_OURS = ("ours", "ours-pure")
_WITH_A_LONG_QUEUE = (*_OURS, "gevent-websocket", "uvicorn", "granian", "picows", "bun")
"""The queue of gunicorn's ASGI worker is 100: the kernel drops the clients above, which try again after seconds."""
_OURS_4 = ("ours-4", "ours-redis-4")


def _echo(size: str, payload: Payload, connections: int, in_flight: int = 1, *, long: bool = False) -> Echo:
    suffix, burst = (f"/{in_flight}", f", {in_flight} in flight") if in_flight > 1 else ("", "")
    return Echo(
        name=f"{connections}x{size}{suffix}",
        title=f"{connections} × {payload.name}{burst}",
        connections=connections,
        payload=payload,
        in_flight=in_flight,
        long=long,
    )


def _large(connections: int) -> tuple[Echo, ...]:
    sizes = {
        "64KiB": BINARY_64K,
        "64KiBtext": TEXT_64K,
        "1MiBtext": TEXT_1M,
        "16MiB": BINARY_16M,
        "16MiBtext": TEXT_16M,
    }
    return tuple(_echo(size, payload, connections, long=True) for size, payload in sizes.items())


def _beside(idle: int) -> Beside:
    title = f"100 × 64 B text beside {idle:,} idle"
    return Beside(f"beside-{idle}", title, grows=("idle connections", idle), long=True, connections=100, idle=idle)


def _pinged(count: int) -> Pinged:
    title = f"{count:,} idle, detached, with pings"
    return Pinged(f"idle-detached-{count}", title, _OURS, long=True, connections=count, path="/detached")


def _members(count: int) -> Fanout:
    return Fanout(f"fanout-{count}", f"fan-out to {count:,}", grows=("members", count), long=True, connections=count)


def _tls(size: str, payload: Payload, connections: int) -> Echo:
    title = f"TLS: {connections} × {payload.name}"
    return Echo(f"tls-{size}", title, None, ("trustme",), None, True, "tls", connections=connections, payload=payload)


def _deflated(kind: str) -> tuple[Scenario, ...]:
    mode = f"deflate-{kind}"
    echoes = (
        Deflated(f"{mode}-{kib}KiB", f"{mode}: 100 × {kib} KiB JSON", long=True, mode=mode, size=kib * 1024)
        for kib in (1, 16)
    )
    return (*echoes, IdleDeflated(f"idle-{mode}", f"idle, {mode}", long=True, mode=mode))


_TABLE: tuple[Scenario, ...] = (
    _echo("64B", TEXT_64, 1),
    _echo("64B", TEXT_64, 1, in_flight=16),
    _echo("64B", TEXT_64, 100),
    _echo("64B", TEXT_64, 100, in_flight=16),
    _echo("4KiB", TEXT_4K, 1),
    _echo("4KiB", TEXT_4K, 1, in_flight=16),
    _echo("4KiB", TEXT_4K, 100),
    _echo("4KiB", TEXT_4K, 100, in_flight=16),
    _echo("16KiB", BINARY_16K, 1),
    _echo("16KiB", BINARY_16K, 100),
    _echo("1MiB", BINARY_1M, 1),
    _echo("1MiB", BINARY_1M, 4),
    Cycle("cycle", "connect–echo–close"),
    Fanout("fanout", "fan-out to 1,000", grows=("members", 1000)),
    Fanout("groups", "group of 1,000", (*_OURS, "ours-redis", "channels"), path="/group"),
    Resume("groups-resume", "connect–resume–close", (*_OURS, "ours-redis")),
    Hop("groups-hop", "hop through a group", ("ours-redis", "channels")),
    Delay("groups-delay", "1,000 members in 4 workers", _OURS_4),
    Delay("groups-delay-stuck", "the same, 10 more are stuck", _OURS_4, stuck=10),
    Idle("idle", "idle connection"),
    Idle("idle-django", "idle in a Django view", _OURS, ("django",), application="benchmarks.servers.ours_django"),
    Idle("idle-detached", "idle, detached", _OURS, path="/detached"),
    *_large(1),
    *_large(4),
    _tls("64B", TEXT_64, 100),
    _tls("16KiB", BINARY_16K, 100),
    _tls("1MiB", BINARY_1M, 4),
    Cycle("tls-cycle", "TLS: connect–echo–close", needs=("trustme",), long=True, mode="tls"),
    *_deflated("shared"),
    *_deflated("dedicated"),
    *map(_pinged, (9000, 50_000)),
    Storm("storm", "10,000 clients at once", _WITH_A_LONG_QUEUE, long=True),
    Storm("storm-detached", "10,000 at once, detached", _OURS, long=True, path="/detached"),
    *map(_beside, (0, 100, 1000, 10_000, 50_000)),
    *map(_members, (1, 10, 100, 10_000)),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _TABLE}
