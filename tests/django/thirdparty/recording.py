"""Records of each request: its response, its user, its end, and what sentry and OpenTelemetry would send. ``?id=`` is
the key of a request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from django.core.signals import request_finished, request_started
from django.http import HttpRequest, HttpResponse
from gevent import getcurrent
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from sentry_sdk.transport import Transport

RECORDS: defaultdict[str, list[str]] = defaultdict(list)
"""By ``id``."""


def record(query: str, what: str) -> None:
    """Note ``what`` for the request with this query string."""
    RECORDS[parse_qs(query).get("id", [""])[0]].append(what)


class Watcher:
    """A middleware that reads the user after the response, e.g. for an access log."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        record(request.META["QUERY_STRING"], f"response {response.status_code} for {request.user}")
        return response


class SentryRecorder(Transport):
    """Keeps the errors that would be sent, and no transactions."""

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            event = item.get_event()
            if event is not None:
                exceptions = [f"{one['type']}: {one['value']}" for one in event.get("exception", {}).get("values", [])]
                sentence = " / ".join(exceptions) or str(event.get("logentry"))
                record(event.get("request", {}).get("query_string", ""), f"sentry: {sentence}")


class SpanRecorder(SpanExporter):
    """Keeps the name of each span and the status in it."""

    def export(self, spans: Any) -> SpanExportResult:
        for span in spans:
            query = span.attributes["http.target"].partition("?")[2]
            record(query, f"span: {span.attributes['http.status_code']}")
        return SpanExportResult.SUCCESS


def _started(*, environ: dict[str, Any], **arguments: Any) -> None:
    getcurrent().query = environ["QUERY_STRING"]


def _finished(**arguments: Any) -> None:
    record(getattr(getcurrent(), "query", ""), "finished")


def connect() -> None:
    """Record the end of each request. A request and its end are in one greenlet."""
    request_started.connect(_started)
    request_finished.connect(_finished)
