from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from . import views
from .forms import JoinForm

join = LoginView.as_view(template_name="chat/join.html", form_class=JoinForm, redirect_authenticated_user=True)

urlpatterns = [
    path("", views.home, name="home"),
    path("join/", join, name="login"),
    path("leave/", LogoutView.as_view(), name="logout"),
    path("rooms/<slug:slug>/", views.room, name="room"),
    path("ws/rooms/<slug:slug>/", views.socket, name="socket"),
]
