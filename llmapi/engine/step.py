"""One step's work. Knows no torch."""

from dataclasses import dataclass, field

from llmapi.engine.sequence import Sequence


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
