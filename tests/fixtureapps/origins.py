"""The application of ``behaviours`` with several lists of origins. The first segment of the path names the list.

Compiled patterns cannot come from the environment, so the wrappers stand here; under gunicorn's own gevent worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gws_middleware import WebSocketMiddleware
from gws_middleware.typing import Environ, StartResponse

from .behaviours import app

LISTS = {
    "same": None,
    "exact": ["https://example.com", "https://example.org:8443", "http://[2001:db8::1]:8080", "app://-"],
    "wildcard": ["https://*.example.com"],
    "pattern": [re.compile(r"https://team-\d+\.example\.com")],
    "programs": ["file://", "localhost:8025", "https://example.com/project"],
    "null": ["null"],
    "any": ["*"],
    "none": [],
}
WRAPPERS = {
    name: WebSocketMiddleware(app) if origins is None else WebSocketMiddleware(app, allowed_origins=origins)
    for name, origins in LISTS.items()
}


def wrapped(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Dispatches by the first segment."""
    head, slash, tail = environ["PATH_INFO"][1:].partition("/")
    wrapper = WRAPPERS.get(head)
    if wrapper is None:
        return app(environ, start_response)
    environ["SCRIPT_NAME"], environ["PATH_INFO"] = f"/{head}", slash + tail
    return wrapper(environ, start_response)
