"""What holds still while a tree is changed.

All who change one lock in the same order: requests by their primary keys, then conversations by
theirs, then messages. An end locks its own request and then its conversation; whoever changes what
other requests hang on locks all of them first.
"""

from collections.abc import Callable
from typing import TypeVar

from django.db.models import QuerySet

from conversations.models import Completion, Conversation
from conversations.storage.writing import write_transaction

Result = TypeVar("Result")


class _TreeGrew(Exception):
    """A request joined a conversation, or it went, while its requests were being locked."""


def in_whole_trees(
    trees: QuerySet[Conversation],
    work: Callable[[dict[int, Conversation], dict[int, str]], Result],
) -> Result:
    """Calls `work(conversations, statuses)` in a transaction, and returns what it returns:
    {primary key: conversation}, and {primary key: status} of all requests of these conversations.
    Nobody else adds to them, ends or begins a request of them, before the transaction ends."""
    while True:
        try:
            with write_transaction():
                return work(*_lock_whole(trees))
        except _TreeGrew:
            continue


def lock_conversation(conversation_pk: int, user_id: int) -> Conversation | None:
    """None if it is gone or another user's (the hashes are salted by user; this is the second
    door). Two calls that continue one conversation at once place their input in turn."""
    conversations = Conversation.objects.select_for_update(no_key=True).only("public_id", "title")
    return next(iter(conversations.filter(pk=conversation_pk, user_id=user_id)), None)


def _lock_whole(
    trees: QuerySet[Conversation],
) -> tuple[dict[int, Conversation], dict[int, str]]:
    pks = set(trees.values_list("pk", flat=True))
    asked = Completion.objects.filter(conversation__in=pks).order_by("pk")
    statuses = dict(asked.select_for_update().values_list("pk", "status"))
    conversations = {tree.pk: tree for tree in trees.order_by("pk").select_for_update()}
    # Only now can no request join any more.
    if set(conversations) != pks or set(asked.values_list("pk", flat=True)) != set(statuses):
        raise _TreeGrew
    return conversations, statuses
