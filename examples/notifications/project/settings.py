"""Settings of the example: SQLite, sessions, users, and the app that makes Django serve WebSockets."""

from __future__ import annotations

import os
from pathlib import Path

import django
from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
DATABASE = Path(os.environ.get("NOTIFICATIONS_DATABASE", BASE_DIR / "notifications.sqlite3")).resolve()


def secret_key() -> str:
    """Create the key at the first start, and store it next to the database. A new key would log out all users."""
    path = DATABASE.with_suffix(".key")
    if not path.exists():
        own = path.with_suffix(f".key-{os.getpid()}")
        own.touch(mode=0o600)
        own.write_text(get_random_secret_key())
        try:
            os.link(own, path)  # at once with its content: workers start together, and another one may read it
        except FileExistsError:
            pass  # another worker was first
        own.unlink()
    return path.read_text()


SECRET_KEY = os.environ.get("SECRET_KEY") or secret_key()
DEBUG = False
# A WebSocket is accepted only from pages of these hosts, on any port.
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    "gws_middleware.django",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "notifications",
]
GWS = {
    "groups": {
        # A directory beside the database, which the workers and `manage.py` share. Without it ("auto") it is one in
        # memory, for each project. The variable is not GROUPS: bash does not pass that on.
        "url": os.environ.get("GROUPS_URL") or f"sqlite://{DATABASE.with_suffix('.groups')}",
        # What a page that was disconnected can get: the last hundred messages of a user, for a day.
        "history": {"user": {"size": 100, "age": 86_400}, "dashboard": {"size": 100, "age": 3600}},
    }
}

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
            ]
        },
    }
]
STATIC_URL = "/static/"

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}}
if django.VERSION >= (5, 1):
    DATABASES["default"]["OPTIONS"] = {
        # Readers and the writer do not wait for each other.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        # Without this, a transaction that reads first and then writes fails at once if another one writes.
        "transaction_mode": "IMMEDIATE",
        # Seconds. SQLite waits inside C code, which blocks the whole worker, so this is short.
        "timeout": 2,
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "UTC"  # the browser shows local times
# All records go to standard error, also errors of views, which Django without DEBUG only mails to ADMINS.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
