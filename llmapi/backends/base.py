"""What a backend is, and what it is asked.

A request is a frozen dataclass, checked already; `Backend.prepare` turns it into a `Prepared`
(tokens, defaults filled in, context checked) before it is accepted, and `stream` or `embed` answer
that.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmapi.backends.adapters import Adapters
from llmapi.engine.messages import Answer, EmbedRequest, Figures, GenerateRequest

Content = str | list[Any]
"""Text, or a list of OpenAI's text parts (`{type, text}`)."""

Prompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """The parameters of generation that a client sent; None: left out."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] | None = None
    do_sample: bool | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    n: int | None = None
    best_of: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    logprobs: int | None = None
    """So many most probable tokens beside each token's own log probability."""

    echo: bool | None = None
    """The prompt goes in front of the answer; so do its log probabilities, if they are asked
    for."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    content: Content
    name: str = ""

    @property
    def text(self) -> str:
        """The content as one string: text parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part["text"] for part in self.content)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    messages: tuple[ChatMessage, ...]
    options: GenerationOptions
    model: str | None = None
    seed_dialect: bool = False
    """The messages used the seed's key, so the answer takes the seed's shape."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    prompts: tuple[Prompt, ...]
    options: GenerationOptions
    model: str | None = None
    template: str | None = None
    """`auto`, `none`, or None for the server's setting."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    inputs: tuple[Prompt, ...]
    model: str | None = None
    dimensions: int | None = None


Request = ChatRequest | CompletionRequest | EmbeddingRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that this backend can answer, and what is known of it before it does."""

    model: str
    work: GenerateRequest | EmbedRequest
    prompt_tokens: int
    """Of all prompts together."""

    parameters: dict[str, Any]
    """The parameters in force, defaults filled in: kept with the row."""

    echo: tuple[str, ...] = ()
    """The text of each prompt, to be put in front of its answers; empty: not asked for."""

    special_tokens: Mapping[int, str] = field(default_factory=dict)
    """Names of the tokens that have no text."""

    @property
    def wants_logprobs(self) -> bool:
        return isinstance(self.work, GenerateRequest) and self.work.params.logprobs is not None

    @property
    def most_tokens(self) -> int:
        """What it can use at most, the prompts and all that is drawn for them."""
        work = self.work
        if isinstance(work, EmbedRequest):
            return self.prompt_tokens
        drawn = len(work.prompts) * max(work.n, work.best_of or 0)
        return self.prompt_tokens + drawn * work.params.max_tokens

    @property
    def choices(self) -> int:
        """How many texts come back."""
        if isinstance(self.work, EmbedRequest):
            return 0
        return len(self.work.prompts) * self.work.n


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model, as /v1/models shows it."""

    id: str
    created: int
    """Unix time in seconds."""

    context_length: int
    hidden_size: int
    details: dict[str, Any]
    parent: str | None = None
    """The base model's id, if this is an adapter on it."""

    alias_of: str | None = None
    """The id of the model that answers, if this is another name for it."""

    @property
    def root(self) -> str:
        """The id of the model that it comes down to."""
        return self.parent or self.alias_of or self.id


@dataclass(frozen=True, slots=True)
class EngineState:
    """How the engine of a backend does, for whoever watches."""

    restarts: int
    """Engines that were started after the first."""

    pid: int | None
    """Of its process; None: it has none at present."""

    figures: Figures | None
    """The last that it told; None since it was lost."""


class Backend(ABC):
    """One source of answers.

    `start`, `wait_ready` and `stop` belong to whoever runs the server; `prepare` runs on threads of
    a thread for admission; `stream` and `embed` on the event loop.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The base model's id, known before it is loaded."""

    @property
    @abstractmethod
    def card(self) -> ModelCard | None:
        """The base model; None while it is not known yet."""

    @property
    def cards(self) -> list[ModelCard]:
        """All models that it serves, the base first."""
        return [self.card] if self.card else []

    def serves(self, model: str) -> bool:
        return any(card.id == model for card in self.cards)

    @property
    def adapters(self) -> Adapters | None:
        """Those that it serves beside the base model; None: it knows of no such thing."""
        return None

    @property
    def engine_state(self) -> EngineState | None:
        """None: it has no engine that could be watched."""
        return None

    @property
    def generation_defaults(self) -> Mapping[str, float]:
        """What answers are made with where requests leave it out; empty: not known, or nothing."""
        return {}

    @property
    @abstractmethod
    def unavailable(self) -> str | None:
        """Why nothing can be answered at present, as a sentence; None: ready."""

    @abstractmethod
    def start(self, report: Callable[[str], None]) -> None:
        """Begin to load, and return. `report` gets a line for whoever waits, now and then."""

    @abstractmethod
    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Block until ready. Raises BackendFailed (the model cannot be served), TimeoutError."""

    @abstractmethod
    def stop(self) -> None:
        """End everything that `start` began."""

    @abstractmethod
    def prepare(self, request: Request, request_id: str, user: str) -> Prepared:
        """Template, tokens, defaults. Raises ApiError (context too long, template refused)."""

    @abstractmethod
    def stream(self, prepared: Prepared) -> AsyncGenerator[Sequence[Answer]]:
        """The answer as it comes: each time all that has come since, which is never nothing.
        Closing the iterator aborts what is left of it."""

    @abstractmethod
    async def embed(self, prepared: Prepared) -> list[bytes]:
        """One vector for each input: float32, little-endian, L2-normalised."""


class BackendFailed(Exception):
    """The model cannot be served; the message says what to do."""
