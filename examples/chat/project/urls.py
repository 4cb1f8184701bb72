from __future__ import annotations

from django.contrib.staticfiles.views import serve
from django.urls import include, path

urlpatterns = [
    path("", include("chat.urls")),
    # So that gunicorn alone serves the example. In production a proxy serves the files of `collectstatic`.
    path("static/<path:path>", serve, {"insecure": True}),
]
