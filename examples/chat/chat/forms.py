from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import AuthenticationForm, UsernameField
from django.contrib.auth.hashers import make_password
from django.contrib.auth.validators import UnicodeUsernameValidator

from .models import Message


class JoinForm(AuthenticationForm):
    """Django's login form, which registers a user whose name is not known."""

    NAME = "Letters, digits and @ . + - _, without spaces."

    username = UsernameField(
        label="Name",
        max_length=24,
        help_text=f"At most 24 characters. {NAME}",
        validators=[UnicodeUsernameValidator(message=f"This name cannot be used. {NAME}")],
        widget=forms.TextInput(attrs={"autofocus": True}),
    )
    password = forms.CharField(
        max_length=128, strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "current-password"})
    )
    error_messages = {
        **AuthenticationForm.error_messages,
        "invalid_login": "This name is taken, and has another password.",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name = self.fields["username"]
        name.max_length = name.widget.attrs["maxlength"] = 24  # Django puts that of the model there, which is 150

    def clean(self) -> dict[str, Any]:
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if name and password:
            user, _ = get_user_model().objects.get_or_create(
                username__iexact=name, defaults={"username": name, "password": lambda: make_password(password)}
            )
            self.cleaned_data["username"] = user.get_username()  # "ada" is Ada
        return super().clean()


class MessageForm(forms.ModelForm):
    class Meta:
        model = Message
        fields = ("text",)
        error_messages = {
            "text": {
                "required": "An empty message is not sent.",
                "max_length": "A message has at most %(limit_value)d characters; this one has %(show_value)d.",
            }
        }
        widgets = {
            "text": forms.Textarea(attrs={"rows": 1, "placeholder": "Write a message", "aria-label": "Message"}),
        }

    def clean_text(self) -> str:
        """Replace half surrogate pairs, which JSON can contain and a database refuses."""
        text: str = self.cleaned_data["text"]
        return text.encode("utf-8", "replace").decode()
