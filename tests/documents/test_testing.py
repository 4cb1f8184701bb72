"""docs/testing.md: its program is run, and its table of the client is complete."""

from __future__ import annotations

import re
from pathlib import Path

from gws_middleware.testing import Client, connect

from ..support.documents import blocks
from ..support.programs import run_pytest
from ..support.servers import ROOT

PAGE = ROOT / "docs" / "testing.md"


def test_program_runs_as_printed(tmp_path: Path) -> None:
    """Its two tests pass."""
    [program] = blocks(PAGE, "python")
    name = program.splitlines()[0].removeprefix("# ")
    (tmp_path / name).write_text(program)
    done = run_pytest(tmp_path, "-p", "no:django", name)
    assert (done.returncode, "2 passed" in done.stdout) == (0, True), done.stdout + done.stderr


def test_table_has_every_member_of_the_client() -> None:
    """Each public attribute and method of ``Client``, and no other; ``timeout`` is an argument of ``connect``."""
    table = PAGE.read_text("utf-8").partition("\n## The client\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    named = set(re.findall(r"`(\w+)(?:\(|`)", " ".join(cells)))
    client = connect(lambda environ, start_response: [])
    assert named == {name for name in (*vars(client), *vars(Client)) if not name.startswith("_")} - {"timeout"}


def test_table_has_every_argument_of_connect() -> None:
    """Each optional argument but the settings."""
    table = PAGE.read_text("utf-8").partition("\n## The handshake\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(named) == sorted(name for name in connect.__kwdefaults__)
