from __future__ import annotations

from django.conf import settings
from django.urls import include, path

from . import views

urlpatterns = [
    path("", views.home),
    path("records/", views.records),
    path("login/", views.enter),
    path("token/", views.token),
    path("echo/", views.echo),
    path("class/", views.Echo.as_view()),
    path("meta/", views.by_meta),
    path("both/", views.both),
    path("detached/", views.detached),
    path("private/", views.private),
    path("decorated/", views.decorated),
    path("context/", views.context),
    path("session/", views.session),
    path("raises/", views.raises),
    path("refuses/<what>/", views.refuses),
    path("accounts/", include("allauth.account.urls")),
    path("silk/", include("silk.urls", namespace="silk")),
]
if settings.DEBUG:
    urlpatterns.append(path("__debug__/", include("debug_toolbar.urls")))
