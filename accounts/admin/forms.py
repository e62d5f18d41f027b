"""Forms of keys for staff."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.auth.forms import AdminPasswordChangeForm
from django.core.exceptions import ValidationError
from django.utils import timezone

from accounts import services
from accounts.models import ApiKey, Scope, User

LIMITS = [*services.KeyLimits.__annotations__]
LIMITS_HELP = (
    "Empty: no limit of its own. 0: nothing at all. A day and a calendar month begin at midnight, "
    "UTC."
)


class NamesField(forms.CharField):
    """A list of names, one on each line."""

    widget = forms.Textarea(attrs={"rows": 3, "cols": 60})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        lines = (line.strip() for line in (value or "").splitlines())
        return list(dict.fromkeys(filter(None, lines)))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != (initial or [])


class ApiKeyForm(forms.ModelForm):
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="What the key may be used for. None: for all that its owner may do.",
    )
    allowed_models = NamesField(
        required=False,
        help_text="Ids or aliases of models, one on each line. Empty: all models.",
    )

    class Meta:
        model = ApiKey
        fields = ["user", "name", "expires_at", "scopes", "allowed_models", *LIMITS]

    def clean_user(self) -> User:
        user: User = self.cleaned_data["user"]
        if user.is_keyless:
            raise ValidationError("This user stands for requests without a key, so it has none.")
        if not user.is_active:
            raise ValidationError("This user is not active: its keys are refused.")
        return user

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if (
            "expires_at" in self.changed_data
            and expires_at is not None
            and expires_at <= timezone.now()
        ):
            raise ValidationError("This time is past.")
        return expires_at

    def clean_allowed_models(self) -> list[str]:
        names: list[str] = self.cleaned_data["allowed_models"]
        services.check_models(names)
        return names


class PasswordForm(AdminPasswordChangeForm):
    """A user's password, set by staff."""

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if self.user.is_keyless and cleaned.get("set_usable_password"):
            # Beside a field: Django's page shows no others.
            self.add_error(
                "password1", "This user stands for requests without a key, so it has no password."
            )
        return cleaned


class RotateForm(forms.Form):
    """How long the old key still works."""

    GRACES = (
        (0, "not at all"),
        (1, "1 hour"),
        (24, "1 day"),
        (24 * 7, "1 week"),
        (24 * 30, "30 days"),
    )

    grace = forms.TypedChoiceField(
        label="The old key still works", choices=GRACES, initial=24, coerce=int
    )

    @property
    def grace_time(self) -> timedelta:
        return timedelta(hours=self.cleaned_data["grace"])
