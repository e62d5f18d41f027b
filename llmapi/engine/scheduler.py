"""What the next forward pass computes: who joins, who yields, and how many tokens each gets."""

from collections import Counter
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field
from itertools import count

from llmapi.engine.blocks import BlockPool, most_blocks
from llmapi.engine.pace import Pace
from llmapi.engine.prefix import PrefixCache
from llmapi.engine.sequence import Family, Sequence
from llmapi.engine.waiting import WaitingLines

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


@dataclass(slots=True)
class Step:
    """One step's work. In this order: scrub, copy, compute. (What is dirty may be copied into, but
    never from.)"""

    chunks: list[Chunk] = field(default_factory=list)
    rows: int = 0
    """Of the chunks, at their beginning: sequences that decode."""
    preempted: list[Sequence] = field(default_factory=list)
    """Running until now, waiting again; they will be computed from their tokens."""
    dirty: list[int] = field(default_factory=list)
    """What the preempted gave back, and nobody has looked at: may hold NaN."""
    copies: list[tuple[int, int]] = field(default_factory=list)
    """Blocks whose contents a fork needs in a block of its own: (from, to)."""

    @property
    def prompt_tokens(self) -> int:
        return sum(chunk.count for chunk in self.chunks) - self.rows


class Scheduler:
    """Continuous batching: at every step sequences may join, leave, or have to yield.

    - **Admission** needs blocks for the tokens that are there, not for the answer to come; that
      grows block by block. Users are served in turn, those with the fewest running first.
    - **The prefix cache**: a sequence takes over the longest beginning that its user has had
      computed before, and waits while another computes what it needs.
    - **Preemption**: when no block is left, the youngest sequence of the user who holds the most
      gives its blocks back and waits at the head of its line. Never the oldest of all: so one
      always gets to its end, then the next, and nobody is preempted for ever.
    - **Families** (beams) fork and share blocks; what they may need is kept for them, for half a
      search is worth nothing.
    """

    def __init__(
        self,
        blocks: BlockPool,
        *,
        max_batch: int,
        step_tokens: int,
        pace: Pace | None = None,
    ) -> None:
        """`pace`: None, prompts take all of `step_tokens` that decoding leaves."""
        if step_tokens < max_batch:
            raise ValueError(
                "step_tokens must be at least max_batch: each running sequence needs one"
            )
        self.blocks = blocks
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._pace = pace
        self.prefixes = PrefixCache(blocks)
        self._waiting = WaitingLines()
        self._running: dict[Sequence, None] = {}  # a set that keeps its order
        self._families: dict[Family, None] = {}
        self._arrivals = count()
        self._step = 0
        self._prefilled_at: dict[str, int] = {}
        self.preemptions = self.begun_tokens = self.cached_tokens = 0
        """Since the start: sequences that had to yield; tokens of admitted prompts, and those of
        them that the prefix cache had."""

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # ---- coming and going ------------------------------------------------------------------------

    def can_ever_fit(self, sequence: Sequence, *, beams: int = 1) -> bool:
        return self.most_blocks(sequence, beams) <= self.blocks.total and beams <= self._max_batch

    def add(self, sequence: Sequence, *, beams: int = 1) -> None:
        """Put a sequence at the end of its user's line. Ask `can_ever_fit` first.

        `beams` > 1: it may be forked into so many.
        """
        sequence.arrival = next(self._arrivals)
        if beams > 1:
            sequence.family = Family(beams, self.most_blocks(sequence, beams))
        self._waiting.add(sequence)

    def most_blocks(self, sequence: Sequence, beams: int) -> int:
        """What it, or so many forks of it, may need at worst."""
        prompt, positions = sequence.prompt_tokens, sequence.positions
        return most_blocks(prompt, positions, beams=beams, block_size=self.blocks.block_size)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """`child` goes on from where the running `parent` is: it shares its blocks, and runs.

        `child.tokens` begins with the parent's computed ones. For members of a family only; between
        two steps there may be more than its width (fork all, then remove the parents). Who writes
        into a block that others hold gets one of its own first, with a copy of what is in it.
        """
        family = parent.family
        if family is None or parent not in self._running:
            raise ValueError("only a running sequence that was added with beams can be forked")
        self.blocks.share(parent.blocks)
        child.blocks = list(parent.blocks)
        child.computed = parent.computed
        child.published = parent.published
        child.keys = parent.keys[: parent.published]
        child.cached_tokens = parent.cached_tokens
        child.arrival = parent.arrival
        child.family = family
        family.members[child] = None
        self._running[child] = None

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running; nothing of it is held any more."""
        if sequence in self._running:
            self._stop(sequence)
        else:
            self._waiting.remove(sequence)

    def _stop(self, sequence: Sequence) -> None:
        del self._running[sequence]
        self.blocks.free(sequence.blocks)
        sequence.blocks = []
        self.prefixes.forget(sequence)
        if family := sequence.family:
            del family.members[sequence]
            if not family.members:
                del self._families[family]

    # ---- one step --------------------------------------------------------------------------------

    def schedule(self) -> Step:
        """Give everyone running the blocks for its next tokens, admit whom there is room for, and
        deal out the step's tokens: decoding first, then prompts."""
        self._step += 1
        step = Step()
        self._grow(step)
        if not step.preempted:  # whoever came in now would take what others had to give up
            self._admit()
        self._deal(step)
        return step

    def advance(self, chunks: ListOf[Chunk]) -> None:
        """These have been computed."""
        for chunk in chunks:
            chunk.sequence.computed = chunk.end

    # ---- blocks for the running ------------------------------------------------------------------

    def _grow(self, step: Step) -> None:
        for sequence in sorted(self._running, key=lambda s: s.arrival):
            if sequence in self._running:  # not preempted for an older one
                self._make_room(sequence, step)

    def _make_room(self, sequence: Sequence, step: Step) -> None:
        if sequence.family is not None:
            self._unshare(sequence, step)
        needed = max(self.blocks.count_for(len(sequence.tokens)) - len(sequence.blocks), 0)
        while needed and needed > self._spare(sequence.family):  # seldom asked: it looks at much
            victim = self._victim()
            if victim is None:
                return  # all the rest is kept for families: wait for one to end
            self._preempt(victim, step)
            if victim is sequence:
                return
        sequence.blocks += self.blocks.allocate(needed)

    def _unshare(self, sequence: Sequence, step: Step) -> None:
        """Copy on write: what it is about to write into must be its own."""
        if not sequence.pending:
            return
        for place in range(sequence.computed // self.blocks.block_size, len(sequence.blocks)):
            block = sequence.blocks[place]
            if self.blocks.is_shared(block):
                (own,) = self.blocks.allocate(1)
                self.blocks.free([block])
                sequence.blocks[place] = own
                step.copies.append((block, own))

    def _spare(self, family: Family | None = None) -> int:
        """Blocks that may be taken: what is available less what is kept for (other) families."""
        kept = 0
        for other in self._families:
            if other is not family:
                held = {block for member in other.members for block in member.blocks}
                kept += max(other.blocks - len(held), 0)
        return self.blocks.available - kept

    def _victim(self) -> Sequence | None:
        oldest = min(self._running, key=lambda s: s.arrival)
        held: Counter[str] = Counter()
        for sequence in self._running:
            held[sequence.user] += len(sequence.blocks)
        candidates = [s for s in self._running if s is not oldest and s.family is None]
        return max(candidates, key=lambda s: (held[s.user], s.arrival), default=None)

    def _preempt(self, sequence: Sequence, step: Step) -> None:
        step.preempted.append(sequence)
        self.preemptions += 1
        step.dirty += [block for block in sequence.blocks if self.blocks.is_private(block)]
        self._stop(sequence)
        sequence.computed = sequence.published = 0
        self._waiting.put_back(sequence)

    # ---- admission -------------------------------------------------------------------------------

    def _admit(self) -> None:
        while self._batch < self._max_batch and (sequence := self._next_to_admit()):
            self._waiting.serve(sequence)
            self._start(sequence)

    def _start(self, sequence: Sequence) -> None:
        blocks = self.blocks
        prefix = self.prefixes.find(sequence)
        blocks.share(prefix)
        sequence.blocks = prefix + blocks.allocate(
            blocks.count_for(len(sequence.tokens)) - len(prefix)
        )
        sequence.published = len(prefix)
        sequence.computed = len(prefix) * blocks.block_size
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            self.begun_tokens += sequence.prompt_tokens
            self.cached_tokens += sequence.computed
        sequence.overtaken = 0
        self._running[sequence] = None
        if family := sequence.family:
            family.members[sequence] = None
            self._families[family] = None
        self.prefixes.expect(sequence)

    def _next_to_admit(self) -> Sequence | None:
        """Of the users with the fewest running, served longest ago, the first whose blocks are
        there; None if nobody may join now."""
        running = Counter(sequence.user for sequence in self._running)
        users = running.keys() | set(self._waiting.users)
        share = max(self._max_batch // max(len(users), 1), 1)
        passed: list[Sequence] = []
        for user in sorted(self._waiting.users, key=running.__getitem__):
            line = self._waiting.of(user)
            head = next((s for s in line if not self.prefixes.is_coming(s)), None)
            if head is None:
                continue
            if passed and running[user] >= share:
                return None  # others wait for blocks, and this user has its part
            if self._fits(head):
                for sequence in passed:
                    sequence.overtaken += 1
                return head
            if head.overtaken >= MAX_OVERTAKEN:
                return None
            passed.append(head)
        return None

    def _fits(self, sequence: Sequence) -> bool:
        """Whether there are blocks for all its tokens, and one more for everyone who grows; else it
        would soon be preempted, or others for it."""
        width = sequence.family.width if sequence.family else 1
        if self._batch + width > self._max_batch:
            return False
        if sequence.family:
            needed = sequence.family.blocks
        else:
            needed = self.blocks.count_for(len(sequence.tokens)) + self._grows(sequence)
        prefix = self.prefixes.find(sequence)
        needed -= sum(not self.blocks.is_cached(block) for block in prefix)  # others hold these
        return needed + sum(map(self._grows, self._running)) <= self._spare()

    def _grows(self, sequence: Sequence) -> bool:
        held = len(sequence.blocks) or self.blocks.count_for(len(sequence.tokens))
        return sequence.family is None and held < self.blocks.count_for(sequence.positions)

    @property
    def _batch(self) -> int:
        """Places that are taken; a family's from the beginning."""
        plain = sum(sequence.family is None for sequence in self._running)
        return plain + sum(family.width for family in self._families)

    # ---- tokens ----------------------------------------------------------------------------------

    def _deal(self, step: Step) -> None:
        decoding = [s for s in self._running if s.pending == 1 and self._has_room(s)]
        step.chunks = [Chunk(s, s.computed, 1) for s in decoding]
        step.rows = len(decoding)
        budget = self._step_tokens - step.rows
        prompts = self._prompts_in_turn()
        if prompts and self._pace:
            budget = self._pace.prompt_budget(step.rows, budget)
        for sequence in prompts:
            if budget == 0:
                break
            amount = min(sequence.pending, budget)
            step.chunks.append(Chunk(sequence, sequence.computed, amount))
            self._prefilled_at[sequence.user] = self._step
            budget -= amount

    def _has_room(self, sequence: Sequence) -> bool:
        return len(sequence.tokens) <= len(sequence.blocks) * self.blocks.block_size

    def _prompts_in_turn(self) -> list[Sequence]:
        """Running sequences whose prompt is not done, the user served longest ago first: one user's
        long prompts share the prefill budget with everyone else's, step by step."""
        prompts = [s for s in self._running if s.pending > 1]
        users = {s.user for s in prompts}
        self._prefilled_at = {u: t for u, t in self._prefilled_at.items() if u in users}
        return sorted(prompts, key=lambda s: self._prefilled_at.get(s.user, 0))

    # ---- integrity -------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises RuntimeError if the books are wrong. For tests: it looks at every block."""
        self.blocks.check(Counter(b for s in self._running for b in s.blocks))
        for s in self._running:
            if not s.published * self.blocks.block_size <= s.computed <= len(s.tokens):
                raise RuntimeError("more is published than computed, or computed than there is")
            if s.computed > len(s.blocks) * self.blocks.block_size:
                raise RuntimeError("a computed position has no block")
        if any(s.blocks or s.computed for s in self._waiting):
            raise RuntimeError("a waiting sequence holds something")
        self.prefixes.check(list(self._running))
        members = [m for family in self._families for m in family.members]
        if {s for s in self._running if s.family} != set(members) or self._spare() < 0:
            raise RuntimeError("a family has lost a member, or what was kept for it")
