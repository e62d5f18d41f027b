"""The forms of keys: a new one, its name, its rotation."""

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy

from accounts import services
from accounts.models import ApiKey, BudgetPeriod, Scope, User
from accounts.offered import offered_models
from accounts.pages.allowances import account_holder

MOST_MODELS = 50
LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "token_budget")


def in_days(count: int) -> Any:
    return format_lazy(ngettext_lazy("in {days} day", "in {days} days", count), days=count)


EXPIRIES = [("", gettext_lazy("never")), *((str(days), in_days(days)) for days in (7, 30, 90, 365))]
GRACES = [
    ("0", gettext_lazy("none: it is refused at once")),
    ("1", gettext_lazy("1 hour")),
    ("24", gettext_lazy("1 day")),
    ("168", gettext_lazy("7 days")),
    ("720", gettext_lazy("30 days")),
]
"""Hours, and how they are called."""


class NameForm(forms.ModelForm):
    class Meta:
        model = ApiKey
        fields = ["name"]
        labels = {"name": gettext_lazy("Name")}
        help_texts = {"name": ""}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["name"].required = True


class RotateForm(forms.Form):
    grace = forms.ChoiceField(
        label=gettext_lazy("How long the old key goes on working"), choices=GRACES, initial="24"
    )

    @property
    def duration(self) -> timedelta:
        return timedelta(hours=int(self.cleaned_data["grace"]))


class NewKeyForm(NameForm):
    """What a user may give away: nothing above its own limits, no scope that it has not."""

    expires = forms.ChoiceField(
        label=gettext_lazy("Expires"), choices=EXPIRIES, required=False, initial=""
    )
    scopes = forms.MultipleChoiceField(
        label=gettext_lazy("What it may be used for"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("None chosen: for everything that you may do."),
    )
    offered = forms.MultipleChoiceField(
        label=gettext_lazy("Models that it may use"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("None chosen: all models."),
    )
    other_models = forms.CharField(
        label=gettext_lazy("Further models"),
        required=False,
        max_length=MOST_MODELS * services.LONGEST_MODEL_NAME,
        help_text=gettext_lazy("Names, separated by commas; also of models that are served later."),
    )

    class Meta(NameForm.Meta):
        fields = ["name", *LIMITS, "token_budget_period"]
        labels = {
            "name": gettext_lazy("Name"),
            "requests_per_minute": gettext_lazy("Requests per minute"),
            "tokens_per_minute": gettext_lazy("Tokens per minute"),
            "concurrent_requests": gettext_lazy("Requests at once"),
            "token_budget": gettext_lazy("Token budget"),
            "token_budget_period": gettext_lazy("Budget for each"),
        }

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.account = account_holder(user)
        self.fields["name"].widget.attrs |= {
            "placeholder": _("What it is for: laptop, website, …"),
            "autofocus": True,
        }
        scopes = [scope for scope in Scope if scope is not Scope.ADMIN or user.is_staff]
        self.choose("scopes", [(scope.value, scope.label) for scope in scopes])
        self.fields["token_budget_period"].required = False
        names = offered_models()
        self.choose("offered", [(name, name) for name in names])
        if not names:
            del self.fields["offered"]
            self.fields["other_models"].label = _("Models that it may use")
        for name in LIMITS:
            most = self.owners_limit(name)
            self.fields[name].widget.attrs |= {"min": 1, "inputmode": "numeric"}
            if most is not None:
                self.fields[name].help_text = _("Yours: %(limit)s") % {"limit": f"{most:,}"}

    def choose(self, name: str, choices: list[tuple[str, Any]]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = choices

    def owners_limit(self, name: str) -> int | None:
        limit: int | None = getattr(self.account, name, None)
        return limit

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        cleaned["token_budget_period"] = cleaned.get("token_budget_period") or BudgetPeriod.MONTH
        for name in LIMITS:
            given, most = cleaned.get(name), self.owners_limit(name)
            if given is None or most is None:
                continue
            if name == "token_budget":
                most = self.owners_budget(cleaned["token_budget_period"])
            if given > most:
                self.add_error(
                    name,
                    ValidationError(
                        _("No more than your own limit, %(limit)s."), params={"limit": f"{most:,}"}
                    ),
                )
        return cleaned

    def owners_budget(self, period: str) -> int:
        """What the owner's budget comes to in this period: a day may take as much as its month, a
        month as much as 31 of its days."""
        assert self.account is not None
        assert self.account.token_budget is not None
        is_daily = self.account.budget_period == BudgetPeriod.DAY
        is_longer = is_daily and period == BudgetPeriod.MONTH
        return self.account.token_budget * (31 if is_longer else 1)

    def clean_other_models(self) -> list[str]:
        names = [part.strip() for part in self.cleaned_data["other_models"].split(",")]
        names = [name for name in names if name]
        if any(len(name) > services.LONGEST_MODEL_NAME for name in names):
            raise ValidationError(
                _("The name of a model has %(most)d characters at most."),
                params={"most": services.LONGEST_MODEL_NAME},
            )
        if len(names) > MOST_MODELS:
            raise ValidationError(_("Name %(most)d models at most."), params={"most": MOST_MODELS})
        return names

    def expires_at(self) -> datetime | None:
        days = self.cleaned_data["expires"]
        return timezone.now() + timedelta(days=int(days)) if days else None

    def wanted(self) -> dict[str, Any]:
        """The arguments of `key_create`."""
        data = self.cleaned_data
        models = [*data.get("offered", []), *data["other_models"]]
        limits: services.KeyLimits = {
            "requests_per_minute": data["requests_per_minute"],
            "tokens_per_minute": data["tokens_per_minute"],
            "concurrent_requests": data["concurrent_requests"],
            "token_budget": data["token_budget"],
            "token_budget_period": data["token_budget_period"],
        }
        return {
            "name": data["name"],
            "expires_at": self.expires_at(),
            "scopes": data["scopes"],
            "allowed_models": list(dict.fromkeys(models)),
            "limits": limits,
        }
