"""Who runs: who joins, and who yields."""

from collections import Counter
from collections.abc import Sequence as ListOf
from itertools import count

from llmapi.engine.blocks import BlockPool, most_blocks
from llmapi.engine.dealing import Dealer
from llmapi.engine.pace import Pace
from llmapi.engine.prefix import PrefixCache
from llmapi.engine.sequence import Family, Sequence
from llmapi.engine.step import Chunk, Step
from llmapi.engine.waiting import WaitingLines

MAX_OVERTAKEN = 32
"""A request whose blocks are not free yet may be passed by this many later ones; then nobody passes
it until it is in. So a big request is never starved, and small ones need not wait at once."""


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
        self._dealer = Dealer(max_batch, step_tokens, blocks.block_size, pace)
        self.prefixes = PrefixCache(blocks)
        self._waiting = WaitingLines()
        self._running: dict[Sequence, None] = {}  # a set that keeps its order
        self._families: dict[Family, None] = {}
        self._arrivals = count()
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
        deal out the step."""
        step = Step()
        self._grow(step)
        if not step.preempted:  # whoever came in now would take what others had to give up
            self._admit(step)
        self._dealer.deal(list(self._running), step)
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

    def _admit(self, step: Step) -> None:
        while sequence := self._next_to_admit(step):
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

    def _next_to_admit(self, step: Step) -> Sequence | None:
        """Of the users with the fewest places, served longest ago, the first whose blocks are
        there; None if nobody may join now."""
        places = self._places()
        share = max(self._max_batch // max(len(places.keys() | set(self._waiting.users)), 1), 1)
        passed: list[Sequence] = []
        for user in sorted(self._waiting.users, key=places.__getitem__):
            if places.total() >= self._most_places(places[user] + 1, share):
                break  # nor is there one for anybody else, who has more
            line = self._waiting.of(user)
            head = next((s for s in line if not self.prefixes.is_coming(s)), None)
            if head is None:
                continue
            if passed and places[user] >= share:
                return None  # others wait for blocks, and this user has its part
            if self._fits(head, places, share) or self._make_way(head, places, share, step):
                for sequence in passed:
                    sequence.overtaken += 1
                return head
            if head.overtaken >= MAX_OVERTAKEN:
                return None
            passed.append(head)
        return None

    def _places(self) -> Counter[str]:
        """Places that each user has; a family's are taken from the beginning."""
        places = Counter(s.user for s in self._running if s.family is None)
        for family in self._families:
            places[next(iter(family.members)).user] += family.width
        return places

    def _most_places(self, held: int, share: int) -> int:
        """How many there are for a user who will hold so many: for one within its share twice as
        many, so that it need not wait for those to end who came before. They take turns."""
        return self._max_batch * (2 if held <= share else 1)

    def _fits(self, sequence: Sequence, places: Counter[str], share: int) -> bool:
        """Whether there are places for it, and blocks for all its tokens, and one more for everyone
        who grows; else it would soon be preempted, or others for it."""
        width = sequence.family.width if sequence.family else 1
        if places.total() + width > self._most_places(places[sequence.user] + width, share):
            return False
        if sequence.family:
            needed = sequence.family.blocks
        else:
            needed = self.blocks.count_for(len(sequence.tokens)) + self._grows(sequence)
        prefix = self.prefixes.find(sequence)
        needed -= sum(not self.blocks.is_cached(block) for block in prefix)  # others hold these
        return needed + sum(map(self._grows, self._running)) <= self._spare()

    def _make_way(self, head: Sequence, places: Counter[str], share: int, step: Step) -> bool:
        """Whether blocks are there for a user below its share once those yield who have more than
        theirs."""
        while places[head.user] < share and head.family is None:
            victim = self._victim()
            if victim is None or places[victim.user] <= share:
                return False
            self._preempt(victim, step)
            places[victim.user] -= 1
            if self._fits(head, places, share):
                return True
        return False

    def _grows(self, sequence: Sequence) -> bool:
        held = len(sequence.blocks) or self.blocks.count_for(len(sequence.tokens))
        return sequence.family is None and held < self.blocks.count_for(sequence.positions)

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
