from __future__ import annotations

from django.contrib import admin
from django.urls import path

from gws_middleware.django.admin import ConnectionAdmin
from gws_middleware.django.models import Connection

from . import views

staff = admin.AdminSite("staff")
"""A second admin."""
staff.register(Connection, ConnectionAdmin)

urlpatterns = [
    path("admin/", admin.site.urls),
    path("staff-admin/", staff.urls),
    path("", views.plain),
    path("favicon.ico", views.plain),
    path("meta/", views.by_meta),
    path("meta-user/", views.user_by_meta),
    path("messages/", views.messages),
    path("both/", views.both),
    path("both/<int:room>/", views.both),
    path("undecorated/", views.undecorated),
    path("undecorated/session/", views.undecorated_session),
    path("undecorated/chatter/", views.undecorated_chatter),
    path("undecorated/raises/", views.undecorated_raises),
    path("async/", views.asynchronous),
    path("forgets/", views.forgets),
    path("echo/", views.echo),
    path("answers/<what>/", views.answers),
    path("streams/", views.streams),
    path("environ/<what>/", views.environ_values),
    path("sleeps/<when>/", views.sleeps),
    path("raises/", views.raises),
    path("raises-at-the-end/", views.raises_at_the_end),
    path("killed/", views.killed),
    path("killed-by-meta/", views.killed_by_meta),
    path("timeout/", views.timeout),
    path("chatter/", views.chatter),
    path("closed-elsewhere/", views.closed_elsewhere),
    path("in-transaction/", views.in_transaction),
    path("private/", views.private),
    path("who/", views.who),
    path("leaves/", views.leaves),
    path("late/", views.late),
    path("permitted/", views.permitted),
    path("tested/", views.tested),
    path("session/", views.session),
    path("staff/session/", views.session),
    path("staff/who/", views.who),
    path("users/", views.users),
    path("queries/", views.queries),
    path("detached/", views.detached),
    path("conversation/<int:room>/", views.Conversation.as_view()),
    path("conversation/private/<int:room>/", views.Private.as_view()),
    path("page/", views.Page.as_view()),
    path("pid/", views.pid),
    path("ws/<kind>/<name>/", views.member),
    path("groups/<name>/", views.room),
    path("groups/<name>/listening/", views.listening),
    path("groups/<name>/handling/", views.handling),
    path("groups/<name>/present/", views.present),
    path("groups/<name>/members/", views.members),
    path("groups/<name>/send/", views.send),
    path("groups/<name>/send/by-coroutines/", views.send_by_coroutines),
    path("groups/<name>/send/in-transactions/", views.send_in_transactions),
    path("groups/<name>/count/", views.count),
]
