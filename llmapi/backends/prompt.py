"""From messages and prompts to token ids. User text is text: it never becomes a control token."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from llmapi.backends.base import BackendFailed, ChatMessage, Prompt
from llmapi.backends.templates import BUILT_IN, ChatTemplate, built_in, is_refusal
from llmapi.errors import ContextLengthExceeded, InvalidRequest, TemplateFailed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptEncoder:
    """One tokenizer with one chat template; `encode_*` may run on several threads at once.

    `raw` is a second tokenizer made with `split_special_tokens=True`: passing that per call would
    change the Rust tokenizer that all threads share.
    """

    tokenizer: Any
    raw: Any
    template: ChatTemplate
    context_length: int
    vocab_size: int

    @staticmethod
    def warm_up() -> None:
        """Import what `load` needs."""
        import llmapi.engine.tokenizer  # noqa: F401

    @classmethod
    def load(
        cls,
        path: str,
        context_length: int,
        vocab_size: int,
        template: ChatTemplate | None = None,
    ) -> "PromptEncoder":
        """Read the tokenizer of a local directory (seconds for a large vocabulary).

        `template`: None takes the tokenizer's own, or else Alpaca's. Raises BackendFailed if the
        tokenizer has several and names none of them as its default.
        """
        from llmapi.engine.tokenizer import load_tokenizer  # slow to import, and only needed here

        tokenizer = load_tokenizer(path)
        if template is None and tokenizer.chat_template:
            try:
                template = ChatTemplate("tokenizer", tokenizer.get_chat_template())
            except ValueError as error:
                raise BackendFailed(
                    f"The tokenizer in '{path}' has several chat templates, and none of them is "
                    "called 'default'. Write the right one to a file, and name that with "
                    "--prompt_template (LLMAPI_PROMPT_TEMPLATE)."
                ) from error
        return cls(
            tokenizer=tokenizer,
            raw=load_tokenizer(path, split_special_tokens=True),
            template=template or built_in("alpaca"),
            context_length=context_length,
            vocab_size=vocab_size,
        )

    @cached_property
    def template_stops(self) -> tuple[str, ...]:
        """Strings that end an answer because the template puts them around turns."""
        return tuple(mark for mark in self.template.marks if mark not in self._added)

    @cached_property
    def template_stop_ids(self) -> tuple[int, ...]:
        """Tokens that do."""
        ids = (self._added.get(mark, self.vocab_size) for mark in self.template.marks)
        return tuple(number for number in ids if number < self.vocab_size)

    @cached_property
    def _added(self) -> dict[str, int]:
        added = self.tokenizer.added_tokens_decoder
        return {token.content: number for number, token in added.items()}

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """What built-in templates are told beside the chat; they say what for."""
        bos = self.tokenizer.bos_token
        if not bos:
            return {"space": "", "puts_bos": False}
        encode = partial(self.tokenizer.encode, add_special_tokens=False)
        as_it_is = encode(f"{bos}a")[1:] == encode("a")
        spaced = encode(f"{bos} a")[1:] == encode("a")
        return {
            "space": " " if spaced and not as_it_is else "",
            "puts_bos": self.raw("")["input_ids"][:1] == [self.tokenizer.bos_token_id],
        }

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

        Raises ContextLengthExceeded; InvalidRequest with the template's own sentence if it refuses
        the messages (roles that must alternate, say); TemplateFailed if it breaks over them.
        """
        self.check_characters(sum(len(message.text) for message in messages), param)
        try:
            ids = self._apply_template(messages, tokenize=True)
        except Exception as error:  # a template is a program, and may end in any way
            if is_refusal(error):
                raise InvalidRequest(
                    f"The model's chat template refuses these messages: {error}", param=param
                ) from error
            reason = f"{type(error).__name__}: {error}"
            logger.warning("The chat template (%s) failed: %s", self.template.name, error)
            raise TemplateFailed(
                "This server's chat template cannot write these messages for the model "
                f"({reason}). That is for the server's operator to mend."
            ) from error
        if not ids:
            raise InvalidRequest(
                "The model's chat template makes nothing of these messages.", param=param
            )
        return self.check_tokens(ids, param)

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation with the opening of the answer, as the template writes it. Raises
        whatever the template does."""
        return str(self._apply_template(messages, tokenize=False))

    def _apply_template(self, messages: Sequence[ChatMessage], *, tokenize: bool) -> Any:
        turns = [
            {"role": message.role, "content": message.text}
            | ({"name": message.name} if message.name else {})
            for message in messages
        ]
        for turn in turns:
            # OpenAI's newer word for system; few templates know it.
            if turn["role"] == "developer":
                turn["role"] = "system"
        return self.tokenizer.apply_chat_template(
            turns,
            chat_template=self.template.source,
            add_generation_prompt=True,
            tokenize=tokenize,
            return_dict=False,
            sanitize_control_tokens=tokenize,  # of a text, its marks would stay in it
            **(self._variables if self.template.name in BUILT_IN else {}),
        )

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
        if max(ids) >= self.vocab_size:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise InvalidRequest(
                f"The text has '{token}', which this model's tokenizer knows as one token, and the "
                "model itself does not.",
                param=param,
            )
        if len(ids) >= self.context_length:
            raise ContextLengthExceeded(
                f"This model's context is {self.context_length} tokens, prompt and answer "
                f"together; the prompt has {len(ids)}.",
                param=param,
            )
        return tuple(ids)
