"""The usual wsgi.py: the worker wraps the application, so nothing of gws_middleware is imported here."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = get_wsgi_application()
