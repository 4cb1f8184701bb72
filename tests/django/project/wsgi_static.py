"""The same with its static files and a Content-Security-Policy, for browsers."""

from __future__ import annotations

from typing import Any

from django.contrib.staticfiles.handlers import StaticFilesHandler

from .wsgi import application as plain

POLICY = ("Content-Security-Policy", "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'")

with_static = StaticFilesHandler(plain)


def application(environ: Any, start_response: Any) -> Any:
    """Allows nothing but files of this site: no script and no style in a page."""

    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*headers, POLICY], *error)

    return with_static(environ, start)
