from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.contrib.staticfiles.views import serve
from django.urls import path
from notifications import views
from notifications.live import Live

urlpatterns = [
    path("", views.home, name="home"),
    path("send/", views.send, name="send"),
    path("read/", views.mark_read, name="read"),
    path("dashboard/", views.dashboard, name="dashboard"),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("live/", Live.as_view(), name="live"),
    path("live/dashboard/", views.dashboard_socket, name="dashboard-socket"),
    # So that gunicorn alone serves the example. In production a proxy serves the files of `collectstatic`.
    path("static/<path:path>", serve, {"insecure": True}),
]
