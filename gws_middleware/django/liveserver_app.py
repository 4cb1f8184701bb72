"""What the process of ``liveserver`` serves: the project's application on the databases of the test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

__all__ = ["DATABASES"]

DATABASES = "LIVE_SERVER_DATABASES"
"""The environment variable with the name of each test database, as JSON."""


def _make() -> Callable[..., Any]:
    from django.conf import settings
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.servers.basehttp import get_internal_wsgi_application

    for alias, name in json.loads(os.environ[DATABASES]).items():
        settings.DATABASES[alias]["NAME"] = name
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "127.0.0.1"]
    application: Callable[..., Any] = get_internal_wsgi_application()
    if "django.contrib.staticfiles" in settings.INSTALLED_APPS:
        application = StaticFilesHandler(application)  # type: ignore[arg-type]
    return application


def __getattr__(name: str) -> Any:
    """``application``: made when gunicorn asks for it, in the worker; the test imports this module, too."""
    if name == "application":
        return _make()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
