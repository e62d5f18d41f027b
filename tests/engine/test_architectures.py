"""Other families by every decoder that serves them: the same logits and the same tokens as
transformers, or a clear refusal."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from driving import ask, drive, greedy, make_engine, some_prompt

from llmapi.engine.config import EngineConfig
from llmapi.engine.engine import Engine
from llmapi.engine.loader import load
from llmapi.engine.sequence import Sequence
from llmapi.engine.source import LoadError
from llmapi.engine.step import Chunk

BASE: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
WINDOWS = {
    "use_sliding_window": True,
    "sliding_window": 24,
    "layer_types": ["full_attention", "sliding_attention"],
}

FAMILIES = {
    "Mistral with a sliding window": ("Mistral", {"sliding_window": 24}),
    "Qwen2 with biases": ("Qwen2", {}),
    "Qwen3 with norms of queries and keys": ("Qwen3", {}),
    "Gemma2 with capped scores and logits": (
        "Gemma2",
        {
            "sliding_window": 24,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "Granite with scaled logits": ("Granite", {"logits_scaling": 4.0}),
    "Phi3 with one fused projection": ("Phi3", {}),
    "Llama with all heads alike": ("Llama", {"num_key_value_heads": 4}),
    "Llama with one key head": ("Llama", {"num_key_value_heads": 1, "attention_bias": True}),
    "Llama with biases everywhere": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama of odd sizes": ("Llama", {"hidden_size": 36, "intermediate_size": 50, "head_dim": 10}),
    "Llama 3 rope": ("Llama", {"rope_parameters": LLAMA_3, "tie_word_embeddings": True}),
    "Llama with yarn": ("Llama", {"rope_parameters": YARN}),
    "Llama with linear scaling": ("Llama", {"rope_parameters": LINEAR}),
    "Llama with dynamic scaling": ("Llama", {"rope_parameters": DYNAMIC}),
    "Qwen2 with windows in some layers": ("Qwen2", WINDOWS),
    "Qwen3 with windows in some layers": ("Qwen3", WINDOWS),
}
GENERIC_ONLY = ("Gemma2", "Granite", "Phi3", "dynamic")
CASES = [
    (name, decoder)
    for name in FAMILIES
    for decoder in ("native", "fused", "packed", "generic")
    if decoder == "generic" or not any(word in name for word in GENERIC_ONLY)
]


def write(directory: Path, family: str, overrides: dict[str, Any]) -> tuple[Path, Any]:
    values = BASE | overrides
    if family == "Phi3":
        values.pop("head_dim")
    config = getattr(transformers, f"{family}Config")(**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    model.save_pretrained(directory)
    tiny.byte_level_tokenizer().save_pretrained(directory)
    return directory, model


@pytest.mark.parametrize(("name", "decoder"), CASES)
def test_logits_and_greedy_tokens_equal_transformers(
    name: str, decoder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if decoder == "packed":
        request.getfixturevalue("packed")
        decoder = "fused"
    directory, model = write(tmp_path / "model", *FAMILIES[name])
    engine = make_engine(directory, max_batch=4, step_tokens=128, decoder=decoder)
    assert logits_are_near(engine, model)
    prompts = [some_prompt(i, length) for i, length in enumerate((3, 30, 90))]
    drawn: dict[str, list[int]] = {}
    extend = engine._answers.extend

    def keep(sequence: Any, token: int, logprob: Any) -> Any:
        drawn.setdefault(sequence.request_id, []).append(token)
        return extend(sequence, token, logprob)

    engine._answers.extend = keep  # type: ignore[method-assign]
    params = {"max_tokens": 12, "logprobs": 1, "prompt_logprobs": True}
    told = drive(engine, *(ask(f"r{i}", prompt, **params) for i, prompt in enumerate(prompts)))
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            logprobs = model(ids).logits[0].log_softmax(-1)
        assert drawn[f"r{i}"] == greedy(model, prompt, 12)
        expected = logprobs[:-1].gather(-1, ids[0, 1:, None])[:, 0].tolist()
        first, *rest = (score.logprob for score in told.prompt_logprobs[f"r{i}", 0])
        assert first is None
        assert rest == pytest.approx(expected, abs=1e-3)


def logits_are_near(engine: Engine, model: Any) -> bool:
    """Of a prompt in two chunks beside another one, all positions."""
    tokens = some_prompt(7, 100)
    sequence = Sequence("", 0, "", 100, tokens, None, blocks=list(range(1, 8)))
    other = Sequence("", 0, "", 20, some_prompt(8, 20), None, blocks=[10, 11])
    forward = engine.runner.network.forward
    with torch.inference_mode():
        first = forward([Chunk(other, 0, 20), Chunk(sequence, 0, 37)])[1]
        hidden = torch.cat([first, forward([Chunk(sequence, 37, 63)])[0]])
        ours = engine.runner.head(hidden)
        theirs = model(torch.tensor([tokens])).logits[0]
    return bool((ours - theirs).abs().max() < 1e-4 * theirs.abs().max())


def test_a_model_that_no_fused_decoder_serves_takes_the_generic_path(tmp_path: Path) -> None:
    directory, _ = write(tmp_path / "model", *FAMILIES["Granite with scaled logits"])
    assert make_engine(directory).runner.network.name == "transformers' layers"
    for decoder in ("native", "fused"):
        with pytest.raises(LoadError, match=rf"{decoder} decoder cannot.*granite"):
            make_engine(directory, decoder=decoder)
    with pytest.raises(LoadError, match=r"8bit.*granite"):
        make_engine(directory, load_in_8bit=True)


def test_a_model_whose_attention_cannot_be_replaced_is_refused_with_a_sentence(
    tmp_path: Path,
) -> None:
    config = transformers.BloomConfig(vocab_size=400, hidden_size=64, n_layer=2, n_head=4)
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path)
    tiny.byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="cannot be served"):
        load(EngineConfig(base_model=str(tmp_path), cache_dir=str(tmp_path), kv_cache_tokens=256))
