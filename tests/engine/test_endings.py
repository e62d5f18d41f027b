"""When an answer ends: end tokens, stop token ids, `min_tokens`; which of `best_of`."""

import pytest
from driving import Reference, Told, ask, drive, some_prompt

from llmapi.engine.engine import Engine
from llmapi.engine.messages import FinishReason, StepOutput

PROMPT = some_prompt(3, 20)
EOS = 2
TO_THE_END = ((EOS, 100.0),)
"""A bias that makes the end token the next one at once."""


def test_a_stop_token_id_ends_the_answer_and_its_text_is_not_sent(
    engine: Engine, reference: Reference
) -> None:
    tokens = reference.generate(PROMPT, 16, do_sample=False)[0]
    stop = tokens[6]
    cut = tokens[: tokens.index(stop)]
    told = drive(engine, ask("a", PROMPT, stop_token_ids=(399, stop)))
    assert told.text("a") == reference.text(cut)
    assert told.finished["a", 0].reason is FinishReason.STOP
    assert told.finished["a", 0].completion_tokens == len(cut) + 1


def test_an_end_token_ends_nothing_with_ignore_eos(engine: Engine) -> None:
    ended = drive(engine, ask("a", PROMPT, logit_bias=TO_THE_END))
    assert ended.finished["a", 0].completion_tokens == 1
    assert ended.finished["a", 0].reason is FinishReason.STOP
    ignored = drive(engine, ask("a", PROMPT, logit_bias=TO_THE_END, ignore_eos=True))
    assert ignored.finished["a", 0].completion_tokens == 16
    assert ignored.finished["a", 0].reason is FinishReason.LENGTH
    assert ignored.text("a") == ""


def test_min_tokens_keeps_every_end_away_for_so_long(engine: Engine) -> None:
    bias = (*TO_THE_END, (50, 100.0))
    params = {"logit_bias": bias, "stop_token_ids": (50,), "min_tokens": 7, "logprobs": 0}
    told = drive(engine, ask("a", PROMPT, **params))
    drawn = [one.token for one in told.logprobs["a", 0]]
    assert len(drawn) == 8
    assert not {EOS, 50} & set(drawn[:7])
    assert drawn[7] in {EOS, 50}


def test_a_stop_string_ends_the_text_before_min_tokens(
    engine: Engine, reference: Reference
) -> None:
    stop = reference.continue_text(PROMPT, 16)[0][3:6]
    told = drive(engine, ask("a", PROMPT, min_tokens=16, stop=(stop,)))
    assert told.finished["a", 0].reason is FinishReason.STOP
    assert told.finished["a", 0].completion_tokens < 16


# ---- best_of -------------------------------------------------------------------------------------

SAMPLED = {"do_sample": True, "temperature": 1.5, "seed": 4, "max_tokens": 12}


def mean_logprob(told: Told, index: int) -> float:
    values = [one.logprob for one in told.logprobs["all", index]]
    return sum(value for value in values if value is not None) / len(values)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("logprobs", [None, 1])
def test_best_of_tells_the_most_probable_answers_best_first_and_counts_all(
    engine: Engine, n: int, logprobs: int | None
) -> None:
    every = drive(engine, ask("all", PROMPT, n=5, logprobs=0, **SAMPLED))
    ranking = sorted(range(5), key=lambda index: -mean_logprob(every, index))
    told = drive(engine, ask("best", PROMPT, n=n, best_of=5, logprobs=logprobs, **SAMPLED))
    assert set(told.finished) == {("best", place) for place in range(n)}
    for place, index in enumerate(ranking[:n]):
        assert told.text("best", place) == every.text("all", index)
        has = [one.token for one in told.logprobs["best", place]]
        drawn = [one.token for one in every.logprobs["all", index]]
        assert has == ([] if logprobs is None else drawn)
    counted = sum(f.completion_tokens + f.discarded_tokens for f in told.finished.values())
    assert counted == sum(f.completion_tokens for f in every.finished.values())


def test_nothing_of_best_of_is_told_before_the_last_candidate_ends(engine: Engine) -> None:
    engine.add(ask("a", PROMPT, n=2, best_of=4, **SAMPLED))
    outputs: list[StepOutput] = []
    while engine.has_work:
        outputs.append(engine.step())
    assert not any(output.events for output in outputs[:-1])
    assert len(outputs[-1].events) >= 4


def test_best_of_of_several_prompts_ranks_each_on_its_own(engine: Engine) -> None:
    from llmapi.engine.messages import GenerateRequest, SamplingParams

    prompts = (tuple(PROMPT), tuple(some_prompt(5, 9)))
    params = SamplingParams(prompt_logprobs=True, **SAMPLED)
    told = drive(engine, GenerateRequest("a", "u", prompts, params, n=2, best_of=3))
    assert set(told.finished) == {("a", index) for index in range(4)}
    assert [told.finished["a", index].prompt_tokens for index in range(4)] == [20, 20, 9, 9]
    assert [len(told.prompt_logprobs["a", index]) for index in range(4)] == [20, 20, 9, 9]
    first = drive(engine, ask("b", PROMPT, n=2, best_of=3, **SAMPLED))
    assert [told.text("a", index) for index in (0, 1)] == [first.text("b", i) for i in (0, 1)]
    discarded = [told.finished["a", index].discarded_tokens for index in range(4)]
    assert discarded == [12, 0, 12, 0]


def test_an_abort_of_best_of_frees_all_candidates(engine: Engine) -> None:
    baseline = engine.free_blocks
    engine.add(ask("a", PROMPT, best_of=6, **SAMPLED))
    engine.step()
    engine.abort("a")
    assert not engine.has_work
    assert engine.free_blocks == baseline


def test_a_mixed_batch_gives_every_request_what_it_gets_alone(engine: Engine) -> None:
    requests = [
        ask("greedy", PROMPT),
        ask("bias", PROMPT, logit_bias=((9, 4.0), (11, -100.0)), do_sample=True, seed=1),
        ask("penalties", PROMPT, presence_penalty=1.0, frequency_penalty=1.0, logprobs=2),
        ask("min_p", PROMPT, do_sample=True, seed=2, min_p=0.1, temperature=1.5, min_tokens=10),
        ask("best", PROMPT, best_of=2, **SAMPLED),
        ask("scored", PROMPT, logprobs=1, prompt_logprobs=True, max_tokens=3),
    ]
    together = drive(engine, *requests)
    for request in requests:
        alone = drive(engine, request)
        assert together.text(request.request_id) == alone.text(request.request_id)
    assert len({together.text(request.request_id) for request in requests}) > 3
