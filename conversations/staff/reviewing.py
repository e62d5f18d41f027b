"""The review form beside a transcript, and the queue of what nobody has looked at."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import User
from conversations import reviews
from conversations.models import Conversation, Label, Review
from conversations.staff.columns import time_shown
from conversations.staff.reading import HistoryAdmin, may_read

LABELS_SHOWN = 200
NEW_LABELS = 10
NOTES_LENGTH = 10_000


def may_review(request: HttpRequest) -> bool:
    """To judge a conversation one has to read it."""
    assert isinstance(request.user, User)
    rights = ("conversations.add_review", "conversations.change_review")
    return may_read(request) and request.user.has_perms(rights)


class ReviewForm(forms.Form):
    """`version` and `seen`: of which review, and of which state of the conversation it is made."""

    score = forms.TypedChoiceField(
        choices=[("", "none"), *((str(score), str(score)) for score in range(1, 6))],
        widget=forms.RadioSelect,
        coerce=int,
        empty_value=None,
        required=False,
    )
    labels = forms.MultipleChoiceField(widget=forms.CheckboxSelectMultiple, required=False)
    new_labels = forms.CharField(required=False, max_length=500)
    notes = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 5}), required=False, max_length=NOTES_LENGTH
    )
    version = forms.CharField(widget=forms.HiddenInput, required=False)
    seen = forms.CharField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, may_add_labels: bool, chosen: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = set(Label.objects.order_by("name").values_list("name", flat=True)[:LABELS_SHOWN])
        self.fields["labels"].choices = [  # type: ignore[attr-defined]
            (name, name) for name in sorted(names | set(chosen))
        ]
        if not may_add_labels:
            del self.fields["new_labels"]

    def clean_new_labels(self) -> list[str]:
        names = [" ".join(name.split()) for name in self.cleaned_data["new_labels"].split(",")]
        names = [*dict.fromkeys(name for name in names if name)]
        longest = Label._meta.get_field("name").max_length
        if len(names) > NEW_LABELS:
            raise ValidationError(f"{NEW_LABELS} new labels at once are enough.")
        if any(len(name) > (longest or 0) for name in names):
            raise ValidationError(f"A label has {longest} characters at most.")
        return names

    def clean_seen(self) -> Any:
        try:
            seen = parse_datetime(self.cleaned_data["seen"])
        except ValueError:
            seen = None
        if seen is None or seen.tzinfo is None:
            raise ValidationError("Open the conversation again.")
        return seen

    @property
    def judgement(self) -> reviews.Judgement:
        data = self.cleaned_data
        labels = [*data["labels"], *data.get("new_labels", [])]
        return reviews.Judgement(data["score"], [*dict.fromkeys(labels)], data["notes"])


def form_for(
    request: HttpRequest, conversation: Conversation, review: Review | None, data: Any = None
) -> ReviewForm:
    """Filled with the review that there is, or with what was sent."""
    assert isinstance(request.user, User)
    chosen = [label.name for label in review.labels.all()] if review else []
    initial: dict[str, Any] = {
        "version": reviews.version_of(review),
        "seen": conversation.updated_at.isoformat(),
    }
    if review is not None:
        initial |= {"score": str(review.score or ""), "labels": chosen, "notes": review.notes}
    return ReviewForm(
        data,
        initial=initial,
        may_add_labels=request.user.has_perm("conversations.add_label"),
        chosen=chosen,
    )


class ReviewedAdmin(HistoryAdmin):
    """Conversations that are judged. The form's address is beside the transcript's, which still
    answers nothing but GET."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        own = [
            path("unreviewed/", view(self.unreviewed_view), name="conversations_unreviewed"),
            path("<int:pk>/review/", view(self.review_view), name="conversations_review"),
        ]
        return [*own, *super().get_urls()]

    def unreviewed_view(self, request: HttpRequest) -> HttpResponse:
        """Leads to the next one; `?after=` (a primary key) to the one below that in the list."""
        if not may_review(request) or not self.has_view_permission(request):
            raise PermissionDenied
        after = request.GET.get("after", "")
        known = after.isdecimal() and len(after) <= 18
        return self.to_next(
            request, Conversation.objects.filter(pk=after).first() if known else None
        )

    def review_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        if not may_review(request) or not self.has_view_permission(request):
            raise PermissionDenied
        conversation = self.get_object(request, str(pk))
        if conversation is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, str(pk))  # type: ignore[attr-defined]
        page = reverse("admin:conversations_conversation_change", args=[pk])
        if request.method != "POST":
            return HttpResponseRedirect(page)
        form = form_for(request, conversation, reviews.review_of(pk), request.POST)
        if not form.is_valid():
            return self.page(request, conversation, form=form)
        try:
            is_current = reviews.review_save(
                pk,
                form.judgement,
                reviewer=request.user,  # type: ignore[arg-type]
                version=form.cleaned_data["version"],
                seen_at=form.cleaned_data["seen"],
            )
        except reviews.ReviewChanged as changed:
            # Saved again, the form has seen their review.
            sent = request.POST.copy()
            sent["version"] = reviews.version_of(changed.review)
            form.data = sent
            response = self.page(request, conversation, form=form, theirs=changed.review)
            response.status_code = 409
            return response
        if is_current:
            self.message_user(request, f"The review of {conversation} is saved.", messages.SUCCESS)
        else:
            self.message_user(
                request,
                f"The review of {conversation} is saved. The conversation has gone on since you"
                " opened it, and stays unreviewed.",
                messages.WARNING,
            )
        return self.to_next(request, conversation) if "next" in request.POST else to(page)

    def to_next(self, request: HttpRequest, after: Conversation | None) -> HttpResponse:
        pk = reviews.next_unreviewed(after)
        if pk is not None:
            return to(reverse("admin:conversations_conversation_change", args=[pk]))
        self.message_user(request, "Nothing else is unreviewed.", messages.SUCCESS)
        return to(reverse("admin:conversations_conversation_changelist"))

    def review_context(self, request: HttpRequest, obj: Conversation) -> dict[str, Any]:
        """For the page of a transcript. The review is a judgement on a text, and may quote it."""
        review = reviews.review_of(obj.pk)
        return {
            "review": review,
            "reviewed": time_shown(obj.reviewed_at),
            "form": form_for(request, obj, review) if may_review(request) else None,
        }


def to(url: str) -> HttpResponse:
    return HttpResponseRedirect(url)


def review_badge(conversation: Any) -> SafeString:
    """Its score and labels, and that it is to be looked at (again)."""
    review = conversation.judged
    shown = conversation.shows_labels and review is not None
    words = [label.name for label in review.labels.all()] if shown else []
    if review is not None and review.score is not None:
        words.insert(0, f"{review.score}/5")
    if conversation.reviewed_at is None:
        words.insert(0, "gone on" if review else "unreviewed")
    elif not words:
        words = ["seen"]
    return format_html(
        '<span class="history-review" data-reviewed="{}">{}</span>',
        "no" if conversation.reviewed_at is None else "yes",
        " · ".join(words),
    )
