"""How an answer is told: as one JSON object, or chunk by chunk while it comes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from llmapi import payloads
from llmapi.backends.base import ChatRequest, CompletionRequest
from llmapi.engine.messages import Finish, PromptLogprobs, TextDelta
from llmapi.logprobs import JSON, TextLogprobs
from llmapi.outcomes import Outcome
from llmapi.payloads import choice_of_chunk


class Shape(ABC):
    """Of one request's answer. A chunk may depend on those before it."""

    chunk_kind: ClassVar[str]
    """What its chunks call themselves in `object`."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @abstractmethod
    def whole(self) -> JSON:
        """The answer that goes out at once, when all of it is there."""

    @abstractmethod
    def delta_chunks(self, event: TextDelta | PromptLogprobs) -> list[JSON]:
        """New text of a choice, or nothing that is worth a chunk."""

    @abstractmethod
    def finish_chunk(self, event: Finish) -> JSON:
        """A choice's last chunk, which says why it ended."""

    def usage_chunk(self) -> JSON:
        return payloads.usage_chunk(self.outcome, self.chunk_kind)

    @classmethod
    def retold(cls, answer: JSON, *, include_usage: bool) -> list[JSON]:
        """An answer that was kept, as the chunks of a stream."""
        head = {name: answer[name] for name in ("id", "object", "created", "model")}
        head["object"] = cls.chunk_kind
        usage = {"usage": None} if include_usage else {}
        chunks = [
            {**head, "choices": [choice], **more, **usage}
            for choice, more in cls.retold_choices(answer)
        ]
        if include_usage:
            chunks.append({**head, "choices": [], "usage": answer["usage"]})
        return chunks

    @classmethod
    @abstractmethod
    def retold_choices(cls, answer: JSON) -> Iterator[tuple[JSON, JSON]]:
        """(what a chunk says of a choice, what else it says)"""


class ChatShape(Shape):
    chunk_kind = "chat.completion.chunk"

    def __init__(self, outcome: Outcome, request: ChatRequest) -> None:
        super().__init__(outcome)
        self.request = request
        self.begun: set[int] = set()

    def whole(self) -> JSON:
        return payloads.chat_completion(self.outcome, self.request)

    def delta_chunks(self, event: TextDelta | PromptLogprobs) -> list[JSON]:
        chunks = self.opening(event.index)
        if isinstance(event, TextDelta) and (event.text or event.logprobs):
            delta = {"content": event.text}
            logprobs = payloads.logprobs_of_chat(self.outcome, event.logprobs)
            chunks.append(payloads.chat_chunk(self.outcome, event.index, delta, logprobs=logprobs))
        return chunks

    def opening(self, index: int) -> list[JSON]:
        """The chunk that names the role: once, before a choice's first text."""
        if index in self.begun:
            return []
        self.begun.add(index)
        delta = {"role": "assistant", "content": ""}
        return [payloads.chat_chunk(self.outcome, index, delta)]

    def finish_chunk(self, event: Finish) -> JSON:
        delta = {} if event.index in self.begun else {"role": "assistant", "content": ""}
        chunk = payloads.chat_chunk(self.outcome, event.index, delta, event.reason)
        return chunk | payloads.conversation_named(self.outcome)

    @classmethod
    def retold_choices(cls, answer: JSON) -> Iterator[tuple[JSON, JSON]]:
        # The seed's shape lists what was asked before it, which a stream does not.
        choices = [choice for choice in answer["choices"] if "finish_reason" in choice]
        for index, choice in enumerate(choices):
            said, logprobs = choice["message"]["content"], choice["logprobs"]
            opening = {"role": "assistant", "content": ""}
            yield choice_of_chunk(index, opening), {}
            if said or logprobs:
                yield choice_of_chunk(index, {"content": said}, logprobs=logprobs), {}
        named = {name: answer[name] for name in ("conversation",) if name in answer}
        for index, choice in enumerate(choices):
            yield choice_of_chunk(index, {}, choice["finish_reason"]), named


class CompletionShape(Shape):
    chunk_kind = "text_completion"

    def __init__(self, outcome: Outcome, request: CompletionRequest) -> None:
        super().__init__(outcome)
        self.logprobs: dict[int, TextLogprobs] = {}
        """Of each choice that has begun."""

    def whole(self) -> JSON:
        return payloads.text_completion(self.outcome)

    def delta_chunks(self, event: TextDelta | PromptLogprobs) -> list[JSON]:
        text, logprobs = self.opening(event.index), None
        told = self.logprobs[event.index]
        if isinstance(event, PromptLogprobs):
            logprobs = told.prompt(event.logprobs, text)
        else:
            text += event.text
            if self.outcome.prepared.wants_logprobs:
                logprobs = told.answer(event.logprobs, event.text)
        if not (text or event.logprobs):
            return []
        return [payloads.text_chunk(self.outcome, event.index, text, logprobs=logprobs)]

    def opening(self, index: int) -> str:
        """The echoed prompt: once, before a choice's first text."""
        if index in self.logprobs:
            return ""
        self.logprobs[index] = TextLogprobs(self.outcome.prepared.special_tokens)
        return payloads.echoed(self.outcome, index)

    def finish_chunk(self, event: Finish) -> JSON:
        text = self.opening(event.index)
        return payloads.text_chunk(self.outcome, event.index, text, event.reason)

    @classmethod
    def retold_choices(cls, answer: JSON) -> Iterator[tuple[JSON, JSON]]:
        for choice in answer["choices"]:
            yield {**choice, "finish_reason": None}, {}
        for choice in answer["choices"]:
            yield {**choice, "text": "", "logprobs": None}, {}
