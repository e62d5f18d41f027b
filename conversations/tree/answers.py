"""Answers in the tree: below the last message of the request that they answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from conversations.models import Message
from conversations.storage import rows
from conversations.tree import chain
from conversations.tree.paths import Leaf
from conversations.tree.renewal import hashes_renew


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """How one choice ended. `finish_reason`: None if it did not come to an end of its own."""

    index: int
    text: str
    finish_reason: str | None


def answers_put(
    completion_pk: int,
    above: Leaf,
    choices: Sequence[ChoiceEnd],
    now: datetime,
    *,
    is_whole: bool,
) -> bool:
    """One message per choice; whether there is any. An empty text is an answer only if it
    `is_whole`. The completion and its conversation are locked."""
    created = [choice for choice in choices if choice.text or is_whole]
    rows.insert_all(
        [
            Message(
                conversation_id=above.conversation_pk,
                parent_id=above.pk,
                depth=above.depth + 1,
                role="assistant",
                completion_id=completion_pk,
                choice_index=choice.index,
                created_at=now,
                **_said(above, choice),
            )
            for choice in created
        ]
    )
    return bool(created)


def answers_replace(
    completion_pk: int,
    above: Leaf,
    choices: Sequence[ChoiceEnd],
    now: datetime,
    *,
    is_whole: bool,
) -> None:
    """After `answers_put`: a choice that has a message gets another text, and what was said below
    it the hashes of that. If none has one any more, they were deleted, and stay so. The whole tree
    is locked."""
    answers = Message.objects.filter(completion=completion_pk)
    columns = answers.values_list("choice_index", "pk", "chain_hash")
    stored = {index: (pk, chain_hash) for index, pk, chain_hash in columns}
    if not stored:
        return
    renewed = []
    for choice in choices:
        if choice.index in stored:
            pk, old_hash = stored[choice.index]
            said = _said(above, choice)
            rows.update(Message, pk, **said)
            if said["chain_hash"] != old_hash:
                renewed.append(pk)
    hashes_renew(above.conversation_pk, renewed)
    others = [choice for choice in choices if choice.index not in stored]
    answers_put(completion_pk, above, others, now, is_whole=is_whole)


def _said(above: Leaf, choice: ChoiceEnd) -> dict[str, str]:
    """What of an answer depends on its text."""
    return {
        "content": choice.text,
        "finish_reason": choice.finish_reason or "",
        "chain_hash": chain.link(above.chain_hash, "assistant", "", choice.text),
    }
