"""The project of the other tests with views that query, and its database under a second alias."""

from __future__ import annotations

from tests.django.project.settings import *  # noqa: F403
from tests.django.project.settings import DATABASES

ROOT_URLCONF = "tests.django.dbproject.urls"
DATABASES["other"] = DATABASES["default"]
