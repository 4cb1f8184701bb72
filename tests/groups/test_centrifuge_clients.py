"""Centrifuge's clients, unmodified: ``centrifuge`` of npm and ``centrifuge-python``, against a real server."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from ..support.browsing import TIMEOUT, browser, needs_chromium
from ..support.centrifuge import ClientError, Driver, Start, javascript, needs_npm, start
from ..support.servers import Server, launch
from ..support.waiting import eventually

__all__ = ["browser", "javascript", "start"]

APP = "tests.fixtureapps.centrifuged"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker."""
    with launch("worker", tmp_path_factory.mktemp("server"), APP) as server:
        yield server


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Server]:
    """Two workers, whose groups are in a file."""
    env = {"GROUPS": f"sqlite://{tmp_path / 'groups'}"}
    with launch("worker", tmp_path, APP, options=["--workers", "2"], env=env) as server:
        yield server


def connected(client: Driver) -> str:
    """Connect; the client's id."""
    client.do("connect")
    found: str = client.wait("connected")["client"]
    return found


def subscribed(client: Driver, channel: str, **options: Any) -> dict[str, Any]:
    """Subscribe, and wait for it."""
    client.do("subscribe", channel=channel, options=options)
    return client.wait("subscribed", channel=channel)


def code_of(call: Callable[[], Any]) -> tuple[int, str]:
    """The error with which a call fails."""
    with pytest.raises(ClientError) as failed:
        call()
    return failed.value.code, failed.value.message


class TestConnecting:
    def test_connect_and_disconnect(self, start: Start, server: Server) -> None:
        """Each connection has an identity of its own."""
        one, two = start(server), start(server)
        assert connected(one) != connected(two)
        one.do("disconnect")
        assert one.wait("disconnected")["code"] == 0

    def test_refused_client_does_not_try_again(self, start: Start, server: Server) -> None:
        """Error 101 is final for it."""
        client = start(server, "/refused")
        client.do("connect")
        assert client.wait("disconnected")["code"] == 101

    @pytest.mark.parametrize("code", [3501, 4501, 4999])
    def test_close_code_that_is_final(self, start: Start, server: Server, code: int) -> None:
        """3500 to 3999 and 4500 to 4999, with a reason: without one centrifuge-js connects again."""
        client = start(server)
        connected(client)
        client.begin("rpc", method="close", data=code)
        assert client.wait("disconnected")["code"] == code

    @pytest.mark.parametrize("code", [1012, 1013, 3012, 4401])
    def test_close_code_that_is_not(self, start: Start, server: Server, code: int) -> None:
        """The client connects again."""
        client = start(server)
        connected(client)
        client.begin("rpc", method="close", data=code)
        client.wait("connected", 2)
        assert client.found("disconnected") == []

    def test_pings(self, start: Start, server: Server) -> None:
        """The client answers them, and would connect again without them."""
        client = start(server, "/quick")
        connected(client)
        client.do("rpc", method="sleep", data=4)
        assert client.do("rpc", method="echo", data=1) == 1
        assert (len(client.found("connecting")), client.found("disconnected")) == (1, [])


class TestChannels:
    def test_publication(self, start: Start, server: Server) -> None:
        """Is acknowledged, and reaches all members with the publisher's user, itself too."""
        one, two = start(server), start(server)
        for client in (one, two):
            connected(client)
            position = subscribed(client, "room.publication")["position"]
        assert one.do("publish", channel="room.publication", data={"a": [1, "ü", None]}) is None
        for client in (one, two):
            found = client.wait("publication")
            assert (found["data"], found["user"]) == ({"a": [1, "ü", None]}, "ada")
            assert found["offset"] == position["offset"] + 1

    def test_publications_of_the_server(self, start: Start, server: Server) -> None:
        """In order, in a channel with history and in one without."""
        client = start(server)
        connected(client)
        for channel in ("room.server", "live.server"):
            subscribed(client, channel)
            client.do("rpc", method="publish", data={"channel": channel, "first": 0, "count": 100})
            client.wait("publication", channel=channel, data=99)
            assert [one["data"] for one in client.found("publication", channel=channel)] == list(range(100))

    def test_unsubscribe(self, start: Start, server: Server) -> None:
        """Nothing comes after it, and subscribing again works."""
        client = start(server)
        connected(client)
        subscribed(client, "live.leave")
        client.do("unsubscribe", channel="live.leave")
        client.wait("unsubscribed", channel="live.leave")
        client.do("rpc", method="publish", data={"channel": "live.leave", "first": 0, "count": 1})
        client.do("subscribe", channel="live.leave")
        client.wait("subscribed", 2, channel="live.leave")
        client.do("rpc", method="publish", data={"channel": "live.leave", "first": 7, "count": 1})
        client.wait("publication", channel="live.leave")
        assert [one["data"] for one in client.found("publication")] == [7]

    def test_many_channels(self, start: Start, server: Server) -> None:
        """As many as a connection may be in; the next one is refused, and that is final for it."""
        client = start(server)
        for number in range(128):
            client.do("subscribe", channel=f"room.many.{number}")
        connected(client)
        client.wait("subscribed", 128)
        client.do("subscribe", channel="room.many.128")
        assert client.wait("unsubscribed")["code"] == 106

    def test_channel_that_may_not_be_joined(self, start: Start, server: Server) -> None:
        """The subscription ends, the connection does not."""
        client = start(server)
        connected(client)
        client.do("subscribe", channel="secret")
        assert client.wait("unsubscribed", channel="secret")["code"] == 103
        assert code_of(lambda: client.do("publish", channel="secret", data=1)) == (103, "permission denied")
        assert client.do("rpc", method="echo", data=1) == 1

    def test_history(self, start: Start, server: Server) -> None:
        """Forwards, backwards, after a position, and of a position that cannot be."""
        client = start(server)
        connected(client)
        position = subscribed(client, "room.history")["position"]
        client.do("rpc", method="publish", data={"channel": "room.history", "first": 0, "count": 10})
        since = {"epoch": position["epoch"], "offset": position["offset"] + 4}

        def offsets(**options: Any) -> list[int]:
            found = client.do("history", channel="room.history", options=options)
            assert (found["epoch"], found["offset"]) == (position["epoch"], position["offset"] + 10)
            return [offset - position["offset"] for offset in found["offsets"]]

        assert offsets(limit=3, reverse=True) == [10, 9, 8]
        assert offsets(limit=3, since=since) == [5, 6, 7]
        assert offsets(limit=3, since=since, reverse=True) == [3, 2, 1]
        assert offsets(limit=0) == []
        lost = {"epoch": "other", "offset": 1}
        assert code_of(lambda: offsets(limit=1, since=lost)) == (112, "unrecoverable position")

    def test_presence(self, start: Start, server: Server) -> None:
        """Clients see each other, and events of joins and leaves; not where the server does not let them."""
        one, two = start(server), start(server, "/bob")
        first, second = connected(one), connected(two)
        channel = "hall.presence"
        subscribed(one, channel, join_leave=True)
        one.wait("join", channel=channel, client=first)
        assert one.do("presence", channel=channel) == {first: "ada"}
        subscribed(two, channel)
        one.wait("join", channel=channel, client=second)
        assert one.do("presence", channel=channel) == {first: "ada", second: "bob"}
        assert one.do("presence_stats", channel=channel) == [2, 2]
        two.do("unsubscribe", channel=channel)
        assert one.wait("leave", channel=channel)["client"] == second
        assert two.found("join") == two.found("leave") == []
        subscribed(one, "room.presence")
        assert code_of(lambda: one.do("presence", channel="room.presence")) == (103, "permission denied")
        one.do("subscribe", channel="room.events", options={"join_leave": True})
        assert one.wait("unsubscribed", channel="room.events")["code"] == 103


class TestRpc:
    def test_result(self, start: Start, server: Server) -> None:
        """Any JSON."""
        client = start(server)
        connected(client)
        for value in ({"a": [1, "ü", None]}, "text", 0, [], False):
            assert client.do("rpc", method="echo", data=value) == value

    def test_errors(self, start: Start, server: Server) -> None:
        """The application's own, the protocol's, and a mistake, which is logged."""
        client = start(server)
        connected(client)
        assert code_of(lambda: client.do("rpc", method="sold out")) == (1404, "sold out")
        assert code_of(lambda: client.do("rpc", method="other")) == (104, "method not found")
        assert code_of(lambda: client.do("rpc", method="fail")) == (100, "internal server error")
        server.log.expect("rpc failed; error 100 is sent.*LookupError: no such row")


class TestRecovering:
    def test_cut_connection(self, start: Start, server: Server) -> None:
        """Everything arrives once and in order, what was missed is in the reply."""
        client = start(server)
        connected(client)
        subscribed(client, "room.cut")
        client.do("rpc", method="publish", data={"channel": "room.cut", "first": 0, "count": 20})
        client.begin("rpc", method="cut", data={"channel": "room.cut", "first": 20, "count": 50})
        again = client.wait("subscribed", 2, channel="room.cut")
        assert (again["wasRecovering"], again["recovered"]) == (True, True)
        client.do("rpc", method="publish", data={"channel": "room.cut", "first": 70, "count": 20})
        client.wait("publication", data=89)
        assert [one["data"] for one in client.found("publication")] == list(range(90))
        offsets = [one["offset"] for one in client.found("publication")]
        assert offsets == list(range(offsets[0], offsets[0] + 90))

    def test_more_was_missed_than_is_kept(self, start: Start, server: Server) -> None:
        """The client learns that it was not recovered, and gets nothing of it."""
        client = start(server)
        connected(client)
        subscribed(client, "room.full")
        client.do("rpc", method="publish", data={"channel": "room.full", "first": 0, "count": 1})
        client.begin("rpc", method="cut", data={"channel": "room.full", "first": 1, "count": 150})
        again = client.wait("subscribed", 2, channel="room.full")
        assert (again["wasRecovering"], again["recovered"]) == (True, False)
        client.do("rpc", method="publish", data={"channel": "room.full", "first": 500, "count": 1})
        client.wait("publication", data=500)
        assert [one["data"] for one in client.found("publication")] == [0, 500]


class TestLifecycle:
    """What centrifuge-js tests of a server, by the names of its own tests (src/centrifuge.test.ts, recovery.test.ts).

    The rest of that suite is not about a server of this kind: tokens (a session is what identifies a user here), map
    and shared-poll subscriptions, deltas, other transports, and what the client does by itself.
    """

    def test_connect_disconnect_loop(self, start: Start, server: Server) -> None:
        """'connect disconnect loop': it ends disconnected, and can connect afterwards."""
        client = start(server)
        client.do("several", calls=[{"do": "connect"}, {"do": "disconnect"}] * 10)
        client.wait("disconnected")
        assert client.do("state") == "disconnected"
        connected(client)
        assert client.do("rpc", method="echo", data=1) == 1

    def test_subscribe_and_unsubscribe_loop(self, start: Start, server: Server) -> None:
        """'subscribe and unsubscribe loop': the server has the connection in the group once, and then not at all."""
        client, other = start(server), start(server)
        for one in (client, other):
            connected(one)
        calls = [{"do": "subscribe", "channel": "room.loop"}, {"do": "unsubscribe", "channel": "room.loop"}]
        client.do("several", calls=calls * 10)
        client.wait("unsubscribed", channel="room.loop")
        client.do("subscribe", channel="room.loop")
        eventually(lambda: other.do("rpc", method="count", data="room.loop") == 1, "one member")
        other.do("rpc", method="publish", data={"channel": "room.loop", "first": 0, "count": 3})
        client.wait("publication", data=2)
        assert [one["data"] for one in client.found("publication")] == [0, 1, 2]
        client.do("unsubscribe", channel="room.loop")
        eventually(lambda: other.do("rpc", method="count", data="room.loop") == 0, "no member")

    def test_subscribes_and_unsubscribes_from_many_subs(self, start: Start, server: Server) -> None:
        """'subscribes and unsubscribes from many subs', in one batch each."""
        client = start(server)
        connected(client)
        channels = [f"room.batch.{number}" for number in range(100)]
        client.do("several", calls=[{"do": "subscribe", "channel": channel} for channel in channels])
        client.wait("subscribed", 100)
        assert [client.do("rpc", method="count", data=channel) for channel in channels] == [1] * 100
        client.do("several", calls=[{"do": "unsubscribe", "channel": channel} for channel in channels])
        client.wait("unsubscribed", 100)
        for channel in channels:
            eventually(lambda name=channel: client.do("rpc", method="count", data=name) == 0, "no member")

    def test_unsubscribe_right_after_connect(self, start: Start, server: Server) -> None:
        """'unsubscribe right after connect': the frames of both have not been sent yet."""
        client = start(server)
        connected(client)
        again = {"do": "subscribe", "channel": "room.right"}
        calls = [{"do": "disconnect"}, {"do": "connect"}, {"do": "unsubscribe", "channel": "room.right"}]
        client.do("several", calls=[again, *calls])
        client.wait("unsubscribed", channel="room.right")
        client.wait("connected", 2)
        assert client.do("rpc", method="count", data="room.right") == 0
        client.do("subscribe", channel="room.right")
        client.wait("subscribed", channel="room.right")
        assert client.do("rpc", method="count", data="room.right") == 1

    def test_unsubscribe_in_between_connect_command_and_reply(self, start: Start, server: Server) -> None:
        """'unsubscribe in between connect command and reply'."""
        client = start(server, "/slow")
        client.do("subscribe", channel="room.between")
        client.begin("connect")
        server.log.expect("a connect command waits")
        client.do("unsubscribe", channel="room.between")
        client.wait("connected")
        assert client.do("rpc", method="count", data="room.between") == 0
        client.do("subscribe", channel="room.between")
        client.wait("subscribed", channel="room.between")
        assert client.do("rpc", method="count", data="room.between") == 1

    def test_recovery_after_unsubscribe(self, start: Start, server: Server) -> None:
        """'stream: recovery after unsubscribe/resubscribe': what came in between is sent, once and in order."""
        client, other = start(server), start(server)
        for one in (client, other):
            connected(one)
        subscribed(client, "room.again")
        publish = {"channel": "room.again", "first": 0, "count": 2}
        other.do("rpc", method="publish", data=publish)
        client.wait("publication", data=1)
        client.do("unsubscribe", channel="room.again")
        client.wait("unsubscribed", channel="room.again")
        other.do("rpc", method="publish", data={**publish, "first": 2, "count": 5})
        client.do("subscribe", channel="room.again")
        again = client.wait("subscribed", 2, channel="room.again")
        assert (again["wasRecovering"], again["recovered"]) == (True, True)
        client.wait("publication", data=6)
        assert [one["data"] for one in client.found("publication")] == list(range(7))


@needs_npm
@pytest.mark.parametrize("start", ["javascript"], indirect=True)
class TestJavascript:
    """The same for what the client for Python does not have."""

    def test_unrecoverable_position(self, start: Start, server: Server) -> None:
        """'stream: unrecoverable position resubscribes without recovery'."""
        client = start(server)
        connected(client)
        client.do("rpc", method="publish", data={"channel": "room.lost", "first": 0, "count": 3})
        found = subscribed(client, "room.lost", since={"epoch": "other", "offset": 1})
        assert (found["wasRecovering"], found["recovered"]) == (True, False)
        client.do("rpc", method="publish", data={"channel": "room.lost", "first": 3, "count": 1})
        client.wait("publication", data=3)
        assert [one["data"] for one in client.found("publication")] == [3]

    def test_rpc_buffered_till_connected(self, start: Start, server: Server) -> None:
        """'rpc buffered till connected'."""
        client = start(server)
        call = client.begin("rpc", method="echo", data="early")
        client.do("connect")
        assert client.result(call) == "early"

    def test_handles_offline_and_online_events(self, start: Start, server: Server) -> None:
        """'handles offline/online events': nothing is missed meanwhile."""
        client, other = start(server), start(server)
        for one in (client, other):
            connected(one)
        subscribed(client, "room.offline")
        client.do("network", event="offline")
        client.wait("connecting", 2)
        other.do("rpc", method="publish", data={"channel": "room.offline", "first": 0, "count": 5})
        client.do("network", event="online")
        client.wait("connected", 2)
        client.wait("publication", data=4)
        assert [one["data"] for one in client.found("publication")] == list(range(5))
        client.do("disconnect")
        client.wait("disconnected")

    def test_not_connecting_on_online_in_disconnected_state(self, start: Start, server: Server) -> None:
        """'not connecting on online in disconnected state'."""
        client = start(server)
        connected(client)
        client.do("disconnect")
        client.do("network", event="online")
        assert client.do("state") == "disconnected"

    def test_reconnect_after_close_before_transport_open(self, start: Start, server: Server) -> None:
        """'reconnect after close before transport open': the handshake that was given up harms nothing."""
        client = start(server)
        client.do("several", calls=[{"do": "connect"}, {"do": "network", "event": "offline"}])
        client.do("network", event="online")
        client.wait("connected")
        assert client.do("rpc", method="echo", data=1) == 1


class TestRestarts:
    def test_worker_that_was_killed(self, start: Start, workers: Server) -> None:
        """Its clients go on in another one, and miss nothing."""
        client, other = in_two_workers(start, workers)
        for one in (client, other):
            subscribed(one, "room.kill")
        pids = [one.do("rpc", method="pid") for one in (client, other)]
        os.kill(pids[0], signal.SIGKILL)
        other.do("rpc", method="publish", data={"channel": "room.kill", "first": 0, "count": 50})
        again = client.wait("subscribed", 2, channel="room.kill")
        workers.log.expect("was sent SIGKILL")
        assert (again["wasRecovering"], again["recovered"]) == (True, True)
        other.do("rpc", method="publish", data={"channel": "room.kill", "first": 50, "count": 10})
        for one in (client, other):
            one.wait("publication", data=59)
            assert [found["data"] for found in one.found("publication")] == list(range(60))
        eventually(lambda: workers.status()["pid"] not in pids, "the worker that follows it")

    def test_reload(self, start: Start, workers: Server) -> None:
        """All workers are replaced by others; nothing is missed, whatever is published meanwhile."""
        client, publisher = start(workers), start(workers)
        for one in (client, publisher):
            connected(one)
        subscribed(client, "room.reload")

        def publish(data: object) -> bool:
            try:
                publisher.do("publish", channel="room.reload", data=data)
            except ClientError:
                return False  # the publisher has lost its connection: published or not
            return True

        workers.kill(signal.SIGHUP)
        published = 0
        while not (client.found("subscribed", wasRecovering=True) and len(publisher.found("connected")) > 1):
            publish(published)
            published += 1
        # A client that comes back quickly may meet an old worker, which closes that connection, too.
        eventually(lambda: publish("last"), "the publisher's connection to a new worker")
        client.wait("publication", data="last")
        assert client.wait("subscribed", 2, channel="room.reload")["recovered"] is True
        offsets = [one["offset"] for one in client.found("publication")]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))

    def test_log_that_was_deleted(self, start: Start, workers: Server, tmp_path: Path) -> None:
        """What was published cannot be had: the client subscribes again by itself, and learns it."""
        client, other = in_two_workers(start, workers)
        for one in (client, other):
            subscribed(one, "room.deleted")
        other.do("rpc", method="publish", data={"channel": "room.deleted", "first": 0, "count": 5})
        client.wait("publication", data=4)
        shutil.rmtree(tmp_path / "groups")
        other.do("rpc", method="publish", data={"channel": "room.deleted", "first": 5, "count": 1})
        again = client.wait("subscribed", 2, channel="room.deleted")
        assert client.found("subscribing", code=2500) != []
        assert (again["wasRecovering"], again["recovered"]) == (True, False)
        workers.log.expect("the log has begun anew", 2)
        for group in ("room.deleted", "gws.orders"):
            workers.log.expect(f"group {group}: messages are missing, and the history does not have them", 2)
        other.do("rpc", method="publish", data={"channel": "room.deleted", "first": 500, "count": 1})
        client.wait("publication", data=500)
        assert len(client.found("connected")) == 1

    def test_changed_epoch(self, start: Start, server: Server) -> None:
        """The memory of a killed worker is lost: not recovered, and then as from the beginning."""
        client = start(server)
        connected(client)
        before = subscribed(client, "room.epoch")["position"]
        client.do("rpc", method="publish", data={"channel": "room.epoch", "first": 0, "count": 3})
        client.wait("publication", data=2)
        os.kill(client.do("rpc", method="pid"), signal.SIGKILL)
        again = client.wait("subscribed", 2, channel="room.epoch")
        server.log.expect("Worker .* was sent SIGKILL")
        assert (again["wasRecovering"], again["recovered"]) == (True, False)
        assert again["position"]["epoch"] != before["epoch"]
        client.do("rpc", method="publish", data={"channel": "room.epoch", "first": 7, "count": 1})
        assert client.wait("publication", data=7)["offset"] == 1


def in_two_workers(start: Start, server: Server) -> tuple[Driver, Driver]:
    """Two clients that are connected in different workers."""
    one = start(server)
    connected(one)
    pid = one.do("rpc", method="pid")

    def other() -> Driver | None:
        client = start(server)
        connected(client)
        return None if client.do("rpc", method="pid") == pid else client

    found = eventually(other, "a client in the other worker", timeout=60)
    assert found is not None
    return one, found


PAGE = """async () => {
    const client = new Centrifuge(`ws://${location.host}/live`, {minReconnectDelay: 50, maxReconnectDelay: 300});
    const subscription = client.newSubscription("room.browser");
    const seen = [], recovered = [];
    subscription.on("subscribed", (context) => recovered.push(context.recovered));
    const whole = new Promise((resolve) => subscription.on("publication", (context) => {
        seen.push(context.data);
        if (context.data === 69) resolve();
    }));
    subscription.subscribe();
    client.connect();
    await subscription.ready();
    await client.rpc("publish", {channel: "room.browser", first: 0, count: 20});
    client.rpc("cut", {channel: "room.browser", first: 20, count: 50}).catch(() => {});
    await whole;
    const closed = new Promise((resolve) => client.on("disconnected", (context) => resolve(context.code)));
    client.rpc("close", 4501).catch(() => {});
    return {seen, recovered, code: await closed};
}"""


@needs_chromium
@needs_npm
def test_page(browser: Browser, server: Server, javascript: Path) -> None:
    """The client in a browser, from its file for pages: a cut connection, and a close that is final."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(f"http://127.0.0.1:{server.tcp[1]}/")
        page.add_script_tag(path=javascript / "dist" / "centrifuge.js")
        found = page.evaluate(PAGE)
    finally:
        context.close()
    assert found == {"seen": list(range(70)), "recovered": [False, True], "code": 4501}
