"""The files around the package: workflows, the Makefile, the pages for contributors, the documentation as a site."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .support.documents import blocks
from .support.servers import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = [ROOT / name for name in ("CONTRIBUTING.md", "RELEASING.md", "SECURITY.md")]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))

workflows = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def load(path: Path) -> Any:
    """A YAML file. (``on`` is True in YAML 1.1.)"""
    return yaml.safe_load(path.read_text("utf-8"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    """The steps of all jobs of a workflow."""
    for job in load(path)["jobs"].values():
        yield from job["steps"]


def declared(pattern: str) -> list[str]:
    """What pyproject.toml says."""
    return re.findall(pattern, (ROOT / "pyproject.toml").read_text("utf-8"))


# --- workflows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        ("dependabot", [ROOT / ".github" / "dependabot.yml"]),
        ("github-issue-forms", [ROOT / ".github" / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]),
        ("github-issue-config", [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"]),
        ("readthedocs", [ROOT / ".readthedocs.yaml"]),
    ],
)
def test_files_are_valid(schema: str, files: list[Path]) -> None:
    """By the schema of their reader, which comes with check-jsonschema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@workflows
def test_actions_are_pinned(path: Path) -> None:
    """To a commit: a tag can be moved."""
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []


@workflows
def test_workflow_may_only_read(path: Path) -> None:
    """A job that needs more says so itself."""
    assert load(path)["permissions"] == {"contents": "read"}


def test_matrix_has_every_version() -> None:
    """Each Python and Django that the package declares, the oldest gunicorn and the newest, C and pure Python."""
    rows = load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert {row["python"] for row in rows} == set(declared(r"Python :: (3\.\d+)"))
    assert {row["django"] for row in rows} == set(declared(r"Django :: (\d\.\d)"))
    assert {row["gunicorn"] for row in rows} == {"newest", *declared(r'gunicorn = \["gunicorn\[gevent\]>=([\d.]+)"')}
    assert {row["speedups"] for row in rows} == {"0", "1"}


def test_matrix_has_no_django_on_a_python_that_it_does_not_support() -> None:
    """As noxfile.py has it."""
    source = (ROOT / "noxfile.py").read_text("utf-8")
    supported = {django: re.findall(r"3\.\d+", row) for django, row in re.findall(r'"(\d\.\d)": \((.*?)\)', source)}
    rows = load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert [row for row in rows if row["python"] not in supported[row["django"]]] == []


@workflows
def test_workflow_runs_make_targets_that_exist(path: Path) -> None:
    """Also those of a matrix."""
    text = path.read_text("utf-8")
    named = set(re.findall(r"run: make ([a-z-]+)", text))
    named |= set(",".join(re.findall(r"target: \[(.*)\]", text)).replace(" ", "").split(",")) - {""}
    assert named <= TARGETS


def test_wheels_are_built_for_every_python() -> None:
    """That the package declares."""
    [build] = declared(r'build = "(cp.*)"')
    assert build.split() == [f"cp{python.replace('.', '')}-*" for python in declared(r"Python :: (3\.\d+)")]


def test_hooks_run_what_make_runs() -> None:
    """Each hook of pre-commit is a command that is there."""
    [local] = load(ROOT / ".pre-commit-config.yaml")["repos"]
    for hook in local["hooks"]:
        program, *arguments = hook["entry"].split()
        if program == "make":
            assert arguments[-1] in TARGETS
        else:
            done = subprocess.run(
                [sys.executable, *arguments[:2], "--help"], capture_output=True, timeout=60, check=False
            )
            assert (program, done.returncode) == (".venv/bin/python", 0), hook


# --- the Makefile --------------------------------------------------------------------------------------------------


def test_every_target_is_listed_by_help() -> None:
    """A target without a text is not in the list."""
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(phony[1].replace("\\\n", " ").split()) == TARGETS
    assert set(re.findall(r"^([a-z-]+):.*## .", MAKEFILE, re.MULTILINE)) == TARGETS


def test_fast_lane_leaves_out_what_starts_processes() -> None:
    """The markers of the slow tests."""
    [expression] = re.findall(r"^FAST := (.*)$", MAKEFILE, re.MULTILINE)
    assert expression == "not real_server and not browser and not database and not slow"


# --- pages ---------------------------------------------------------------------------------------------------------


@pages
def test_page_links_to_files_that_exist(page: Path) -> None:
    """And to headings that exist."""
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if "://" not in link:
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_pull_request_template_links_to_a_heading() -> None:
    """The rule of the two implementations."""
    template = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text("utf-8")
    [heading] = re.findall(r"CONTRIBUTING\.md#([\w-]+)", template)
    headings = re.findall(r"^#+ (.*)$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    assert heading in [each.lower().replace(" ", "-") for each in headings]


@pages
def test_page_names_files_that_exist(page: Path) -> None:
    """What looks like a path of the repository is one."""
    named = set(re.findall(r"`([\w.-]+/[\w./-]+|[\w-]+\.(?:py|md|toml))`", page.read_text("utf-8")))
    named = {name for name in named if not name.startswith(".venv")}
    folders = (ROOT, ROOT / "gws_middleware", ROOT / "gws_middleware" / "protocol", ROOT / ".github" / "workflows")
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []


@pages
def test_page_names_make_targets_that_exist(page: Path) -> None:
    """In its text and in its commands."""
    text = page.read_text("utf-8")
    commands = re.findall(r"^make ([a-z -]+)", "\n".join(blocks(page, "sh")), re.MULTILINE)
    named = {target for line in [*re.findall(r"`make ([a-z -]+)`", text), *commands] for target in line.split()}
    assert named <= TARGETS


def test_markers_are_those_of_the_fast_lane() -> None:
    """CONTRIBUTING.md lists them."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    [listed] = re.findall(r"^- Markers: (.*?)\.", text, re.MULTILINE)
    assert re.findall(r"`(\w+)`", listed) == re.findall(
        r"not (\w+)", re.findall(r"^FAST := (.*)$", MAKEFILE, re.MULTILINE)[0]
    )


# --- the site ------------------------------------------------------------------------------------------------------

DOCS = ROOT / "docs"
PUBLIC = [
    "config",
    "exceptions",
    "codes",
    "coroutines",
    "worker",
    "pywsgi",
    "monkey",
    "flask",
    "groups",
    "groups.centrifuge",
    "testing",
    "hooks",
    "typing",
    *(f"metrics.{name}" for name in ("prometheus", "statsd", "health")),
    *(
        f"django.{name}"
        for name in (
            "decorators",
            "views",
            "options",
            "users",
            "signals",
            "groups",
            "centrifuge",
            "middleware",
            "test",
            "liveserver",
            "pytest_plugin",
        )
    ),
]
"""Modules that applications and configuration files import from, beside the package itself."""


@pytest.mark.parametrize("index", ["README.md", "index.md"])
def test_every_page_is_in_the_index(index: str) -> None:
    """That of GitHub, and that of the site."""
    text = (DOCS / index).read_text("utf-8")
    names = {path.stem for path in DOCS.glob("*.md")} - {"README", "index", "changelog"}
    assert {name for name in names if not re.search(rf"\({name}\.md\)|^{name}$", text, re.MULTILINE)} == set()


def test_every_public_module_is_in_the_reference() -> None:
    """Once."""
    text = "\n".join(path.read_text("utf-8") for path in (DOCS / "api").glob("*.md"))
    found = re.findall(r"^\.\. (?:auto)?module:: gws_middleware\.([\w.]+)$", text, re.MULTILINE)
    assert sorted(found) == sorted(PUBLIC)


def test_every_page_of_the_reference_is_in_its_index() -> None:
    """Sphinx would warn, but only when the site is built."""
    text = (DOCS / "api" / "index.md").read_text("utf-8")
    assert [
        path.stem for path in (DOCS / "api").glob("*.md") if not re.search(rf"^{path.stem}$", text, re.MULTILINE)
    ] == ["index"]


@pytest.mark.timeout(300)
def test_site_is_built_without_warnings(tmp_path: Path) -> None:
    """Every link, reference and docstring is understood by Sphinx; the inherited methods of a WebSocket are shown."""
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    command += ["--doctree-dir", str(tmp_path / "doctrees"), "docs", str(tmp_path / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "html" / "api" / "core.html").read_text("utf-8")
    assert {f'id="gws_middleware.WebSocket.{name}"' in reference for name in ("send", "offer", "receive", "close")} == {
        True
    }
