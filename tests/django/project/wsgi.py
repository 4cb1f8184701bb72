"""The usual wsgi.py."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from gws_middleware import WebSocketMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django.project.settings")

application = get_wsgi_application()
wrapped = WebSocketMiddleware(application)
"""For servers that do not wrap by themselves."""
