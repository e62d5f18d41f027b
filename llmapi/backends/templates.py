"""How a chat is written for the model: the built-in templates, and those of operators."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError

from llmapi.engine.vocabulary import TURN_ENDS

ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
LLAMA_2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"

# Chats are `messages`; `bos_token` and `eos_token` are the tokenizer's. `space` is what must follow
# `bos_token` so that the text behind it is encoded as the beginning of a text; `puts_bos`: whether
# the tokenizer itself puts `bos_token` before every text.

# Of several system messages the last one counts, wherever it stands, here and in LLAMA_2.
ALPACA = (
    "{%- set ns = namespace(system='" + ALPACA_SYSTEM + "') -%}"
    "{%- for m in messages if m.role == 'system' -%}"
    "{%- set ns.system = m.content -%}{%- endfor -%}"
    "{{ bos_token + space if bos_token }}"
    "{{ ns.system + '\n\n' }}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{{ '### Instruction:\n' + m.content + '\n\n' }}"
    "{%- elif m.role == 'assistant' -%}{{ '### Response: ' + m.content + '\n\n' }}"
    "{%- endif -%}{%- endfor -%}"
    "{{ '### Response: ' }}"
)
LLAMA_2 = (
    "{%- set ns = namespace(system='" + LLAMA_2_SYSTEM + "', turns=0) -%}"
    "{%- for m in messages if m.role == 'system' -%}"
    "{%- set ns.system = m.content -%}{%- endfor -%}"
    "{%- set bos = bos_token + space if bos_token else '' -%}"
    "{{ bos }}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}"
    "{{ bos if ns.turns }}"
    "{{ '[INST] ' + ('' if ns.turns else '<<SYS>>\n' + ns.system + '\n<</SYS>>\n\n') }}"
    "{{ m.content + ' [/INST]' }}"
    "{%- set ns.turns = ns.turns + 1 -%}"
    "{%- elif m.role == 'assistant' -%}{{ ' ' + m.content + (eos_token or '') }}"
    "{%- endif -%}{%- endfor -%}"
)
# Many tokenizers made for ChatML have a `bos_token` that they do not use, or one that opens a turn.
CHATML = (
    "{{ bos_token + space if puts_bos }}"
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{{ '<|im_start|>assistant\n' }}"
)

BUILT_IN = {"alpaca": ALPACA, "llama-2": LLAMA_2, "chatml": CHATML}
MARKS = ("### Instruction:", *TURN_ENDS)
"""What templates put before or after a turn, and an answer ends at."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A jinja template, as transformers renders them."""

    name: str
    """`tokenizer` (its own), one of `BUILT_IN`, or a file's name."""

    source: str

    @property
    def marks(self) -> tuple[str, ...]:
        """Those of `MARKS` that it writes."""
        return tuple(mark for mark in MARKS if mark in self.source)


def built_in(name: str) -> ChatTemplate:
    return ChatTemplate(name, BUILT_IN[name])


def find_template(given: str) -> ChatTemplate | None:
    """What `LLMAPI_PROMPT_TEMPLATE` names; None: `auto`. Raises ValueError with a sentence."""
    if given == "auto":
        return None
    return built_in(given) if given in BUILT_IN else read_template(Path(given).expanduser())


def read_template(path: Path) -> ChatTemplate:
    """The template in a file, tried once to see that it works. Raises ValueError."""
    try:
        source = path.read_text(encoding="utf-8")
        # Imported here, for it takes a second.
        from transformers.utils.chat_template_utils import _compile_jinja_template

        _compile_jinja_template(source)
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not UTF-8 text.") from error
    except OSError as error:
        names = ", ".join(["auto", *BUILT_IN])
        raise ValueError(
            f"'{path}' cannot be read: {error.strerror}. Give {names}, or a file with a jinja "
            "template."
        ) from error
    except TemplateSyntaxError as error:
        raise ValueError(
            f"'{path}' is no jinja template: line {error.lineno}: {error.message}"
        ) from error
    if not source.strip():
        raise ValueError(f"'{path}' is empty.")
    try_without_tokenizer(path, source)
    return ChatTemplate(path.name, source)


def try_without_tokenizer(path: Path, source: str) -> None:
    """Raises ValueError if the template fails on a chat of one message, whatever the tokenizer.
    With the model's own it is tried again once that is there."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens: dict[str, Any] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    chat = [{"role": "user", "content": "Hello."}]
    try:
        render_jinja_template([chat], chat_template=source, add_generation_prompt=True, **tokens)
    except UndefinedError:
        pass  # it may name what only a tokenizer tells
    except Exception as error:
        if not is_refusal(error):
            raise ValueError(
                f"'{path}' fails on a chat of one message: {type(error).__name__}: {error}."
            ) from error


def is_refusal(error: Exception) -> bool:
    """Whether a template refused the messages by `raise_exception`, for which transformers raises
    this very class. All else that leaves a template is a fault in it."""
    return type(error) is TemplateError
