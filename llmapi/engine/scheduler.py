"""What the next forward pass computes: who joins, and how many tokens each sequence gets."""

from collections import OrderedDict, deque
from dataclasses import dataclass

from llmapi.engine.blocks import BlockPool
from llmapi.engine.sequence import Sequence

MAX_OVERTAKEN = 32
"""A request whose blocks are not free yet may be passed by this many later ones; then nobody passes
it until it is in. So a big request is never starved, and small ones need not wait at once."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` tokens of one sequence, from position `start`, to be computed in this step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def completes(self) -> bool:
        """After this chunk nothing of the sequence is left to compute."""
        return self.end == len(self.sequence.tokens)

    @property
    def draws(self) -> bool:
        params = self.sequence.params
        return self.completes and params is not None and params.max_tokens > 0

    @property
    def scored(self) -> range:
        """Positions whose logits are wanted for the log probability of the prompt's next token;
        nearly always none."""
        sequence = self.sequence
        if not sequence.needs_prompt_logits:
            return range(0)
        first = max(self.start, len(sequence.prompt_logprobs) - 1)
        return range(first, max(first, min(self.end, sequence.prompt_tokens - 1)))


class Scheduler:
    """Continuous batching: at every step sequences may join and leave.

    A sequence is admitted only when blocks for its whole prompt and answer are free, so the cache
    can never run out half-way and nobody is ever preempted. (Preemption, and reserving less, come
    with prefix caching.) The queue is one line per user, served in turn: a user with a hundred
    requests waits behind a user with one.
    """

    def __init__(self, blocks: BlockPool, *, max_batch: int, step_tokens: int) -> None:
        if step_tokens < max_batch:
            raise ValueError(
                "step_tokens must be at least max_batch: each running sequence needs one"
            )
        self.blocks = blocks
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._waiting: OrderedDict[str, deque[Sequence]] = OrderedDict()
        self._running: dict[Sequence, None] = {}  # a set that keeps its order
        self._step = 0
        self._prefilled_at: dict[str, int] = {}

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def can_ever_fit(self, sequence: Sequence) -> bool:
        return self.blocks.count_for(sequence.positions) <= self.blocks.total

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of its user's line. Ask `can_ever_fit` first."""
        self._waiting.setdefault(sequence.user, deque()).append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running; its blocks are free at once."""
        if sequence in self._running:
            del self._running[sequence]
            self.blocks.free(sequence.blocks)
            sequence.blocks = []
        elif (queue := self._waiting.get(sequence.user)) and sequence in queue:
            queue.remove(sequence)
            if not queue:
                del self._waiting[sequence.user]

    def schedule(self) -> list[Chunk]:
        """Admit whom there is room for, then deal out the step's tokens: decoding first, then
        prompts."""
        self._step += 1
        self._admit()
        decoding = [s for s in self._running if s.pending == 1]
        chunks = [Chunk(s, s.computed, 1) for s in decoding]
        budget = self._step_tokens - len(chunks)
        for sequence in self._prompts_in_turn():
            if budget == 0:
                break
            count = min(sequence.pending, budget)
            chunks.append(Chunk(sequence, sequence.computed, count))
            self._prefilled_at[sequence.user] = self._step
            budget -= count
        return chunks

    def _admit(self) -> None:
        while len(self._running) < self._max_batch and (sequence := self._next_to_admit()):
            user = sequence.user
            self._waiting[user].popleft()
            self._waiting.move_to_end(user)
            if not self._waiting[user]:
                del self._waiting[user]
            sequence.blocks = self.blocks.allocate(self.blocks.count_for(sequence.positions))
            self._running[sequence] = None

    def _next_to_admit(self) -> Sequence | None:
        """The head of the first line whose blocks are free; None if nobody may join now."""
        passed: list[Sequence] = []
        for queue in self._waiting.values():
            head = queue[0]
            if self.blocks.can_allocate(self.blocks.count_for(head.positions)):
                for sequence in passed:
                    sequence.overtaken += 1
                return head
            if head.overtaken >= MAX_OVERTAKEN:
                return None
            passed.append(head)
        return None

    def _prompts_in_turn(self) -> list[Sequence]:
        """Running sequences whose prompt is not done, the user served longest ago first: one user's
        long prompts share the prefill budget with everyone else's, step by step."""
        prompts = [s for s in self._running if s.pending > 1]
        users = {s.user for s in prompts}
        self._prefilled_at = {u: t for u, t in self._prefilled_at.items() if u in users}
        return sorted(prompts, key=lambda s: self._prefilled_at.get(s.user, 0))
