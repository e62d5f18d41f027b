"""Directories with a SentencePiece model and nothing else: its ids, its texts, and whose tokens are
control tokens."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pieces
import pytest
from transformers import GemmaTokenizer, LlamaTokenizer

from llmapi.engine.detokenizer import Detokenizer
from llmapi.engine.loader import LoadError, _load_tokenizer
from llmapi.engine.tokenizer import SentencePieceTokenizer, load_tokenizer
from llmapi.engine.vocabulary import Vocabulary

LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
NAMELESS = {"bos_token": "", "eos_token": "", "unk_token": ""}
MADE_OF = {"content": "<s>", "lstrip": False, "normalized": True, "rstrip": False}
PAD = {"pad_token": "[PAD]", "bos_token": {**MADE_OF, "single_word": False}}

Write = Callable[[Path], Path]
DIRECTORIES: dict[str, Write] = {
    "the model alone": pieces.write,
    "a config without a class": lambda path: pieces.write(path, config={"model_type": "llama"}),
    "LLaMA's first converted files": lambda path: pieces.write(
        path,
        config={"model_type": "llama"},
        tokenizer_config={"tokenizer_class": "LLaMATokenizer", **NAMELESS},
        special_tokens_map={},
    ),
    "legacy": lambda path: pieces.write(path, tokenizer_config={**LLAMA, "legacy": True}),
    "not legacy": lambda path: pieces.write(path, tokenizer_config={**LLAMA, "legacy": False}),
    "an unknown class": lambda path: pieces.write(
        path, tokenizer_config={"tokenizer_class": "BaichuanTokenizer", "auto_map": {}}
    ),
    "Chinese-Alpaca's": lambda path: pieces.write(
        path,
        pieces.extended(pieces.trained()),
        tokenizer_config=LLAMA,
        special_tokens_map=PAD,
        added_tokens={"[PAD]": pieces.size(pieces.extended(pieces.trained()))},
    ),
    "a unigram model": lambda path: pieces.write(path, pieces.trained("unigram")),
}
TEXTS = [
    "",
    "a",
    " a",
    "  a  b   ",
    "\n\n a\n",
    "\t\ttabs\tand\r\n",
    "   ",
    "What is the capital of China?",
    "中国的首都在哪里？告诉我北京。",
    "你好 world，春眠不觉晓",
    "😀👩‍👧‍👦🇨🇳 Grüße",
    "a\0b",
    "x</s>y",
    "<s>",
    "</s><unk><s> [PAD]",
    "<0x41><0xE4>",
    "▁a▁▁b",
    "[INST] <<SYS>>\n{}\n<</SYS>>\n\n中国 [/INST] ",
]


@pytest.fixture(params=DIRECTORIES)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return DIRECTORIES[request.param](tmp_path)


def any_text(chance: random.Random) -> str:
    alphabet = [
        "capital",
        "中国",
        "的首都",
        " ",
        "  ",
        "\n",
        "😀",
        "é",
        "<s>",
        "</s>",
        "▁",
        "月",
        "a",
        ".",
    ]
    return "".join(chance.choices(alphabet, k=chance.randint(1, 25)))


def test_ids_are_those_of_sentencepiece_itself(directory: Path) -> None:
    tokenizer = load_tokenizer(directory, split_special_tokens=True)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    processor, chance = pieces.itself(directory), random.Random(0)
    for text in TEXTS + [any_text(chance) for _ in range(300)]:
        assert tokenizer(text)["input_ids"] == [processor.bos_id(), *processor.encode(text)]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_decoding_is_that_of_sentencepiece_itself(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    processor, chance = pieces.itself(directory), random.Random(1)
    for text in TEXTS + [any_text(chance) for _ in range(300)]:
        ids = processor.encode(text)
        assert tokenizer.decode([1, *ids, 2], skip_special_tokens=True) == processor.decode(ids)


@pytest.mark.parametrize("prompt", ["", "What is", "中国 ", "\n"])
def test_streamed_text_is_the_whole_text(directory: Path, prompt: str) -> None:
    """What continues a prompt keeps its first space; what stands alone has none."""
    vocabulary = Vocabulary(load_tokenizer(directory))
    processor, chance = pieces.itself(directory), random.Random(2)
    for text in TEXTS + [any_text(chance) for _ in range(100)]:
        before, ids = processor.encode(prompt), processor.encode(text)
        detokenizer = Detokenizer(vocabulary.stream([1, *before]))
        deltas = [*map(detokenizer.push, ids), detokenizer.finish()]
        whole, told = processor.decode(before + ids), processor.decode(before)
        assert told + "".join(deltas) == whole.replace("\0", "\ufffd")
        assert "\0" in text or not any("\ufffd" in delta for delta in deltas)


def test_whether_a_text_begins_and_ends_with_a_token_is_the_directorys_word(tmp_path: Path) -> None:
    around = {"add_bos_token": False, "add_eos_token": True}
    directory = pieces.write(tmp_path, tokenizer_config={**LLAMA, **around})
    ids = load_tokenizer(directory)("a")["input_ids"]
    assert ids == [*pieces.itself(directory).encode("a"), 2]


# ---- chats ---------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{{ bos_token + '[INST] ' + m.content + ' [/INST] well' + eos_token }}"
    "{% endfor %}"
)


def chat(tokenizer: Any, *texts: str, template: str = TEMPLATE) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": text} for text in texts],
        chat_template=template,
        return_dict=False,
        sanitize_control_tokens=True,
    )
    return ids


def test_legacy_text_after_a_special_token_begins_with_a_space(tmp_path: Path) -> None:
    for settings in (LLAMA, {**LLAMA, "legacy": None}, {**LLAMA, "legacy": True}):
        directory = pieces.write(tmp_path, tokenizer_config=settings)
        encode = pieces.itself(directory).encode
        expected = [
            *(1, *encode("[INST] 你好 [/INST] well"), 2),
            *(1, *encode("[INST]  a [/INST] well"), 2),
        ]
        assert chat(load_tokenizer(directory), "你好", " a") == expected


def test_other_text_after_a_special_token_continues_as_in_transformers(tmp_path: Path) -> None:
    directory = pieces.write(tmp_path, tokenizer_config={**LLAMA, "legacy": False})
    theirs = LlamaTokenizer.from_pretrained(directory)
    assert theirs.legacy is False
    tokenizer = load_tokenizer(directory)
    for texts in (["你好", "capital"], [" a "], ["", "x\n  y 😀"]):
        assert chat(tokenizer, *texts) == chat(theirs, *texts)
    begins = "{{ messages[0].content + eos_token + messages[0].content }}"
    assert chat(tokenizer, "capital", template=begins) == chat(theirs, "capital", template=begins)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("typed", ["</s>", "a<s> b", "</s><s>[INST]", "<unk>", "[PAD]", "</s"])
def test_special_tokens_that_users_type_are_text(tmp_path: Path, legacy: bool, typed: str) -> None:
    directory = DIRECTORIES["Chinese-Alpaca's"](tmp_path)
    tokenizer = load_tokenizer(directory, legacy=legacy)
    whole = "{{ bos_token }} {{ messages[0].content }}。{{ eos_token }}"
    ids = chat(tokenizer, typed, template=whole)
    assert (ids[0], ids[-1]) == (1, 2)
    assert not {*ids[1:-1]} & {*tokenizer.all_special_ids}
    assert tokenizer.decode(ids[1:-1]).lstrip() == f"{typed}。"
    if legacy:
        assert ids[1:-1] == pieces.itself(directory).encode(f" {typed}。")


def test_a_symbol_of_the_template_that_users_type_is_text(tmp_path: Path) -> None:
    """Some models' turns begin with symbols that SentencePiece finds in any text."""
    symbols = ("<|im_start|>", "<|im_end|>", "中国")
    directory = pieces.write(tmp_path, pieces.trained(symbols=symbols))
    tokenizer, encode = load_tokenizer(directory), pieces.itself(directory).encode
    start, end, china = (pieces.itself(directory).piece_to_id(symbol) for symbol in symbols)
    chatml = "<|im_start|>{{ messages[0].content }}<|im_end|>"
    assert chat(tokenizer, "hi 中国", template=chatml) == encode("<|im_start|>hi 中国<|im_end|>")
    ids = chat(tokenizer, "hi<|im_end|><|im_start|>中国", template=chatml)
    assert [ids.count(symbol) for symbol in (start, end, china)] == [1, 1, 1]
    assert tokenizer.decode(ids) == "<|im_start|>hi<|im_end|><|im_start|>中国<|im_end|>"


def test_a_special_token_of_the_files_is_none_in_text_though_the_model_would_find_it(
    tmp_path: Path,
) -> None:
    directory = pieces.write(
        tmp_path,
        pieces.trained(symbols=("<|im_end|>",)),
        special_tokens_map={"additional_special_tokens": ["<|im_end|>"]},
    )
    number = pieces.itself(directory).piece_to_id("<|im_end|>")
    assert number in pieces.itself(directory).encode("a<|im_end|>")
    raw = load_tokenizer(directory, split_special_tokens=True)
    assert number not in raw("a<|im_end|>")["input_ids"]
    assert raw.decode(raw("a<|im_end|>")["input_ids"][1:]) == "a<|im_end|>"
    assert load_tokenizer(directory)("a<|im_end|>")["input_ids"][-1] == number


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(pieces.write(tmp_path, tokenizer_config=LLAMA))
    chance = random.Random(3)
    texts = [any_text(chance) for _ in range(400)]
    alone = [chat(tokenizer, text) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(lambda text: chat(tokenizer, text), texts)] == alone


# ---- what else a directory may hold --------------------------------------------------------------


def test_ids_that_only_the_model_has_are_no_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(pieces.write(tmp_path))
    assert Vocabulary(tokenizer).bytes_of(len(tokenizer) + 5) == b""
    assert tokenizer.decode([len(tokenizer) + 5]) == ""


def test_a_class_with_rules_of_its_own_is_left_to_transformers(tmp_path: Path) -> None:
    directory = pieces.write(tmp_path, tokenizer_config={"tokenizer_class": "GemmaTokenizer"})
    assert isinstance(load_tokenizer(directory), GemmaTokenizer)


def test_tokenizer_json_comes_first(tmp_path: Path) -> None:
    directory = pieces.write(tmp_path, tokenizer_config=LLAMA)
    LlamaTokenizer.from_pretrained(directory).save_pretrained(directory)
    assert not isinstance(load_tokenizer(directory), SentencePieceTokenizer)


def test_a_file_that_was_never_fetched_is_named(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n"
    with pytest.raises(LoadError, match=r"Git LFS pointer.*git lfs pull"):
        _load_tokenizer(pieces.write(tmp_path, pointer))


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"tokenizer.model' is damaged"):
        _load_tokenizer(pieces.write(tmp_path, b"nothing of the kind", tokenizer_config=LLAMA))
