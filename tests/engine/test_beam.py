"""Beam search between steps: transformers' own answers, and nobody hurt by it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driving import Reference, Told, ask, drive, make_engine, some_prompt

from llmapi.engine.engine import BROKEN_NUMBERS, Engine
from llmapi.engine.messages import FinishReason


@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search_equals_generate(engine: Engine, reference: Reference, beams: int) -> None:
    prompt = some_prompt(3, 20)
    told = drive(engine, ask("a", prompt, num_beams=beams, n=beams, max_tokens=15))
    expected = reference.generate(
        prompt, 15, do_sample=False, num_beams=beams, num_return_sequences=beams
    )
    for index, tokens in enumerate(expected):
        assert told.text("a", index) == reference.text(tokens)
        assert told.finished["a", index].completion_tokens == len(tokens)


def test_beam_sampling_equals_generate_with_the_same_seed(
    engine: Engine, reference: Reference
) -> None:
    prompt = some_prompt(3, 20)
    params = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1}
    told = drive(engine, ask("a", prompt, num_beams=4, do_sample=True, seed=5, **params))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        (tokens,) = reference.generate(prompt, 16, do_sample=True, num_beams=4, **params)
    assert told.text("a") == reference.text(tokens)


def test_a_seed_is_respected_and_the_global_random_state_left_alone(engine: Engine) -> None:
    def sampled(seed: int | None) -> str:
        request = ask(
            "a",
            some_prompt(3, 9),
            num_beams=3,
            do_sample=True,
            seed=seed,
            max_tokens=30,
            temperature=1.5,
        )
        return drive(engine, request).text("a")

    before = torch.get_rng_state()
    assert sampled(1) == sampled(1)
    assert len({sampled(None) for _ in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 1},
        {"top_p": 1e-6},
        {"temperature": 1e-3, "top_k": 2},
        {"temperature": 1e-30},
        {"temperature": 1e4},
        {"repetition_penalty": 100.0},
    ],
)
def test_beam_sampling_never_fails_for_want_of_candidates(
    engine: Engine, params: dict[str, float]
) -> None:
    request = ask(
        "a", some_prompt(3, 9), num_beams=4, n=4, do_sample=True, seed=1, max_tokens=25, **params
    )
    told = drive(engine, request)
    assert not told.failed
    assert len(told.finished) == 4


def test_the_batch_goes_on_as_before_after_a_beam_search(
    engine: Engine, reference: Reference
) -> None:
    prompt = some_prompt(1, 10)
    engine.add(ask("stream", prompt, max_tokens=20))
    engine.step()
    told = drive(engine, ask("beams", some_prompt(2, 10), num_beams=2))
    assert ("beams", 0) in told.finished
    whole = reference.continue_text(prompt, 20)[0]
    assert whole.endswith(told.text("stream"))
    assert told.finished["stream", 0].completion_tokens == 20


def test_a_stop_string_cuts_the_text_of_a_beam(engine: Engine, reference: Reference) -> None:
    prompt = some_prompt(3, 20)
    whole = drive(engine, ask("a", prompt, num_beams=2)).text("a")
    stop = whole[4:6]
    told = drive(engine, ask("a", prompt, num_beams=2, stop=(stop,)))
    assert told.text("a") == whole[: whole.index(stop)]
    assert told.finished["a", 0].reason is FinishReason.STOP


def test_an_abort_ends_a_beam_search_early(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir)
    asked: list[str] = []

    def is_aborted(request_id: str) -> bool:
        asked.append(request_id)
        return len(asked) > 3

    engine._is_aborted = is_aborted
    told = Told()
    engine.add(ask("a", some_prompt(3, 9), num_beams=2, max_tokens=500))
    told.hear(engine.step())
    assert not told.finished
    assert not told.failed
    assert len(asked) < 10
    assert not engine.has_work


def test_broken_numbers_fail_the_search_and_nothing_else(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir)
    with torch.no_grad():
        engine._runner.model.get_input_embeddings().weight[399] = torch.nan
    told = drive(
        engine,
        ask("sick", [5, 399], num_beams=2),
        ask("sick too", [5, 399], num_beams=2, do_sample=True),
        ask("well", [5, 6], num_beams=2),
    )
    assert told.failed == {"sick": BROKEN_NUMBERS, "sick too": BROKEN_NUMBERS}
    assert ("well", 0) in told.finished


def test_several_prompts_each_get_their_beams(engine: Engine) -> None:
    from llmapi.engine.messages import GenerateRequest, SamplingParams

    params = SamplingParams(max_tokens=6, do_sample=False, num_beams=2)
    prompts = (tuple(some_prompt(1, 5)), tuple(some_prompt(2, 7)))
    told = drive(engine, GenerateRequest("a", "u", prompts, params, n=2))
    assert set(told.finished) == {("a", i) for i in range(4)}
    assert [told.finished["a", i].prompt_tokens for i in range(4)] == [5, 5, 7, 7]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"length_penalty": -3.0}, {"length_penalty": -3.0}),
        ({"early_stopping": True}, {"early_stopping": True}),
        ({"early_stopping": None}, {"early_stopping": "never"}),
        ({"min_tokens": 9}, {"min_new_tokens": 9}),
        ({"logit_bias": ((9, 7.0),)}, {"sequence_bias": {(9,): 7.0}}),
        ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
    ],
)
def test_every_parameter_that_generate_has_is_handed_on(
    engine: Engine, reference: Reference, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    # A bias towards the end token, so that hypotheses of different lengths compete.
    eos, prompt = reference.tokenizer.eos_token_id, some_prompt(3, 20)
    bias = {"logit_bias": ((eos, 9.0), *ours.pop("logit_bias", ()))}
    told = drive(engine, ask("a", prompt, num_beams=3, n=3, max_tokens=15, **ours, **bias))
    sequence_bias = {(eos,): 9.0, **theirs.pop("sequence_bias", {})}
    expected = reference.generate(
        prompt,
        15,
        do_sample=False,
        num_beams=3,
        num_return_sequences=3,
        sequence_bias=sequence_bias,
        **theirs,
    )
    assert [told.finished["a", i].completion_tokens for i in range(3)] == [*map(len, expected)]
    assert [told.text("a", i) for i in range(3)] == [*map(reference.text, expected)]


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_openais_penalties_hold_for_beams_too(engine: Engine, penalty: str) -> None:
    bytes_of = engine._vocabulary.bytes_of
    letters = [t for t in range(400) if len(bytes_of(t)) == 1 and bytes_of(t).isalpha()]
    params = {"num_beams": 2, "logit_bias": tuple((token, 100.0) for token in letters)}
    plain = drive(engine, ask("a", some_prompt(3, 20), **params)).text("a")
    assert len(set(plain)) < len(plain) == 16
    dear = drive(engine, ask("a", some_prompt(3, 20), **params, **{penalty: 500.0})).text("a")
    assert len(set(dear)) == len(dear) == 16


def test_end_tokens_of_a_request_end_its_beams(engine: Engine, reference: Reference) -> None:
    eos, prompt = reference.tokenizer.eos_token_id, some_prompt(3, 20)
    bias = {"num_beams": 2, "logit_bias": ((eos, 100.0), (50, 90.0))}
    assert drive(engine, ask("a", prompt, **bias)).finished["a", 0].completion_tokens == 1
    ignored = drive(engine, ask("a", prompt, ignore_eos=True, **bias))
    assert ignored.finished["a", 0].reason is FinishReason.LENGTH
    stopped = drive(engine, ask("a", prompt, ignore_eos=True, stop_token_ids=(50, eos), **bias))
    assert stopped.finished["a", 0].reason is FinishReason.STOP
