"""The report of a run as a page with charts: ``python -m benchmarks.page figures.json report.html``.

One file, with bars for each scenario, the tables of the terminal, the machine, and what makes a number less reliable.
matplotlib draws the charts, as SVG: the page has no script and loads nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from .report import about, notes, number, tables, targets, title_of
from .results import Report, names
from .scenarios import SCENARIOS

__all__ = ["CHARTS", "Chart", "draw", "draw_growth", "page"]

COLORS = {
    "ours": "#0b6e99",
    "ours-pure": "#7fb7d1",
    "ours-4": "#0b6e99",
    "ours-redis": "#56a3c4",
    "ours-redis-4": "#56a3c4",
    "gevent-websocket": "#b0b0b0",
    "uvicorn": "#e0a458",
    "gunicorn-asgi": "#8a9a5b",
    "granian": "#6b8f71",
    "picows": "#c8553d",
    "bun": "#3d3d3d",
    "channels": "#8c7aa9",
}
"""One colour for each server, in all charts; a server that is not named has ``OTHER``."""
OTHER = "#707070"
COLUMNS = 3
WIDTH, ROW = 11.0, 0.22
"""Inches: of a chart, and of one bar."""

_DRAWING: dict[str, Any] = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8}
"""Text stays text. With a salt, the same figures make the same file."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; }
svg { max-width: 100%; height: auto; }
pre { overflow-x: auto; background: #f6f6f4; padding: 1rem; font-size: 13px; line-height: 1.4; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1.5rem; }
dt { color: #666; }
dd { margin: 0; }
"""


@dataclass(frozen=True)
class Chart:
    """The scenarios whose quantity has this unit."""

    name: str
    quantity: str
    title: str
    less: str = "Less is better."


CHARTS = (
    Chart("cpu", "cpu_us", "CPU time of the server for each message, µs"),
    Chart("memory", "resident_kib", "Memory of an idle connection, KiB"),
    Chart("storm", "seconds", "Until all clients that connect at once are served, seconds"),
    Chart("delay", "p99_ms", "From a message to its last member, ms (99 of 100 take less)"),
)

GROWING = tuple(dict.fromkeys(one.grows[0] for one in SCENARIOS.values() if one.grows is not None))
"""What grows in some scenarios."""


def page(report: Report) -> str:
    """The whole page."""
    charts = [
        f"<h2>{escape(chart.title)}</h2>\n<p>{escape(chart.less)} Each scenario has a scale of its own.</p>\n{drawn}"
        for chart in CHARTS
        if (drawn := draw(report, chart))
    ]
    growth = [
        f"<h2>Cost while {escape(what)} grow</h2>\n<p>CPU time of the server for each message, µs.</p>\n{drawn}"
        for what in GROWING
        if (drawn := draw_growth(report, what))
    ]
    facts = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.environment.items())
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Benchmarks of gws_middleware</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            "<h1>Benchmarks of gws_middleware</h1>",
            f"<p>{'<br>'.join(map(escape, about(report)))}</p>",
            *charts,
            *growth,
            f"<h2>The machine</h2>\n<dl>\n{facts}\n</dl>",
            *_list("Notes", notes(report)),
            *_list("Targets", targets(report)),
            f"<h2>All figures</h2>\n<pre>{escape(tables(report))}</pre>",
            "</body>\n</html>\n",
        )
    )


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return [f"<h2>{title}</h2>\n<ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"] if lines else []


def draw(report: Report, chart: Chart) -> str:
    """A chart as SVG, with the bars of each scenario; empty where none was measured."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = [name for name in report.scenarios if SCENARIOS[name].quantity == chart.quantity and _bars(report, name)]
    if not names:
        return ""
    rows = -(-len(names) // COLUMNS)
    most = max(len(_bars(report, name)) for name in names)
    with rc_context({**_DRAWING, "svg.hashsalt": chart.name}):
        figure = Figure(figsize=(WIDTH, rows * (most * ROW + 0.55)), layout="constrained")
        axes = figure.subplots(rows, COLUMNS, squeeze=False).flat
        for axis, name in zip(axes, [*names, *[""] * (rows * COLUMNS - len(names))], strict=True):
            axis.set_axis_off()
            if name:
                _draw_bars(axis, name, _bars(report, name), most)
        return _svg(figure)


def draw_growth(report: Report, what: str) -> str:
    """A line for each server, over how much there is of what grows, as SVG; empty where there are no two points."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    lines: dict[str, list[tuple[int, float]]] = {}
    for name in report.scenarios:
        grows = SCENARIOS[name].grows
        if grows is not None and grows[0] == what:
            for server, figure in _bars(report, name):
                lines.setdefault(server, []).append((grows[1], figure))
    if not any(len(points) > 1 for points in lines.values()):
        return ""
    with rc_context({**_DRAWING, "svg.hashsalt": what}):
        drawn = Figure(figsize=(WIDTH, 4), layout="constrained")
        axis = drawn.subplots()
        for server, points in lines.items():
            at, figures = zip(*sorted(points), strict=True)
            axis.plot(at, figures, marker="o", label=server, gid=f"line-{server}", color=COLORS.get(server, OTHER))
        axis.set_xscale("symlog", linthresh=1)
        axis.set_yscale("log")
        axis.xaxis.set_major_locator(FixedLocator(sorted({at for points in lines.values() for at, _ in points})))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for each in (axis.xaxis, axis.yaxis):
            each.set_minor_locator(NullLocator())
            each.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.set_xlabel(what)
        axis.set_ylabel("CPU time of the server for each message, µs")
        axis.grid(visible=True, color="#e4e4e4")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return _svg(drawn)


def _svg(figure: Any) -> str:
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _bars(report: Report, scenario: str) -> list[tuple[str, float]]:
    """The servers and their figures, in the order of the report."""
    found = ((server, report.figure(scenario, server)) for server in report.servers)
    return [(server, figure) for server, figure in found if figure is not None]


def _draw_bars(axis: Any, scenario: str, bars: Sequence[tuple[str, float]], most: int) -> None:
    axis.set_title(title_of(scenario), loc="left", fontsize=9)
    longest = max(figure for _, figure in bars) or 1.0
    axis.set_xlim(-0.55 * longest, 1.25 * longest)
    axis.set_ylim(most - 0.4, -0.6)
    for at, (server, figure) in enumerate(bars):
        weight = "bold" if server.startswith("ours") else "normal"
        axis.barh(at, figure, height=0.7, color=COLORS.get(server, OTHER))
        axis.text(-0.02 * longest, at, server, ha="right", va="center", fontweight=weight)
        axis.text(figure + 0.02 * longest, at, number(figure), ha="left", va="center", fontweight=weight)


def run(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("figures", type=Path, help="what `python -m benchmarks.echo --json` has written")
    parser.add_argument("page", type=Path, help="the file to write")
    parser.add_argument("--servers", default="*", help="names or patterns, of those of the run")
    parser.add_argument("--scenarios", default="*", help="the same")
    parser.add_argument("--images", type=Path, metavar="DIRECTORY", help="write each chart as a file there, too")
    options = parser.parse_args(arguments)
    report = Report.from_json(json.loads(options.figures.read_text("utf-8")))
    try:
        report.servers = names(options.servers, report.servers)
        report.scenarios = names(options.scenarios, report.scenarios)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    options.page.write_text(page(report), "utf-8")
    if options.images:
        drawings = {chart.name: draw(report, chart) for chart in CHARTS}
        drawings |= {what.replace(" ", "-"): draw_growth(report, what) for what in GROWING}
        for name, drawn in drawings.items():
            if drawn:
                (options.images / f"benchmark-{name}.svg").write_text(drawn, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run())
