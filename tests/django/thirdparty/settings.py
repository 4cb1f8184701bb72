"""A project with all middlewares that are tested: VARIANT is "usual", "reversed" or "debug"."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec

import sentry_sdk
import structlog
from django.core.exceptions import ImproperlyConfigured
from sentry_sdk.integrations.django import DjangoIntegration

from .recording import SentryRecorder

VARIANT = os.environ.get("VARIANT", "usual")


def required(name: str) -> str:
    """The dotted name of an app or a middleware. ImproperlyConfigured if its package is not there: skipped in silence,
    it would be tested no more.
    """
    package = name.partition(".")[0]
    if find_spec(package) is None:
        raise ImproperlyConfigured(f"{package} is missing: pip install '.[thirdparty]'")
    return name


SECRET_KEY = "tests sign nothing of worth, but at length"
DEBUG = VARIANT == "debug"
ALLOWED_HOSTS = ["test", "127.0.0.1"]
INTERNAL_IPS = ["127.0.0.1"]
ROOT_URLCONF = "tests.django.thirdparty.urls"
SITE_ID = 1
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "/login/"
STATIC_URL = "/static/"
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
MANAGERS = [("Ada", "ada@example.com")]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

INSTALLED_APPS = [
    "gws_middleware.django",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.sites",
    "django.contrib.flatpages",
    "django.contrib.redirects",
    "django.contrib.staticfiles",
    *map(
        required,
        [
            "allauth",
            "allauth.account",
            "auditlog",
            "axes",
            "corsheaders",
            "csp",
            "django_guid",
            "django_htmx",
            "django_otp",
            "django_prometheus",
            "django_structlog",
            "django_user_agents",
            "hijack",
            "maintenance_mode",
            "rest_framework",
            "rest_framework_simplejwt",
            "silk",
            "simple_history",
            "waffle",
        ],
    ),
]
FREE = [  # their order is free
    "django.middleware.security.SecurityMiddleware",
    required("whitenoise.middleware.WhiteNoiseMiddleware"),
    required("corsheaders.middleware.CorsMiddleware"),
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "django.middleware.common.BrokenLinkEmailsMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.contrib.flatpages.middleware.FlatpageFallbackMiddleware",
    "django.contrib.redirects.middleware.RedirectFallbackMiddleware",
    "django.contrib.sites.middleware.CurrentSiteMiddleware",
    required("csp.middleware.CSPMiddleware"),
    required("crum.CurrentRequestUserMiddleware"),
    required("django_guid.middleware.guid_middleware"),
    required("django_htmx.middleware.HtmxMiddleware"),
    required("django_permissions_policy.PermissionsPolicyMiddleware"),
    required("django_ratelimit.middleware.RatelimitMiddleware"),
    required("django_structlog.middlewares.RequestMiddleware"),
    required("django_user_agents.middleware.UserAgentMiddleware"),
    required("request_logging.middleware.LoggingMiddleware"),
    required("silk.middleware.SilkyMiddleware"),
    required("simple_history.middleware.HistoryRequestMiddleware"),
    required("waffle.middleware.WaffleMiddleware"),
    "tests.django.thirdparty.recording.Watcher",
]
BOUND = [  # each of them needs some that stand above it
    "django.contrib.sessions.middleware.SessionMiddleware",
    required("django_session_timeout.middleware.SessionTimeoutMiddleware"),
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    required("django_otp.middleware.OTPMiddleware"),
    required("hijack.middleware.HijackUserMiddleware"),
    "tests.django.thirdparty.tokens.TokenMiddleware",
    required("auditlog.middleware.AuditlogMiddleware"),
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    required("allauth.account.middleware.AccountMiddleware"),
    required("maintenance_mode.middleware.MaintenanceModeMiddleware"),
    required("axes.middleware.AxesMiddleware"),
]
if VARIANT == "reversed":
    between = [*BOUND, *reversed(FREE)]
    SESSION_SAVE_EVERY_REQUEST = True
    WEBSOCKET_ACCEPT_ALL = True
    last = ["gws_middleware.django.middleware.WebSocketMiddleware"]
else:
    between = [*FREE, *BOUND]
    last = []
if VARIANT == "debug":
    INSTALLED_APPS.append(required("debug_toolbar"))
    between.insert(0, "debug_toolbar.middleware.DebugToolbarMiddleware")
MIDDLEWARE = [
    required("django_prometheus.middleware.PrometheusBeforeMiddleware"),
    "django.middleware.cache.UpdateCacheMiddleware",
    *between,
    "django.middleware.cache.FetchFromCacheMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
    *last,
]


class _FromModels(dict[str, None]):
    """For MIGRATION_MODULES: tables come from the models, which is quick."""

    def __contains__(self, label: object) -> bool:
        return True

    def __getitem__(self, label: str) -> None:
        return None


MIGRATION_MODULES = _FromModels()
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
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
CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": ["'self'"]}}
CORS_ALLOW_ALL_ORIGINS = True
MAINTENANCE_MODE = False
PERMISSIONS_POLICY = {"geolocation": []}
RATELIMIT_VIEW = "tests.django.thirdparty.views.too_many"
SESSION_EXPIRE_AFTER_LAST_ACTIVITY = True
SESSION_EXPIRE_AFTER_LAST_ACTIVITY_GRACE_PERIOD = 0
SESSION_EXPIRE_SECONDS = 3600
USER_AGENTS_CACHE = "default"

# What Django has logged already is not to be logged as a warning or an error once more.
DJANGO_STRUCTLOG_STATUS_4XX_LOG_LEVEL = logging.INFO
REQUEST_LOGGING_ENABLE_COLORIZE = False
REQUEST_LOGGING_HTTP_4XX_LOG_LEVEL = logging.INFO
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "[%(asctime)s] [%(process)d] [%(levelname)s] %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"django": {"handlers": []}},  # Django's own would print each record a second time
    "root": {"handlers": ["console"], "level": "INFO"},
}
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["event"]),
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)
sentry_sdk.init(
    "https://key@sentry.invalid/1",
    transport=SentryRecorder,
    integrations=[DjangoIntegration()],
    traces_sample_rate=1.0,
    send_default_pii=True,
)
