from __future__ import annotations

from django import forms

from .models import Notification


class NotificationForm(forms.ModelForm):
    class Meta:
        model = Notification
        fields = ("user", "text")
        labels = {"user": "To"}
