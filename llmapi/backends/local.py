"""The engine of this machine as a backend: prompts in, text deltas out."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmapi.backends.adapters import Adapters, AdapterStatus
from llmapi.backends.base import (
    Backend,
    BackendFailed,
    EngineState,
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
from llmapi.engine.machine import why_no_gpu
from llmapi.engine.messages import (
    Abort,
    AdapterFailed,
    AdapterLoaded,
    Answer,
    EmbedRequest,
    Event,
    Figures,
    Finish,
    GenerateRequest,
    LoadFailed,
    LoadProgress,
    LogLine,
    ModelInfo,
    Outbound,
    Ready,
    StepOutput,
)
from llmapi.engine.source import asked_of_the_hub, is_offline, model_name
from llmapi.errors import EngineLost, ServerUnavailable


class LocalBackend(Backend):
    """Owns the link to the engine, the preparation, and the mailboxes of the running requests.

    The link's thread writes `_preparation` and `_lost`, and posts to mailboxes; the event loop
    opens and closes mailboxes. `adapters` has a lock of its own. Nothing else is shared.
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
        stall_timeout_s: float = 0.0,
        launch: Launch = launch_process,
    ) -> None:
        self.defaults = SamplingDefaults(max_tokens, operator_defaults or {})
        self.completion_template = completion_template
        self.prompt_template = prompt_template
        self.shared_system_prompts = frozenset(text.strip() for text in shared_system_prompts)
        self.last_step: StepOutput | None = None
        self._figures: Figures | None = None
        self.link = EngineLink(
            config,
            launch,
            self._hear,
            self._engine_lost,
            is_awaited=lambda: bool(self._mailboxes),
            stall_timeout_s=stall_timeout_s,
        )
        self._adapters = Adapters(config.adapters, self.link.send)
        self._report: Callable[[str], None] = lambda line: None
        self._preparation: Preparation | None = None
        self._coming: Preparation | None = None
        """Of an engine that is ready but for its adapters."""
        self._card: ModelCard | None = None
        self._lost: str | None = None
        self._failed: str | None = None
        self._settled = threading.Event()
        # Importing takes seconds, so it is done while the engine loads rather than after.
        self._warming_up = threading.Thread(target=PromptEncoder.warm_up, name="import")
        self._mailboxes: dict[str, Mailbox] = {}

    # ---- life -----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return model_name(self.link.config)

    @property
    def card(self) -> ModelCard | None:
        return self._card

    @property
    def cards(self) -> list[ModelCard]:
        base = self._card
        if base is None:
            return []
        return [base, *(adapter_card(base, s) for s in self._adapters.statuses() if s.info)]

    def serves(self, model: str) -> bool:
        base = self._card
        return base is not None and (model == base.id or self._adapters.serves(model))

    @property
    def adapters(self) -> Adapters:
        return self._adapters

    @property
    def generation_defaults(self) -> Mapping[str, float]:
        return self._preparation.sampling.values if self._preparation else {}

    @property
    def unavailable(self) -> str | None:
        if self._failed:
            return self._failed
        if self._lost:
            return "The engine is being started again; try again in a moment."
        if self._preparation is None:
            return "The model is being loaded; try again in a moment."
        return None

    @property
    def engine_state(self) -> EngineState:
        return EngineState(self.link.restarts, self.link.pid, self._figures)

    def start(self, report: Callable[[str], None]) -> None:
        self._report = report
        config = self.link.config
        for given in asked_of_the_hub(config):
            asked = "looking in the hub's cache" if is_offline() else "asking the hub for it"
            report(f"'{given}' is no directory here: {asked}")
        # What takes seconds is said before it begins.
        looks = config.device != "cpu" and not why_no_gpu()
        report("Starting the engine" + (" and looking for GPUs" if looks else ""))
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
        prepared = preparation.prepare(request, request_id, user)
        if request.model is None or request.model == preparation.info.name:
            return prepared
        adapter = request.model
        return replace(prepared, model=adapter, work=replace(prepared.work, adapter=adapter))

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

    def send(self, work: GenerateRequest | EmbedRequest) -> None:
        """Post to the engine. Raises ServerUnavailable, and ModelNotFound if the adapter was
        removed since the request was prepared."""
        post = self._adapters.send if work.adapter else self.link.send
        if not post(work):
            raise ServerUnavailable(self.unavailable or "The engine is not running.")

    # ---- the link's thread ----------------------------------------------------------------------

    def _hear(self, message: Outbound) -> None:
        match message:
            case StepOutput():
                self.last_step = message
                self._post(message.events)
            case Figures():
                self._figures = message
            case LogLine():
                logging.getLogger(message.logger).log(message.level, "%s", message.text)
            case LoadProgress():
                done = "" if message.fraction is None else f" ({message.fraction:.0%})"
                self._report(message.text + done)
            case Ready():
                self._become_ready(message.info)
            case AdapterLoaded() | AdapterFailed():
                if self._adapters.hear(message):
                    self._settle()
            case LoadFailed():
                pass  # the link tells by the end of the engine's life

    def _become_ready(self, info: ModelInfo) -> None:
        try:
            preparation = self._prepare_for(info)
            obstacle = next(preparation.obstacles(), None)
        except BackendFailed as error:
            obstacle = str(error)
        if obstacle is not None:
            self._failed = obstacle
            self._settled.set()
            return
        if self._coming is None:
            for warning in preparation.warnings():
                self._report(warning)
        self._coming = preparation
        self._adapters.begin(info.name)
        if self._adapters.usable:
            self._settle()

    def _settle(self) -> None:
        """Ready, now that the engine has answered for all adapters."""
        assert self._coming is not None
        if not self._settled.is_set() and self._adapters.obstacle:
            self._failed = self._adapters.obstacle
        else:
            self._preparation = self._coming
            self._card = base_card(self._preparation)
            self._lost = None
        self._settled.set()

    def _prepare_for(self, info: ModelInfo) -> Preparation:
        if self._coming is not None:  # a restarted engine serves the same model
            return replace(self._coming, info=info)
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
        self._figures = None
        starting = not self._settled.is_set()
        self._adapters.lost(starting=starting)
        obstacle = self._adapters.obstacle if starting else None
        if again and obstacle is None:
            self._lost = sentence
        else:
            self._failed = obstacle if again else sentence
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


def base_card(preparation: Preparation) -> ModelCard:
    info = preparation.info
    return ModelCard(
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
            "template": preparation.encoder.template.name,
            "adapter": {"name": name_of(Path(info.lora))} if info.lora else None,
        },
    )


def name_of(adapter: Path) -> str:
    """What a directory is called, or the repository of which it is the hub cache's copy."""
    directory = adapter.absolute()
    if directory.parent.name == "snapshots":
        return directory.parents[1].name.rpartition("--")[2]
    return directory.name


def adapter_card(base: ModelCard, status: AdapterStatus) -> ModelCard:
    info = status.info
    assert info is not None
    adapter = {"name": info.name, "rank": info.rank, "targets": list(info.targets)}
    return replace(
        base,
        id=info.name,
        created=status.created,
        details={**base.details, "adapter": adapter},
        parent=base.id,
    )


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
        try:
            self.backend.send(self.work)
        except BaseException:
            del self.backend._mailboxes[self.work.request_id]
            raise
        return self.mailbox

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        del self.backend._mailboxes[self.work.request_id]
        if exc_type is not None:
            self.backend.link.send(Abort(self.work.request_id))
