"""Worker classes and gunicorn hooks for the tests of the worker."""

from __future__ import annotations

from typing import Any, ClassVar

from gws_middleware.worker import GeventWebSocketWorker


class Small(GeventWebSocketWorker):
    """With a setting of its own."""

    options: ClassVar[dict[str, Any]] = {"max_message_size": 50}


class Misspelt(GeventWebSocketWorker):
    """With a setting that there is not."""

    options: ClassVar[dict[str, Any]] = {"max_mesage_size": 50}
