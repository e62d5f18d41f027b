"""The engine of this machine as a backend: prompts in, text deltas out."""

import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmapi.backends.base import (
    Backend,
    BackendFailed,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ModelCard,
    Prepared,
    Request,
)
from llmapi.backends.link import EngineLink, Launch, launch_process
from llmapi.backends.mailbox import Mailbox
from llmapi.backends.prompt import PromptEncoder
from llmapi.backends.sampling import SamplingDefaults, check_against_model
from llmapi.engine.blocks import most_blocks
from llmapi.engine.config import EngineConfig
from llmapi.engine.messages import (
    Abort,
    Answer,
    EmbedRequest,
    Event,
    Finish,
    GenerateRequest,
    LoadFailed,
    LoadProgress,
    ModelInfo,
    Outbound,
    Ready,
    SamplingParams,
    StepOutput,
)
from llmapi.engine.requests import too_big
from llmapi.errors import EngineLost, InvalidRequest, ServerUnavailable

MAX_EMBEDDING_TOKENS = 300_000


class LocalBackend(Backend):
    """Owns the link to the engine, the tokenizer, and the mailboxes of the running requests.

    The link's thread writes `_info`, `_encoder` and `_lost`, and posts to mailboxes; the event loop
    opens and closes mailboxes. Nothing else is shared.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        max_tokens: int = 512,
        operator_defaults: Mapping[str, float | int | None] | None = None,
        completion_template: str = "auto",
        launch: Launch = launch_process,
    ) -> None:
        self.defaults = SamplingDefaults(max_tokens, operator_defaults or {})
        self.completion_template = completion_template
        self.last_step: StepOutput | None = None
        self.link = EngineLink(config, launch, self._hear, self._engine_lost)
        self._report: Callable[[str], None] = lambda line: None
        self._info: ModelInfo | None = None
        self._encoder: PromptEncoder | None = None
        self._card: ModelCard | None = None
        self._lost: str | None = None
        self._failed: str | None = None
        self._settled = threading.Event()
        # Importing takes seconds, so it is done while the engine loads rather than after.
        self._warming_up = threading.Thread(target=PromptEncoder.warm_up, name="import")
        self._mailboxes: dict[str, Mailbox] = {}

    # ---- life -----------------------------------------------------------------------------------

    @property
    def card(self) -> ModelCard | None:
        return self._card

    @property
    def unavailable(self) -> str | None:
        if self._failed:
            return self._failed
        if self._lost:
            return "The engine is being started again; try again in a moment."
        if self._encoder is None:
            return "The model is being loaded; try again in a moment."
        return None

    def start(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._warming_up.start()  # first: an engine may be ready at once
        self.link.start()

    def wait_ready(self, timeout_s: float | None = None) -> None:
        if not self._settled.wait(timeout_s):
            raise TimeoutError("the model is still being loaded")
        if self._failed:
            raise BackendFailed(self._failed)

    def stop(self) -> None:
        self.link.stop()

    # ---- requests -------------------------------------------------------------------------------

    def prepare(self, request: Request, request_id: str, user: str) -> Prepared:
        encoder, info = self._encoder, self._info
        if self.unavailable or encoder is None or info is None:
            raise ServerUnavailable(self.unavailable or "The model is not ready.")
        if isinstance(request, EmbeddingRequest):
            return self._prepare_embedding(request, request_id, user, encoder, info)

        options = request.options
        stops: tuple[str, ...] = ()
        echo: tuple[str, ...] = ()
        if isinstance(request, ChatRequest):
            prompts: tuple[tuple[int, ...], ...] = (
                encoder.encode_chat(request.messages, "messages"),
            )
            stops = encoder.template_stops
        else:
            wrap = (request.template or self.completion_template) == "auto" and not options.echo
            if options.echo:
                echo = tuple(encoder.text_of(prompt) for prompt in request.prompts)
            if wrap and any(isinstance(prompt, str) for prompt in request.prompts):
                stops = encoder.template_stops
            prompts = tuple(
                encoder.encode_instruction(prompt, "prompt")
                if wrap and isinstance(prompt, str)
                else encoder.encode_raw(prompt, "prompt")
                for prompt in request.prompts
            )
        defaults = replace(self.defaults, model=info.generation_defaults)
        room = info.context_length - max(map(len, prompts))
        params = defaults.resolve(options, room, stops)
        check_against_model(params, info.vocab_size)
        n = options.n or 1
        best_of = options.best_of if options.best_of and options.best_of > n else None
        check_room(prompts, params, info)
        return Prepared(
            model=info.name,
            work=GenerateRequest(request_id, user, prompts, params, n, best_of),
            prompt_tokens=sum(map(len, prompts)),
            parameters=parameters_in_force(request, params, n),
            echo=echo,
            special_tokens=encoder.special_tokens,
        )

    def _prepare_embedding(
        self,
        request: EmbeddingRequest,
        request_id: str,
        user: str,
        encoder: PromptEncoder,
        info: ModelInfo,
    ) -> Prepared:
        if request.dimensions is not None and request.dimensions > info.hidden_size:
            raise InvalidRequest(
                f"This model's vectors have {info.hidden_size} dimensions, so ask for "
                "that many at most.",
                param="dimensions",
            )
        inputs = tuple(encoder.encode_raw(text, "input") for text in request.inputs)
        tokens = sum(map(len, inputs))
        if tokens > MAX_EMBEDDING_TOKENS:
            raise InvalidRequest(
                f"One request may embed {MAX_EMBEDDING_TOKENS} tokens; this one has {tokens}.",
                param="input",
            )
        parameters = {"dimensions": request.dimensions} if request.dimensions else {}
        return Prepared(info.name, EmbedRequest(request_id, user, inputs), tokens, parameters)

    async def stream(self, prepared: Prepared) -> AsyncGenerator[Sequence[Answer]]:
        assert isinstance(prepared.work, GenerateRequest)
        async with _Exchange(self, prepared.work) as mailbox:
            open_choices = prepared.choices
            while open_choices:
                answers: list[Answer] = await mailbox.take()
                open_choices -= sum(isinstance(answer, Finish) for answer in answers)
                yield answers

    async def embed(self, prepared: Prepared) -> list[bytes]:
        assert isinstance(prepared.work, EmbedRequest)
        vectors: dict[int, bytes] = {}
        async with _Exchange(self, prepared.work) as mailbox:
            while len(vectors) < len(prepared.work.inputs):
                vectors |= {event.index: event.vector for event in await mailbox.take()}
        return [vectors[index] for index in range(len(vectors))]

    # ---- the link's thread ----------------------------------------------------------------------

    def _hear(self, message: Outbound) -> None:
        match message:
            case StepOutput():
                self.last_step = message
                self._post(message.events)
            case LoadProgress():
                done = "" if message.fraction is None else f" ({message.fraction:.0%})"
                self._report(message.text + done)
            case Ready():
                self._become_ready(message.info)
            case LoadFailed():
                pass  # the link tells by the end of the engine's life

    def _become_ready(self, info: ModelInfo) -> None:
        if self._encoder is None:  # a restarted engine serves the same model
            self._report("Reading the tokenizer")
            self._warming_up.join()  # transformers may not be imported by two threads at once
            self._encoder = PromptEncoder.load(
                info.tokenizer_path, info.context_length, info.vocab_size
            )
        self._info = info
        self._card = ModelCard(
            id=info.name,
            created=int(time.time()),
            context_length=info.context_length,
            hidden_size=info.hidden_size,
            details={
                "context_length": info.context_length,
                "parameters": info.parameters,
                "dtype": info.dtype,
                "quantisation": info.quantisation,
                "decoder": info.decoder,
                "device": info.device,
            },
        )
        self._lost = None
        self._settled.set()

    def _engine_lost(self, sentence: str, again: bool) -> None:
        if again:
            self._lost = sentence
        else:
            self._failed = sentence
            self._settled.set()
        error = EngineLost("The engine stopped while it worked on this request. Please try again.")
        for mailbox in list(self._mailboxes.values()):
            mailbox.loop.call_soon_threadsafe(mailbox.fail, error)

    def _post(self, events: tuple[Event, ...]) -> None:
        """One wake-up of the event loop for all events of a step."""
        by_loop: dict[Any, list[tuple[Mailbox, Event]]] = defaultdict(list)
        for event in events:
            mailbox = self._mailboxes.get(event.request_id)
            if mailbox is not None:  # else its client has left
                by_loop[mailbox.loop].append((mailbox, event))
        for loop, posts in by_loop.items():
            loop.call_soon_threadsafe(put_all, posts)


def put_all(posts: list[tuple[Mailbox, Event]]) -> None:
    for mailbox, event in posts:
        mailbox.put(event)


class _Exchange:
    """One request's talk with the engine: opened with the work, closed with an abort if
    unfinished."""

    def __init__(self, backend: LocalBackend, work: GenerateRequest | EmbedRequest) -> None:
        self.backend = backend
        self.work = work
        self.mailbox = Mailbox()

    async def __aenter__(self) -> Mailbox:
        self.backend._mailboxes[self.work.request_id] = self.mailbox
        if not self.backend.link.send(self.work):
            del self.backend._mailboxes[self.work.request_id]
            raise ServerUnavailable(self.backend.unavailable or "The engine is not running.")
        return self.mailbox

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        del self.backend._mailboxes[self.work.request_id]
        if exc_type is not None:
            self.backend.link.send(Abort(self.work.request_id))


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
    """What is kept with the row: the sampling parameters as they were applied."""
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
    if params.seed is not None:
        kept["seed"] = params.seed
    if params.stop:
        kept["stop"] = list(params.stop)
    for name in SELDOM_SENT:
        value = getattr(request.options, name)
        if value is not None:
            kept[name] = list(value) if isinstance(value, tuple) else value
    if request.options.logit_bias is not None:
        kept["logit_bias"] = {str(token): bias for token, bias in request.options.logit_bias}
    if isinstance(request, ChatRequest) and params.logprobs is not None:
        kept |= {"logprobs": True, "top_logprobs": params.logprobs}
    if isinstance(request, CompletionRequest) and request.template:
        kept["template"] = request.template
    return kept


SELDOM_SENT = (
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "length_penalty",
    "early_stopping",
    "logprobs",
    "echo",
    "best_of",
)
"""Parameters that are kept with the row only if they were sent."""
