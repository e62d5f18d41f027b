"""The generic path on other families: the same logits as transformers, or a clear refusal."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from driving import ask, drive, make_engine, some_prompt

from llmapi.engine.config import EngineConfig
from llmapi.engine.loader import load
from llmapi.engine.source import LoadError

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
    "Llama 3 rope": ("Llama", {"rope_parameters": LLAMA_3, "tie_word_embeddings": True}),
}


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


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_equal_generate(name: str, tmp_path: Path) -> None:
    directory, model = write(tmp_path / "model", *FAMILIES[name])
    engine = make_engine(directory, max_batch=4, step_tokens=32)
    prompts = [some_prompt(i, length) for i, length in enumerate((3, 30, 90))]
    drawn: dict[str, list[int]] = {}
    extend_one = engine._extend_one

    def keep(sequence: Any, token: int, logprob: Any) -> None:
        drawn.setdefault(sequence.request_id, []).append(token)
        extend_one(sequence, token, logprob)

    engine._extend_one = keep  # type: ignore[method-assign]
    params = {"max_tokens": 12, "logprobs": 1, "prompt_logprobs": True}
    told = drive(engine, *(ask(f"r{i}", prompt, **params) for i, prompt in enumerate(prompts)))
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
            )
            logprobs = model(ids).logits[0].log_softmax(-1)
        assert drawn[f"r{i}"] == output[0, len(prompt) :].tolist()
        expected = logprobs[:-1].gather(-1, ids[0, 1:, None])[:, 0].tolist()
        first, *rest = (score.logprob for score in told.prompt_logprobs[f"r{i}", 0])
        assert first is None
        assert rest == pytest.approx(expected, abs=1e-3)


def test_a_model_whose_attention_cannot_be_replaced_is_refused_with_a_sentence(
    tmp_path: Path,
) -> None:
    config = transformers.BloomConfig(vocab_size=400, hidden_size=64, n_layer=2, n_head=4)
    transformers.BloomForCausalLM(config).save_pretrained(tmp_path)
    tiny.byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="cannot be served"):
        load(EngineConfig(base_model=str(tmp_path), cache_dir=str(tmp_path), kv_cache_tokens=256))
