"""The search and the filters above a list of the history."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from conversations.models import Completion
from conversations.own.ownership import keys_of, models_of
from conversations.own.searching import MOST_WORDS, PLAYGROUND, Wanted

LONGEST_SEARCH = 200
KINDS = {
    Completion.Kind.CHAT: _("Chat"),
    Completion.Kind.COMPLETION: _("Completion"),
    Completion.Kind.EMBEDDING: _("Embedding"),
}


class FilterForm(forms.Form):
    """Sent by GET. What it does not know is said beside the field, and nothing is listed."""

    q = forms.CharField(
        required=False,
        max_length=LONGEST_SEARCH,
        label=_("Search"),
        widget=forms.TextInput(
            attrs={"type": "search", "autocomplete": "off", "spellcheck": "false", "class": "input"}
        ),
    )
    kind = forms.ChoiceField(required=False, label=_("Kind"))
    model = forms.ChoiceField(required=False, label=_("Model"))
    key = forms.ChoiceField(required=False, label=_("Key"))
    since = forms.DateField(
        required=False, label=_("From"), widget=forms.DateInput(attrs={"type": "date"})
    )
    until = forms.DateField(
        required=False, label=_("To"), widget=forms.DateInput(attrs={"type": "date"})
    )

    def __init__(self, data: Any, *, user: Any, with_kinds: bool) -> None:
        super().__init__(data)
        if with_kinds:
            self.placeholder = _("Words of a prompt or answer, or an id")
            self._choices("kind", [("", _("All")), *KINDS.items()])
        else:
            self.placeholder = _("Words of a message, or an id")
            del self.fields["kind"]
        # A model that was asked for longer ago than the choices reach back is one all the same.
        models = {*models_of(user), self.data.get("model", "")} - {""}
        self._choices("model", [("", _("All")), *((name, name) for name in sorted(models))])
        keys = [(key.public_id, key.name or key.masked) for key in keys_of(user)]
        self._choices("key", [("", _("All")), (PLAYGROUND, _("Playground")), *keys])

    def _choices(self, name: str, choices: list[tuple[Any, Any]]) -> None:
        self.fields[name].choices = choices  # type: ignore[attr-defined]

    def clean_q(self) -> str:
        term: str = self.cleaned_data["q"]
        if len(term.split()) > MOST_WORDS:
            raise forms.ValidationError(_("Search for %(n)d words at most.") % {"n": MOST_WORDS})
        return term

    def clean(self) -> dict[str, Any]:
        wanted = self.cleaned_data
        if wanted.get("since") and wanted.get("until") and wanted["since"] > wanted["until"]:
            self.add_error("until", _("This day is before the first."))
        return wanted

    @property
    def wanted(self) -> Wanted:
        """Of a valid form."""
        words = tuple(self.cleaned_data["q"].split())
        rest = {k: v for k, v in self.cleaned_data.items() if k != "q"}
        return Wanted(words=words, **rest)

    @property
    def is_narrowed(self) -> bool:
        """Whether something beside words was asked for."""
        return any(self.data.get(name) for name in self.fields if name != "q")
