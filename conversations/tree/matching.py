"""How a history that a client repeats is found again in the trees, by its hashes."""

from collections.abc import Sequence

from django.db.models import Q

from conversations.models import Message
from conversations.storage.portions import in_portions
from conversations.tree.paths import Leaf
from conversations.tree.said import NewMessage


def deepest_answer(messages: Sequence[NewMessage], hashes: Sequence[str]) -> Leaf | None:
    """The deepest message of a history that was generated here. Only an assistant's words can have
    been; the newest of equal answers wins."""
    candidates = [h for m, h in zip(messages, hashes, strict=True) if m.role == "assistant"]
    for wanted in in_portions(candidates[::-1]):
        found = (
            Message.objects.filter(chain_hash__in=wanted, choice_index__isnull=False)
            .order_by("-depth", "-pk")
            .values_list("conversation_id", "pk", "depth", "chain_hash")
            .first()
        )
        if found is not None:
            return Leaf(*found)
    return None


def stored_inputs(leaf: Leaf, hashes: Sequence[str]) -> list[int] | None:
    """The primary keys of those inputs below the leaf that are stored already: a beginning of
    `hashes`, for a hash is stored only below its parent.

    None: the leaf was erased, or moved, before the lock of its conversation was ours.
    """
    known: list[int] = []
    for wanted in list(in_portions(hashes)) or [()]:
        found = list(
            Message.objects.filter(
                Q(chain_hash__in=wanted, choice_index__isnull=True) | Q(pk=leaf.pk),
                conversation_id=leaf.conversation_pk,
            ).values_list("pk", "depth", "chain_hash", "choice_index")
        )
        at = {pk: (depth, chain_hash) for pk, depth, chain_hash, _ in found}
        if leaf.pk is not None and at.get(leaf.pk) != (leaf.depth, leaf.chain_hash):
            return None
        stored = {chain_hash: pk for pk, _, chain_hash, index in found if index is None}
        for chain_hash in wanted:
            if chain_hash not in stored:
                return known
            known.append(stored[chain_hash])
    return known
