"""The application of ``behaviours`` with what an operator mounts beside it, and views to be measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import prometheus_client
from prometheus_client.multiprocess import MultiProcessCollector

from gws_middleware import prepare
from gws_middleware.metrics import health
from gws_middleware.process import registry
from gws_middleware.typing import Environ, StartResponse

from ..support.seam import log_line_of
from .behaviours import app, wrapped
from .common import json_response, query, record, text_response

__all__ = ["app", "wrapped"]

app.at("/health")(health.application)


@app.at("/metrics")
def metrics(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """As prometheus_client's documentation says: of this process, or of all where they share a folder."""
    source = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        source = prometheus_client.CollectorRegistry()
        MultiProcessCollector(source)  # type: ignore[no-untyped-call]
    return text_response(start_response, prometheus_client.generate_latest(source).decode())


@app.at("/pid")
def pid(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends the worker's pid, then what comes."""
    ws = environ["wsgi.websocket"]
    ws.send(str(os.getpid()))
    for message in ws:
        ws.send(message)
    return []


@app.at("/ping")
def ping(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Sends a ping, and waits for the end."""
    ws = environ["wsgi.websocket"]
    ws.accept()
    ws.ping(b"?")
    for _ in ws:
        pass
    return []


@app.at("/flood")
def flood(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Waits for a message, and offers frames of 10,000 bytes from then on, until the peer is too slow."""
    ws = environ["wsgi.websocket"]
    ws.receive()
    frame, count = prepare(bytes(10_000)), 0
    while ws.offer(frame):
        count += 1
    record(environ, str(count))
    return []


@app.at("/pile")
def pile(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Offers one message that is as big as the peer wants, and waits for the end."""
    ws = environ["wsgi.websocket"]
    ws.offer(prepare(bytes(int(ws.receive()))))
    ws.receive()
    return []


@app.at("/busy")
def busy(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Computes for ``?seconds=``, and does not yield to the hub."""
    end = time.monotonic() + float(query(environ, "seconds"))
    while time.monotonic() < end:
        pass
    return text_response(start_response, "done")


@app.at("/kept")
def kept(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Of how many open WebSockets something is kept for the access log."""
    return json_response(start_response, sum(log_line_of(ws) is not None for ws in registry.current()))
