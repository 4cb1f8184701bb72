"""docs/grafana.json: a dashboard of all that is exported, and of nothing else."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gws_middleware.metrics.prometheus import Exporter
from gws_middleware.metrics.table import METRICS

from ..support.servers import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
WIDTH = 24
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def exported() -> dict[str, set[str]]:
    """The names of the series of each metric, as an exporter has them."""
    registry = CollectorRegistry()
    Exporter(registry)
    return {family.name: {family.name + suffix for suffix in SUFFIXES[family.type]} for family in registry.collect()}


EXPRESSIONS: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]


def used() -> set[str]:
    """The names of series in the expressions."""
    return {name for expression in EXPRESSIONS for name in re.findall(r"\bwebsocket_\w+", expression)}


def test_every_name_is_exported() -> None:
    """A misspelt one would show an empty panel."""
    assert used() - set().union(*exported().values()) == set()


def test_everything_exported_is_shown() -> None:
    """Each metric is in some panel."""
    assert [name for name, series in exported().items() if not series & used()] == []


def test_labels_are_those_of_the_metrics() -> None:
    """What is summed by, and what a legend names, is a label of ours or of every target's."""
    ours = {metric.label for metric in METRICS if metric.label}
    named: set[str] = set()
    for panel in PANELS:
        for target in panel["targets"]:
            lists = re.findall(r"by \(([^)]+)\)", target["expr"])
            by = {label for labels in lists for label in labels.split(", ")}
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= by, target
            named |= by
    assert ours <= named <= {*ours, "instance", "le"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_is_well_formed(expression: str) -> None:
    """Counters are shown as rates, gauges are not; every series is of the chosen jobs; brackets are closed."""
    for name, selector, window in re.findall(r"(websocket_\w+)({[^}]*})?(\[[^]]*\])?", expression):
        assert 'job=~"$job"' in selector, name
        assert (window == "[$__rate_interval]") == name.endswith(("_total", "_bucket")), name
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)


def test_panels_do_not_overlap() -> None:
    """They fill rows of Grafana's grid, without a hole."""
    cells: list[set[tuple[int, int]]] = []
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH, panel["title"]
        cells.append({(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])})
    assert not any(one & other for one, other in combinations(cells, 2))
    height = max(y for panel in cells for _, y in panel) + 1
    assert sum(map(len, cells)) == WIDTH * height


def test_panels_have_different_names() -> None:
    """Ids, titles, and the letters of a panel's queries."""
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert panel["description"]


def test_data_source_is_chosen_when_it_is_imported() -> None:
    """No panel has the name of a source on one machine."""
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["job"]["datasource"] == SOURCE
    assert all(one["datasource"] == SOURCE for panel in PANELS for one in (panel, *panel["targets"]))
    assert (DASHBOARD["id"], DASHBOARD["schemaVersion"] >= 36) == (None, True)
