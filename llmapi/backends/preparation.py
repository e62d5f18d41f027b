"""From a checked request to what the engine is asked: tokens, defaults, the model's limits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llmapi.backends.base import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationOptions,
    Prepared,
    Prompt,
    Request,
)
from llmapi.backends.prompt import PromptEncoder
from llmapi.backends.rehearsal import template_obstacle, template_warnings
from llmapi.backends.sampling import SamplingDefaults, check_against_model
from llmapi.engine.blocks import most_blocks
from llmapi.engine.messages import EmbedRequest, GenerateRequest, ModelInfo, SamplingParams
from llmapi.engine.requests import too_big
from llmapi.errors import ApiError, InvalidRequest

MAX_EMBEDDING_TOKENS = 300_000


@dataclass(frozen=True, slots=True)
class Preparation:
    """What requests are prepared with, once a model is loaded; on several threads at once."""

    encoder: PromptEncoder
    info: ModelInfo
    defaults: SamplingDefaults
    completion_template: str
    shared_system_prompts: frozenset[str]
    """The operator's, without white space around them. What was computed for a chat that opens with
    one of them is not computed again, whoever asks."""

    def obstacles(self) -> Iterator[str]:
        """Sentences about what the operator has asked for and this model cannot do."""
        if obstacle := template_obstacle(self.encoder):
            yield obstacle
            return
        for prompt in self.shared_system_prompts:
            try:
                self.encoder.encode_opening(ChatMessage("system", prompt), "messages")
            except ApiError as error:
                yield (
                    "A system prompt of LLMAPI_SHARED_SYSTEM_PROMPTS cannot be used with "
                    f"'{self.info.name}': {error.message}"
                )

    @property
    def sampling(self) -> SamplingDefaults:
        """The defaults in force, those of the model's files among them."""
        return replace(self.defaults, model=self.info.generation_defaults)

    def warnings(self) -> Iterator[str]:
        """Sentences about what will work less well than the operator may expect."""
        yield from template_warnings(self.encoder)

    def prepare(self, request: Request, request_id: str, user: str) -> Prepared:
        """Raises ApiError (context too long, template refused)."""
        match request:
            case ChatRequest():
                return self._chat(request, request_id, user)
            case CompletionRequest():
                return self._completion(request, request_id, user)
            case EmbeddingRequest():
                return self._embedding(request, request_id, user)

    def _chat(self, request: ChatRequest, request_id: str, user: str) -> Prepared:
        tokens = self.encoder.encode_chat(request.messages, "messages")
        params = self._params(request, (tokens,), wrapped=True)
        n = request.options.n or 1
        shared = self._shared_tokens(request.messages[0], tokens)
        work = GenerateRequest(request_id, user, (tokens,), params, n, shared_tokens=shared)
        return self._prepared(request, work)

    def _completion(self, request: CompletionRequest, request_id: str, user: str) -> Prepared:
        encoder, options = self.encoder, request.options
        wrap = (request.template or self.completion_template) == "auto" and not options.echo

        def encode(prompt: Prompt) -> tuple[int, ...]:
            if wrap and isinstance(prompt, str):
                return encoder.encode_instruction(prompt, "prompt")
            return encoder.encode_raw(prompt, "prompt")

        prompts = tuple(map(encode, request.prompts))
        wrapped = wrap and any(isinstance(prompt, str) for prompt in request.prompts)
        params = self._params(request, prompts, wrapped=wrapped)
        n = options.n or 1
        best_of = options.best_of if options.best_of and options.best_of > n else None
        work = GenerateRequest(request_id, user, prompts, params, n, best_of)
        prepared = self._prepared(request, work)
        if not options.echo:
            return prepared
        return replace(prepared, echo=tuple(map(encoder.text_of, request.prompts)))

    def _embedding(self, request: EmbeddingRequest, request_id: str, user: str) -> Prepared:
        info = self.info
        if request.dimensions is not None and request.dimensions > info.hidden_size:
            raise InvalidRequest(
                f"This model's vectors have {info.hidden_size} dimensions, so ask for "
                "that many at most.",
                param="dimensions",
            )
        inputs = tuple(self.encoder.encode_raw(text, "input") for text in request.inputs)
        tokens = sum(map(len, inputs))
        if tokens > MAX_EMBEDDING_TOKENS:
            raise InvalidRequest(
                f"One request may embed {MAX_EMBEDDING_TOKENS} tokens; this one has {tokens}.",
                param="input",
            )
        parameters = {"dimensions": request.dimensions} if request.dimensions else {}
        return Prepared(info.name, EmbedRequest(request_id, user, inputs), tokens, parameters)

    # ---- what chats and completions share --------------------------------------------------------

    def _params(
        self,
        request: ChatRequest | CompletionRequest,
        prompts: tuple[tuple[int, ...], ...],
        *,
        wrapped: bool,
    ) -> SamplingParams:
        """`wrapped`: a template wrote some of the prompts."""
        room = self.info.context_length - max(map(len, prompts))
        stops = self.encoder.template_stops if wrapped else ()
        ends = self.encoder.template_stop_ids if wrapped else ()
        further = tuple(end for end in ends if end not in self.info.eos_token_ids)
        params = self.sampling.resolve(request.options, room, stops, further)
        check_against_model(params, self.info.vocab_size)
        check_room(prompts, params, self.info)
        return params

    def _prepared(
        self, request: ChatRequest | CompletionRequest, work: GenerateRequest
    ) -> Prepared:
        return Prepared(
            model=self.info.name,
            work=work,
            prompt_tokens=sum(map(len, work.prompts)),
            parameters=parameters_in_force(request, work.params, work.n),
            special_tokens=self.encoder.special_tokens,
        )

    def _shared_tokens(self, opening: ChatMessage, tokens: tuple[int, ...]) -> int:
        """How many of a chat's first tokens follow from its opening message alone, if that is one
        of the operator's; they are found by writing another chat that opens so."""
        is_system = opening.role in ("system", "developer")
        if not is_system or opening.text.strip() not in self.shared_system_prompts:
            return 0
        other = self.encoder.encode_opening(opening, "messages")
        pairs = enumerate(zip(tokens, other, strict=False))
        return next((place for place, (a, b) in pairs if a != b), min(len(tokens), len(other)))


def check_room(
    prompts: tuple[tuple[int, ...], ...], params: SamplingParams, info: ModelInfo
) -> None:
    """Raises InvalidRequest if the engine could never serve this."""
    beams, size = params.num_beams, info.kv_block_tokens
    answer = max(params.max_tokens - 1, 0)  # its last token is never fed back
    needed = max(
        most_blocks(length, length + answer, beams=beams, block_size=size)
        for length in map(len, prompts)
    )
    if needed * size > info.kv_cache_tokens or beams > info.max_batch:
        raise InvalidRequest(
            too_big(needed * size, beams, room=info.kv_cache_tokens, max_batch=info.max_batch),
            param="num_beams" if beams > 1 else "max_tokens",
        )


def parameters_in_force(
    request: ChatRequest | CompletionRequest, params: SamplingParams, n: int
) -> dict[str, Any]:
    """What is kept with the row: the sampling parameters as they were applied, the less usual ones
    only if they were sent."""
    kept: dict[str, Any] = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "repetition_penalty": params.repetition_penalty,
        "do_sample": params.do_sample,
        "num_beams": params.num_beams,
        "n": n,
    }
    if params.stop:
        kept["stop"] = list(params.stop)
    if request.options.logit_bias is not None:
        kept["logit_bias"] = {str(token): bias for token, bias in request.options.logit_bias}
    if isinstance(request, ChatRequest) and params.logprobs is not None:
        kept |= {"logprobs": True, "top_logprobs": params.logprobs}
    for name in GenerationOptions.__dataclass_fields__:
        value = getattr(request.options, name)
        if value is not None:
            kept.setdefault(name, list(value) if isinstance(value, tuple) else value)
    if isinstance(request, CompletionRequest) and request.template:
        kept["template"] = request.template
    return kept
