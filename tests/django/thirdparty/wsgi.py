"""The usual wsgi.py, with OpenTelemetry, and tables that are made when the server starts."""

from __future__ import annotations

import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from .recording import SpanRecorder, connect

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django.thirdparty.settings")


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(SpanRecorder()))
DjangoInstrumentor().instrument(tracer_provider=provider)  # puts its middleware above all
application = get_wsgi_application()
call_command("migrate", run_syncdb=True, verbosity=0)
connect()
