"""``manage.py runserver`` of a fresh project, in real processes."""

from __future__ import annotations

import shutil
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from ..support.programs import environment
from ..support.waiting import eventually
from .runserver import Runserver, close_code, running


class TestOptions:
    def test_noreload_serves_from_the_one_process(self, fresh_project: Path) -> None:
        """It is patched, and its log has Django's levels."""
        with running(fresh_project, "0", "--noreload", "--nothreading", LEVELS="1") as server:
            assert server.get("/hello/") == (200, "patched: True")
            assert int(server.get("/flags/")[1].split()[0]) == server.process.pid
            assert server.get("/absent/")[0] == 404
            assert server.get("/fails/")[0] == 500
            for level, status in {"INFO": 200, "WARNING": 404, "ERROR": 500}.items():
                server.printed(rf"\] {level} \"GET .* {status} \d+$")
            assert "Watching for file changes" not in server.log

    def test_event_loop_wakes_periodically_for_signals(self, fresh_project: Path) -> None:
        """A signal right before the loop starts to wait does not wake it, and a test cannot send one at that moment."""
        with running(fresh_project, "0", "--noreload") as server:
            server.get("/hello/")
            idle = psutil.Process(server.process.pid)
            before = idle.num_ctx_switches().voluntary
            eventually(lambda: idle.num_ctx_switches().voluntary >= before + 4, "a loop that wakes")

    @pytest.mark.parametrize(("options", "status"), [((), 404), (("--insecure",), 200)])
    def test_static_files_need_debug_or_insecure(self, options: list[str], status: int, fresh_project: Path) -> None:
        """As with Django's command."""
        with running(fresh_project, "0", "--noreload", *options, NODEBUG="1") as server:
            assert server.get("/static/style.css")[0] == status

    def test_nostatic_and_skip_checks_are_obeyed(self, fresh_project: Path) -> None:
        """As with Django's command."""
        with running(fresh_project, "0", "--noreload", "--nostatic", "--skip-checks") as server:
            assert server.get("/static/style.css")[0] == 404
            assert "Performing system checks" not in server.log

    def test_ipv6_is_served(self, fresh_project: Path) -> None:
        """On ::1."""
        with running(fresh_project, "0", "--noreload", "--ipv6") as server:
            assert server.url.startswith("http://[::1]:")
            server.printed(r"^WebSockets are served at ws://\[::1\]:[1-9]\d+/$")
            assert server.get("/hello/")[0] == 200
            with server.connect("/echo/") as client:
                client.send("hello")
                assert client.recv()

    def test_port_in_use_is_an_error(self, fresh_project: Path) -> None:
        """The command ends, also its reloader."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            with running(fresh_project, port) as server:
                assert server.process.wait(20) == 1
        assert "Error: That port is already in use." in server.log
        assert "Traceback" not in server.log


PROGRAMS = {
    "python -m django": (("-m", "django"), ""),
    "django-admin": ((str(Path(sys.executable).with_name("django-admin")),), ""),
    "another name, elsewhere": (("-O", "-u", "{project}/start"), "/"),
    "python -m package": (("-m", "site1"), ""),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_way_to_start_django_is_patched(name: str, fresh_project: Path) -> None:
    """Arguments and options of Python are kept."""
    (fresh_project / "manage.py").rename(fresh_project / "start")
    shutil.copy(fresh_project / "start", fresh_project / "site1" / "__main__.py")
    program, cwd = PROGRAMS[name]
    words = [word.format(project=fresh_project) for word in program]
    env = {"DJANGO_SETTINGS_MODULE": "site1.settings", "cwd": cwd}
    if name == "django-admin":
        env["PYTHONPATH"] = environment(fresh_project)["PYTHONPATH"]
    with running(fresh_project, "0", "--noreload", program=words, **env) as server:
        assert server.get("/hello/") == (200, "patched: True")
        given = "1 True" if "-O" in words else "0 True"
        assert server.get("/flags/")[1] == f"{server.process.pid} {given} ['runserver', '0', '--noreload']"


def test_call_command_does_not_replace_the_process(fresh_project: Path) -> None:
    """The first WebSocket logs that gevent has not patched it."""
    (fresh_project / "tool.py").write_text(
        "import os, sys\nimport django\nfrom django.core.management import call_command\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'site1.settings'\ndjango.setup()\n"
        "print('started', flush=True)\ncall_command(*sys.argv[1:])\n"
    )
    with running(fresh_project, "0", "--noreload", program=["tool.py"]) as server:
        assert server.get("/hello/") == (200, "patched: False")
        with server.connect("/echo/") as client:
            client.recv()
            server.printed("The standard library is not patched for gevent")
            assert server.kill(signal.SIGINT) == 0
    assert server.log.count("started") == 1


def test_project_that_wraps_itself_keeps_its_settings(fresh_project: Path) -> None:
    """Also with Django's handler of static files."""
    with running(fresh_project, "0", "--noreload", WRAPPED="1") as server:
        assert server.get("/static/style.css")[0] == 200
        with server.connect("/echo/") as client:
            client.send("0123456789")
            client.send("0123456789+")
            assert close_code(client) == 1009


class TestReload:
    def test_change_of_a_file_restarts_the_server(self, fresh_project: Path) -> None:
        """The port is the same, the process is another one, and WebSockets are closed with 1012."""
        port = free_port()
        with running(fresh_project, str(port)) as server:
            with server.connect("/echo/") as client:
                before = client.recv()
                eventually(lambda: touched(fresh_project) and closed(client), "a restart")
                assert close_code(client) == 1012
            server.printed("urls.py changed, reloading.")
            server.printed("the view has read 1012")

            def pid() -> str:
                try:
                    with server.connect("/echo/") as again:
                        return str(again.recv())
                except OSError:
                    return ""

            assert eventually(pid, "the next process") != before
            assert server.get("/hello/") == (200, "patched: True")
            assert "Traceback" not in server.log

    def test_reloader_checks_files_four_times_a_second(self, runserver: Runserver) -> None:
        """Django's interval is one second."""
        assert runserver.get("/interval/")[1] == "every 0.25 s"

    def test_corrected_code_is_served(self, fresh_project: Path) -> None:
        """By gevent, although the first process could not load the app."""
        models = fresh_project / "site1" / "models.py"
        models.write_text("raise RuntimeError('unfinished')")
        with running(fresh_project, str(free_port())) as server:
            server.printed("RuntimeError: unfinished")
            models.write_text("")

            def answer() -> tuple[int, str] | None:
                models.touch()
                try:
                    return server.get("/hello/") if "Quit the server" in server.log else None
                except OSError:
                    return None

            assert eventually(answer, "an answer") == (200, "patched: True")


def touched(fresh_project: Path) -> bool:
    """Touch a file. The reloader sees only changes after its first check, and the time of that is not known."""
    (fresh_project / "site1" / "urls.py").touch()
    return True


def closed(client: ClientConnection) -> bool:
    """Whether the server has closed the connection."""
    try:
        client.recv(timeout=0.2)
    except TimeoutError:
        return False
    except ConnectionClosed:
        return True
    return False


def free_port() -> int:
    """A port that is free at the moment. Port 0 would be another one in each process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


# SIGTERM ends only Django's parent process, which then kills the one that serves.
@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGINT, ()), (signal.SIGINT, ("--noreload",)), (signal.SIGTERM, ("--noreload",))]
)
def test_signal_closes_websockets_and_ends_the_server(options: list[str], number: int, fresh_project: Path) -> None:
    """With 1012, attached and detached. Views and callbacks run to their end, and there is no traceback."""
    # Django's reloader waits only 0.25 s for its child after Ctrl-C, and Popen warns about that.
    warnings = "error,ignore:subprocess:ResourceWarning"
    with (
        running(fresh_project, "0", *options, PYTHONWARNINGS=warnings) as server,
        server.connect("/echo/") as client,
    ):
        client.recv()
        with server.connect("/detached/") as other:
            assert other.recv() == "hello"
            assert server.kill(number) == 0
            assert close_code(other) == 1012
        assert close_code(client) == 1012
    assert "the view has read 1012" in server.log
    assert "on_close has read 1012" in server.log
    assert "WebSocket '/echo/' closed with 1012 after" in server.log
    assert "Traceback" not in server.log
