"""The model that the page "WebSockets" of the admin is registered with.

Rule: it has no table and no rows, so no project needs a migration, and nothing queries it. The admin takes the name of
the page and its permissions from it.
"""

from __future__ import annotations

from typing import Any

from django.db import models

__all__ = ["Connection"]


class NoRows(models.Manager["Connection"]):
    """Finds nothing, without a query: ``dumpdata`` reads models without a table, too."""

    def get_queryset(self) -> models.QuerySet[Connection]:
        """An empty one."""
        rows: models.QuerySet[Connection] = super().get_queryset().none()
        return rows


class Connection(models.Model):
    """A WebSocket, as the log of the admin names it."""

    id: Any = models.CharField(primary_key=True, max_length=100)
    text = ""
    """What it is called in the log."""
    objects: Any = NoRows()

    class Meta:
        """No table, no migration, and the two permissions of the page."""

        managed = False
        default_permissions = ("view", "change")
        base_manager_name = "objects"

    def __str__(self) -> str:
        return self.text or str(self.pk)
