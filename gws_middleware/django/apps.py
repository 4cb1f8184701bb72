"""``"gws_middleware.django"`` in ``INSTALLED_APPS``.

Rule: ``ready()`` only registers. It starts nothing and reads no setting.
"""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks as framework

from .. import hooks
from . import chain, checks, conf, databases, serving, users
from .adapter import DjangoAdapter

__all__ = ["GwsConfig"]


class GwsConfig(AppConfig):
    """Registers the adapter for the WebSockets of this process, the system checks and the signal receivers."""

    name = "gws_middleware.django"
    label = "gws_middleware"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        """Register everything; ``django.setup()`` calls this once."""
        hooks.install(DjangoAdapter())
        for check in checks.ALL:
            framework.register(check)
        chain.connect()
        checks.connect()
        conf.connect()
        databases.connect()
        serving.connect()
        users.connect()
