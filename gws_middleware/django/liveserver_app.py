"""What the process of ``liveserver`` serves: the project's application on the databases of the test."""

from __future__ import annotations

import json
import os

from ..middleware import WebSocketMiddleware
from ..typing import WSGIApp

__all__ = ["DATABASES", "DEBUG", "HOST", "application"]

HOST = "127.0.0.1"
DATABASES = "LIVE_SERVER_DATABASES"
"""The environment variable with the name of each test database, as JSON."""
DEBUG = "LIVE_SERVER_DEBUG"
"""The one with ``settings.DEBUG``, as JSON."""


def application() -> WSGIApp:
    """Called by gunicorn in the worker, before anything of Django's is loaded."""
    from django.apps import apps
    from django.conf import settings
    from django.core.servers.basehttp import get_internal_wsgi_application
    from django.test.utils import setup_test_environment

    names = json.loads(os.environ[DATABASES])
    # No others: they have no test database, and what has its name is the real one.
    databases = {alias: {**settings.DATABASES[alias], "NAME": name} for alias, name in names.items()}
    settings.DATABASES = {"default": {}, **databases}
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, HOST]
    setup_test_environment(debug=json.loads(os.environ[DEBUG]))
    app: WSGIApp = get_internal_wsgi_application()
    return _with_static_files(app) if apps.is_installed("django.contrib.staticfiles") else app


def _with_static_files(app: WSGIApp) -> WSGIApp:
    from django.contrib.staticfiles.handlers import StaticFilesHandler

    if not isinstance(app, WebSocketMiddleware):
        return StaticFilesHandler(app)  # type: ignore[arg-type]
    outside = WebSocketMiddleware(StaticFilesHandler(app.app))  # type: ignore[arg-type]
    outside.config = app.config
    return outside
