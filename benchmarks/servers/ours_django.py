"""The echo of this project in a Django view: the settings of ``startproject`` and our app, as docs/django.md has it."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

from gws_middleware.django import require_websocket
from gws_middleware.django.serving import WebSocketRequest

from . import ours

settings.configure(
    SECRET_KEY="benchmarks",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "gws_middleware.django",
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    STATIC_URL="static/",
    USE_TZ=True,
)
django.setup()


@require_websocket
def echo(request: WebSocketRequest) -> None:
    ours.echo(request.websocket)


@require_websocket
def pid(request: WebSocketRequest) -> None:
    ours.pid(request.websocket)


urlpatterns = [path("echo", echo), path("pid", pid)]
application = get_wsgi_application()
