"""Settings of the example: as few as Django can do with. There is no database in it."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent

# Nothing here is signed. A project with sessions takes a key that is not in its repository.
SECRET_KEY = os.environ.get("SECRET_KEY", "an example signs nothing")
DEBUG = False
# The origin check of the WebSocket compares a page's origin with the Host header; this list says which Host is ours.
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [BASE_DIR / "templates"]}]
USE_TZ = True
TIME_ZONE = "UTC"  # Django moves the whole process to its time zone, the log of gunicorn too
# To standard error, what goes wrong in a view too: without DEBUG, Django only mails it to ADMINS.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
