"""Small directories of models and adapters as users have them, made with the real libraries:
a LLaMA whose tokenizer is a SentencePiece model and nothing else, and LoRA adapters for it.

Each function writes a directory and returns it. No pytest here, so that any test may use it.
"""

from pathlib import Path
from typing import Any, Literal

import peft
import pieces
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def llama_directory(
    path: Path,
    *,
    seed: int = 0,
    shards: bool = False,
    tokenizer: bytes | None = None,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> Path:
    """A LLaMA that writes nonsense, always the same, with `tokenizer.model` as its only tokenizer.

    `shards`: in several safetensors files with an index. `tokenizer`: the bytes of another
    SentencePiece model. The rest goes into its LlamaConfig.
    """
    tokenizer = tokenizer or pieces.trained()
    values: dict[str, Any] = {
        "vocab_size": pieces.size(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        # Wide, so that the best token stands out by far more than rounding can move it.
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**(values | overrides))).to(dtype)
    model.save_pretrained(path, max_shard_size="100KB" if shards else "1GB")
    write_tokenizer(path, tokenizer)
    return path


def lora_directory(
    path: Path,
    base: Path,
    *,
    seed: int = 1,
    tokenizer: bytes | None = None,
    embeddings: Literal["modules_to_save", "saved", None] = None,
    rows: int | None = None,
    pickled: bool = False,
    targets: tuple[str, ...] = ("q_proj", "v_proj"),
    **lora: Any,
) -> Path:
    """A LoRA adapter for the model in `base`, with weights that change every answer.

    `tokenizer`: the SentencePiece model that it brings. `embeddings`: whether it holds
    `embed_tokens` and `lm_head`, of `rows` rows (that tokenizer's by default), as modules to save
    or as embedding layers that were resized. `pickled`: as `adapter_model.bin`. The rest goes into
    its LoraConfig.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        if tokenizer is not None:
            rows = rows or pieces.size(tokenizer)
        if rows is not None and rows != model.config.vocab_size:
            model.resize_token_embeddings(rows, mean_resizing=False)
        saved = ["embed_tokens", "lm_head"] if embeddings == "modules_to_save" else None
        values = {"r": 4, "lora_alpha": 8, "modules_to_save": saved} | lora
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=list(targets), **values)
        adapted = peft.get_peft_model(model, config)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding" in name:  # zero, as they are made
                torch.nn.init.normal_(weight, std=0.2)
            elif "lora_A" in name:
                torch.nn.init.normal_(weight, std=0.3)
            elif "magnitude" in name:
                weight.data *= 1 + 0.2 * torch.rand_like(weight)
            elif "modules_to_save" in name or (embeddings and _is_embedding(name)):
                torch.nn.init.normal_(weight, std=0.2)
        adapted.save_pretrained(path, save_embedding_layers=embeddings == "saved")
    if pickled:
        _pickle(path)
    if tokenizer is not None:
        write_tokenizer(path, tokenizer)
    return path


def chinese_lora_directory(path: Path, base: Path, **kwargs: Any) -> Path:
    """As Chinese-Alpaca's: a tokenizer with more pieces than the base's, and their embeddings."""
    values = {
        "tokenizer": pieces.extended(pieces.trained()),
        "embeddings": "modules_to_save",
        "targets": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    }
    return lora_directory(path, base, **(values | kwargs))


def write_tokenizer(path: Path, tokenizer: bytes) -> None:
    """As a LLaMA-1 or -2 directory has it: no tokenizer.json."""
    told = SPECIAL | {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
    }
    pieces.write(path, tokenizer, special_tokens_map=SPECIAL, tokenizer_config=told)


def _is_embedding(name: str) -> bool:
    return "embed_tokens" in name or "lm_head" in name


def _pickle(path: Path) -> None:
    from safetensors.torch import load_file

    file = path / "adapter_model.safetensors"
    torch.save(load_file(file), path / "adapter_model.bin")
    file.unlink()
