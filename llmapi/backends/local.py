"""The engine of this machine as a backend: prompts in, text deltas out."""

import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmapi.backends.base import (
    Backend,
    BackendFailed,
    ModelCard,
    Prepared,
    Request,
)
from llmapi.backends.link import EngineLink, Launch, launch_process
from llmapi.backends.mailbox import Mailbox
from llmapi.backends.preparation import Preparation
from llmapi.backends.prompt import PromptEncoder
from llmapi.backends.sampling import SamplingDefaults
from llmapi.backends.templates import ChatTemplate
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
    StepOutput,
)
from llmapi.errors import EngineLost, ServerUnavailable


class LocalBackend(Backend):
    """Owns the link to the engine, the preparation, and the mailboxes of the running requests.

    The link's thread writes `_preparation` and `_lost`, and posts to mailboxes; the event loop
    opens and closes mailboxes. Nothing else is shared.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        max_tokens: int = 512,
        operator_defaults: Mapping[str, float | int | None] | None = None,
        completion_template: str = "auto",
        prompt_template: ChatTemplate | None = None,
        shared_system_prompts: Collection[str] = (),
        launch: Launch = launch_process,
    ) -> None:
        self.defaults = SamplingDefaults(max_tokens, operator_defaults or {})
        self.completion_template = completion_template
        self.prompt_template = prompt_template
        self.shared_system_prompts = frozenset(text.strip() for text in shared_system_prompts)
        self.last_step: StepOutput | None = None
        self.link = EngineLink(config, launch, self._hear, self._engine_lost)
        self._report: Callable[[str], None] = lambda line: None
        self._preparation: Preparation | None = None
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
        if self._preparation is None:
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
        preparation = self._preparation
        if self.unavailable or preparation is None:
            raise ServerUnavailable(self.unavailable or "The model is not ready.")
        return preparation.prepare(request, request_id, user)

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
        preparation = self._prepare_for(info)
        if obstacle := next(preparation.obstacles(), None):
            self._failed = obstacle
            self._settled.set()
            return
        self._preparation = preparation
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

    def _prepare_for(self, info: ModelInfo) -> Preparation:
        if self._preparation is not None:  # a restarted engine serves the same model
            return replace(self._preparation, info=info)
        self._report("Reading the tokenizer")
        self._warming_up.join()  # transformers may not be imported by two threads at once
        return Preparation(
            PromptEncoder.load(
                info.tokenizer_path, info.context_length, info.vocab_size, self.prompt_template
            ),
            info,
            self.defaults,
            self.completion_template,
            self.shared_system_prompts,
        )

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
