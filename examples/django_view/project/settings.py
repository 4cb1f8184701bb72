"""The fewest settings that Django needs. There is no database."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent

# Nothing is signed here. A project with sessions needs a key that is not in its repository.
SECRET_KEY = os.environ.get("SECRET_KEY", "an example signs nothing")
DEBUG = False
# The origin check of the WebSocket compares the origin of a page with the Host header, which this list restricts.
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
TIME_ZONE = "UTC"  # Django sets it for the whole process, gunicorn's log included
# All records go to standard error, also errors of views, which Django without DEBUG only mails to ADMINS.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
