"""How the tests read the error log of a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from .support.servers import Log

DELETED_TWICE = """\
Traceback (most recent call last):
  File "gevent/greenlet.py", line 900, in run
    result = self._run(*self.args)
  File "/venv/geventwebsocket/handler.py", line 54, in run_websocket
    del self.server.clients[self.client_address]
        ~~~~~~~~~~~~~~~~~~~^^^^^^^^^^^^^^^^^^^^^
KeyError: ('127.0.0.1', 40000)
2026-11-29T17:00:00Z <Greenlet at 0x7f: handle> failed with KeyError

"""
IN_OUR_CODE = DELETED_TWICE.replace(
    "KeyError: (",
    'KeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\n  File "a.py"\nKeyError: (',
)
AT_ANOTHER_LINE = DELETED_TWICE.replace(
    "del self.server.clients[self.client_address]", "self.application(self.environ)"
)
MARKS = "        ~~~~~~~~~~~~~~~~~~~^^^^^^^^^^^^^^^^^^^^^\n"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (DELETED_TWICE, 0),
        (DELETED_TWICE.replace(MARKS, ""), 0),
        (IN_OUR_CODE, 1),
        (AT_ANOTHER_LINE, 1),
        ("WARNING gws_middleware: something\n", 1),
        ("INFO gws_middleware: something\n", 0),
    ],
    ids=["deleted twice", "deleted twice, before 3.11", "in our code", "at another line", "a warning", "no warning"],
)
def test_problems_are_those_of_the_product(tmp_path: Path, text: str, problems: int) -> None:
    """gevent-websocket's handler may delete an entry twice. That is in the log of the server, and fails no test."""
    path = tmp_path / "error.log"
    path.write_text(text)
    log = Log(path)
    assert len(log.problems()) == problems
    if problems:
        with pytest.raises(AssertionError, match="the server logged"):
            log.check()
    log.check()
