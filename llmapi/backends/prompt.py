"""From messages and prompts to token ids. User text is text: it never becomes a control token."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError

from llmapi.backends.base import ChatMessage, Prompt
from llmapi.errors import ContextLengthExceeded, InvalidRequest

ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
# A system message, wherever it stands, replaces the sentence; of several the last one counts.
ALPACA_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{%- set ns = namespace(system='" + ALPACA_SYSTEM + "') -%}"
    "{%- for m in messages if m.role in ('system', 'developer') -%}"
    "{%- set ns.system = m.content -%}{%- endfor -%}"
    "{{ ns.system + '\n\n' }}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{{ '### Instruction:\n' + m.content + '\n\n' }}"
    "{%- elif m.role == 'assistant' -%}{{ '### Response: ' + m.content + '\n\n' }}"
    "{%- endif -%}{%- endfor -%}"
    "{{ '### Response: ' }}"
)
ALPACA_STOP = "### Instruction:"


@dataclass(frozen=True)
class PromptEncoder:
    """One tokenizer with one chat template; `encode_*` may run on several threads at once.

    `raw` is a second tokenizer made with `split_special_tokens=True`: passing that per call would
    change the Rust tokenizer that all threads share.
    """

    tokenizer: Any
    raw: Any
    context_length: int
    vocab_size: int

    @staticmethod
    def warm_up() -> None:
        """Import what `load` needs."""
        import transformers.models.auto.tokenization_auto  # noqa: F401

    @classmethod
    def load(cls, path: str, context_length: int, vocab_size: int) -> "PromptEncoder":
        """Read the tokenizer of a local directory (seconds for a large vocabulary)."""
        from transformers import AutoTokenizer  # slow to import, and only needed here

        return cls(
            tokenizer=AutoTokenizer.from_pretrained(path),
            raw=AutoTokenizer.from_pretrained(path, split_special_tokens=True),
            context_length=context_length,
            vocab_size=vocab_size,
        )

    @property
    def template(self) -> str | None:
        """The template in force; None: the tokenizer's own."""
        return None if self.tokenizer.chat_template else ALPACA_TEMPLATE

    @property
    def template_stops(self) -> tuple[str, ...]:
        """Strings that end an answer because the template puts them before the next turn."""
        return () if self.tokenizer.chat_template else (ALPACA_STOP,)

    @cached_property
    def longest_token(self) -> int:
        """Characters that one token can stand for at most."""
        return max((len(token) for token in self.tokenizer.get_vocab()), default=1)

    @cached_property
    def special_tokens(self) -> dict[int, str]:
        """Names of the tokens that have no text."""
        added = self.tokenizer.added_tokens_decoder
        return {number: token.content for number, token in added.items() if token.special}

    def text_of(self, prompt: Prompt) -> str:
        """A raw prompt as text."""
        if isinstance(prompt, str):
            return prompt
        text: str = self.tokenizer.decode(
            prompt, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.replace("\0", "\ufffd")

    def encode_chat(self, messages: Sequence[ChatMessage], param: str) -> tuple[int, ...]:
        """Token ids of the conversation with the opening of the answer.

        Raises ContextLengthExceeded, and InvalidRequest with the template's own sentence if it
        refuses the messages (roles that must alternate, say).
        """
        self.check_characters(sum(len(message.text) for message in messages), param)
        turns = [
            {"role": message.role, "content": message.text}
            | ({"name": message.name} if message.name else {})
            for message in messages
        ]
        for turn in turns:
            # OpenAI's newer word for system; few templates know it.
            if turn["role"] == "developer":
                turn["role"] = "system"
        try:
            ids = self.tokenizer.apply_chat_template(
                turns,
                chat_template=self.template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            # A template is a program, and these are its ways to say that it expected other input.
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error}", param=param
            ) from error
        if not ids:
            raise InvalidRequest(
                "The model's chat template makes nothing of these messages.", param=param
            )
        return self.check_tokens(ids, param)

    def encode_opening(self, opening: ChatMessage, param: str) -> tuple[int, ...]:
        """A chat that begins with this message, and of which everyone may know the rest."""
        return self.encode_chat((opening, ChatMessage("user", "...")), param)

    def encode_instruction(self, prompt: str, param: str) -> tuple[int, ...]:
        """A completion's prompt as the instruction that the seed makes of it."""
        return self.encode_chat((ChatMessage("user", prompt),), param)

    def encode_raw(self, prompt: Prompt, param: str) -> tuple[int, ...]:
        """Text (with the model's own first token, if it has one) or token ids as they are."""
        if isinstance(prompt, tuple):
            if max(prompt) >= self.vocab_size:
                raise InvalidRequest(
                    f"Token id {max(prompt)} is not in the vocabulary "
                    f"(0 to {self.vocab_size - 1}).",
                    param=param,
                )
            return self.check_tokens(prompt, param)
        self.check_characters(len(prompt), param)
        ids = self.raw(prompt)["input_ids"]
        if not ids:
            raise InvalidRequest("The text has no tokens for this model.", param=param)
        return self.check_tokens(ids, param)

    def check_characters(self, characters: int, param: str) -> None:
        """Refuse by length what cannot fit: tokenising megabytes would take seconds."""
        if characters > self.context_length * self.longest_token:
            raise ContextLengthExceeded(
                f"This model's context is {self.context_length} tokens; the text has {characters} "
                "characters, which is more than fits.",
                param=param,
            )

    def check_tokens(self, ids: Sequence[int], param: str) -> tuple[int, ...]:
        if len(ids) >= self.context_length:
            raise ContextLengthExceeded(
                f"This model's context is {self.context_length} tokens, prompt and answer "
                f"together; the prompt has {len(ids)}.",
                param=param,
            )
        return tuple(ids)
