"""From a request to the sequences that serve it, and the reasons to refuse it. Knows no torch.

The web process has checked all of this for the user's sake; here it is checked for the engine's
own, so that no request can bring down a step that others share.
"""

import secrets
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from llmapi.engine.candidates import Candidates
from llmapi.engine.messages import EmbedRequest, GenerateRequest, SamplingParams
from llmapi.engine.sequence import Sequence

if TYPE_CHECKING:
    from llmapi.engine.adapters import Adapter

LARGEST = 10_000
"""Far beyond any use, and near enough that float32 scores stay finite."""


def why_refused(
    request: GenerateRequest | EmbedRequest, *, context_length: int, vocab_size: int
) -> str | None:
    """A sentence for the user, or None: the request can be served."""
    if isinstance(request, EmbedRequest):
        prompts, room = request.inputs, 0
    else:
        if reason := _why_params_refused(request.params, request.n, request.best_of):
            return reason
        named = (*request.params.stop_token_ids, *(t for t, _ in request.params.logit_bias))
        if any(not 0 <= token < vocab_size for token in named):
            return (
                f"Token ids of stop_token_ids and logit_bias must be between 0 and {vocab_size - 1}"
                "."
            )
        prompts, room = request.prompts, request.params.max_tokens
    if not prompts or not all(prompts):
        return "Every prompt needs at least one token."
    if (longest := max(map(len, prompts)) + room) > context_length:
        asked = f"{longest} tokens were asked for, prompt and answer together"
        return f"This model's context is {context_length} tokens; {asked}."
    if any(not 0 <= token < vocab_size for prompt in prompts for token in prompt):
        return f"Token ids must be between 0 and {vocab_size - 1}."
    return None


def _why_params_refused(params: SamplingParams, n: int, best_of: int | None) -> str | None:
    plain = params.num_beams == 1
    rules = (
        (params.max_tokens >= 0, "max_tokens must be at least 0"),
        (plain or params.max_tokens >= 1, "beam search needs a max_tokens of at least 1"),
        (0 <= params.min_tokens <= params.max_tokens, "min_tokens must be 0 to max_tokens"),
        (n >= 1, "n must be at least 1"),
        (0 <= params.temperature <= LARGEST, f"temperature must be between 0 and {LARGEST}"),
        (0 < params.top_p <= 1, "top_p must be above 0 and at most 1"),
        (params.top_k >= 0, "top_k must be 0 (off) or more"),
        (
            1 / LARGEST <= params.repetition_penalty <= LARGEST,
            f"repetition_penalty must be between {1 / LARGEST} and {LARGEST}",
        ),
        (0 <= params.min_p <= 1, "min_p must be between 0 and 1"),
        (abs(params.presence_penalty) <= LARGEST, f"presence_penalty may be {LARGEST} at most"),
        (abs(params.frequency_penalty) <= LARGEST, f"frequency_penalty may be {LARGEST} at most"),
        (
            all(abs(bias) <= LARGEST for _, bias in params.logit_bias),
            f"a logit_bias may be {LARGEST} at most",
        ),
        ((params.logprobs or 0) >= 0, "logprobs must be at least 0"),
        (abs(params.length_penalty) <= LARGEST, f"length_penalty may be {LARGEST} at most"),
        (best_of is None or best_of >= n, "best_of must be at least n"),
        (plain or best_of is None, "best_of does not go with beam search"),
        (
            plain or (params.logprobs is None and not params.prompt_logprobs),
            "logprobs do not go with beam search",
        ),
        (params.num_beams >= 1, "num_beams must be at least 1"),
        (params.num_beams == 1 or n <= params.num_beams, "n must be at most num_beams"),
        (all(params.stop), "a stop string must not be empty"),
    )
    return next((f"{sentence}." for holds, sentence in rules if not holds), None)


def too_big(needed: int, num_beams: int, *, room: int, max_batch: int) -> str:
    """Why a request can never be served whose sequences (or so many beams) need `needed` positions
    of a cache that has `room`."""
    if num_beams > max_batch:
        return (
            f"'num_beams' is {num_beams}, but this server writes {max_batch} sequences at a time: "
            "ask for no more."
        )
    return (
        f"This request needs room for {needed} tokens at once and the server has {room}: "
        "shorten the prompt, or lower max_tokens or num_beams."
    )


def sequences_of(
    request: GenerateRequest | EmbedRequest,
    eos: Collection[int],
    adapter: "Adapter | None" = None,
) -> Iterator[Sequence]:
    """One sequence per choice or candidate, per prompt whose beams fork from it, or per input to
    embed. `eos`: the model's end tokens. `adapter`: the one that the request names."""
    if isinstance(request, EmbedRequest):
        for index, tokens in enumerate(request.inputs):
            yield _sequence(request, index, tokens, adapter)
        return
    params, each = request.params, request.best_of or request.n
    ends = ends_of(params, eos)
    for place, prompt in enumerate(request.prompts):
        candidates = Candidates(place * request.n, request.n, running=each)
        indices = range(place * each, (place + 1) * each)
        for index in indices if params.num_beams == 1 else indices[:1]:
            sequence = _sequence(request, index, prompt, adapter)
            sequence.params, sequence.ends = params, ends
            sequence.shared_tokens = request.shared_tokens
            sequence.seed = secrets.randbits(63) if params.seed is None else params.seed + index
            sequence.candidates = candidates if request.best_of is not None else None
            yield sequence


def ends_of(params: SamplingParams, eos: Collection[int]) -> frozenset[int]:
    """The tokens that end an answer."""
    return frozenset(params.stop_token_ids) | frozenset(() if params.ignore_eos else eos)


def _sequence(
    request: GenerateRequest | EmbedRequest,
    index: int,
    prompt: tuple[int, ...],
    adapter: "Adapter | None",
) -> Sequence:
    return Sequence(
        request_id=request.request_id,
        index=index,
        user=request.user,
        prompt_tokens=len(prompt),
        tokens=list(prompt),
        params=None,
        adapter=adapter,
    )
