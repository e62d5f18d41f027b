"""One run of tokens through the model: a choice that is being written, or an input to embed."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmapi.engine.candidates import Candidates
from llmapi.engine.detokenizer import Detokenizer
from llmapi.engine.messages import SamplingParams, TokenLogprob

if TYPE_CHECKING:  # what schedules sequences knows no torch
    from llmapi.engine.adapters import Adapter


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, how many of them the model has seen, and where their keys and values are.

    One rule serves prompts, chunks of prompts and decoding alike: `tokens[computed:]` is still to
    be computed, and when nothing is left of it the next token can be drawn.
    """

    request_id: str
    index: int
    """The choice's or the input's place in the request."""
    user: str
    prompt_tokens: int
    tokens: list[int]
    """The prompt, then what was drawn. Written by the engine."""
    params: SamplingParams | None
    """None: an input to embed, from which nothing is drawn."""
    adapter: "Adapter | None" = None
    """None: the base model alone."""
    shared_tokens: int = 0
    """So many of the first may be found by other users in the cache."""
    seed: int = 0
    """Of its draws; a request without one is given one. All draws follow from it and `tokens`."""
    ends: frozenset[int] = frozenset()
    """Tokens that end it."""
    candidates: Candidates | None = None
    """Whom it competes with, if only the best are told. Written by the engine."""
    detokenizer: Detokenizer | None = None
    unreported_tokens: int = 0
    """Drawn since the last delta. Written by the engine."""
    untold: list[tuple[int, TokenLogprob]] = field(default_factory=list)
    """Tokens that may yet be part of a stop string, each with the place in the text where it
    begins. Written by the engine."""
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the prompt's first tokens, as far as they are known. Written by the engine."""
    computed: int = 0
    """Positions whose keys and values are in the cache. Written by the engine, after each forward
    pass."""
    blocks: list[int] = field(default_factory=list)
    """Written by the scheduler; position p is in `blocks[p // block_size]`."""
    cached_tokens: int | None = None
    """Of the prompt: taken over from the cache when it was first admitted. Written by the
    scheduler, as all that follows."""
    keys: list[bytes] = field(default_factory=list)
    """The names of its first full blocks in the prefix cache."""
    published: int = 0
    """How many of its blocks others may take over."""
    waits_for: bytes | None = None
    """The key of a block that another one is about to compute for it."""
    arrival: int = 0
    """Its number among all that ever came."""
    decoded_at: int = 0
    """The step in which its last token was due."""
    overtaken: int = 0
    """How often a later request was admitted before this one."""
    family: "Family | None" = None

    @property
    def pending(self) -> int:
        """Tokens that the model has not seen yet."""
        return len(self.tokens) - self.computed

    @property
    def drawn(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def positions(self) -> int:
        """Positions that it may ever hold in the cache: the last token drawn is never fed back."""
        if self.params is None or self.params.max_tokens == 0:
            return self.prompt_tokens
        return self.prompt_tokens + max(self.params.max_tokens - 1, 0)

    @property
    def needs_prompt_logits(self) -> bool:
        """Positions of its prompt must be computed even if their keys and values are known."""
        wanted = self.params is not None and self.params.prompt_logprobs
        return wanted and len(self.prompt_logprobs) < self.prompt_tokens

    @property
    def needs_logprobs(self) -> bool:
        """Of the tokens drawn."""
        wanted = self.params is not None and self.params.logprobs is not None
        return wanted or self.candidates is not None

    @property
    def may_skip(self) -> bool:
        """Whether positions found in the cache need not be computed again. An embedding needs every
        hidden state, and the prompt's log probabilities every row of logits."""
        return self.params is not None and not self.needs_prompt_logits


@dataclass(slots=True, eq=False)
class Family:
    """The beams of one search: forks of one sequence, admitted as one and never preempted."""

    width: int
    """Members that may be scheduled together."""
    blocks: int
    """What they may need together; kept for them from their admission on."""
    members: dict[Sequence, None] = field(default_factory=dict)
