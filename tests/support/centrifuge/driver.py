"""``centrifuge-python``, driven by lines of JSON on stdin; see ``__init__.py``."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
)


def report(event: str, **fields: Any) -> None:
    """Print an event."""
    print(json.dumps({"event": event, **fields}), flush=True)  # noqa: T201


def error_fields(error: Any, code: int) -> dict[str, Any]:
    """Code and message of an error, which the server may have sent."""
    if isinstance(error, ReplyError):
        return {"code": error.code, "message": error.message}
    return {"code": code, "message": str(error)}


class ClientEvents(ClientEventHandler):  # type: ignore[misc]
    """Of the connection."""

    async def on_connecting(self, ctx: Any) -> None:
        report("connecting", code=ctx.code)

    async def on_connected(self, ctx: Any) -> None:
        report("connected", client=ctx.client)

    async def on_disconnected(self, ctx: Any) -> None:
        report("disconnected", code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx: Any) -> None:
        report("error", **error_fields(ctx.error, ctx.code))


class SubscriptionEvents(SubscriptionEventHandler):  # type: ignore[misc]
    """Of one subscription."""

    def __init__(self, channel: str) -> None:
        self._channel = channel

    async def on_subscribing(self, ctx: Any) -> None:
        report("subscribing", channel=self._channel, code=ctx.code)

    async def on_subscribed(self, ctx: Any) -> None:
        position = ctx.stream_position
        report(
            "subscribed",
            channel=self._channel,
            wasRecovering=ctx.was_recovering,
            recovered=ctx.recovered,
            position=None if position is None else {"epoch": position.epoch, "offset": position.offset},
        )

    async def on_unsubscribed(self, ctx: Any) -> None:
        report("unsubscribed", channel=self._channel, code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx: Any) -> None:
        report("error", channel=self._channel, **error_fields(ctx.error, ctx.code))

    async def on_publication(self, ctx: Any) -> None:
        pub = ctx.pub
        user = None if pub.info is None else pub.info.user
        report("publication", channel=self._channel, data=pub.data, offset=pub.offset or 0, user=user)

    async def on_join(self, ctx: Any) -> None:
        report("join", channel=self._channel, client=ctx.info.client)

    async def on_leave(self, ctx: Any) -> None:
        report("leave", channel=self._channel, client=ctx.info.client)


class Methods:
    """What a line may ask for."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def several(self, calls: list[dict[str, Any]]) -> None:
        for call in calls:
            await getattr(self, call.pop("do"))(**call)

    async def state(self) -> str:
        value: str = self._client.state.value
        return value

    async def connect(self) -> None:
        await self._client.connect()

    async def disconnect(self) -> None:
        await self._client.disconnect()

    async def subscribe(self, channel: str, options: dict[str, Any] | None = None) -> None:
        subscription = self._client.get_subscription(channel)
        if subscription is None:
            subscription = self._client.new_subscription(channel, SubscriptionEvents(channel), **options or {})
        await subscription.subscribe()

    async def unsubscribe(self, channel: str) -> None:
        subscription = self._client.get_subscription(channel)
        assert subscription is not None
        await subscription.unsubscribe()

    async def publish(self, channel: str, data: Any) -> None:
        await self._client.publish(channel, data)

    async def rpc(self, method: str, data: Any = None) -> Any:
        return (await self._client.rpc(method, data)).data

    async def presence(self, channel: str) -> dict[str, str]:
        result = await self._client.presence(channel)
        return {key: info.user for key, info in result.clients.items()}

    async def presence_stats(self, channel: str) -> list[int]:
        result = await self._client.presence_stats(channel)
        return [result.num_clients, result.num_users]

    async def history(self, channel: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
        given = dict(options or {})
        if "since" in given:
            given["since"] = StreamPosition(**given["since"])
        result = await self._client.history(channel, **given)
        offsets = [publication.offset for publication in result.publications]
        return {"offsets": offsets, "epoch": result.epoch, "offset": result.offset}


async def answer(methods: Methods, line: str) -> None:
    """Carry a line out."""
    arguments = json.loads(line)
    number, name = arguments.pop("id"), arguments.pop("do")
    outcome: dict[str, Any]
    try:
        outcome = {"result": await getattr(methods, name)(**arguments)}
    except CentrifugeError as error:
        outcome = {"error": error_fields(error, -1)}
    print(json.dumps({"id": number, **outcome}), flush=True)  # noqa: T201


async def main(address: str) -> None:
    """Until stdin ends."""
    client = Client(
        address, ClientEvents(), min_reconnect_delay=0.05, max_reconnect_delay=0.3, max_server_ping_delay=1.5
    )
    methods, tasks = Methods(client), set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = asyncio.create_task(answer(methods, line))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await client.disconnect()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
