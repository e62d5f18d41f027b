"""Beam search in the batch: transformers' own answers, beside everyone else's."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import Reference, Told, ask, drive, make_engine, some_prompt

from llmapi.engine.detokenizer import Detokenizer
from llmapi.engine.engine import BROKEN_NUMBERS, Engine
from llmapi.engine.messages import (
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TextDelta,
)
from llmapi.engine.searches import ends_with


def drive_checked(
    engine: Engine, *requests: GenerateRequest | EmbedRequest, told: Told | None = None
) -> Told:
    """`drive`, with a look at all books after each step, and at what is free at the end."""
    told = drive(engine, *requests, told=told, after_step=engine._scheduler.check)
    assert engine.free_blocks == engine._scheduler.blocks.total
    assert not engine._searches
    assert not engine._scheduler._families
    return told


# ---- transformers' answers -----------------------------------------------------------------------


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 100])
def test_beam_search_equals_generate(
    engine: Engine, reference: Reference, beams: int, length: int
) -> None:
    prompt = some_prompt(length, length)
    told = drive_checked(engine, ask("a", prompt, num_beams=beams, n=beams, max_tokens=40))
    expected = reference.generate(
        prompt, 40, do_sample=False, num_beams=beams, num_return_sequences=beams
    )
    for index, tokens in enumerate(expected):
        assert told.text("a", index) == reference.text(tokens)
        assert told.finished["a", index].completion_tokens == len(tokens)
        assert told.finished["a", index].prompt_tokens == length


def test_several_prompts_each_get_their_beams(engine: Engine, reference: Reference) -> None:
    params = SamplingParams(max_tokens=20, do_sample=False, num_beams=2)
    prompts = (tuple(some_prompt(1, 5)), tuple(some_prompt(2, 77)))
    told = drive_checked(engine, GenerateRequest("a", "u", prompts, params, n=2))
    assert set(told.finished) == {("a", i) for i in range(4)}
    assert [told.finished["a", i].prompt_tokens for i in range(4)] == [5, 5, 77, 77]
    for index in range(4):
        expected = reference.generate(
            list(prompts[index // 2]), 20, do_sample=False, num_beams=2, num_return_sequences=2
        )
        assert told.text("a", index) == reference.text(expected[index % 2])


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
    ours, theirs = dict(ours), dict(theirs)
    bias = {"logit_bias": ((eos, 9.0), *ours.pop("logit_bias", ()))}
    told = drive_checked(engine, ask("a", prompt, num_beams=3, n=3, max_tokens=15, **ours, **bias))
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


def test_a_forward_pass_a_token_is_all_that_it_takes(engine: Engine) -> None:
    told = drive_checked(engine, ask("a", some_prompt(3, 20), num_beams=4, max_tokens=15))
    assert [step.batch_tokens for step in told.steps] == [20, *[4] * 14]


# ---- beside others -------------------------------------------------------------------------------


def test_searches_and_others_in_one_batch_all_answer_as_alone(
    engine: Engine, reference: Reference
) -> None:
    told = Told()
    for index in range(3):
        engine.add(ask(f"beams{index}", some_prompt(index, 9 + 20 * index), num_beams=2))
        engine.add(ask(f"plain{index}", some_prompt(50 + index, 3 + 30 * index), max_tokens=25))
        told.hear(engine.step())
        engine._scheduler.check()
    drive_checked(engine, told=told)
    for index in range(3):
        prompt = some_prompt(50 + index, 3 + 30 * index)
        assert told.text(f"plain{index}") == reference.continue_text(prompt, 25)[0]
        prompt = some_prompt(index, 9 + 20 * index)
        alone = reference.continue_text(prompt, 16, num_beams=2)
        assert told.text(f"beams{index}") == alone[0]


def test_others_go_on_streaming_while_a_search_runs(engine: Engine) -> None:
    engine.add(ask("stream", some_prompt(1, 10), max_tokens=60, ignore_eos=True))
    engine.add(ask("beams", some_prompt(2, 10), num_beams=4, max_tokens=40, ignore_eos=True))
    told = Told()
    while ("beams", 0) not in told.finished:
        told.hear(engine.step())
    deltas = [
        sum(isinstance(e, TextDelta) and e.request_id == "stream" for e in step.events)
        for step in told.steps
    ]
    assert len(told.steps) == 40
    assert sum(deltas) >= 25  # half characters and such wait for the next token
    drive_checked(engine, told=told)
    assert told.finished["stream", 0].completion_tokens == 60


def test_a_seeded_search_is_the_same_alone_and_in_company(engine: Engine) -> None:
    seeded = ask("a", some_prompt(4, 30), num_beams=3, do_sample=True, seed=7, max_tokens=30)
    alone = drive_checked(engine, seeded).text("a")
    noise = [ask(f"n{i}", some_prompt(i, 7 * i + 1), do_sample=True) for i in range(4)]
    assert drive_checked(engine, *noise[:2], seeded, *noise[2:]).text("a") == alone


def test_a_search_waits_until_all_of_its_beams_have_places(
    tiny_dir: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_dir, max_batch=4)
    plain = [ask(f"p{i}", some_prompt(i, 5), max_tokens=10) for i in range(2)]
    told = drive_checked(engine, *plain, ask("beams", some_prompt(7, 20), num_beams=4))
    assert max(step.running for step in told.steps) == 4
    assert told.started_at["beams", 0] > max(told.finished_at[f"p{i}", 0] for i in range(2))
    assert told.text("beams") == reference.continue_text(some_prompt(7, 20), 16, num_beams=4)[0]


def test_a_search_is_never_preempted_however_small_the_cache(
    tiny_dir: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_dir, kv_cache_tokens=256, context_length=200)
    engine._scheduler._grows = lambda sequence: False  # as much preemption as there can be
    told = Told()
    for index in range(4):
        engine.add(ask(f"p{index}", some_prompt(index, 20), max_tokens=60))
        engine.add(ask(f"beams{index}", some_prompt(index, 20), num_beams=2, max_tokens=50))
    preempted = 0
    while engine.has_work:
        before = set(engine._scheduler._running)
        told.hear(engine.step())
        engine._scheduler.check()
        given_up = before & set(engine._scheduler._waiting)
        preempted += len(given_up)
        assert not any(sequence.family for sequence in given_up)
    assert preempted
    assert engine.free_blocks == 16
    for index in range(4):
        prompt = some_prompt(index, 20)
        assert told.text(f"p{index}") == reference.continue_text(prompt, 60)[0]
        assert told.text(f"beams{index}") == reference.continue_text(prompt, 50, num_beams=2)[0]


def test_a_prompt_is_taken_over_from_the_cache_and_only_by_its_user(
    engine: Engine, reference: Reference
) -> None:
    prompt = some_prompt(3, 100)
    drive(engine, ask("a", prompt, user="ann"))
    told = drive_checked(
        engine,
        ask("ann", prompt, user="ann", num_beams=3, n=2),
        ask("bob", prompt, user="bob", num_beams=3),
    )
    assert [told.finished["ann", i].cached_tokens for i in range(2)] == [96, 96]
    assert told.finished["bob", 0].cached_tokens == 0
    assert told.text("ann") == told.text("bob")
    assert told.text("bob") == reference.continue_text(prompt, 16, num_beams=3)[0]
    again = drive(engine, ask("bob", prompt, user="bob"))
    assert again.finished["bob", 0].cached_tokens == 96


def test_more_beams_than_the_batch_has_places_are_refused_by_name(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir, max_batch=4)
    told = drive(engine, ask("a", [5], num_beams=5), ask("b", [5], num_beams=4, n=2))
    assert "'num_beams' is 5" in told.failed["a"]
    assert ("b", 1) in told.finished


# ---- what is told --------------------------------------------------------------------------------


def test_what_is_streamed_is_the_answer(engine: Engine, reference: Reference) -> None:
    early = 0
    for seed in range(8):
        prompt = some_prompt(seed, 10)
        told = drive_checked(engine, ask("a", prompt, num_beams=3, max_tokens=40))
        text, tokens = reference.continue_text(prompt, 40, num_beams=3)
        assert told.text("a") == text
        assert told.finished["a", 0].completion_tokens == tokens
        assert told.delta_tokens["a", 0] <= tokens
        early += told.started_at["a", 0] < told.finished_at["a", 0] - 5
    assert early >= 4  # the others could not be sure until their end


def test_of_several_choices_nothing_is_told_before_the_end(engine: Engine) -> None:
    told = drive(engine, ask("a", some_prompt(3, 10), num_beams=3, n=2, max_tokens=30))
    for index in range(2):
        assert told.started_at["a", index] == told.finished_at["a", index] == len(told.steps)


@pytest.mark.parametrize("n", [1, 3])
def test_a_stop_string_ends_a_beam_and_is_never_told(
    engine: Engine, reference: Reference, n: int
) -> None:
    stopped = 0
    for seed in range(6):
        prompt = some_prompt(seed, 20)
        plain = drive(engine, ask("a", prompt, num_beams=3, max_tokens=30)).text("a")
        stop = (plain[7:9], "never")
        told = drive_checked(engine, ask("a", prompt, num_beams=3, n=n, max_tokens=30, stop=stop))

        expected = reference.generate(
            prompt,
            30,
            do_sample=False,
            num_beams=3,
            num_return_sequences=n,
            stopping_criteria=[stopping_at(stop[0], reference, len(prompt))],
        )
        for index in range(n):
            finish = told.finished["a", index]
            whole = reference.text(expected[index])
            assert told.text("a", index) == whole.partition(stop[0])[0]
            if stop[0] in whole:
                assert finish.reason is FinishReason.STOP
                stopped += 1
    assert stopped >= 3


def stopping_at(stop: str, reference: Reference, prompt_tokens: int) -> Any:
    def criterion(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([stop in reference.text(row[prompt_tokens:]) for row in ids.tolist()])

    return criterion


def test_a_stop_string_is_found_at_the_end_of_an_answer_as_in_all_of_it(engine: Engine) -> None:
    chance = random.Random(1)
    vocabulary, prompt = engine._vocabulary, some_prompt(1, 5)
    found = 0
    for _ in range(400):
        tokens = tuple(chance.choices(range(400), k=chance.randint(1, 60)))
        whole = Detokenizer(vocabulary.stream(prompt))
        text = "".join(map(whole.push, tokens))
        place = chance.randrange(len(text) + 1)
        stop = tuple(s for s in (text[place : place + chance.randint(1, 9)], "e ", "\0") if s)
        if "\ufffd" in stop[0]:
            continue
        ends = ends_with(stop, prompt, vocabulary)
        all_of_it = Detokenizer(vocabulary.stream(prompt), stop)
        for count, token in enumerate(tokens, start=1):
            all_of_it.push(token)
            assert ends(tokens[:count]) == all_of_it.stopped
            if all_of_it.stopped:
                found += 1
                break
    assert found > 100


def test_end_tokens_of_a_request_end_its_beams(engine: Engine, reference: Reference) -> None:
    eos, prompt = reference.tokenizer.eos_token_id, some_prompt(3, 20)
    bias = {"num_beams": 2, "logit_bias": ((eos, 100.0), (50, 90.0))}
    ended = drive_checked(engine, ask("a", prompt, **bias))
    assert ended.finished["a", 0].completion_tokens == 1
    assert ended.finished["a", 0].reason is FinishReason.STOP
    ignored = drive_checked(engine, ask("a", prompt, ignore_eos=True, **bias))
    assert ignored.finished["a", 0].reason is FinishReason.LENGTH
    stopped = drive_checked(
        engine, ask("a", prompt, ignore_eos=True, stop_token_ids=(50, eos), **bias)
    )
    assert stopped.finished["a", 0].reason is FinishReason.STOP
    assert stopped.text("a") == ""


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_openais_penalties_hold_for_beams_too(engine: Engine, penalty: str) -> None:
    bytes_of = engine._vocabulary.bytes_of
    letters = [t for t in range(400) if len(bytes_of(t)) == 1 and bytes_of(t).isalpha()]
    params = {"num_beams": 2, "logit_bias": tuple((token, 100.0) for token in letters)}
    plain = drive(engine, ask("a", some_prompt(3, 20), **params)).text("a")
    assert len(set(plain)) < len(plain) == 16
    dear = drive(engine, ask("a", some_prompt(3, 20), **params, **{penalty: 500.0})).text("a")
    assert len(set(dear)) == len(dear) == 16


# ---- sampling ------------------------------------------------------------------------------------


def test_the_seeds_advanced_example_answers(engine: Engine) -> None:
    params = {"num_beams": 4, "do_sample": True, "top_k": 40, "temperature": 0.7}
    told = drive_checked(engine, ask("a", some_prompt(3, 20), max_tokens=30, **params))
    assert told.text("a")


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
        return drive_checked(engine, request).text("a")

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
    told = drive_checked(engine, request)
    assert not told.failed
    assert len(told.finished) == 4


# ---- ends before the end -------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 9])
def test_an_abort_frees_a_search_at_once(engine: Engine, steps: int) -> None:
    long = tuple(some_prompt(3, 100)), tuple(some_prompt(4, 9))
    params = SamplingParams(max_tokens=500, do_sample=False, num_beams=3)
    engine.add(GenerateRequest("gone", "u", long, params))
    engine.add(ask("stays", some_prompt(5, 20)))
    told = Told()
    for _ in range(steps):
        told.hear(engine.step())
    engine.abort("gone")
    engine._scheduler.check()
    assert not engine._searches
    drive_checked(engine, told=told)
    assert set(told.finished) == {("stays", 0)}


def test_broken_numbers_fail_the_search_and_nothing_else(
    tiny_dir: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_dir)
    with torch.no_grad():
        engine.runner.network.embedding[399] = torch.nan
    told = drive_checked(
        engine,
        ask("sick", [5, 399], num_beams=2),
        ask("sick too", [5, 399], num_beams=2, do_sample=True),
        ask("well", [5, 6], num_beams=2, max_tokens=5),
        ask("well too", [5, 6], max_tokens=5),
    )
    assert told.failed == {"sick": BROKEN_NUMBERS, "sick too": BROKEN_NUMBERS}
    assert told.text("well") == reference.continue_text([5, 6], 5, num_beams=2)[0]
    assert told.text("well too") == reference.continue_text([5, 6], 5)[0]


def test_numbers_that_break_in_mid_search_leave_nothing_behind(
    tiny_dir: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_dir, kv_cache_tokens=1024)
    prompt, told = some_prompt(3, 40), Told()
    engine.add(ask("sick", prompt, num_beams=3, max_tokens=60))
    for _ in range(20):
        told.hear(engine.step())
    embedding = engine.runner.network.embedding
    (search,) = engine._searches
    poison = search.beams[-1].tokens[-1]
    intact = embedding[poison].clone()
    with torch.no_grad():
        embedding[poison] = torch.nan
    told.hear(engine.step())
    with torch.no_grad():
        embedding[poison] = intact
    assert told.failed == {"sick": BROKEN_NUMBERS}
    drive_checked(engine, told=told)
    for block in range(engine.free_blocks + 1):
        assert engine.runner.cache.is_finite([block])
    again = drive_checked(engine, ask("again", prompt, num_beams=3, max_tokens=60))
    assert again.text("again") == reference.continue_text(prompt, 60, num_beams=3)[0]


def test_a_failing_forward_pass_ends_the_search_with_the_others_of_its_batch(
    engine: Engine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, beams in (("a", 1), ("b", 4)):
        engine.add(ask(name, some_prompt(1, 20), num_beams=beams, max_tokens=30))
    told = Told()
    for _ in range(5):
        told.hear(engine.step())
    with monkeypatch.context() as broken:
        broken.setattr(engine.runner.network, "forward", lambda *args: 1 / 0)
        told.hear(engine.step())
    assert set(told.failed) == {"a", "b"}
    after = drive_checked(engine, ask("c", some_prompt(3, 20), num_beams=2), told=told)
    assert after.text("c") == reference.continue_text(some_prompt(3, 20), 16, num_beams=2)[0]


def test_an_exception_in_one_search_ends_its_request_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_tokens=20, do_sample=False, num_beams=2)
    two = tuple(some_prompt(1, 20)), tuple(some_prompt(2, 20))
    engine.add(GenerateRequest("a", "u", two, params))
    engine.add(ask("b", some_prompt(2, 20), num_beams=2))
    told = Told()
    told.hear(engine.step())
    monkeypatch.setattr(engine._searches[0]._beam_search, "step", lambda *args: 1 / 0)
    drive_checked(engine, told=told)
    assert "The engine failed" in told.failed["a"]
    assert set(told.finished) == {("b", 0)}
