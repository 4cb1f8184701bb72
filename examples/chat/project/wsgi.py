"""The usual wsgi.py, with one line for the footer of the page. The worker wraps the application, so nothing of
gws_middleware is imported here.
"""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = get_wsgi_application()

from chat import workers  # noqa: E402 - when Django is set up

workers.claim()
