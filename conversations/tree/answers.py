"""Answers in the tree: below the last message of the request that they answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from conversations.models import Message
from conversations.storage import rows
from conversations.tree import chain
from conversations.tree.renewal import hashes_renew


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """How one choice ended. `finish_reason`: None if it did not come to an end of its own."""

    index: int
    text: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Above:
    """What an answer hangs below: the last input message of its request, or nothing (pk: None,
    depth: -1), where that was the first message of all and is deleted."""

    conversation_pk: int
    pk: int | None
    depth: int
    chain_hash: str

    @classmethod
    def read(cls, head_pk: int) -> "Above":
        row = rows.read(Message, head_pk, "conversation", "depth", "chain_hash")
        if row is None:
            raise ValueError("a completion names a head that is not there")
        conversation_pk, depth, chain_hash = row
        return cls(conversation_pk, head_pk, depth, chain_hash)

    @classmethod
    def nothing(cls, conversation_pk: int, user_id: int) -> "Above":
        return cls(conversation_pk, None, -1, chain.root(user_id))

    def said(self, choice: ChoiceEnd) -> dict[str, str]:
        """What of an answer depends on its text."""
        return {
            "content": choice.text,
            "finish_reason": choice.finish_reason or "",
            "chain_hash": chain.link(self.chain_hash, "assistant", "", choice.text),
        }


def answers_put(
    completion_pk: int,
    above: Above,
    choices: Sequence[ChoiceEnd],
    now: datetime,
    *,
    is_whole: bool,
) -> bool:
    """One message per choice; whether there is any. An empty text is an answer only if it
    `is_whole`. The completion and its conversation are locked."""
    said = [choice for choice in choices if choice.text or is_whole]
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
                **above.said(choice),
            )
            for choice in said
        ]
    )
    return bool(said)


def answers_replace(
    completion_pk: int,
    above: Above,
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
            said = above.said(choice)
            rows.update(Message, pk, **said)
            if said["chain_hash"] != old_hash:
                renewed.append(pk)
    hashes_renew(above.conversation_pk, renewed)
    others = [choice for choice in choices if choice.index not in stored]
    answers_put(completion_pk, above, others, now, is_whole=is_whole)
