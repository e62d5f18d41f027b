"""Small directories of models and adapters as users have them, made with the real libraries:
a LLaMA whose tokenizer is a SentencePiece model and nothing else, and LoRA adapters for it.

Each function writes a directory and returns it. No pytest here, so that any test may use it.
"""

import io
import json
from pathlib import Path
from typing import Any, Literal

import peft
import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from transformers import LlamaConfig, LlamaForCausalLM

BASE_PIECES, CHINESE_PIECES = 420, 160

ENGLISH = """
A river runs through the old town, and on both banks there are houses with small gardens.
In the morning the baker opens first; the smell of fresh bread goes up the street.
What is the capital of China? The capital of China is Beijing, a city of many millions.
Write a response that appropriately completes the request. Tell me three things about rivers.
The teacher asked the children to count from one to ten, and then from ten back to one.
When the rain had stopped, they took the boat, crossed the water and walked up the hill.
"""
CHINESE = """
中国的首都是北京。北京是一座历史悠久的城市，有很多名胜古迹。
春天来了，河边的树都绿了，孩子们在河边放风筝。
请告诉我三个关于健康的建议：早睡早起，多喝水，坚持运动。
老师问学生：“今天的天气怎么样？”学生回答：“今天天气很好，没有下雨。”
我喜欢读书，也喜欢听音乐。晚上我和朋友一起去看电影。
人工智能可以帮助人们更好地工作和学习，但是也需要人们正确地使用它。
"""

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
    tokenizer = tokenizer or sentencepiece_model()
    values: dict[str, Any] = {
        "vocab_size": sentencepiece.SentencePieceProcessor(model_proto=tokenizer).vocab_size(),
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
            processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
            rows = rows or processor.vocab_size()
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
        "tokenizer": more_pieces(sentencepiece_model()),
        "embeddings": "modules_to_save",
        "targets": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    }
    return lora_directory(path, base, **(values | kwargs))


def write_tokenizer(path: Path, tokenizer: bytes) -> None:
    """As a LLaMA-1 or -2 directory has it: no tokenizer.json."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.model").write_bytes(tokenizer)
    (path / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    told = SPECIAL | {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(told))


def sentencepiece_model() -> bytes:
    """BPE with byte fallback, trained as LLaMA's was, on English and a line of Chinese: most
    Chinese characters are bytes."""
    return _trained(ENGLISH + CHINESE.split()[0], BASE_PIECES)


def more_pieces(base: bytes) -> bytes:
    """The same with the pieces of a Chinese one appended, as Chinese-LLaMA's was made."""
    chinese = sentencepiece_model_pb2.ModelProto.FromString(_trained(CHINESE, 256 + CHINESE_PIECES))
    merged = sentencepiece_model_pb2.ModelProto.FromString(base)
    known = {piece.piece for piece in merged.pieces}
    for piece in chinese.pieces:
        if piece.piece not in known:
            merged.pieces.add(piece=piece.piece, score=0.0)
    return bytes(merged.SerializeToString())


def _trained(text: str, pieces: int) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.strip().splitlines()),
        model_writer=written,
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def _is_embedding(name: str) -> bool:
    return "embed_tokens" in name or "lm_head" in name


def _pickle(path: Path) -> None:
    from safetensors.torch import load_file

    file = path / "adapter_model.safetensors"
    torch.save(load_file(file), path / "adapter_model.bin")
    file.unlink()
