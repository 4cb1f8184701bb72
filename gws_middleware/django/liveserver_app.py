"""The application that the gunicorn of ``liveserver`` serves: the project's application on the test databases."""

from __future__ import annotations

import json
import os

from ..middleware import WebSocketMiddleware
from ..typing import WSGIApp
from . import instance

__all__ = ["DATABASES", "DEBUG", "GROUPS", "HOST", "application"]

HOST = "127.0.0.1"
DATABASES = "LIVE_SERVER_DATABASES"
"""The environment variable with the name of the test database of each alias, as JSON."""
DEBUG = "LIVE_SERVER_DEBUG"
"""The environment variable with the tests' ``settings.DEBUG``, as JSON."""
GROUPS = "LIVE_SERVER_GROUPS"
"""The environment variable with the URL of the groups that server and tests share."""


def application() -> WSGIApp:
    """Load the project; gunicorn calls this in the worker, before anything of Django is loaded."""
    from django.apps import apps
    from django.conf import settings
    from django.core.servers.basehttp import get_internal_wsgi_application
    from django.test.utils import setup_test_environment

    names = json.loads(os.environ[DATABASES])
    # No other alias: it has no test database, so a query would reach the real one.
    databases = {alias: {**settings.DATABASES[alias], "NAME": name} for alias, name in names.items()}
    settings.DATABASES = {"default": {}, **databases}
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, HOST]
    setup_test_environment(debug=json.loads(os.environ[DEBUG]))
    instance.use_in_tests(os.environ[GROUPS])
    app: WSGIApp = get_internal_wsgi_application()
    return _with_static_files(app) if apps.is_installed("django.contrib.staticfiles") else app


def _with_static_files(app: WSGIApp) -> WSGIApp:
    from django.contrib.staticfiles.handlers import StaticFilesHandler

    if not isinstance(app, WebSocketMiddleware):
        return StaticFilesHandler(app)  # type: ignore[arg-type]
    outside = WebSocketMiddleware(StaticFilesHandler(app.app))  # type: ignore[arg-type]
    outside.config = app.config
    return outside
