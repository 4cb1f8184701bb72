from __future__ import annotations

from django.contrib.staticfiles.views import serve
from django.urls import include, path

urlpatterns = [
    path("", include("chat.urls")),
    # So that gunicorn alone is enough to try this. On the net a proxy serves what `collectstatic` has put together.
    path("static/<path:path>", serve, {"insecure": True}),
]
