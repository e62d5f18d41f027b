"""What was computed once is not computed again, and changes no answer."""

from pathlib import Path

import pytest
import torch
from driving import Reference, Told, ask, drive, embed, make_engine, some_prompt

from llmapi.engine.engine import BROKEN_NUMBERS, Engine
from llmapi.engine.messages import GenerateRequest


def computed(told: Told) -> int:
    return sum(output.batch_tokens for output in told.steps)


def test_the_same_prompt_again_is_not_computed_again_and_says_the_same(
    engine: Engine, reference: Reference
) -> None:
    prompt = some_prompt(1, 200)
    first = drive(engine, ask("a", prompt))
    again = drive(engine, ask("b", prompt))
    assert first.finished["a", 0].cached_tokens == 0
    assert again.finished["b", 0].cached_tokens == 192
    assert computed(first) - computed(again) == 192
    assert first.text("a") == again.text("b") == reference.continue_text(prompt, 16)[0]


def test_the_next_turn_of_a_chat_computes_only_what_is_new(
    engine: Engine, reference: Reference
) -> None:
    history = some_prompt(1, 90)
    for turn in range(4):
        (answer,) = reference.generate(history, 40, do_sample=False)
        told = drive(engine, ask("a", history, max_tokens=40))
        assert told.text("a") == reference.text(answer)
        known = told.finished["a", 0].cached_tokens
        assert known >= (len(history) - 20) // 16 * 16 if turn else known == 0
        history = [*history, *answer, *some_prompt(100 + turn, 3)]


def test_another_users_prompt_is_never_found(engine: Engine) -> None:
    prompt = some_prompt(1, 100)
    drive(engine, ask("a", prompt, user="alice"))
    told = drive(engine, ask("b", prompt, user="bob"))
    assert told.finished["b", 0].cached_tokens == 0


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"n": 2}])
def test_shared_tokens_are_found_by_everyone(engine: Engine, how: dict[str, int]) -> None:
    prompt = some_prompt(1, 124)
    drive(engine, ask("a", prompt, user="alice", shared_tokens=70, **how))
    told = drive(engine, ask("b", prompt, user="bob", shared_tokens=70, **how))
    assert told.finished["b", 0].cached_tokens == 64


def test_n_choices_compute_their_prompt_once(engine: Engine, reference: Reference) -> None:
    prompt = some_prompt(1, 200)
    one = drive(engine, ask("a", prompt, user="u1", max_tokens=8))
    eight = drive(engine, ask("b", prompt, user="u2", n=8, max_tokens=8))
    drawn = [sum(t.finished[c].completion_tokens for c in t.finished) for t in (one, eight)]
    rows = drawn[1] - 8 - (drawn[0] - 1)  # the last token of each is never fed back
    assert computed(eight) == computed(one) + rows + 7 * (200 - 192)
    for index in range(8):
        assert eight.text("b", index) == reference.continue_text(prompt, 8)[0]


def test_seeded_choices_are_the_same_from_the_cache_and_without(tiny_dir: Path) -> None:
    prompt = some_prompt(2, 100)

    def seeded(name: str, **how: object) -> GenerateRequest:
        return ask(name, prompt, do_sample=True, seed=5, top_p=0.9, max_tokens=30, **how)

    engine = make_engine(tiny_dir)
    texts = drive(engine, seeded("a", n=4))
    for index in range(4):
        assert drive(engine, seeded("b", n=4)).text("b", index) == texts.text("a", index)
    alone = make_engine(tiny_dir)
    assert drive(alone, seeded("c")).text("c") == texts.text("a", 0)


def test_embeddings_neither_take_from_the_cache_nor_give_to_it(
    engine: Engine, reference: Reference
) -> None:
    prompt = some_prompt(3, 100)
    drive(engine, ask("a", prompt))
    for _ in range(2):
        told = drive(engine, embed("e", prompt, [*prompt, 5]))
        assert torch.allclose(told.vectors["e", 0], reference.vector(prompt), atol=1e-5)
        assert torch.allclose(told.vectors["e", 1], reference.vector([*prompt, 5]), atol=1e-5)
    other = some_prompt(4, 100)
    drive(engine, embed("e", other))
    assert drive(engine, ask("b", other)).finished["b", 0].cached_tokens == 0


def test_a_prompt_whose_log_probabilities_are_wanted_skips_nothing(engine: Engine) -> None:
    prompt = some_prompt(3, 100)
    drive(engine, ask("a", prompt))
    told = drive(engine, ask("b", prompt, prompt_logprobs=True))
    assert told.finished["b", 0].cached_tokens == 0


@pytest.mark.parametrize("place", [0, 100, 149])
def test_a_block_with_nan_never_enters_the_cache(
    tiny_dir: Path, reference: Reference, place: int
) -> None:
    engine = make_engine(tiny_dir, kv_cache_tokens=1024)
    weight = engine.runner.network.embedding
    poison, healthy = 399, some_prompt(1, 150, vocab=399)
    sick = [*healthy[:place], poison, *healthy[place + 1 :]]
    intact = weight[poison].clone()
    with torch.no_grad():
        weight[poison] = torch.nan
    told = drive(engine, ask("sick", sick, n=3), ask("well", healthy))
    assert told.failed == {"sick": BROKEN_NUMBERS}
    assert told.text("well") == reference.continue_text(healthy, 16)[0]
    for key, block in engine._scheduler.blocks._block_of.items():
        assert engine.runner.cache.is_finite([block]), key
    # The device has recovered: nothing of the bad moment is left under the same beginning.
    with torch.no_grad():
        weight[poison] = intact
    again = drive(engine, ask("again", sick))
    assert again.text("again") == reference.continue_text(sick, 16)[0]
    for block in range(engine.free_blocks + 1):
        assert engine.runner.cache.is_finite([block])


def test_an_aborted_prompt_leaves_what_it_had_computed_to_the_next(engine: Engine) -> None:
    prompt = some_prompt(1, 200)
    engine.add(ask("gone", prompt))
    engine.step()
    engine.step()
    engine.abort("gone")
    told = drive(engine, ask("again", prompt))
    assert told.finished["again", 0].cached_tokens == 128
