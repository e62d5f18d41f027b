"""From a request to the sequences that serve it, and the reasons to refuse it. Knows no torch.

The web process has checked all of this for the user's sake; here it is checked for the engine's
own, so that no request can bring down a step that others share.
"""

from collections.abc import Iterator

from llmapi.engine.messages import EmbedRequest, GenerateRequest, SamplingParams
from llmapi.engine.sequence import Sequence

LARGEST = 10_000
"""Far beyond any use, and near enough that float32 scores stay finite."""


def why_refused(
    request: GenerateRequest | EmbedRequest, *, context_length: int, vocab_size: int
) -> str | None:
    """A sentence for the user, or None: the request can be served."""
    if isinstance(request, EmbedRequest):
        prompts, room = request.inputs, 0
    else:
        if reason := _why_params_refused(request.params, request.n):
            return reason
        prompts, room = request.prompts, request.params.max_tokens
    if not prompts or not all(prompts):
        return "Every prompt needs at least one token."
    if (longest := max(map(len, prompts)) + room) > context_length:
        asked = f"{longest} tokens were asked for, prompt and answer together"
        return f"This model's context is {context_length} tokens; {asked}."
    if any(not 0 <= token < vocab_size for prompt in prompts for token in prompt):
        return f"Token ids must be between 0 and {vocab_size - 1}."
    return None


def _why_params_refused(params: SamplingParams, n: int) -> str | None:
    rules = (
        (params.max_tokens >= 1, "max_tokens must be at least 1"),
        (n >= 1, "n must be at least 1"),
        (0 <= params.temperature <= LARGEST, f"temperature must be between 0 and {LARGEST}"),
        (0 < params.top_p <= 1, "top_p must be above 0 and at most 1"),
        (params.top_k >= 0, "top_k must be 0 (off) or more"),
        (
            1 / LARGEST <= params.repetition_penalty <= LARGEST,
            f"repetition_penalty must be between {1 / LARGEST} and {LARGEST}",
        ),
        (params.num_beams >= 1, "num_beams must be at least 1"),
        (params.num_beams == 1 or n <= params.num_beams, "n must be at most num_beams"),
        (all(params.stop), "a stop string must not be empty"),
    )
    return next((f"{sentence}." for holds, sentence in rules if not holds), None)


def sequences_of(request: GenerateRequest | EmbedRequest) -> Iterator[Sequence]:
    """One sequence per choice, or per input to embed."""
    if isinstance(request, EmbedRequest):
        for index, tokens in enumerate(request.inputs):
            yield _sequence(request, index, tokens, None)
        return
    for place, prompt in enumerate(request.prompts):
        for choice in range(request.n):
            yield _sequence(request, place * request.n + choice, prompt, request.params)


def _sequence(
    request: GenerateRequest | EmbedRequest,
    index: int,
    prompt: tuple[int, ...],
    params: SamplingParams | None,
) -> Sequence:
    return Sequence(
        request_id=request.request_id,
        index=index,
        user=request.user,
        prompt_tokens=len(prompt),
        tokens=list(prompt),
        params=params,
    )
