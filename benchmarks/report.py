"""The report of a run: tables for a terminal, which are also Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from statistics import median

from .kinds import Cycle, Deflated, Echo, Fanout, Hop, Resume, Storm
from .results import Report, Result
from .scenarios import SCENARIOS
from .targets import TARGETS

__all__ = ["about", "notes", "number", "render", "render_comparison", "tables", "targets", "title_of"]

_UNITS = {"cpu_us": "µs of CPU", "resident_kib": "KiB", "p99_ms": "ms", "seconds": "s"}
_LATENCY = "one connection, so both sides wait for each other: no core is full, and the rate is a latency"


def render(report: Report) -> str:
    """The whole report."""
    sections = (_heading(report), tables(report), _list("Targets", targets(report)), _list("Notes", notes(report)))
    return "\n\n".join(section for section in sections if section) + "\n"


def tables(report: Report) -> str:
    """All figures."""
    sections = (
        _section(
            "Server CPU per message, µs (cycle, resume: per connection; fan-out, group: a delivery; hop: without echo)",
            _cpu_rows(report),
        ),
        _section("Messages per second", _rate_rows(report)),
        _section("Share of a core: server / load generator, %", _use_rows(report)),
        _section("Size of the compressed replies, % of the texts", _size_rows(report)),
        _section("From a message to its last member, ms: median / p99", _delay_rows(report)),
        _section(
            "Until all clients are served, s (server CPU per client, µs / p99 of plain requests, ms)",
            _storm_rows(report),
        ),
        _section("Memory per idle connection, KiB resident", _memory_rows(report)),
        _section("Many idle connections, with pings: % of a core / p99 of an echo, ms", _pinged_rows(report)),
    )
    return "\n\n".join(section for section in sections if section)


def title_of(scenario: str) -> str:
    """What a report calls it."""
    return SCENARIOS[scenario].title


def render_comparison(report: Report, before: str, revision: str) -> str:
    """The cost of this checkout beside that of a revision of it, which has the name ``before`` in the report."""
    rows = [["", revision, "this checkout", "ratio", "of the best rounds", "unit"]]
    for name in report.scenarios:
        old, new = report.figure(name, before), report.figure(name, "ours")
        if old and new is not None:
            least = (report.least(name, "ours") or 0) / (report.least(name, before) or old)
            unit = _UNITS[SCENARIOS[name].quantity]
            rows.append([SCENARIOS[name].title, number(old), number(new), number(new / old), number(least), unit])
    table = _section("This checkout divided by the revision", rows)
    sections = (_heading(report), table, _list("Notes", notes(report)))
    return "\n\n".join(section for section in sections if section) + "\n"


def _heading(report: Report) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    return "\n".join([versions, *about(report)])


def about(report: Report) -> list[str]:
    """What was measured, and what was not."""
    lines = [f"scale {report.scale:g}, {report.rounds} rounds in turns, medians"]
    lines += [f"ABSENT: {server}: {reason}" for server, reason in report.absent.items()]
    if report.scale < 1:
        lines.append("Below scale 1 the figures show that the benchmark works, not what a server costs.")
    if not report.pinned:
        lines.append("Only one core: the servers and the load generator disturb each other.")
    return lines


def _section(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns line up; nothing when there is no row below the head."""
    if len(rows) < 2:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([f"## {title}", "", *(_line(row, widths) for row in (rows[0], rule, *rows[1:]))])


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines)]) if lines else ""


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
    return f"| {' | '.join(cells)} |"


def _rows(report: Report, quantity: str, cell: Callable[[Result], str], ratios: bool = False) -> list[list[str]]:
    """The head, then one row per scenario with that quantity: a cell per server, and ours divided by each other."""
    others = _others(report) if ratios else []
    rows = [["", *report.servers, *(f"ours/{other}" for other in others)]]
    for name in report.scenarios:
        cells = [_cell(report, name, server, cell) for server in report.servers]
        if SCENARIOS[name].quantity == quantity and set(cells) != {"–"}:
            rows.append([SCENARIOS[name].title, *cells, *(number(report.ratio(name, other)) for other in others)])
    return rows


def _others(report: Report) -> list[str]:
    """The servers that are measured in scenarios of ours."""
    return [server for server in report.servers if server != "ours" and _is_compared(report, server)]


def _is_compared(report: Report, server: str) -> bool:
    return any(report.ratio(name, server) is not None for name in report.scenarios)


def _cell(report: Report, scenario: str, server: str, cell: Callable[[Result], str]) -> str:
    result = report.results.get((scenario, server))
    if result is None:
        return "–"
    return "FAILED" if result.failure else cell(result)


def number(value: float | None) -> str:
    """Text with three significant digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.1 else f"{value:.2g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.0f}"


def _cpu_rows(report: Report) -> list[list[str]]:
    return _rows(report, "cpu_us", lambda result: number(result.figure), ratios=True)


def _rate_rows(report: Report) -> list[list[str]]:
    return _rows(report, "cpu_us", lambda result: number(result.middle(attrgetter("rate"))))


def _use_rows(report: Report) -> list[list[str]]:
    def cell(result: Result) -> str:
        uses = (result.middle(attrgetter(name)) for name in ("server_use", "load_use"))
        return " / ".join(map(_percent, uses))

    return _rows(report, "cpu_us", cell)


def _size_rows(report: Report) -> list[list[str]]:
    def cell(result: Result) -> str:
        size = result.middle(attrgetter("compressed"))
        return _percent(size) if size else "–"

    return _rows(report, "cpu_us", cell)


def _delay_rows(report: Report) -> list[list[str]]:
    def cell(result: Result) -> str:
        return " / ".join(number(result.middle(attrgetter(name))) for name in ("median_ms", "p99_ms"))

    return _rows(report, "p99_ms", cell)


def _storm_rows(report: Report) -> list[list[str]]:
    def cell(result: Result) -> str:
        more = (number(result.middle(attrgetter(name))) for name in ("cpu_us", "p99_ms"))
        return f"{number(result.figure)} ({' / '.join(more)})"

    return _rows(report, "seconds", cell, ratios=True)


def _memory_rows(report: Report) -> list[list[str]]:
    return _rows(report, "resident_kib", lambda result: number(result.figure), ratios=True)


def _pinged_rows(report: Report) -> list[list[str]]:
    def cell(result: Result) -> str:
        p99 = result.middle(attrgetter("p99_ms"))
        return f"{number(100 * (result.middle(attrgetter('server_use')) or 0))} / {number(p99)}" if p99 else "–"

    return _rows(report, "resident_kib", cell)


def targets(report: Report) -> list[str]:
    """What the project wants to reach, a line each: whether it has, and the figure."""
    lines = []
    for target in TARGETS:
        reached = target.reached(report.figure)
        if reached is not None:
            verdict = "holds" if reached <= target.limit else "MISSED"
            best = number(target.reached(report.least))
            lines.append(f"{verdict:6}  {target.sentence} (it is {number(reached)}; best rounds: {best})")
    return lines


def notes(report: Report) -> list[str]:
    """What makes a number less reliable."""
    lines = [f"FAILED: {result.scenario}, {result.server}: {result.failure}" for result in report.failures]
    measured = [result for result in report.results.values() if result.figure is not None]
    lines += _grouped("the rounds differ much, %", measured, _spread)
    lines += _disturbances(measured)
    worked = [result for result in measured if _saturates(result.scenario)]
    lines += _grouped("THE LOAD GENERATOR WAS THE LIMIT, the server busy %", worked, _outrun)
    lines += _grouped("neither side was busy all the time (the rate is a lower bound), server busy %", worked, _slack)
    singles = [name for name in report.scenarios if _single(name)]
    lines += [f"{', '.join(singles)}: {_LATENCY}"] * bool(singles)
    return lines


def _grouped(title: str, results: Sequence[Result], share: Callable[[Result], float | None]) -> Iterator[str]:
    """One line for all results that have such a share."""
    found = [(result, value) for result in results if (value := share(result)) is not None]
    if found:
        shares = (f"{result.scenario} {result.server} {_percent(value)}" for result, value in found)
        yield f"{title}: {', '.join(shares)}"


def _spread(result: Result) -> float | None:
    return result.spread if result.spread > 0.2 else None


def _disturbances(results: Sequence[Result]) -> Iterator[str]:
    """What was taken from both sides, over all results."""
    for who, share in (("OTHER PROCESSES", "disturbance"), ("THE HYPERVISOR", "stolen_share")):
        shares = [value for result in results if (value := result.middle(attrgetter(share))) is not None]
        if shares and max(shares) > 0.1:
            usual, most = _percent(median(shares)), _percent(max(shares))
            yield f"{who} TOOK THESE CORES {usual} % of the time, up to {most} %; rates are too low, CPU is too high"


def _outrun(result: Result) -> float | None:
    """How busy the server was, where the load generator was fully occupied and the server was not."""
    busy, load = result.middle(attrgetter("server_wish")), result.middle(attrgetter("load_wish"))
    return busy if busy is not None and load is not None and busy < 0.9 <= load else None


def _slack(result: Result) -> float | None:
    busy, load = result.middle(attrgetter("server_wish")), result.middle(attrgetter("load_wish"))
    return busy if busy is not None and load is not None and busy < 0.9 and load < 0.9 else None


def _single(scenario: str) -> bool:
    found = SCENARIOS[scenario]
    return isinstance(found, Echo) and found.connections == 1


def _saturates(scenario: str) -> bool:
    """Whether the scenario is meant to keep the server busy all the time."""
    return isinstance(SCENARIOS[scenario], Echo | Cycle | Deflated | Fanout | Hop | Resume | Storm) and not _single(
        scenario
    )
