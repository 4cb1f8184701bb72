"""The project that the tests of ``gws_middleware.django`` run in; DATABASE names another database than SQLite's."""

from __future__ import annotations

import json
import os

SECRET_KEY = "tests sign nothing of worth"
DEBUG = bool(os.environ.get("DEBUG"))
ALLOWED_HOSTS = ["testserver", "test", "127.0.0.1", "localhost"]
ROOT_URLCONF = "tests.django.project.urls"
WSGI_APPLICATION = "tests.django.project.wsgi.application"
INSTALLED_APPS = [
    "gws_middleware.django",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
if os.environ.get("WITH_MIDDLEWARE"):
    MIDDLEWARE.append("gws_middleware.django.middleware.WebSocketMiddleware")
TEMPLATES = [
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
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": ":memory:",
        **json.loads(os.environ.get("DATABASE", "{}")),
    }
}
BASE_DIR = os.getcwd()  # a server of a test has a directory, and so groups, of its own
GWS = json.loads(os.environ.get("GWS", "{}"))
LOGIN_URL = "/login/"
STATIC_URL = "/static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick: nothing is protected here
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "[%(asctime)s] [%(process)d] [%(levelname)s] %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"django": {"handlers": []}},  # Django's own would print each record a second time
    "root": {"handlers": ["console"], "level": "INFO"},
}
