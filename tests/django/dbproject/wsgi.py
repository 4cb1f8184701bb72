"""The usual wsgi.py, with receivers that note what happens."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django.dbproject.settings")

application = get_wsgi_application()

from . import recording  # noqa: E402 - it needs the settings

recording.connect()
