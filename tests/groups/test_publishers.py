"""A thousand messages from each kind of process that publishes: all arrive, those of each publisher in its order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from subprocess import Popen

import pytest

from gws_middleware.groups import Groups

from ..support.programs import environment
from ..support.servers import ROOT

COUNT = 1000

UNPATCHED = """
publish("unpatched", 1000)
assert "gevent.monkey" not in sys.modules or not sys.modules["gevent.monkey"].saved
"""
PREFORK = """
groups.count("in")  # the log is open before the fork, as with Celery's and gunicorn's preload
children = []
for number in range(4):
    child = os.fork()
    if not child:
        publish(f"child {number}", 250)
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""
THREADS = """
import threading
threads = [threading.Thread(target=publish, args=(f"thread {number}", 250)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
GEVENT = """
import gevent
gevent.joinall([gevent.spawn(publish, f"greenlet {number}", 250) for number in range(4)], raise_error=True)
"""
COMMAND = """
import django
from django.conf import settings
settings.configure(GWS={"groups": sys.argv[1]}, INSTALLED_APPS=["gws_middleware.django"], DATABASES={})
django.setup()
from django.core.management import BaseCommand, call_command
from gws_middleware.django import groups

class Command(BaseCommand):
    def handle(self, **options):
        publish("command", 1000)

call_command(Command())
"""
BEGIN = """
import os, sys
from gws_middleware.groups import Groups
groups = Groups(sys.argv[1])

def publish(name, count):
    for number in range(count):
        groups.send("in", {"from": name, "n": number})
"""
PATCHED = "from gevent import monkey; monkey.patch_all()\n"
PROGRAMS = {
    "unpatched process": BEGIN + UNPATCHED,
    "prefork children": BEGIN + PREFORK,
    "threads": BEGIN + THREADS,
    "gevent's pool": PATCHED + BEGIN + GEVENT,
    "patched threads": PATCHED + BEGIN + THREADS,
    "management command": BEGIN + COMMAND,
}


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.database)])
def groups(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Groups]:
    """Groups in a directory of their own, whose path is short enough for sockets, or at a server."""
    directory = tmp_path_factory.mktemp("g")
    directory.chmod(0o700)
    groups = Groups(f"sqlite://{directory}" if request.param == "sqlite" else request.getfixturevalue("valkey"))
    yield groups
    groups.release()


@pytest.mark.parametrize("kind", list(PROGRAMS))
def test_thousand_messages_of_a_process_arrive_in_order(groups: Groups, kind: str) -> None:
    """While this process sends, too."""
    listener = groups.listen("in", timeout=20)
    program = [sys.executable, "-c", PROGRAMS[kind], groups.url]
    with Popen(program, cwd=ROOT, env=environment()) as process:
        for number in range(100):
            groups.send("in", {"from": "test", "n": number})
        found: dict[str, list[int]] = {}
        for publication in listener:
            found.setdefault(publication.data["from"], []).append(publication.data["n"])
            if sum(map(len, found.values())) == COUNT + 100:
                break
        assert process.wait(20) == 0
    assert found.pop("test") == list(range(100))
    each = COUNT // len(found)
    assert found == {name: list(range(each)) for name in found}
