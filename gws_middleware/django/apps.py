"""``"gws_middleware.django"`` in ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks as framework

from .. import hooks
from . import checks, conf, databases, serving, users
from .adapter import DjangoAdapter

__all__ = ["GwsConfig"]


class GwsConfig(AppConfig):
    """Registers, and starts nothing: the adapter for the WebSockets of this process, checks and receivers."""

    name = "gws_middleware.django"
    label = "gws_middleware"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        """Called once by ``django.setup()``."""
        hooks.install(DjangoAdapter())
        for check in checks.ALL:
            framework.register(check)
        checks.connect()
        conf.connect()
        databases.connect()
        serving.connect()
        users.connect()
