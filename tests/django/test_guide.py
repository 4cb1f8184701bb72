"""docs/django.md: its programs are run in a project."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gws_middleware.django import checks
from tests.support.documents import blocks
from tests.support.programs import run_python
from tests.support.servers import ROOT

GUIDE = ROOT / "docs" / "django.md"
AROUND = """
SECRET_KEY = "a project of the guide's"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "guide.urls"
STATIC_URL = "static/"
LOGIN_URL = "/login/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
"""
MORE_URLS = """
from . import chat
urlpatterns += [path("ws/readme/<room>/", chat.chat)]
urlpatterns += [path("ws/echo/<slug:room>/", views.Echo.as_view()), path("ws/cart/", views.cart)]
urlpatterns += [path("ws/inbox/", views.inbox), path("rename/", views.rename)]
"""
MORE_TESTS = """

class OtherViewsTest(WebSocketTestMixin, TestCase):
    def test_echo(self):
        with self.client.websocket("/ws/echo/lobby/", ["json.v1"]) as ws:
            self.assertEqual(ws.subprotocol, "json.v1")
            ws.send("hello")
            self.assertEqual(ws.receive(), "lobby: hello")

    def test_readme(self):
        self.client.force_login(User.objects.create_user("ada"))
        with self.client.websocket("/ws/readme/lobby/") as ws:
            ws.send("hello")
            self.assertEqual(ws.receive(), "ada in lobby: hello")

    def test_cart(self):
        user = User.objects.create_user("ada")
        self.client.force_login(user)
        with self.client.websocket("/ws/cart/") as ws:
            ws.send("apple")
            self.assertEqual(ws.receive(), "saved")
            self.assertEqual(self.client.session["last"], "apple")
            User.objects.update(is_active=False)
            ws.send("pear")
            self.assertIsNone(ws.receive())
            self.assertEqual(self.client.session["last"], "apple")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package with the modules of the page, README's Django view, and the parts that both omit."""
    folder = tmp_path / "guide"
    folder.mkdir()
    parts: dict[str, list[str]] = {"settings.py": [], "views.py": [], "urls.py": [], "tests.py": [], "chat.py": []}
    of_the_readme = [block for block in blocks(ROOT / "README.md", "python") if block.startswith("# chat.py\n")]
    for block in (*blocks(GUIDE, "python"), *of_the_readme):
        parts[block.splitlines()[0].removeprefix("# ")].append(block)
    for name, more in (("settings.py", AROUND), ("urls.py", MORE_URLS), ("tests.py", MORE_TESTS)):
        parts[name].append(more)
    for name, texts in parts.items():
        (folder / name).write_text("".join(texts))
    (folder / "__init__.py").touch()
    return tmp_path


DJANGO = ("-m", "django")
PATCHED_DJANGO = ("-m", "gevent.monkey", "--module", "django")


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """``python command`` in the project."""
    return run_python(*command, folder=project, paths=[project], env={"DJANGO_SETTINGS_MODULE": "guide.settings"})


@pytest.mark.parametrize("program", [DJANGO, PATCHED_DJANGO], ids=["as it is", "patched"])
def test_programs_run_as_printed(program: tuple[str, ...], project: Path) -> None:
    """The tests of the page pass, and so do those of its other views."""
    done = run(project, *program, "test", "guide")
    assert done.returncode == 0, done.stderr
    assert "Ran 6 tests" in done.stderr
    assert re.search(r"closed with 1000", done.stdout)


def test_project_passes_the_system_checks(project: Path) -> None:
    """``manage.py check`` has no message."""
    done = run(project, *DJANGO, "check", "--fail-level", "INFO")
    assert done.returncode == 0, done.stderr


def test_table_has_every_check() -> None:
    """Of the app, and no other."""
    named = re.findall(r"^\| `(gws_middleware\.[EW]\d{3})`", GUIDE.read_text("utf-8"), re.MULTILINE)
    source = Path(checks.__file__).read_text("utf-8")
    assert sorted(named) == sorted(re.findall(r'id="(gws_middleware\.[EW]\d{3})"', source))
