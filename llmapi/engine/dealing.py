"""What each of those who run gets of a step. Knows no torch."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as ListOf

from llmapi.engine.pace import Pace
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Chunk, Step
from llmapi.engine.turns import in_turn


class Dealer:
    """Decoding first, then prompts, users in turn.

    While one user alone is there, all that can decode does. Beside others, a step takes no longer
    than the pace allows for the sake of who wants least; those of one user then take turns. A
    prompt of a user who has nothing yet gets every other step nearly for itself: its first token is
    near, and the next one of many is not far.
    """

    def __init__(
        self, max_batch: int, step_tokens: int, block_size: int, pace: Pace | None
    ) -> None:
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._block_size = block_size
        self._pace = pace
        self._steps = 0
        self._prefilled_at: dict[str, int] = {}
        self._gives_way = False
        """Whether this step, or the last one, is for those who have nothing yet."""
        self._wants: Counter[str] = Counter()
        """Sequences that each user has running."""

    def deal(self, running: ListOf[Sequence], step: Step) -> None:
        self._steps += 1
        self._wants = Counter(sequence.user for sequence in running)
        decoding = [s for s in running if s.pending == 1 and self._has_room(s)]
        prompts = self._prompts_in_turn(running)
        newcomers = self._newcomers(decoding, prompts)
        self._gives_way = bool(newcomers) and not self._gives_way
        if self._gives_way:
            prompts = newcomers
        due = self._due(decoding, beside_prompts=bool(prompts))
        self._deal_rows(due, step)
        if prompts:
            self._deal_prompts(prompts, self._prompt_budget(due), step)

    def _has_room(self, sequence: Sequence) -> bool:
        return len(sequence.tokens) <= len(sequence.blocks) * self._block_size

    def _deal_rows(self, due: list[Sequence], step: Step) -> None:
        for sequence in due:
            sequence.decoded_at = self._steps
        step.chunks = [Chunk(s, s.computed, 1) for s in due]
        step.rows = len(due)

    def _deal_prompts(self, prompts: list[Sequence], budget: int, step: Step) -> None:
        for sequence in prompts:
            if budget == 0:
                break
            amount = min(sequence.pending, budget)
            step.chunks.append(Chunk(sequence, sequence.computed, amount))
            self._prefilled_at[sequence.user] = self._steps
            budget -= amount

    # ---- whose turn it is ------------------------------------------------------------------------

    def _prompts_in_turn(self, running: ListOf[Sequence]) -> list[Sequence]:
        """Those whose prompt is not done, the user served longest ago first: one user's long
        prompts share the budget with everyone else's, step by step."""
        prompts = [s for s in running if s.pending > 1]
        users = {s.user for s in prompts}
        self._prefilled_at = {u: t for u, t in self._prefilled_at.items() if u in users}
        return sorted(prompts, key=lambda s: self._prefilled_at.get(s.user, 0))

    def _newcomers(self, decoding: list[Sequence], prompts: list[Sequence]) -> list[Sequence]:
        """Prompts of users who have nothing yet, beside others who want more."""
        if self._pace is None or len(self._wants) < 2:
            return []
        users = {sequence.user for sequence in decoding}
        most = max(self._wants.values())
        return [s for s in prompts if s.user not in users and self._wants[s.user] < most]

    def _due(self, decoding: list[Sequence], *, beside_prompts: bool) -> list[Sequence]:
        """Who decodes in this step: all, unless somebody else would wait for it."""
        users = {sequence.user for sequence in decoding}
        wanted = len(decoding)
        if self._gives_way:
            wanted = len(users)
        elif self._pace and len(users) > 1:
            wanted = self._pace.row_budget(
                self._least(users), len(users), beside_prompts=beside_prompts
            )
        if len(decoding) <= min(wanted, self._max_batch):
            return decoding
        return in_turn(decoding, wanted, self._max_batch)

    def _prompt_budget(self, due: list[Sequence]) -> int:
        users = {sequence.user for sequence in due}
        rows, left = len(due), self._step_tokens - len(due)
        if self._pace is None:
            return left
        if self._gives_way:
            return self._pace.first_budget(rows, left, beside=self._least(users or self._wants))
        if len(users) > 1:
            return self._pace.shared_budget(rows, left, beside=self._least(users))
        is_only = sum(self._wants.values()) == 1
        return self._pace.prompt_budget(rows, left, is_only=is_only)

    def _least(self, users: Iterable[str]) -> int:
        return min(self._wants[user] for user in users)
