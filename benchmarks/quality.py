"""What 8 bits cost in quality: perplexity and next-token agreement beside float32, on a text that
lies here (prose.txt, from this project's own documentation).

    python benchmarks/quality.py [--base_model DIR] [--tokens 4096] [--window 512]
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from llmapi.engine.config import EngineConfig
from llmapi.engine.embedded import embedded_model_path
from llmapi.engine.loader import load
from llmapi.engine.messages import ModelInfo
from llmapi.engine.runner import Runner
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Chunk

TEXT = Path(__file__).with_name("prose.txt")
STEP = 256
"""Tokens of one forward pass."""


def logits_of(runner: Runner, tokens: list[int]) -> Tensor:
    """`[tokens, vocab]`, computed as the engine computes a prompt."""
    sequence = Sequence("", 0, "", len(tokens), tokens, None)
    block_size = runner.cache.block_size
    sequence.blocks = list(range(1, -(-len(tokens) // block_size) + 1))
    starts = range(0, len(tokens), STEP)
    chunks = [Chunk(sequence, start, min(STEP, len(tokens) - start)) for start in starts]
    hidden = torch.cat([runner.network.forward([chunk])[0] for chunk in chunks])
    return runner.head(hidden)


@torch.inference_mode()
def measure(config: EngineConfig, count: int, window: int) -> tuple[float, Tensor, ModelInfo]:
    """Perplexity, the most probable token after each, and the model's own description."""
    loaded = load(config)
    tokenizer = AutoTokenizer.from_pretrained(loaded.info.tokenizer_path, local_files_only=True)
    tokens = tokenizer(TEXT.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    if len(tokens) < count:
        raise SystemExit(f"{TEXT.name} has {len(tokens)} tokens only; lower --tokens.")
    loss, best = 0.0, []
    for first in range(0, count, window):
        part = tokens[first : first + window]
        logits = logits_of(loaded.engine.runner, part)
        target = torch.tensor(part[1:])
        loss += float(cross_entropy(logits[:-1], target, reduction="sum"))
        best.append(logits[:-1].argmax(-1))
    agreed = torch.cat(best)
    return math.exp(loss / len(agreed)), agreed, loaded.info


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base_model", default=str(embedded_model_path()))
    parser.add_argument("--cache_dir", default="var/models")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=512)
    options = parser.parse_args()

    baseline: tuple[float, Tensor] | None = None
    print("| weights | perplexity | | same next token |")
    print("| --- | --- | --- | --- |")
    for name, values in (
        ("float32", {}),
        ("bfloat16", {"dtype": "bfloat16"}),
        ("int8", {"load_in_8bit": True}),
    ):
        config = EngineConfig(
            base_model=options.base_model,
            cache_dir=options.cache_dir,
            kv_cache_tokens=2 * options.window,
            **values,
        )
        perplexity, best, _ = measure(config, options.tokens, options.window)
        baseline = baseline or (perplexity, best)
        change = perplexity / baseline[0] - 1
        same = float((best == baseline[1]).float().mean())
        print(f"| {name} | {perplexity:.3f} | {change:+.2%} | {same:.2%} |", flush=True)


if __name__ == "__main__":
    main()
