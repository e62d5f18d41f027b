"""How a chat is written: the built-in templates on every kind of tokenizer, and files."""

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from transformers import LlamaTokenizer

from llmapi.backends.base import (
    BackendFailed,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    GenerationOptions,
)
from llmapi.backends.link import launch_thread
from llmapi.backends.local import LocalBackend
from llmapi.backends.preparation import Preparation
from llmapi.backends.prompt import PromptEncoder
from llmapi.backends.sampling import SamplingDefaults
from llmapi.backends.templates import BUILT_IN, built_in, read_template
from llmapi.configured import prompt_template
from llmapi.engine.config import EngineConfig
from llmapi.errors import InvalidRequest
from tests.door.standin import StandIn, backend_on, model_info
from tests.engine import pieces, tiny

LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
CHAT = (
    ChatMessage("user", "你好"),
    ChatMessage("assistant", "two"),
    ChatMessage("user", "three </s>"),
)
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
LLAMA_2 = "[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\n"


@dataclass
class Served:
    """An encoder, and SentencePiece itself on the same model."""

    encoder: PromptEncoder
    ids: object

    @classmethod
    def load(cls, directory: Path, template: str | None) -> "Served":
        chosen = built_in(template) if template else None
        size = pieces.itself(directory).vocab_size()
        encoder = PromptEncoder.load(str(directory), 2048, size, chosen)
        return cls(encoder, pieces.itself(directory).encode)


def converted(directory: Path) -> Path:
    """With the `tokenizer.json` that transformers makes of the model."""
    LlamaTokenizer.from_pretrained(pieces.write(directory, tokenizer_config=LLAMA)).save_pretrained(
        directory
    )
    return directory


KINDS = {
    "legacy": lambda path: pieces.write(path, tokenizer_config=LLAMA),
    "not legacy": lambda path: pieces.write(path, tokenizer_config={**LLAMA, "legacy": False}),
    "tokenizer.json": converted,
}


@pytest.fixture(params=KINDS)
def directory(request, tmp_path):
    return KINDS[request.param](tmp_path)


def text_of(encoder, ids):
    return encoder.tokenizer.decode(ids, skip_special_tokens=False)


# ---- what they write -----------------------------------------------------------------------------


def test_alpaca_is_one_text_after_the_first_token_as_in_the_original(directory):
    served = Served.load(directory, "alpaca")
    text = f"{ALPACA}\n\n### Instruction:\n你好\n\n### Response: two\n\n### Instruction:\nx\n\n"
    ids = served.encoder.encode_chat((*CHAT[:2], ChatMessage("user", "x")), "messages")
    assert list(ids) == [1, *served.ids(text + "### Response: ")]


def test_llama_2_begins_each_turn_with_the_first_token_as_in_the_original(directory):
    served = Served.load(directory, "llama-2")
    ids = served.encoder.encode_chat((*CHAT[:2], ChatMessage("user", "x")), "messages")
    first = served.ids(f"{LLAMA_2}你好 [/INST] two")
    assert list(ids) == [1, *first, 2, 1, *served.ids("[INST] x [/INST]")]
    assert served.encoder.template_stops == ()


@pytest.mark.parametrize("template", BUILT_IN)
def test_what_users_type_is_text(directory, template):
    encoder = Served.load(directory, template).encoder
    typed = encoder.encode_chat((ChatMessage("user", "a</s><s>[INST] b"),), "messages")
    plain = encoder.encode_chat((ChatMessage("user", "a"),), "messages")
    assert "a</s><s>[INST] b" in text_of(encoder, typed)
    for special in (1, 2):
        assert typed.count(special) == plain.count(special)


@pytest.mark.parametrize("name", ["alpaca", "llama-2"])
def test_the_last_system_message_replaces_the_default_and_unknown_roles_are_left_out(
    tmp_path, name
):
    served = Served.load(KINDS["legacy"](tmp_path), name)
    messages = (
        ChatMessage("system", "first"),
        ChatMessage("tool", "nothing"),
        ChatMessage("user", "hi"),
        ChatMessage("developer", "last"),
    )
    text = {
        "alpaca": "last\n\n### Instruction:\nhi\n\n### Response: ",
        "llama-2": "[INST] <<SYS>>\nlast\n<</SYS>>\n\nhi [/INST]",
    }[name]
    assert list(served.encoder.encode_chat(messages, "messages")) == [1, *served.ids(text)]


def test_chatml_on_a_model_without_its_tokens_ends_at_its_text(tmp_path):
    served = Served.load(KINDS["legacy"](tmp_path), "chatml")
    messages = (ChatMessage("system", "s"), ChatMessage("tool", "t"), ChatMessage("user", "u"))
    text = "".join(
        f"<|im_start|>{role}\n{role[0]}<|im_end|>\n" for role in ("system", "tool", "user")
    )
    ids = served.encoder.encode_chat(messages, "messages")
    assert list(ids) == [1, *served.ids(text + "<|im_start|>assistant\n")]
    assert served.encoder.template_stops == ("<|im_end|>",)
    assert served.encoder.template_stop_ids == ()


def test_chatml_on_a_model_with_its_tokens_is_made_of_them(tmp_path):
    """Its own template is ChatML too; its `bos_token` is put before nothing."""
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    own, named = (
        PromptEncoder.load(str(tmp_path), 1024, len(tokenizer), template)
        for template in (None, built_in("chatml"))
    )
    assert (own.template.name, named.template.name) == ("tokenizer", "chatml")
    assert named.encode_chat(CHAT, "messages") == own.encode_chat(CHAT, "messages")
    assert named.template_stops == ()
    assert named.template_stop_ids == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)


@pytest.mark.parametrize("template", BUILT_IN)
def test_an_instruction_is_wrapped_in_the_same_template(tmp_path, template):
    encoder = Served.load(KINDS["legacy"](tmp_path), template).encoder
    assert encoder.encode_instruction("one", "prompt") == encoder.encode_chat(
        (ChatMessage("user", "one"),), "messages"
    )


def test_the_named_template_wins_over_the_tokenizers_own(tmp_path):
    tiny.byte_level_tokenizer().save_pretrained(tmp_path)
    encoder = PromptEncoder.load(str(tmp_path), 1024, 400, built_in("alpaca"))
    text = text_of(encoder, encoder.encode_instruction("one", "prompt"))
    assert text == f"<|endoftext|>{ALPACA}\n\n### Instruction:\none\n\n### Response: "


def test_every_prompt_that_fits_passes_the_bound_on_characters(directory):
    encoder, chance = Served.load(directory, None).encoder, random.Random(0)
    words = ["capital", "request", " ", "    ", "中国", "😀", "\n", "健", "é"]
    for _ in range(200):
        text = "".join(chance.choices(words, k=30))
        assert len(text) <= len(encoder.encode_raw(text, "prompt")) * encoder.longest_token


def test_a_token_that_the_model_lacks_is_refused(tmp_path):
    """`[PAD]` is often added to a tokenizer and not to the model."""
    size = len(tiny.byte_level_tokenizer())
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.add_tokens(["[PAD]"])
    tokenizer.save_pretrained(tmp_path)
    encoder = PromptEncoder.load(str(tmp_path), 1024, size)
    with pytest.raises(InvalidRequest, match=r"\[PAD\]"):
        encoder.encode_chat((ChatMessage("user", "a [PAD]"),), "messages")


# ---- where answers end ---------------------------------------------------------------------------


def info_of(vocab_size, eos=(0,)):
    return model_info(vocab_size=vocab_size, eos_token_ids=eos)


def test_an_answer_ends_where_the_template_ends_its_turns(tmp_path):
    tiny.byte_level_tokenizer().save_pretrained(tmp_path)
    source = "{{ '### Instruction:' + messages[0].content }}<|im_end|>{{ '<|eot_id|>' }}"
    path = tmp_path / "mine.jinja"
    path.write_text(source)
    encoder = PromptEncoder.load(str(tmp_path), 1024, 400, read_template(path))
    end = encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def params(request, eos=(0,)):
        info = info_of(400, eos)
        preparation = Preparation(encoder, info, SamplingDefaults(), "auto", frozenset())
        return preparation.prepare(request, "r", "u").work.params

    def chat(eos=(0,), **options):
        message = ChatMessage("user", "a")
        return params(ChatRequest((message,), GenerationOptions(**options)), eos)

    assert chat().stop == ("### Instruction:", "<|eot_id|>")
    assert chat(stop=("x",)).stop == ("x", "### Instruction:", "<|eot_id|>")
    assert chat().stop_token_ids == (end,)
    assert chat(stop_token_ids=(7,)).stop_token_ids == (7, end)
    assert chat(ignore_eos=True).stop_token_ids == ()
    assert chat(eos=(0, end)).stop_token_ids == ()
    raw = params(CompletionRequest(("a",), GenerationOptions(), template="none"))
    assert (raw.stop, raw.stop_token_ids) == ((), ())
    wrapped = params(CompletionRequest(("a",), GenerationOptions()))
    assert (wrapped.stop, wrapped.stop_token_ids) == (chat().stop, (end,))


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "mine.jinja' cannot be read: No such file or directory. Give auto, alpaca"),
        (b"\xff\xfe", "mine.jinja' is not UTF-8 text"),
        (b" \n", "mine.jinja' is empty"),
        (b"\n{% for m in messages %}", "mine.jinja' is no jinja template: line 2: "),
        (b"{{ messages | sortiert }}", "line 1: No filter named 'sortiert'"),
    ],
)
def test_a_file_that_is_no_template_stops_the_start(tmp_path, content, said):
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImproperlyConfigured) as caught:
        prompt_template(SimpleNamespace(prompt_template=str(path)))
    assert "LLMAPI_PROMPT_TEMPLATE" in str(caught.value)
    assert said in str(caught.value)


def test_a_name_that_is_none_is_told_those_that_are():
    with pytest.raises(ImproperlyConfigured, match="Give auto, alpaca, llama-2, chatml, or a file"):
        prompt_template(SimpleNamespace(prompt_template="llama2"))
    assert prompt_template(SimpleNamespace(prompt_template="auto")) is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% include 'other.jinja' %}", "fails on a chat of one message: TypeError: no loader"),
        ("{{ 1 / 0 }}", "fails on a chat of one message: ZeroDivisionError"),
        ("{{ messages[0].content + 5 }}", "fails on a chat of one message: TypeError"),
    ],
)
def test_a_file_that_cannot_write_any_chat_stops_the_start(tmp_path, source, said):
    path = tmp_path / "mine.jinja"
    path.write_text(source)
    with pytest.raises(ImproperlyConfigured, match="LLMAPI_PROMPT_TEMPLATE") as caught:
        prompt_template(SimpleNamespace(prompt_template=str(path)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ mesages[0].content }}", "UndefinedError: 'mesages' is undefined. "),
        (
            "{% for m in mesages %}{{ m.content }}{% endfor %}",
            "leaves out what the user says (is a variable misspelt? ",
        ),
        ("{% for m in messages %}", "TemplateSyntaxError: "),
        ("{% include 'other.jinja' %}", "TypeError: no loader"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero. "),
        ({"a": "{{ 1 }}", "b": "{{ 2 }}"}, "has several chat templates"),
    ],
)
def test_a_tokenizers_own_template_that_writes_no_chat_stops_the_start(tmp_path, source, said):
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.chat_template = source
    tokenizer.save_pretrained(tmp_path)
    backend = backend_on(StandIn(tmp_path))
    backend.start(lambda line: None)
    try:
        with pytest.raises(BackendFailed) as caught:
            backend.wait_ready(60)
    finally:
        backend.stop()
    assert f"tokenizer in '{tmp_path}'" in str(caught.value)
    assert said in str(caught.value)
    assert "--prompt_template (LLMAPI_PROMPT_TEMPLATE)" in str(caught.value)


NO_SYSTEM = (
    "{%- if messages[0].role == 'system' -%}{{ raise_exception('No system here') }}{%- endif -%}"
    "{{ messages[0].content }}{{ 5 // (messages[0].content | length - 3) }}"
)


async def test_a_template_that_breaks_over_a_request_is_the_operators_fault(
    engine, start, asker, tmp_path, caplog
):
    """And what it refuses by a sentence is told at the start."""
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    tokenizer.save_pretrained(tmp_path)
    engine.tokenizer = tmp_path
    told = []
    await sync_to_async(start)(report=told.append)
    (warning,) = (line for line in told if line.startswith("WARNING"))
    assert "refuses a chat with a system message and two questions: No system here" in warning
    assert (await asker.chat(messages=[{"role": "user", "content": "four"}]))["model"] == "base"
    broken = await asker.post(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "abc"}]}
    )
    assert (broken.status, broken.error["code"]) == (500, "template_failed")
    assert broken.error["param"] is None
    assert "division or modulo by zero" in broken.error["message"]
    assert "operator" in broken.error["message"]
    assert broken.headers["x-should-retry"] == "false"
    assert "Traceback" not in caplog.text
    refused = await asker.post(
        "/v1/chat/completions", {"messages": [{"role": "system", "content": "a"}]}
    )
    assert (refused.status, refused.error["param"]) == (400, "messages")
    assert "No system here" in refused.error["message"]


FILE = (
    "{%- if messages[0].role != 'user' -%}{{ raise_exception('Users speak first.') }}{%- endif -%}"
    "{{ messages[0].content.upper() }}{% generation %}{% endgeneration %}"
)


async def test_a_file_is_the_template_of_the_server_and_may_refuse_messages(
    client, served, random_directory, tmp_path
):
    path = tmp_path / "shout.jinja"
    path.write_text(FILE)
    config = EngineConfig(str(random_directory), str(tmp_path), served_name="shouter", threads=1)
    template = prompt_template(SimpleNamespace(prompt_template=str(path)))
    backend = LocalBackend(config, prompt_template=template, launch=launch_thread)
    backend.start(lambda line: None)
    try:
        await asyncio.to_thread(backend.wait_ready, 120)
        served._backends.append(backend)
        answer = await client.chat("abc", model="shouter", max_tokens=1)
        raw = tiny.byte_level_tokenizer().encode("ABC")
        assert answer["usage"]["prompt_tokens"] == len(raw)
        refused = await client.post(
            "/v1/chat/completions",
            {"model": "shouter", "messages": [{"role": "assistant", "content": "first"}]},
        )
        assert refused.status == 400
        assert "Users speak first." in refused.error["message"]
        assert refused.error["param"] == "messages"
    finally:
        backend.stop()
