"""``examples/deploy/`` without the proxies, which have test_proxies.py: units, image, manifests, and the numbers that
have to fit together in all of them.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from redis import Redis

from gws_middleware.config import Config
from gws_middleware.groups import Groups, GroupsUnavailable, History, Presence, UnknownOutcome, presence_group
from gws_middleware.groups.backends import redis as redis_backend
from gws_middleware.groups.backends.redis import RedisBackend
from gws_middleware.groups.client import NUMBERS
from gws_middleware.testing import connect
from gws_middleware.typing import Environ, StartResponse

from ..support.brokers import broker
from ..support.documents import serve
from ..support.inprocess import until
from ..support.notices import find
from ..support.proxies import DEPLOY, PROXIES
from ..support.rawclient import CLOSE, TEXT, Frame, RawClient, close_frame
from ..support.seam import live_shortly
from ..support.servers import ROOT, STOP_TIMEOUT
from ..support.waiting import eventually

DJANGO = ROOT / "examples" / "django_view"
UNITS = ("gunicorn.service", "gunicorn.socket")
TIMEOUT = 30.0
VARIABLES = {"PYTHONPATH": str(ROOT), "WEB_CONCURRENCY": "1"}


def text(name: str) -> str:
    """One of the files."""
    return (DEPLOY / name).read_text("utf-8")


def number(name: str, pattern: str) -> int:
    """The one number that a file has in this place."""
    [found] = re.findall(pattern, text(name), re.MULTILINE)
    return int(found)


def manifest(kind: str, name: str = "site") -> Any:
    """The object of this kind and name in kubernetes.yaml."""
    every = yaml.safe_load_all(text("kubernetes.yaml"))
    [found] = [one for one in every if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod(name: str = "site") -> Any:
    """What a Deployment runs."""
    return manifest("Deployment", name)["spec"]["template"]["spec"]


def services() -> Any:
    """Those of compose.yaml."""
    return yaml.safe_load(text("compose.yaml"))["services"]


# --- numbers -------------------------------------------------------------------------------------------------------

CONF: dict[str, Any] = runpy.run_path(str(ROOT / "gunicorn_conf.py"))
SILENCE = sum(getattr(Config(), name, 20) for name in ("ping_interval", "ping_timeout")) * 9 / 8
"""How long a connection can be silent, at most, before the server ends it."""


@pytest.mark.parametrize(
    ("name", "pattern", "ours"),
    [
        # The server ends a connection whose peer has disconnected, and not the proxy.
        ("nginx.conf", r"proxy_read_timeout (\d+)s", SILENCE),
        ("haproxy.cfg", r"timeout tunnel (\d+)s", SILENCE),
        # Half of a connection stays for as long as the peer may take to answer a close frame.
        ("haproxy.cfg", r"timeout client-fin (\d+)s", Config().close_timeout),
        ("haproxy.cfg", r"timeout server-fin (\d+)s", Config().close_timeout),
        # No process is killed while gunicorn waits for its workers.
        ("gunicorn.service", r"^TimeoutStopSec=(\d+)$", CONF["graceful_timeout"]),
        ("Dockerfile", r"--stop-timeout (\d+) ", CONF["graceful_timeout"]),
        ("compose.yaml", r"stop_grace_period: (\d+)s", CONF["graceful_timeout"]),
        # There are descriptors for all connections.
        ("gunicorn.service", r"^LimitNOFILE=(\d+)$", CONF["worker_connections"]),
    ],
)
def test_number_is_above_ours(name: str, pattern: str, ours: float) -> None:
    """A timeout or a limit around gunicorn does not end what gunicorn and the package allow."""
    assert number(name, pattern) > ours


def test_kubernetes_waits_longer_than_its_hook_and_gunicorn() -> None:
    """The grace period of a pod begins before preStop."""
    [sleep, seconds] = pod()["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert pod()["terminationGracePeriodSeconds"] > int(seconds) + CONF["graceful_timeout"]


def test_socket_has_the_backlog_of_gunicorn() -> None:
    """On a socket that it is handed gunicorn sets none."""
    assert number("gunicorn.socket", r"^Backlog=(\d+)$") == CONF["backlog"]


def test_socket_is_where_the_proxies_look_for_it() -> None:
    """One path in all files."""
    [path] = re.findall(r"^ListenStream=(.*)$", text("gunicorn.socket"), re.MULTILINE)
    assert [name for name in PROXIES.values() if re.search(rf"unix[:@/]{path}\b", text(name))] == [*PROXIES.values()]


# --- systemd -------------------------------------------------------------------------------------------------------


def program(name: str) -> str:
    """A program of systemd's, or the test is skipped; notices.py names it."""
    found = find(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Each setting is known, and its value accepted."""
    for name in UNITS:
        (tmp_path / name).write_text(text(name).replace("/srv/site/.venv/bin/gunicorn", sys.executable))
    units = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run([program("systemd-analyze"), "verify", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def activated(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """What gunicorn.service starts, as soon as a client connects to the socket that systemd's tool holds: the process,
    which becomes gunicorn, and the path of the socket.
    """
    [line] = re.findall(r"^ExecStart=(.*)$", text("gunicorn.service"), re.MULTILINE)
    executable, *arguments = shlex.split(line)
    assert executable.endswith("/bin/gunicorn")
    arguments[arguments.index("--config") + 1] = str(ROOT / "gunicorn_conf.py")
    path = str(tmp_path / "gunicorn.sock")
    variables = [f"--setenv={name}={value}" for name, value in VARIABLES.items()]
    command = [program("systemd-socket-activate"), f"--listen={path}", *variables, sys.executable, "-m", "gunicorn"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, *arguments], cwd=DJANGO, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        eventually(lambda: Path(path).exists(), "the socket")
        yield process, path
    finally:
        process.kill()
        process.wait()


def connected(path: str) -> RawClient:
    """An open WebSocket that has answered."""
    client = RawClient(path, timeout=TIMEOUT)
    try:
        client.upgrade("/ws/", ("Host", "localhost"))
        client.text("x")
        assert client.read_frame() == Frame(TEXT, b"x")
    except BaseException:
        client.close()
        raise
    return client


def close_code_of(client: RawClient) -> int | None:
    """The code of the server's close frame, which is answered."""
    frame = client.read_frame()
    assert frame.opcode == CLOSE
    client.send(close_frame(frame.code))
    assert client.read_until_eof() == b""
    return frame.code


def test_gunicorn_is_started_by_its_socket(activated: tuple[subprocess.Popen[bytes], str]) -> None:
    """The first client is served, though nothing ran when it connected. A reload closes and serves the next one;
    so does a stop, which leaves the socket to systemd.
    """
    process, path = activated
    codes = []
    for number in (signal.SIGHUP, signal.SIGTERM):
        with connected(path) as client:
            process.send_signal(number)
            codes.append(close_code_of(client))
    code = process.wait(STOP_TIMEOUT)
    assert (codes, code, Path(path).exists()) == ([1012, 1012], 0, True)


# --- the image -----------------------------------------------------------------------------------------------------


def instructions() -> dict[str, str]:
    """What the Dockerfile says; of instructions that stand there more than once the last."""
    return dict(line.split(" ", 1) for line in text("Dockerfile").splitlines() if line and line[0] != "#")


def test_image_runs_gunicorn_itself_and_not_as_root() -> None:
    """The signal reaches gunicorn and no shell; Kubernetes sees a user that is a number."""
    found = instructions()
    assert json.loads(found["CMD"])[0] == "gunicorn"
    assert "ENTRYPOINT" not in found
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert all(int(each) > 0 for each in found["USER"].split(":"))


def test_command_of_the_image_serves_and_stops(server_directory: Path) -> None:
    """It starts as it stands there, and SIGTERM ends it with a close frame."""
    _, *arguments = json.loads(instructions()["CMD"])
    arguments[:0] = ["--chdir", "examples/django_view"]
    with serve(arguments, server_directory) as server:
        with connected(str(server.unix)) as client:
            server.kill(signal.SIGTERM)
            code = close_code_of(client)
        ended = server.wait()
    assert (code, ended) == (1012, 0)


# --- Kubernetes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["site", "valkey"])
def test_deployment_has_a_service(name: str) -> None:
    """The Deployment finds its pods, and the Service finds them and their port by name."""
    deployment, service = manifest("Deployment", name), manifest("Service", name)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    [port] = pod(name)["containers"][0]["ports"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]


def test_pod_has_the_port_of_the_image() -> None:
    """And each container of Compose."""
    port = instructions()["EXPOSE"]
    assert str(pod()["containers"][0]["ports"][0]["containerPort"]) == port
    assert [each.rpartition(":")[2] for each in services()["site"]["ports"]] == [port]


def test_pods_are_asked_for_a_page_that_the_proxies_hide() -> None:
    """Readiness concerns the inside alone."""
    asked = pod()["containers"][0]["readinessProbe"]["httpGet"]
    hidden = re.findall(r"location (/\w+/) \{\s+return 404;", text("nginx.conf"))
    assert [asked["path"].startswith(prefix) for prefix in hidden] == [True]
    assert asked["port"] == pod()["containers"][0]["ports"][0]["name"]


def test_new_pods_come_before_old_ones_go() -> None:
    """All clients of a pod come back at once, and find a place."""
    assert manifest("Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


# --- Valkey --------------------------------------------------------------------------------------------------------

PASSWORD = "0123456789abcdef"


def configured(name: str) -> tuple[str, str]:
    """The configuration of Valkey, and the URL of the groups, with the same password."""
    if name == "compose.yaml":
        configuration = yaml.safe_load(text(name))["configs"]["valkey"]["content"]
        found, mark = (configuration, services()["site"]["environment"]["GROUPS_URL"]), "${VALKEY_PASSWORD:?}"
    else:
        secret = manifest("Secret", "groups")["stringData"]
        found, mark = (secret["valkey.conf"], secret["url"]), "change-me"
    assert [each.count(mark) for each in found] == [1, 1]
    return found[0].replace(mark, PASSWORD), found[1].replace(mark, PASSWORD)


brokers = pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])


@pytest.mark.database
@brokers
def test_groups_work_on_valkey_as_it_is_configured(tmp_path: Path, name: str) -> None:
    """With the user of the URL, and nothing else: no other user, no other keys, no memory that is taken from groups."""
    configuration, url = configured(name)
    (tmp_path / "valkey.conf").write_text(configuration)
    with broker(tmp_path / "valkey", "--include", str(tmp_path / "valkey.conf")) as valkey:
        at = url.replace("valkey:6379", f"127.0.0.1:{valkey.port}")
        groups = Groups(at, history={"kept": History(size=10)})
        others = [Groups(at.replace(PASSWORD, "wrong")), Groups(at, prefix="other")]
        with ExitStack() as stack:
            for each in (groups, *others):
                stack.callback(each.release)
            received = groups.listen("kept.1", timeout=TIMEOUT)
            groups.send_many([("kept.1", "one"), ("live", "two")])
            assert next(iter(received)).data == "one"
            assert [each.data for each in groups.history("kept.1")] == ["one"]
            assert groups.count("live") == 0
            for refused in others:
                with pytest.raises(GroupsUnavailable, match=r"WRONGPASS|invalid username|NOPERM|permissions"):
                    refused.send("live", "x")
        assert valkey.ask("GET", "x").startswith(b"-NOAUTH")
    assert "maxmemory-policy noeviction" in configuration.splitlines()


RIGHTS = re.compile(r"(?:^ACL SETUSER|user) site on >\S+ ~gws:\* &gws:\* -@all (.*)$", re.MULTILINE)
OF_THE_TEST = {"auth", "config|get", "config|resetstat", "client|kill", "client|list", "client|pause", "client|unpause"}
ADMIN = "\nuser admin on nopass ~* &* +@all\n"


def granted(source: str) -> set[str]:
    """The commands that the user of groups may call."""
    [found] = RIGHTS.findall(source)
    return {each.removeprefix("+") for each in found.split()}


def documented() -> str:
    """The command of docs/groups.md that makes the user, in one line."""
    [found] = re.findall(r"`(ACL SETUSER [^`]*)`", (ROOT / "docs" / "groups.md").read_text("utf-8"))
    return " ".join(found.split())


def called(admin: Redis) -> tuple[set[str], set[str]]:
    """The commands that were called, also those that scripts call; and those of them that were refused."""
    statistics = {name.removeprefix("cmdstat_"): one for name, one in admin.info("commandstats").items()}
    return {name for name, one in statistics.items() if one["calls"]}, {
        name for name, one in statistics.items() if one["rejected_calls"] or one["failed_calls"]
    }


@pytest.fixture(params=["groups.md", "compose.yaml", "kubernetes.yaml"])
def restricted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Redis, set[str]]]:
    """A server with the user of one of the three places: the URL, a client that may do everything, and the rights."""
    source = documented() if request.param == "groups.md" else configured(request.param)[0]
    rights = source.removeprefix("ACL SETUSER ") if request.param == "groups.md" else ""
    configuration = f"user {rights}" if rights else source
    (tmp_path / "valkey.conf").write_text(configuration + ADMIN)
    with broker(tmp_path / "valkey", "--include", str(tmp_path / "valkey.conf")) as valkey:
        password = "password" if rights else PASSWORD
        with Redis(port=valkey.port, username="admin", password="any", protocol=2) as admin:
            admin.config_resetstat()
            yield f"redis://site:{password}@127.0.0.1:{valkey.port}/0", admin, granted(source)


@pytest.mark.database
def test_user_of_valkey_may_do_all_that_groups_do(
    restricted: tuple[str, Redis, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more: the documentation and both files name the commands that are called, and none of them is refused."""
    url, admin, rights = restricted
    live_shortly(monkeypatch.setattr)
    sites = [
        Groups(url, history={"kept": History(size=100_000, age=0.5)}, presence={"kept": Presence(events=True)})
        for _ in range(2)
    ]
    backend = RedisBackend(url)
    with ExitStack() as stack:  # also where something fails: what is left would be met by other tests
        for each in sites:
            stack.callback(each.release)
        use_everything(sites[0], sites[1], admin)
        # They are put a moment after the connection has ended; without their server that would be tried for ever.
        until(lambda: not backend.count(NUMBERS), "the slots are put")
    assert backend.bury() != []  # what only a worker does that finds another one dead
    for value in (b"1", None):
        backend.put("own", {"one": value, "other": b"1"})
    assert backend.count("own") == 1
    backend.close()
    was_called, was_refused = called(admin)
    assert (sorted(was_called - OF_THE_TEST), was_refused) == (sorted(rights), set())


def use_everything(groups: Groups, other: Groups, admin: Redis) -> None:
    """History, presence, its events, listening, survey, control, limits of the site, and a lost reply."""

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        groups.join("kept.1", ws, info="ada")
        groups.join("live", ws)
        for _ in ws:
            groups.leave("live", ws)
        return []

    events = groups.listen(presence_group("kept.1"), timeout=TIMEOUT)
    received = other.listen("live", timeout=TIMEOUT)
    other.follow()
    with connect(application, "/", max_connections=3, site_limits=groups) as client:
        assert next(iter(events)).data["joined"][0]["info"] == "ada"
        groups.send_many([("kept.1", "one"), ("live", "two")])
        other.send("live", "three")
        assert [client.receive() for _ in range(3)] == ["one", "two", "three"]
        assert [next(received).data for _ in range(2)] == ["two", "three"]
        assert [each.data for each in other.history("kept.1")] == ["one"]
        assert other.position("kept.1") == groups.position("kept.1")
        assert ([each.info for each in other.members("kept.1")], other.count("live")) == (["ada"], 1)
        [connection] = other.connections(group="kept.1", timeout=TIMEOUT)
        other.send_to(connection.id, "to one")
        assert client.receive() == "to one"
        # Again where the message has timed out before its connection was ended, as on a busy machine.
        until(lambda: "xrevrange" in called(admin)[0] or lose_a_reply(groups, admin), "a reply that is lost", 60)
        until(
            lambda: other.send_many([("kept.1", "many")] * 20) and "xtrim" in called(admin)[0],
            "a history that is trimmed",
        )
        client.send("leave")
        until(lambda: {"unsubscribe", "ping"} <= called(admin)[0], "the feed asks for less, and pings")
        other.close_connections([connection.id])
        groups.close("kept.1")


def lose_a_reply(groups: Groups, admin: Redis) -> None:
    """A message with history is sent, and the connection ends before the server has carried it out."""
    admin.client_pause(60_000, all=False)

    def publish() -> None:
        with suppress(UnknownOutcome):
            groups.send("kept.1", "lost")

    publishing = threading.Thread(target=publish)
    publishing.start()
    # The event loop does not run meanwhile: another call would wait for the server, and block this process.
    eventually(lambda: any("b" in one["flags"] for one in admin.client_list()), "the message waits")
    admin.client_kill_filter(_type="normal", skipme=True)
    admin.client_unpause()
    publishing.join()


def test_scripts_call_what_the_user_may_call() -> None:
    """Also what they call in rare cases; all three places name the same."""
    scripts = Path(redis_backend.__file__).read_text("utf-8")
    rights = granted(documented())
    assert {each.lower() for each in re.findall(r"redis\.call\('(\w+)'", scripts)} <= rights
    assert [granted(configured(name)[0]) for name in ("compose.yaml", "kubernetes.yaml")] == [rights] * 2


@brokers
def test_url_names_the_service_of_valkey(name: str) -> None:
    """And its port."""
    parts = urlsplit(configured(name)[1])
    if name == "compose.yaml":
        assert parts.hostname in services() and parts.port == 6379  # that of the server
    else:
        [port] = manifest("Service", str(parts.hostname))["spec"]["ports"]
        assert parts.port == port["port"] == pod("valkey")["containers"][0]["ports"][0]["containerPort"]
        [variable] = [one for one in pod()["containers"][0]["env"] if one["name"] == "GROUPS_URL"]
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "groups", "key": "url"}


def test_only_the_site_reaches_valkey() -> None:
    """In Compose by a network without ports, in Kubernetes by a policy."""
    networks = yaml.safe_load(text("compose.yaml"))["networks"]
    assert "ports" not in services()["valkey"]
    assert [networks[each]["internal"] for each in services()["valkey"]["networks"]] == [True]
    assert set(services()["valkey"]["networks"]) < set(services()["site"]["networks"])
    policy = manifest("NetworkPolicy", "valkey")["spec"]
    labels = {
        name: manifest("Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in ("site", "valkey")
    }
    assert policy["podSelector"]["matchLabels"] == labels["valkey"]
    assert [each["from"] for each in policy["ingress"]] == [[{"podSelector": {"matchLabels": labels["site"]}}]]


def test_compose_file_is_valid() -> None:
    """By the schema of its reader, which comes with check-jsonschema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DEPLOY / "compose.yaml")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# --- README --------------------------------------------------------------------------------------------------------


def test_readme_names_each_file() -> None:
    """With a link."""
    names = sorted(path.name for path in DEPLOY.iterdir() if path.name != "README.md")
    assert [name for name in names if f"[{name}]({name})" in text("README.md")] == names


@pytest.mark.parametrize(
    ("name", "pattern", "words"),
    [
        ("nginx.conf", r"proxy_read_timeout (\d+)s", "nginx `proxy_read_timeout` ({} s)"),
        ("haproxy.cfg", r"timeout tunnel (\d+)s", "HAProxy `timeout tunnel` ({} s)"),
        ("haproxy.cfg", r"timeout client-fin (\d+)s", "HAProxy `timeout client-fin` and `server-fin` ({} s)"),
        ("gunicorn.service", r"^TimeoutStopSec=(\d+)$", "systemd `TimeoutStopSec` ({} s)"),
        ("Dockerfile", r"--stop-timeout (\d+) ", "`docker run --stop-timeout` ({} s)"),
        ("compose.yaml", r"stop_grace_period: (\d+)s", "Compose `stop_grace_period` ({} s)"),
        ("kubernetes.yaml", r"terminationGracePeriodSeconds: (\d+)", "`terminationGracePeriodSeconds` ({} s)"),
        ("../../gunicorn_conf.py", r"^graceful_timeout = (\d+)$", "`preStop` (5 s) + `graceful_timeout` ({} s)"),
        ("../../gunicorn_conf.py", r"^keepalive = (\d+)$", "gunicorn `keepalive` ({} s)"),
    ],
)
def test_readme_has_the_numbers_of_the_files(name: str, pattern: str, words: str) -> None:
    """The table of times is that of the files."""
    assert words.format(number(name, pattern)) in text("README.md")
