"""Log probabilities: the model's own, for every token that belongs to the text, once, in order."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from driving import Reference, Told, ask, drive, make_engine, some_prompt

from llmapi.engine import logprobs
from llmapi.engine.engine import BROKEN_NUMBERS, Engine
from llmapi.engine.messages import FinishReason, TokenLogprob


def tokens_of(told: list[TokenLogprob]) -> list[int]:
    return [one.token for one in told]


def check_against_the_model(
    reference: Reference, prompt: list[int], told: list[TokenLogprob], top: int
) -> None:
    expected = reference.logprobs([*prompt, *tokens_of(told)])[len(prompt) - 1 :]
    for row, one in zip(expected, told, strict=False):
        assert one.logprob == pytest.approx(float(row[one.token]), abs=1e-4)
        best = row.sort(descending=True).values[:top].tolist()
        assert [other.logprob for other in one.top] == pytest.approx(best, abs=1e-4)
        # Near-equal ones may come in another order.
        own = [float(row[other.token]) for other in one.top]
        assert own == pytest.approx(best, abs=1e-4)
        assert len({other.token for other in one.top}) == top


@pytest.mark.parametrize("top", [0, 1, 5, 400, 500])
def test_logprobs_are_those_of_the_model_whatever_bends_the_draw(
    engine: Engine, reference: Reference, top: int
) -> None:
    prompt = some_prompt(3, 20)
    bent = {
        "do_sample": True,
        "temperature": 1.7,
        "seed": 5,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.5,
        "logit_bias": ((7, 5.0),),
    }
    plain = ask("plain", some_prompt(4, 9), logprobs=3)
    told = drive(engine, ask("a", prompt, logprobs=top, **bent), plain, ask("none", prompt))
    assert len(told.logprobs["a", 0]) == 16
    check_against_the_model(reference, prompt, told.logprobs["a", 0], min(top, 400))
    check_against_the_model(reference, some_prompt(4, 9), told.logprobs["plain", 0], 3)
    assert told.logprobs["none", 0] == []


def test_the_pieces_are_the_tokens_bytes_and_together_the_text(reciter_dir: Path) -> None:
    """Characters of several tokens, and the end token told last with no bytes of its own."""
    engine = make_engine(reciter_dir)
    told = drive(engine, ask("a", reciter_prompt(reciter_dir), max_tokens=200, logprobs=2))
    pieces = told.logprobs["a", 0]
    assert b"".join(one.piece for one in pieces).decode() == told.text("a") == tiny.RECITAL
    assert len(pieces) == told.finished["a", 0].completion_tokens
    assert any(len(one.piece) == 1 and one.piece[0] > 127 for one in pieces)
    assert pieces[-1].piece == b""


def reciter_prompt(directory: Path) -> list[int]:
    tokenizer = Reference(directory).tokenizer
    return list(tokenizer.encode("<|im_start|>assistant\n"))


def test_tokens_come_with_the_text_that_they_begin(reciter_dir: Path) -> None:
    """At no time is a token told whose text is held back, nor text without its tokens."""
    engine = make_engine(reciter_dir)
    request = ask("a", reciter_prompt(reciter_dir), max_tokens=200, logprobs=0, stop=("鸟X", "🌸Y"))
    engine.add(request)
    text, data, deltas = "", b"", 0
    while engine.has_work:
        for event in engine.step().events:
            if event.request_id == "a" and hasattr(event, "text"):
                deltas += bool(event.text)
                text += event.text
                data += b"".join(one.piece for one in event.logprobs)
                assert data.decode(errors="ignore") == text
    assert text == tiny.RECITAL
    assert deltas > 10


@pytest.mark.parametrize("stop", ["啼鸟", "。🌸", "觉", "Grüße"])
def test_tokens_of_a_cut_off_stop_string_are_not_told(reciter_dir: Path, stop: str) -> None:
    engine = make_engine(reciter_dir)
    prompt = reciter_prompt(reciter_dir)
    request = ask("a", prompt, max_tokens=200, logprobs=0, stop=(stop,))
    told = drive(engine, request)
    before = tiny.RECITAL.partition(stop)[0]
    assert told.text("a") == before
    data = b"".join(one.piece for one in told.logprobs["a", 0])
    # The last token told may reach into the stop string, but no token begins there.
    assert data.startswith(before.encode())
    assert before.encode().startswith(b"".join(one.piece for one in told.logprobs["a", 0][:-1]))
    assert len(told.logprobs["a", 0]) < told.finished["a", 0].completion_tokens


def test_half_a_character_at_the_end_is_no_text_but_its_tokens_are_told(reciter_dir: Path) -> None:
    engine = make_engine(reciter_dir)
    for max_tokens in range(1, 8):
        request = ask("a", reciter_prompt(reciter_dir), max_tokens=max_tokens, logprobs=0)
        told = drive(engine, request)
        assert len(told.logprobs["a", 0]) == max_tokens
        assert told.delta_tokens["a", 0] == max_tokens
        data = b"".join(one.piece for one in told.logprobs["a", 0])
        assert data.decode(errors="ignore") == told.text("a")


# ---- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 150])
@pytest.mark.parametrize("max_tokens", [0, 1, 6])
def test_prompt_logprobs_are_those_of_the_model_over_chunks(
    engine: Engine, reference: Reference, length: int, max_tokens: int
) -> None:
    prompt = some_prompt(length, length)
    request = ask("a", prompt, max_tokens=max_tokens, logprobs=2, prompt_logprobs=True)
    told = drive(engine, ask("other", some_prompt(1, 30)), request)
    first, *rest = told.prompt_logprobs["a", 0]
    assert (first.token, first.logprob, first.top) == (prompt[0], None, ())
    assert tokens_of(rest) == prompt[1:]
    check_against_the_model(reference, prompt[:1], rest, 2)
    finish = told.finished["a", 0]
    assert (finish.prompt_tokens, finish.completion_tokens) == (length, max_tokens)
    assert finish.reason is FinishReason.LENGTH
    assert len(told.logprobs.get(("a", 0), [])) == max_tokens
    assert told.text("other") == reference.continue_text(some_prompt(1, 30), 16)[0]
    assert not told.prompt_logprobs.keys() - {("a", 0)}


def test_a_prompt_is_scored_in_slices_of_bounded_size(
    tiny_dir: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "SLICE_NUMBERS", 400 * 7)
    engine = make_engine(tiny_dir)
    head, rows = engine._scorer._head, []

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return head(hidden)

    monkeypatch.setattr(engine._scorer, "_head", counting)
    prompt = some_prompt(3, 90)
    told = drive(engine, ask("a", prompt, max_tokens=0, logprobs=1, prompt_logprobs=True))
    assert max(rows) == 7
    assert sum(rows) == 89
    check_against_the_model(reference, prompt[:1], list(told.prompt_logprobs["a", 0][1:]), 1)


def test_a_greedy_continuation_of_the_prompt_is_found_to_be_greedy(
    engine: Engine, reference: Reference
) -> None:
    """lm-eval asks whether each token's number equals the best one's exactly."""
    prompt = some_prompt(3, 9)
    whole = prompt + reference.generate(prompt, 12, do_sample=False)[0]
    told = drive(engine, ask("a", whole, max_tokens=1, logprobs=1, prompt_logprobs=True))
    for one in told.prompt_logprobs["a", 0][len(prompt) :]:
        assert one.logprob == one.top[0].logprob


def test_nothing_is_drawn_with_max_tokens_0_and_the_cache_is_free_again(engine: Engine) -> None:
    baseline = engine.free_blocks
    told = drive(engine, ask("a", some_prompt(1, 1024), max_tokens=0))
    finish = told.finished["a", 0]
    assert (finish.completion_tokens, finish.reason) == (0, FinishReason.LENGTH)
    assert told.text("a") == ""
    assert engine.free_blocks == baseline


def test_broken_numbers_in_a_scored_prompt_fail_that_request_alone(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir)
    with torch.no_grad():
        engine.runner.network.embedding[399] = torch.nan
    params: dict[str, Any] = {"logprobs": 1, "prompt_logprobs": True, "max_tokens": 0}
    told = drive(
        engine,
        ask("sick", [5, 399, 6, 7], n=2, **params),
        ask("well", some_prompt(1, 20, vocab=399), **params),
    )
    assert told.failed == {"sick": BROKEN_NUMBERS}
    assert len(told.prompt_logprobs["well", 0]) == 20


# ---- computed again ------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 3, 5, 12])
def test_a_sequence_that_is_computed_again_goes_on_as_if_nothing_had_happened(
    engine: Engine, after: int
) -> None:
    """As after a preemption: what it holds in the cache is lost, its tokens are not."""
    request = ask(
        "a",
        some_prompt(3, 150),
        max_tokens=24,
        do_sample=True,
        temperature=1.2,
        seed=6,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        logprobs=1,
        prompt_logprobs=True,
    )
    undisturbed = drive(engine, request)
    engine.add(request)
    told = Told()
    for _ in range(after):
        told.hear(engine.step())
    for sequence in engine._live["a"]:
        sequence.computed = 0
    drive(engine, told=told)
    assert told.text("a") == undisturbed.text("a")
    for mine, theirs in (
        (told.logprobs["a", 0], undisturbed.logprobs["a", 0]),
        (told.prompt_logprobs["a", 0], undisturbed.prompt_logprobs["a", 0]),
    ):
        assert tokens_of(list(mine)) == tokens_of(list(theirs))
        numbers = [one.logprob for one in theirs if one.logprob is not None]
        assert [one.logprob for one in mine if one.logprob is not None] == pytest.approx(
            numbers, abs=1e-4
        )


def test_prompt_logits_are_needed_until_they_are_known(engine: Engine) -> None:
    engine.add(ask("a", some_prompt(3, 150), max_tokens=9, logprobs=1, prompt_logprobs=True))
    engine.add(ask("b", some_prompt(3, 20), max_tokens=9, logprobs=1))
    (asking,), (plain,) = engine._live["a"], engine._live["b"]
    seen = []
    for _ in range(4):
        engine.step()
        seen.append(asking.needs_prompt_logits)
        assert not plain.needs_prompt_logits
    assert seen == [True, True, False, False]
