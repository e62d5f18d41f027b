"""A backend that answers with the prompt: no model, so that clients and the web tier can be tried.

Words stand for tokens. It keeps every rule of a backend: pieces in order, usage, finish reasons.
"""

import asyncio
import re
import struct
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from llmapi.backends.base import (
    Backend,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ModelCard,
    Prepared,
    Prompt,
    Request,
)
from llmapi.engine.messages import (
    Answer,
    EmbedRequest,
    Finish,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TextDelta,
)
from llmapi.errors import InvalidRequest, UnsupportedParameter

HIDDEN_SIZE = 8
CONTEXT_LENGTH = 1_000_000


class EchoBackend(Backend):
    """Says back what the user said last; `delay_s` seconds pass before each word."""

    def __init__(self, name: str = "echo", delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self._card = ModelCard(name, int(time.time()), CONTEXT_LENGTH, HIDDEN_SIZE, {})

    @property
    def name(self) -> str:
        return self._card.id

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def unavailable(self) -> None:
        return None

    def start(self, report: Callable[[str], None]) -> None:
        report("The echo backend answers with the prompt; no model is loaded.")

    def wait_ready(self, timeout_s: float | None = None) -> None:
        pass

    def stop(self) -> None:
        pass

    def prepare(self, request: Request, request_id: str, user: str) -> Prepared:
        match request:
            case ChatRequest():
                texts: tuple[Prompt, ...] = (request.messages[-1].text,)
            case CompletionRequest():
                texts = request.prompts
            case EmbeddingRequest():
                texts = request.inputs
        if not all(isinstance(text, str) for text in texts):
            raise InvalidRequest(
                "The echo backend has no tokenizer: send text, not token ids.",
                param="input" if isinstance(request, EmbeddingRequest) else "prompt",
            )
        prompts = tuple(tuple(map(ord, text)) for text in texts if isinstance(text, str))
        work: EmbedRequest | GenerateRequest
        if isinstance(request, EmbeddingRequest):
            work = EmbedRequest(request_id, user, prompts)
        else:
            options = request.options
            if options.logprobs is not None:
                raise UnsupportedParameter(
                    "The echo backend has no log probabilities.", param="logprobs"
                )
            if (options.best_of or 1) > (options.n or 1):
                raise UnsupportedParameter("The echo backend cannot compare.", param="best_of")
            # Left out: it never says more than it heard.
            longest = max(len(self.words(prompt)) for prompt in prompts)
            max_tokens = max(longest, 1) if options.max_tokens is None else options.max_tokens
            work = GenerateRequest(
                request_id,
                user,
                prompts,
                SamplingParams(max_tokens=max_tokens, stop=options.stop or ()),
                options.n or 1,
            )
        tokens = sum(len(self.words(prompt)) for prompt in prompts)
        wants_echo = isinstance(request, CompletionRequest) and request.options.echo
        echo = tuple(str(text) for text in texts) if wants_echo else ()
        return Prepared(self._card.id, work, tokens, {}, echo)

    async def stream(self, prepared: Prepared) -> AsyncGenerator[Sequence[Answer]]:
        work = prepared.work
        assert isinstance(work, GenerateRequest)
        for index in range(prepared.choices):
            words = self.words(work.prompts[index // work.n])
            said = words[: work.params.max_tokens]
            for word in said:
                await asyncio.sleep(self.delay_s)
                yield [TextDelta(work.request_id, index, word, 1)]
            reason = FinishReason.STOP if len(said) == len(words) else FinishReason.LENGTH
            yield [Finish(work.request_id, index, reason, len(words), len(said))]

    async def embed(self, prepared: Prepared) -> list[bytes]:
        assert isinstance(prepared.work, EmbedRequest)
        unit = struct.pack(f"<{HIDDEN_SIZE}f", 1.0, *[0.0] * (HIDDEN_SIZE - 1))
        return [unit for _ in prepared.work.inputs]

    def words(self, prompt: tuple[int, ...]) -> list[str]:
        """The prompt's words, each with the white space after it."""
        return re.findall(r"\S+\s*|\s+", "".join(map(chr, prompt)))
