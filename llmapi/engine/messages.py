"""What crosses the pipe between the web process and the engine process.

All frozen and made of plain values, so that both sides may keep them without copying. Everything
that the engine sends about running requests travels in one `StepOutput` per step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class FinishReason(StrEnum):
    """Why one choice ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, as transformers' `GenerationConfig` defines each parameter."""

    max_tokens: int
    """New tokens at most; 0: the prompt is computed and nothing is drawn. Prompt plus this never
    exceeds the context (checked before)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: off."""

    repetition_penalty: float = 1.0
    do_sample: bool = True
    """False: greedy, or plain beam search when `num_beams` > 1."""

    num_beams: int = 1
    seed: int | None = None
    """The draws of choice i follow from `seed + i` and their place alone; None: a fresh seed."""

    stop: tuple[str, ...] = ()
    """The text ends before the first of these; none of them is ever sent."""

    stop_token_ids: tuple[int, ...] = ()
    """The answer ends at the first of these, as at an end token: its text is not sent."""

    ignore_eos: bool = False
    """End tokens are drawn like any other and end nothing."""

    min_tokens: int = 0
    """No end token and no stop token id before so many; stop strings end the text all the same."""

    min_p: float = 0.0
    """Tokens below this share of the most probable one's probability are cut off; 0: off."""

    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that the answer has it already (OpenAI's)."""

    presence_penalty: float = 0.0
    """Taken from a token's logit once if the answer has it already (OpenAI's)."""

    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit)."""

    logprobs: int | None = None
    """Tell each token's log probability (of the model's own distribution, before any penalty or
    warping) and those of so many most probable ones; None: tell none."""

    prompt_logprobs: bool = False
    """The same for the prompt's tokens, as `echo` with `logprobs` wants it. Not with beams."""

    length_penalty: float = 1.0
    """Beam search: a hypothesis' score is its sum of log probabilities / length ** this."""

    early_stopping: bool | None = False
    """Beam search: transformers' True, False, or None for its "never"."""


# ---- web process -> engine ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue each prompt `n` times. Choice index = prompt index * n + i."""

    request_id: str
    user: str
    """Who asks, as an opaque word: fairness and cache salting group by it."""

    prompts: tuple[tuple[int, ...], ...]
    """Token ids, each prompt at least one."""

    params: SamplingParams
    n: int = 1
    best_of: int | None = None
    """Draw so many per prompt and tell only the `n` with the highest mean log probability per
    token, best first, all at once when the last of them ends; None: `n`, as they come."""

    shared_tokens: int = 0
    """So many first tokens of each prompt are known to everyone (a system prompt that the operator
    named), so all users may find them in the cache."""

    adapter: str = ""
    """The name of a loaded adapter; empty: the base model."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """The mean of the last hidden state of each input over its tokens, L2-normalised."""

    request_id: str
    user: str
    inputs: tuple[tuple[int, ...], ...]
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Abort:
    """Forget this request; nothing more is sent about it. Unknown ids are ignored."""

    request_id: str


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    """Serve this LoRA adapter too, under `name`; answered by AdapterLoaded or AdapterFailed. A
    loaded adapter of that name is replaced for requests to come."""

    name: str
    path: str
    """A local directory, as peft saves it."""


@dataclass(frozen=True, slots=True)
class DropAdapter:
    """Serve it no longer; requests that use it already go on to their end. Unknown names are
    ignored."""

    name: str


Inbound = GenerateRequest | EmbedRequest | Abort | LoadAdapter | DropAdapter


# ---- engine -> web process ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how probable the model found it."""

    token: int
    piece: bytes
    """What the token adds to the text, as UTF-8; may be part of a character. Empty for special
    tokens."""

    logprob: float | None
    """Natural logarithm; None for the first token of a prompt, before which there is nothing."""

    top: tuple["TokenLogprob", ...] = ()
    """The most probable tokens at this place, best first (their own `top` is empty)."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of one choice, whole characters only. `tokens`: how many tokens were drawn since the
    last delta.

    With `logprobs`, every token is told once, in order, in the delta that comes when it is known to
    belong to the answer; `text` may be empty then. A token belongs to the answer if some of the
    text from where it begins is told; the token that ends the answer is told as the last one.
    Tokens that lie wholly in a cut-off stop string are never told.
    """

    request_id: str
    index: int
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        # Thousands of these cross the pipe every second; a dataclass pickles ten times as slowly.
        return TextDelta, (self.request_id, self.index, self.text, self.tokens, self.logprobs)


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The prompt's tokens of one choice, told before its first delta, if the request asked."""

    request_id: str
    index: int
    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """One choice has ended; the request has ended when all of its choices have."""

    request_id: str
    index: int
    reason: FinishReason
    prompt_tokens: int
    """Of this choice's prompt; the same number for each of its n choices."""

    completion_tokens: int
    """Tokens drawn, the end token and the tokens of a stop string included."""

    cached_tokens: int = 0
    """Of the prompt: found in the cache, and not computed again."""

    discarded_tokens: int = 0
    """Drawn besides, for those of `best_of` that are not told; told with the best of each
    prompt."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """One input's vector: float32, little-endian, `hidden_size` numbers."""

    request_id: str
    index: int
    vector: bytes


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The request ended without an answer; the engine goes on. `message` may be shown to the
    client."""

    request_id: str
    message: str


Answer = TextDelta | PromptLogprobs | Finish
Event = Answer | Embedding | RequestFailed


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one engine step brought about, for all requests together."""

    events: tuple[Event, ...]
    step: int
    """Forward passes since the start."""

    running: int
    waiting: int
    batch_tokens: int
    """Tokens in this step's forward pass."""


BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the groups in which `Figures` counts forward passes by their sequences; those
that are larger are a last group."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How the engine does, for whoever watches: sent now and then while it works, and once before
    it sleeps. Sums are since its start."""

    running: int
    waiting: int
    """Sequences, both."""

    steps: int
    """Forward passes."""
    steps_s: float
    """What they took, with all that belongs to a step."""
    prompt_tokens: int
    """Computed of prompts; those that were computed again after a sequence had to yield, too."""
    drawn_tokens: int
    """Computed one by one, for running answers."""
    batched: int
    """Sequences in all forward passes together."""
    batch_sizes: tuple[int, ...]
    """Forward passes with so many sequences, one number for each of `BATCH_SIZES` and one more."""

    preemptions: int
    begun_tokens: int
    """Of the prompts of all sequences that were admitted."""
    cached_tokens: int
    """Of those, found in the prefix cache."""

    cache_tokens: int
    """Places of the key/value cache."""
    held_tokens: int
    """Of those, held by running sequences."""
    reusable_tokens: int
    """Held by nobody, but known to the prefix cache; given away when others need the place."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """What the engine process has to say to whoever reads the server's log."""

    level: int
    logger: str
    text: str


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A line for whoever waits: what is being done, and the part of it that is done (0..1) where
    known."""

    text: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The loaded model, as the web process needs to know it."""

    name: str
    tokenizer_path: str
    """A local directory that `load_tokenizer` reads."""

    context_length: int
    hidden_size: int
    vocab_size: int
    """Rows of the embedding: token ids below this are valid."""

    eos_token_ids: tuple[int, ...]
    parameters: int
    dtype: str
    """Of the weights, or of those that are not quantised."""
    quantisation: str | None
    """`int8`, `bitsandbytes 8-bit`, `bitsandbytes 4-bit`, or none."""
    decoder: str
    """How it is computed: `native`, `fused`, `generic`."""
    device: str
    kv_cache_tokens: int
    kv_block_tokens: int
    """Positions that are given out together."""
    max_batch: int
    """Sequences that may decode together."""
    load_s: float
    generation_defaults: Mapping[str, float | int | bool]
    """Of `generation_config.json`, only what it sets itself, by SamplingParams' names."""
    lora: str | None = None
    """The path of the adapter that was merged into the base model, or is applied to all of its
    answers; None: there is none."""


@dataclass(frozen=True, slots=True)
class Ready:
    info: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model cannot be served; `message` says what to do. The engine process exits after sending
    it."""

    message: str


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A loaded LoRA adapter."""

    name: str
    path: str
    rank: int
    """The largest of its ranks."""
    targets: tuple[str, ...]
    """Names of the projections that it changes, such as `q_proj`."""
    bytes: int
    """Memory that it takes."""


@dataclass(frozen=True, slots=True)
class AdapterLoaded:
    info: AdapterInfo


@dataclass(frozen=True, slots=True)
class AdapterFailed:
    """It cannot be served; `message` says why, for whoever runs the server."""

    name: str
    message: str


Outbound = (
    StepOutput
    | Figures
    | LogLine
    | LoadProgress
    | Ready
    | LoadFailed
    | AdapterLoaded
    | AdapterFailed
)
