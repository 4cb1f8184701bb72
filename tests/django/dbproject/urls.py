from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("", views.home),
    path("events/", views.events),
    path("kill/", views.kill),
    path("enter/", views.enter),
    path("talk/", views.talk),
    path("waits/", views.waits),
    path("early/", views.early),
    path("polls/", views.polls),
    path("who/", views.who),
    path("floods/", views.floods),
    path("transacts/", views.transacts),
    path("spawns/", views.spawns),
    path("lingers/", views.lingers),
    path("ends/<how>/", views.ends),
    path("detaches/", views.detaches),
    path("atomic/", views.atomic),
    path("not-atomic/inside/", views.not_atomic_inside),
    path("not-atomic/outside/", views.not_atomic_outside),
    path("accepts/", views.accepts),
    path("accepts/decorated/", views.accepts_decorated),
    path("accepts/non-atomic/", views.accepts_non_atomic),
    path("users/", views.users),
    path("meta/", views.by_meta),
    path("accepts-inside/", views.accepts_inside),
]
