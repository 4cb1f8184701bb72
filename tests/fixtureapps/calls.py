"""Calls that views make: ``/call?name=…`` makes one and sends how often the worker's event loop ran meanwhile.

The names are the rows of the tables in docs/blocking.md.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import json
import logging
import multiprocessing
import os
import queue
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import anyio.to_thread
import django
import django.db
import gevent
import gevent.socket
import httpx
import psycopg
import psycopg2
import requests
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from gevent.monkey import get_original

from gws_middleware.coroutines import iterate, run
from gws_middleware.typing import Environ, StartResponse

from .common import Router, configure_logging, query, text_response

configure_logging()
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()
warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # of calls that are refused
warnings.filterwarnings("ignore", "libuv only supports millisecond")  # of asyncio.run

app = Router()

Call = Callable[[str], object]
"""Called with the URL of a page of this worker that is slow."""
SECONDS = 0.05

block: Callable[[float], None] = get_original("time", "sleep")
"""A call of C code that blocks."""
calls: dict[str, Call] = {}
coroutines: dict[str, Call] = {}


turns = [0]
"""How often the event loop has run while something was to be counted."""


class Turns(int):
    """The result of a call that has counted by itself, because the event loop runs before and after it."""


def count() -> None:
    """Greenlet: runs in each turn of the event loop."""
    while True:
        turns[0] += 1
        gevent.sleep(0)


@app.at("/slow")
def slow(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A page that takes its time."""
    gevent.sleep(SECONDS)
    return text_response(start_response, "slow")


@app.at("/call")
def call(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Make a call and tell of it."""
    ws = environ["wsgi.websocket"]
    name = query(environ, "name")
    function = calls.get(name) or coroutines[name]
    counter = gevent.spawn(count)
    gevent.sleep(0)
    before = turns[0]
    try:
        result: object = function(f"http://127.0.0.1:{environ['SERVER_PORT']}/slow")
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    found = turns[0] - before
    if isinstance(result, Turns):
        found, result = int(result), None
    counter.kill()
    ws.send(json.dumps({"turns": found, "result": result}))
    return []


@app.at("/endless")
def endless(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Waits for a coroutine until the worker stops."""
    environ["wsgi.websocket"].send("ready")

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            logging.getLogger("tests").info("the coroutine has ended")

    run(wait())
    return []


@app.at("/names")
def names(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """All names."""
    return text_response(start_response, json.dumps([list(calls), list(coroutines)]))


def named(name: str, table: dict[str, Call] = calls) -> Callable[[Call], Call]:
    """Decorator: what the row ``name`` is about."""

    def add(function: Call) -> Call:
        table[name] = function
        return function

    return add


# --- waiting, and the network --------------------------------------------------------------------------------------


@named("`time.sleep`")
def _(url: str) -> object:
    return time.sleep(SECONDS)


@named("`socket`, `ssl`, `urllib.request`, `http.client`")
def _(url: str) -> object:
    with urllib.request.urlopen(url) as response:
        return response.read().decode()


@named("`socket.getaddrinfo`")
def _(url: str) -> object:
    return socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)[0][4][0]


@named("`requests`, `urllib3`")
def _(url: str) -> object:
    return requests.get(url, timeout=20).text


@named("`httpx.Client`")
def _(url: str) -> object:
    return httpx.get(url, timeout=20).text


# --- threads -------------------------------------------------------------------------------------------------------


@named("`threading.Lock`, `Event`, `queue.Queue`")
def _(url: str) -> object:
    messages: queue.Queue[str] = queue.Queue()
    gevent.spawn_later(SECONDS, messages.put, "put")
    return messages.get()


@named("`threading.Thread`, `ThreadPoolExecutor`")
def _(url: str) -> object:
    thread = threading.Thread(target=time.sleep, args=(SECONDS,))
    thread.start()
    thread.join()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return pool.submit(len, "submit").result()


@named("a call that blocks, in either")
def _(url: str) -> object:
    def count_turns() -> Turns:
        before = turns[0]
        block(SECONDS)
        return Turns(turns[0] - before)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return pool.submit(count_turns).result()


@named("`gevent.get_hub().threadpool.apply(f, args)`")
def _(url: str) -> object:
    return gevent.get_hub().threadpool.apply(block, (SECONDS,))


# --- processes -----------------------------------------------------------------------------------------------------

SLEEP = ["sleep", str(SECONDS)]


@named("`subprocess.run`, `Popen`, `os.popen`")
def _(url: str) -> object:
    return [subprocess.run(SLEEP).returncode, os.popen("echo x").read()]


@named("`os.system`")
def _(url: str) -> object:
    return os.system(" ".join(SLEEP))


@named("`os.fork` with `os.waitpid`")
def _(url: str) -> object:
    child = os.fork()
    if not child:
        block(SECONDS)
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@named("`multiprocessing.Process`: `join()` after a fork")
def _(url: str) -> object:
    process = multiprocessing.get_context("fork").Process(target=block, args=(SECONDS,))
    process.start()
    process.join()
    return process.exitcode


@named("the same, spawned")
def _(url: str) -> object:
    process = multiprocessing.get_context("spawn").Process(target=abs, args=(1,))
    process.start()
    process.join()
    return process.exitcode


@named("`multiprocessing.Queue`, `Pipe`")
def _(url: str) -> object:
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def put() -> None:
        block(SECONDS)
        sender.send("put")

    gevent.get_hub().threadpool.spawn(put)
    with receiver, sender:
        return receiver.recv()


@named("`ProcessPoolExecutor`")
def _(url: str) -> object:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(abs, -1).result()


# --- asyncio -------------------------------------------------------------------------------------------------------


async def nap() -> str:
    await asyncio.sleep(SECONDS)
    return "slept"


def two(function: Callable[[], object]) -> list[str]:
    """What comes of two calls at a time."""

    def result() -> str:
        try:
            return str(function())
        except RuntimeError as error:
            return str(error)

    greenlets = [gevent.spawn(result) for _ in range(2)]
    return [greenlet.get() for greenlet in greenlets]


@named("`asyncio.run`")
def _(url: str) -> object:
    return two(lambda: asyncio.run(nap()))


@named("asgiref's `async_to_sync`")
def _(url: str) -> object:
    return two(async_to_sync(nap))


@named("`gws_middleware.coroutines.run`")
def _(url: str) -> object:
    return two(lambda: run(nap()))


# --- databases -----------------------------------------------------------------------------------------------------

QUERY = f"SELECT 'row' FROM pg_sleep({SECONDS})"
POSTGRES = {"host": os.environ.get("POSTGRES", ""), "user": "postgres", "dbname": "postgres"}


def ask(connect: Any) -> object:
    connection = connect(**POSTGRES)
    try:
        cursor = connection.cursor()
        cursor.execute(QUERY)
        return cursor.fetchone()[0]
    finally:
        connection.close()


@named("psycopg 3")
def _(url: str) -> object:
    return ask(psycopg.connect)


@named("psycopg2")
def _(url: str) -> object:
    return ask(psycopg2.connect)


def wait(connection: Any) -> None:
    """What psycogreen does."""
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        wait = gevent.socket.wait_read if state == psycopg2.extensions.POLL_READ else gevent.socket.wait_write
        wait(connection.fileno())


@named("psycopg2 with psycogreen")
def _(url: str) -> object:
    psycopg2.extensions.set_wait_callback(wait)
    try:
        return ask(psycopg2.connect)
    finally:
        psycopg2.extensions.set_wait_callback(None)


@named("`sqlite3`")
def _(url: str) -> object:
    connection = sqlite3.connect(":memory:")
    try:
        connection.create_function("block", 1, block)
        return connection.execute(f"SELECT block({SECONDS})").fetchone()[0]
    finally:
        connection.close()


# --- what computes -------------------------------------------------------------------------------------------------


@named("`hashlib.pbkdf2_hmac`, numpy: C code that computes")
def _(url: str) -> object:
    return len(hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 100_000))


@named("Python code that computes")
def _(url: str) -> object:
    return sum(range(1_000_000))


@named("a file: `open`, `read`, `write`")
def _(url: str) -> object:
    with open("/dev/urandom", "rb") as file:
        return len(file.read(1_000_000))


# --- in coroutines that run() runs ---------------------------------------------------------------------------------

kept: dict[str, Any] = {}
"""What lives on from one request to the next."""


@named("`httpx.AsyncClient`, kept for all requests", coroutines)
def _(url: str) -> object:
    client = kept.setdefault("client", httpx.AsyncClient(timeout=20))
    return [run(client.get(url)).text for _ in range(2)]


@named("`psycopg.AsyncConnection`, kept for all requests", coroutines)
def _(url: str) -> object:
    async def fetch() -> object:
        cursor = await kept["connection"].execute(QUERY)
        row = await cursor.fetchone()
        return row[0]

    kept["connection"] = run(psycopg.AsyncConnection.connect(**POSTGRES))
    try:
        return [run(fetch()) for _ in range(2)]
    finally:
        run(kept.pop("connection").close())


@named("an asynchronous generator: `iterate(stream)`", coroutines)
def _(url: str) -> object:
    async def pieces() -> Any:
        async with kept["client"].stream("GET", url) as response:
            async for piece in response.aiter_text():
                yield piece

    kept.setdefault("client", httpx.AsyncClient(timeout=20))
    return "".join(iterate(pieces()))


@named("`asyncio.to_thread`, `run_in_executor`", coroutines)
def _(url: str) -> object:
    async def at_once() -> list[None]:
        return await asyncio.gather(*(asyncio.to_thread(block, SECONDS) for _ in range(2)))

    return run(at_once())


@named("anyio's `to_thread.run_sync`", coroutines)
def _(url: str) -> object:
    return run(_in_a_thread())


async def _in_a_thread() -> object:
    return await anyio.to_thread.run_sync(time.sleep, SECONDS)


@named("asgiref's `sync_to_async`, Django's asynchronous ORM", coroutines)
def _(url: str) -> object:
    def ask() -> object:
        with django.db.connection.cursor() as cursor:
            cursor.execute("SELECT 'row'")
            return cursor.fetchone()[0]

    return run(sync_to_async(ask)())


@named("`asyncio.create_subprocess_exec`", coroutines)
def _(url: str) -> object:
    async def start() -> int | None:
        process = await asyncio.create_subprocess_exec(*SLEEP)
        return await process.wait()

    return run(start())
