"""Promises of the engine as a whole, on a tiny LLaMA with random weights."""

from pathlib import Path

import pytest
import torch
from driving import Reference, Told, ask, drive, embed, make_engine, some_prompt

from llmapi.engine.engine import BROKEN_NUMBERS, Engine
from llmapi.engine.messages import EmbedRequest, FinishReason, GenerateRequest, SamplingParams


def test_greedy_text_equals_generate_for_every_prompt_length(
    engine: Engine, reference: Reference
) -> None:
    for length in (1, 2, 15, 16, 17, 63, 64, 65, 150):
        prompt = some_prompt(length, length)
        told = drive(engine, ask("a", prompt, max_tokens=24))
        text, tokens = reference.continue_text(prompt, 24)
        assert told.text("a") == text
        assert told.finished["a", 0].completion_tokens == tokens
        assert told.finished["a", 0].prompt_tokens == length


def test_greedy_text_equals_generate_in_a_mixed_batch_with_joins_and_chunks(
    engine: Engine, reference: Reference
) -> None:
    prompts = {f"r{i}": some_prompt(i, 3 + 37 * i) for i in range(7)}
    told = Told()
    for place, (name, prompt) in enumerate(prompts.items()):
        engine.add(ask(name, prompt, user=f"u{place % 3}", max_tokens=20 + place))
        engine.add(embed(f"e{place}", prompt))
        told.hear(engine.step())
    drive(engine, told=told)
    for place, (name, prompt) in enumerate(prompts.items()):
        assert told.text(name) == reference.continue_text(prompt, 20 + place)[0]
        assert torch.allclose(told.vectors[f"e{place}", 0], reference.vector(prompt), atol=1e-5)


def test_one_forward_pass_serves_prompts_decoding_and_embeddings_together(engine: Engine) -> None:
    engine.add(ask("writing", some_prompt(1, 9), max_tokens=8))
    first = engine.step()
    engine.add(ask("joining", some_prompt(2, 20), max_tokens=8))
    engine.add(embed("vector", some_prompt(3, 11)))
    second = engine.step()
    assert second.step == first.step + 1
    assert second.batch_tokens == 1 + 20 + 11


def test_eight_chats_cost_as_many_forward_passes_as_one(engine: Engine) -> None:
    prompt = some_prompt(5, 8)
    alone = drive(engine, ask("a", prompt, max_tokens=24))
    begin = alone.steps[-1].step
    requests = [ask(f"r{i}", prompt, max_tokens=24) for i in range(8)]
    together = drive(engine, *requests)
    assert together.steps[-1].step - begin == begin - (alone.steps[0].step - 1)


def test_a_joiner_starts_before_the_others_end(engine: Engine) -> None:
    told = Told()
    for name in "abc":
        engine.add(ask(name, some_prompt(ord(name), 12), max_tokens=40))
    for _ in range(10):
        told.hear(engine.step())
    engine.add(ask("late", some_prompt(9, 12), max_tokens=4))
    drive(engine, told=told)
    others_end = max(told.finished_at[name, 0] for name in "abc")
    assert told.finished_at["late", 0] < others_end


def test_a_long_prompt_does_not_stop_running_streams(engine: Engine) -> None:
    engine.add(ask("stream", some_prompt(1, 5), max_tokens=30))
    engine.step()
    engine.add(ask("long", some_prompt(2, 400), max_tokens=2))
    for _ in range(6):
        output = engine.step()
        assert (
            output.batch_tokens == 64
        )  # the whole budget: one for the stream, the rest for the prompt
        assert output.running == 2


def test_abort_frees_everything_at_once_and_nothing_more_is_told(engine: Engine) -> None:
    baseline = engine.free_blocks
    engine.add(ask("gone", some_prompt(1, 100), n=3, max_tokens=50))
    engine.add(ask("stays", some_prompt(2, 10), max_tokens=5))
    for _ in range(3):
        engine.step()
    engine.abort("gone")
    told = drive(engine)
    assert "gone" not in {name for name, _ in told.finished} | set(told.failed)
    assert told.finished["stays", 0].reason is FinishReason.LENGTH
    assert engine.free_blocks == baseline


def test_abort_of_a_waiting_request_means_that_it_never_starts(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir, max_batch=1)
    engine.add(ask("first", some_prompt(1, 4), max_tokens=10))
    engine.add(ask("second", some_prompt(2, 4), max_tokens=10))
    engine.step()
    engine.abort("second")
    engine.abort("never heard of")
    told = drive(engine)
    assert set(told.finished) == {("first", 0)}


def test_a_seeded_answer_is_the_same_alone_and_in_a_batch(engine: Engine) -> None:
    def seeded(name: str) -> GenerateRequest:
        return ask(
            name,
            some_prompt(4, 30),
            max_tokens=40,
            do_sample=True,
            temperature=0.9,
            top_k=40,
            top_p=0.95,
            repetition_penalty=1.1,
            seed=1234,
        )

    alone = drive(engine, seeded("a")).text("a")
    noise = [
        ask(f"n{i}", some_prompt(i, 7 * i + 1), max_tokens=33, do_sample=True) for i in range(1, 7)
    ]
    crowd = drive(engine, *noise[:3], seeded("a"), *noise[3:])
    assert crowd.text("a") == alone


def test_choice_i_of_n_equals_the_first_choice_of_seed_plus_i(engine: Engine) -> None:
    prompt = some_prompt(4, 12)
    three = drive(engine, ask("a", prompt, n=3, do_sample=True, seed=7))
    third = drive(engine, ask("b", prompt, do_sample=True, seed=9))
    assert three.text("a", 2) == third.text("b")
    assert len({three.text("a", i) for i in range(3)}) == 3


def test_unseeded_answers_differ(engine: Engine) -> None:
    told = drive(engine, ask("a", some_prompt(4, 12), n=2, do_sample=True, max_tokens=30))
    assert told.text("a", 0) != told.text("a", 1)


def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(
    engine: Engine, reference: Reference
) -> None:
    prompts = (tuple(some_prompt(1, 5)), tuple(some_prompt(2, 9)))
    params = SamplingParams(max_tokens=10, do_sample=False)
    told = drive(engine, GenerateRequest("a", "u", prompts, params, n=2))
    for index in range(4):
        expected, _ = reference.continue_text(list(prompts[index // 2]), 10)
        assert told.text("a", index) == expected
        assert told.finished["a", index].prompt_tokens == len(prompts[index // 2])


def test_embeddings_equal_the_mean_of_the_last_hidden_states(
    engine: Engine, reference: Reference
) -> None:
    inputs = [some_prompt(i, length) for i, length in enumerate((1, 2, 30, 64, 65, 200))]
    told = drive(engine, embed("e", *inputs))
    for index, tokens in enumerate(inputs):
        vector = told.vectors["e", index]
        assert vector.shape == (64,)
        assert torch.allclose(vector, reference.vector(tokens), atol=1e-5)
        assert abs(float(vector.norm()) - 1) < 1e-5


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (ask("a", []), "at least one token"),
        (EmbedRequest("a", "u", ()), "at least one token"),
        (ask("a", [1], max_tokens=-1), "max_tokens"),
        (ask("a", [1], max_tokens=0, num_beams=2), "max_tokens"),
        (ask("a", [1], min_tokens=17), "min_tokens"),
        (ask("a", [1], min_p=1.5), "min_p"),
        (ask("a", [1], presence_penalty=float("nan")), "presence_penalty"),
        (ask("a", [1], frequency_penalty=1e300), "frequency_penalty"),
        (ask("a", [1], logit_bias=((5, float("inf")),)), "logit_bias"),
        (ask("a", [1], logit_bias=((400, 1.0),)), "between 0 and 399"),
        (ask("a", [1], stop_token_ids=(-1,)), "between 0 and 399"),
        (ask("a", [1], logprobs=-1), "logprobs"),
        (ask("a", [1], logprobs=1, num_beams=2), "logprobs"),
        (ask("a", [1], prompt_logprobs=True, num_beams=2), "logprobs"),
        (ask("a", [1], n=3, best_of=2), "best_of"),
        (ask("a", [1], best_of=2, num_beams=2), "best_of"),
        (ask("a", [1], length_penalty=float("nan"), num_beams=2), "length_penalty"),
        (ask("a", [1], temperature=float("nan")), "temperature"),
        (ask("a", [1], temperature=-1.0), "temperature"),
        (ask("a", [1], top_p=0.0), "top_p"),
        (ask("a", [1], top_k=-1), "top_k"),
        (ask("a", [1], temperature=1e300), "temperature"),
        (ask("a", [1], repetition_penalty=0.0), "repetition_penalty"),
        (ask("a", [1], repetition_penalty=1e300), "repetition_penalty"),
        (ask("a", [1], max_tokens="many"), "The engine failed"),
        (ask("a", [1], stop=("",)), "stop string"),
        (ask("a", [1], num_beams=2, n=3), "num_beams"),
        (ask("a", [400]), "between 0 and 399"),
        (ask("a", [-1]), "between 0 and 399"),
        (ask("a", [1] * 1000, max_tokens=100), "context is 1024"),
        (ask("a", [1] * 200, max_tokens=700, num_beams=8), "room for 5952 tokens"),
    ],
)
def test_a_request_that_can_never_be_served_fails_with_a_sentence(
    engine: Engine, request_: GenerateRequest, says: str
) -> None:
    told = drive(engine, request_)
    assert says in told.failed["a"]
    assert not told.finished


def test_a_request_larger_than_the_cache_fails_and_the_next_is_served(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir, kv_cache_tokens=1024, context_length=1024)
    engine._context_length = 4096  # a context longer than the cache, as no loader would make it
    told = drive(engine, ask("big", [5] * 900, max_tokens=900), ask("small", [5], max_tokens=3))
    assert "room for 1799 tokens" in told.failed["big"]
    assert told.finished["small", 0].completion_tokens == 3


def test_a_failing_forward_pass_fails_its_batch_and_the_engine_goes_on(
    engine: Engine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = engine.free_blocks
    for name in "ab":
        engine.add(ask(name, some_prompt(1, 20), max_tokens=9))
    engine.step()
    with monkeypatch.context() as broken:
        broken.setattr(engine.runner.network, "forward", _raise)
        told = Told()
        told.hear(engine.step())
    assert set(told.failed) == {"a", "b"}
    assert engine.free_blocks == baseline
    assert not engine.has_work
    after = drive(engine, ask("c", some_prompt(3, 20), max_tokens=9))
    assert after.text("c") == reference.continue_text(some_prompt(3, 20), 9)[0]


def _raise(*args: object) -> None:
    raise RuntimeError("the device is on fire")


def test_a_device_that_stays_broken_ends_the_engine_rather_than_every_request_to_come(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a fault of CUDA's: nothing works any more in that process. The web process starts
    another."""
    engine.add(ask("a", some_prompt(1, 20), max_tokens=9))
    engine.step()
    monkeypatch.setattr(engine.runner.network, "forward", _raise)
    monkeypatch.setattr(engine.runner.cache, "scrub", _raise)
    with pytest.raises(RuntimeError, match="on fire"):
        engine.step()


def test_an_exception_in_one_request_ends_that_request_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        engine.add(ask(name, some_prompt(1, 20), max_tokens=9))
    engine.step()
    (sequence,) = engine._live["a"]
    monkeypatch.setattr(sequence.detokenizer, "push", _raise)
    told = drive(engine)
    assert "The engine failed" in told.failed["a"]
    assert told.finished["b", 0].reason is FinishReason.LENGTH


def test_broken_numbers_end_that_request_alone_and_reach_no_later_owner_of_its_blocks(
    tiny_dir: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_dir, kv_cache_tokens=1024)
    poison = 399
    with torch.no_grad():
        engine.runner.network.embedding[poison] = torch.nan
    baseline = engine.free_blocks
    healthy = some_prompt(1, 40, vocab=399)
    told = drive(
        engine,
        ask("sick", [*healthy[:30], poison, 5], max_tokens=20, do_sample=True),
        embed("sick vector", [poison]),
        ask("well", healthy, max_tokens=20),
    )
    assert told.failed == {"sick": BROKEN_NUMBERS, "sick vector": BROKEN_NUMBERS}
    assert told.text("well") == reference.continue_text(healthy, 20)[0]
    assert engine.free_blocks == baseline
    # All of the cache again: whatever the sick ones left behind would be seen now.
    for index in range(3):
        after = drive(engine, *(ask(f"r{i}", healthy, max_tokens=60) for i in range(8)))
        assert not after.failed, index


def test_a_request_id_in_use_is_refused_rather_than_mixed_up(engine: Engine) -> None:
    baseline = engine.free_blocks
    engine.add(ask("a", some_prompt(1, 5)))
    engine.step()
    told = drive(engine, ask("a", some_prompt(2, 5)))
    assert "already running" in told.failed["a"]
    assert engine.free_blocks == baseline


def test_delta_tokens_never_exceed_what_was_drawn(engine: Engine) -> None:
    told = drive(engine, *(ask(f"r{i}", some_prompt(i, 5), max_tokens=50) for i in range(5)))
    for choice, finish in told.finished.items():
        assert told.delta_tokens[choice] <= finish.completion_tokens <= 50
