"""What reaches the client: whole characters, no stop strings, no NUL."""

import random
from pathlib import Path
from typing import Any

import pytest
import tiny
from driving import Reference, ask, drive, make_engine
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from llmapi.engine.detokenizer import Detokenizer
from llmapi.engine.messages import FinishReason
from llmapi.engine.vocabulary import ByteStream, Vocabulary, WindowStream

TEXTS = [tiny.RECITAL, "plain words, and more", "  two  spaces ", "👩‍👩‍👧‍👦🇨🇳", "a\n\tb", "é" * 30]


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    return tiny.byte_level_tokenizer()


@pytest.fixture(scope="module")
def byte_fallback() -> PreTrainedTokenizerFast:
    return tiny.byte_fallback_tokenizer()


def stream_all(tokenizer: Any, tokens: list[int], prompt: list[int], **kwargs: Any) -> list[str]:
    detokenizer = Detokenizer(Vocabulary(tokenizer).stream(prompt), **kwargs)
    return [*(detokenizer.push(t) for t in tokens), detokenizer.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_deltas_add_up_to_the_whole_decode(
    byte_level: PreTrainedTokenizerFast, text: str
) -> None:
    deltas = stream_all(byte_level, byte_level.encode(text), prompt=[5, 6])
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prompt", ["", "the", "the answer is "])
def test_byte_fallback_deltas_continue_the_prompt_as_one_decode_would(
    byte_fallback: PreTrainedTokenizerFast, text: str, prompt: str
) -> None:
    before = [1, *byte_fallback.encode(prompt, add_special_tokens=False)] if prompt else [1]
    tokens = byte_fallback.encode(text, add_special_tokens=False)
    whole = byte_fallback.decode(before + tokens, skip_special_tokens=True)
    expected = whole[len(byte_fallback.decode(before, skip_special_tokens=True)) :]
    deltas = stream_all(byte_fallback, tokens, before)
    assert "".join(deltas) == expected
    assert not any("\ufffd" in delta for delta in deltas)


def test_special_tokens_are_not_text(byte_level: PreTrainedTokenizerFast) -> None:
    tokens = byte_level.encode("a<|im_start|>b<|im_end|>")
    assert "".join(stream_all(byte_level, tokens, [5])) == "ab"


def test_an_added_token_that_is_not_special_is_text(byte_level: PreTrainedTokenizerFast) -> None:
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.add_tokens(["<tool 工具>"])
    tokens = tokenizer.encode("x<tool 工具>y")
    assert "".join(stream_all(tokenizer, tokens, [5])) == "x<tool 工具>y"


def bytes_as_tokens(tokenizer: PreTrainedTokenizerFast, data: bytes) -> list[int]:
    alphabet = Vocabulary(tokenizer)
    single = {
        alphabet.bytes_of(t): t for t in range(len(tokenizer)) if len(alphabet.bytes_of(t)) == 1
    }
    return [single[bytes([byte])] for byte in data]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_invalid_bytes_become_replacement_characters_without_stalling(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    data = "好😀".encode() + b"\xff\x80" + b"ab" + b"\xe5\xa5" + "c好".encode()
    deltas = stream_all(tokenizer, bytes_as_tokens(tokenizer, data), [5])
    assert "".join(deltas) == data.decode(errors="replace")
    assert deltas[2] == "好"
    assert deltas[7] == "\ufffd"  # at once: nothing can make this byte valid


def test_half_a_character_at_the_end_is_dropped(byte_level: PreTrainedTokenizerFast) -> None:
    tokens = bytes_as_tokens(byte_level, "ok😀".encode()[:-1])
    assert "".join(stream_all(byte_level, tokens, [5])) == "ok"


def test_nul_is_replaced(byte_level: PreTrainedTokenizerFast) -> None:
    tokens = bytes_as_tokens(byte_level, b"a\0b")
    assert "".join(stream_all(byte_level, tokens, [5])) == "a\ufffdb"


def test_each_token_costs_the_same_late_in_a_long_answer(
    byte_level: PreTrainedTokenizerFast,
) -> None:
    vocabulary = Vocabulary(byte_level)
    calls: list[int] = []
    stream = ByteStream(lambda t: calls.append(t) or vocabulary.bytes_of(t), strip_space=False)
    detokenizer = Detokenizer(stream, ("never",))
    tokens = byte_level.encode(tiny.RECITAL) * 50
    assert "".join(map(detokenizer.push, tokens)) == tiny.RECITAL * 50
    assert len(calls) == len(tokens)


def word_piece() -> PreTrainedTokenizerFast:
    words = ["[UNK]", "hello", "##s", "world", "good", "##by", "##e"]
    model = models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_any_other_tokenizer_streams_through_a_window() -> None:
    tokenizer = word_piece()
    assert isinstance(Vocabulary(tokenizer).stream([1]), WindowStream)
    prompt, tokens = [1], [3, 4, 5, 6, 1, 2] * 20
    whole = tokenizer.decode(prompt + tokens)[len(tokenizer.decode(prompt)) :]
    assert "".join(stream_all(tokenizer, tokens, prompt)) == whole


def test_the_window_lets_half_characters_wait_but_not_for_ever() -> None:
    def decode(tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    stream = WindowStream(decode, [])
    texts = [stream.push(byte) for byte in "é好".encode() + b"\xff" * 20]
    assert texts[:5] == ["", "é", "", "", "好"]
    assert any(texts[5:16])
    assert stream.finish() == ""


class Letters:
    """A text stream whose tokens are pieces of text."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def push(self, token: int) -> str:
        return self._pieces[token]

    def finish(self) -> str:
        return ""


def stopped_text(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, bool]:
    detokenizer = Detokenizer(Letters(pieces), stop)
    text = ""
    for token in range(len(pieces)):
        text += detokenizer.push(token)
        if detokenizer.stopped:
            return text, True
    return text + detokenizer.finish(), False


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["Hello wo", "rld and on"], ("world",), ("Hello ", True)),
        (["ab", "ab", "ac"], ("abac",), ("ab", True)),
        (["say ST", "O now"], ("STOP",), ("say STO now", False)),
        (["say ST", "O"], ("STOP",), ("say STO", False)),
        (["one two three"], ("three", "two"), ("one ", True)),
        (["STOP"], ("STOP",), ("", True)),
        (["a", "b", "c", "d"], ("abcdef", "cd"), ("ab", True)),
        (["abcdef"], ("abcdef", "cd"), ("ab", True)),
        (["好", "的，停"], ("的，",), ("好", True)),
        (["x\n", "\n", "y"], ("\n\n",), ("x", True)),
    ],
)
def test_text_ends_before_the_first_stop_string(
    pieces: list[str], stop: tuple[str, ...], expected: tuple[str, bool]
) -> None:
    assert stopped_text(pieces, stop) == expected


def test_where_tokens_begin_and_end_makes_no_difference_to_stop_strings() -> None:
    chance = random.Random(1)
    for _ in range(500):
        text = "".join(chance.choice("ab") for _ in range(30))
        stop = tuple(
            "".join(chance.choice("ab") for _ in range(chance.randint(2, 6))) for _ in range(2)
        )
        by_letter = stopped_text(list(text), stop)
        pieces, rest = [], text
        while rest:
            size = chance.randint(1, 7)
            pieces.append(rest[:size])
            rest = rest[size:]
        assert stopped_text(pieces, stop) == by_letter
        assert not any(s in by_letter[0] for s in stop)


def test_chinese_and_emoji_split_over_tokens_stream_whole(reciter_dir: Path) -> None:
    engine, reference = make_engine(reciter_dir), Reference(reciter_dir)
    messages = [{"role": "user", "content": "你好！"}]
    prompt = reference.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    told = drive(engine, ask("a", prompt, max_tokens=300))
    assert told.text("a") == tiny.RECITAL
    assert told.finished["a", 0].reason is FinishReason.STOP
    assert (
        told.finished["a", 0].completion_tokens == len(reference.tokenizer.encode(tiny.RECITAL)) + 1
    )
    assert not any("\ufffd" in delta for delta in told.deltas["a", 0])
    for cut in range(1, 60):
        short = drive(engine, ask("a", prompt, max_tokens=cut))
        assert tiny.RECITAL.startswith(short.text("a"))
        assert short.finished["a", 0].reason is FinishReason.LENGTH


def test_a_stop_string_ends_the_choice_with_reason_stop(reciter_dir: Path) -> None:
    engine, reference = make_engine(reciter_dir), Reference(reciter_dir)
    prompt = reference.tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    told = drive(engine, ask("a", prompt, max_tokens=300, stop=("花落", "😀")))
    assert told.text("a") == tiny.RECITAL[: tiny.RECITAL.index("花落")]
    assert told.finished["a", 0].reason is FinishReason.STOP


def test_a_byte_fallback_model_streams_what_generate_says(fallback_dir: Path) -> None:
    engine, reference = make_engine(fallback_dir), Reference(fallback_dir)
    prompt = [1, *reference.tokenizer.encode("the quick dog", add_special_tokens=False)]
    told = drive(engine, ask("a", prompt, max_tokens=60))
    (tokens,) = reference.generate(prompt, 60, do_sample=False)
    spelled = map(Vocabulary(reference.tokenizer).bytes_of, tokens)
    assert told.text("a").rstrip("\ufffd") == b"".join(spelled).decode(errors="replace").replace(
        "\0", "\ufffd"
    ).rstrip("\ufffd")
