"""What staff think of conversations: writes of reviews, and the queue of those without one.

Unreviewed is whoever has no `reviewed_at`: never looked at, or gone on since. Functions are plain
and synchronous; database errors (django.db.Error) reach the caller.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, OuterRef
from django.utils import timezone

from accounts.models import User
from conversations.models import Completion, Conversation, Label, Review
from conversations.storage import keyset
from conversations.storage.writing import write_transaction


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a reviewer says. score: 1 to 5, or None; labels: names, made where they are new."""

    score: int | None
    labels: Collection[str]
    notes: str


class ReviewChanged(Exception):
    """Somebody saved another review while this one was being written. `review` is theirs."""

    def __init__(self, review: Review) -> None:
        super().__init__(f"{review} has changed")
        self.review = review


def review_of(conversation_pk: int) -> Review | None:
    rows = Review.objects.select_related("reviewer").prefetch_related("labels")
    return rows.filter(pk=conversation_pk).first()


def version_of(review: Review | None) -> str:
    """Changes with every save; what a form hands back to say which review it was made from."""
    return review.updated_at.isoformat() if review else ""


def review_save(
    conversation_pk: int, judgement: Judgement, *, reviewer: User, version: str, seen_at: datetime
) -> bool:
    """Makes this the review, and the conversation reviewed: True. False: the review is saved, but
    the conversation has gone on since `seen_at`, its `updated_at` when it was read.

    Raises Conversation.DoesNotExist; ReviewChanged if the review is no longer of `version`.
    """
    with write_transaction():
        # Two who save at once do so in turn.
        conversation = Conversation.objects.select_for_update(no_key=True).get(pk=conversation_pk)
        before = review_of(conversation_pk)
        if before is not None and version_of(before) != version:
            raise ReviewChanged(before)
        review, _ = Review.objects.update_or_create(
            conversation=conversation,
            defaults={
                "reviewer": reviewer,
                "score": judgement.score,
                "notes": judgement.notes,
            },
        )
        review.labels.set([_label(name) for name in sorted(judgement.labels)])
        is_current = conversation.updated_at == seen_at
        Conversation.objects.filter(pk=conversation_pk).update(
            reviewed_at=timezone.now() if is_current else None
        )
    return is_current


def next_unreviewed(after: Conversation | None = None) -> int | None:
    """The newest unreviewed conversation that is older than `after`; where there is none, the
    newest but `after`. Those that are being answered are left for later."""
    running = Completion.objects.filter(
        conversation=OuterRef("pk"), status=Completion.Status.RUNNING
    )
    queue = Conversation.objects.filter(~Exists(running), reviewed_at=None)
    newest = keyset.in_order(queue, "updated_at", descending=True).values_list("pk", flat=True)
    if after is None:
        return newest.first()
    place = after.updated_at, after.pk
    older = keyset.in_order(queue, "updated_at", descending=True, after=place)
    return older.values_list("pk", flat=True).first() or newest.exclude(pk=after.pk).first()


def unreviewed_count(at_most: int) -> int:
    """How many there are, counted no further than `at_most`."""
    return Conversation.objects.filter(reviewed_at=None)[:at_most].count()


def labels_drop(label_pks: Collection[int]) -> list[int]:
    """Deletes those of these labels that no review has, and returns which. In a transaction."""
    # Locked before they are looked at: nobody puts one on a review meanwhile.
    locked = Label.objects.filter(pk__in=label_pks).order_by("pk").select_for_update()
    unused = Label.objects.filter(pk__in=[label.pk for label in locked], reviews=None)
    dropped = list(unused.values_list("pk", flat=True))
    Label.objects.filter(pk__in=dropped).delete()
    return dropped


def _label(name: str) -> Label:
    """However it is written: `Spam` is `spam`. It stays until the transaction ends."""
    known = Label.objects.select_for_update(no_key=True).filter(name__iexact=name).first()
    return known or Label.objects.get_or_create(name=name)[0]
