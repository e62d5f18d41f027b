"""`--lora_model` on directories as users have them: the same numbers and the same text as peft's,
whatever the adapter brings."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import directories
import pieces
import pytest
import torch
from driving import Told, ask, drive, greedy
from peft import PeftModel
from transformers import AutoTokenizer, LlamaForCausalLM

from llmapi.engine import merging
from llmapi.engine.config import EngineConfig
from llmapi.engine.loader import Loaded, load
from llmapi.engine.messages import AdapterLoaded, LoadProgress
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Chunk

pytestmark = [
    # What peft says of adapters of tied embeddings, as their maker hears it.
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True."),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers. to .True."),
]

CHINESE_PROMPT = "告诉我中国的首都在哪里，你好北京。The river 🌸 runs"
ROWS = pieces.size(pieces.trained())
MORE_ROWS = pieces.size(pieces.extended(pieces.trained()))
DECODERS = ("native", "fused", "generic")
TIED = {"tie_word_embeddings": True}

CASES: dict[str, tuple[dict[str, Any], Callable[..., Path] | None, dict[str, Any]]] = {
    "no adapter": ({}, None, {}),
    "no adapter, shards": ({"shards": True, "attention_bias": True}, None, {}),
    "more pieces": ({}, directories.chinese_lora_directory, {}),
    "more pieces, shards, resized embeddings": (
        {"shards": True},
        directories.chinese_lora_directory,
        {"embeddings": "saved"},
    ),
    "more pieces, a pickle": ({}, directories.chinese_lora_directory, {"pickled": True}),
    "rows for the hardware's sake": ({}, directories.chinese_lora_directory, {"rows": 448}),
    "more pieces, tied base": (TIED, directories.chinese_lora_directory, {}),
    "rslora": (
        {},
        directories.lora_directory,
        {"use_rslora": True, "r": 8, "targets": ("k_proj", "o_proj", "gate_proj", "down_proj")},
    ),
    "dora": ({"shards": True}, directories.lora_directory, {"use_dora": True}),
    "ranks by pattern": (
        {},
        directories.lora_directory,
        {"rank_pattern": {"v_proj": 7}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}},
    ),
    "embedding and head, tied base": (
        TIED,
        directories.lora_directory,
        {"targets": ("embed_tokens", "lm_head", "q_proj"), "bias": "none"},
    ),
}


def write(root: Path, name: str) -> tuple[Path, Path | None]:
    base, make, values = CASES[name]
    directory = directories.llama_directory(root / "Base", **base)
    return directory, make(root / "Adapter", directory, **values) if make else None


def load_both(base: Path, adapter: Path | None, **values: Any) -> Loaded:
    values = {"kv_cache_tokens": 1024, "max_batch": 4, "threads": 1} | values
    return load(
        EngineConfig(
            base_model=str(base),
            lora_model=adapter and str(adapter),
            cache_dir=str(base / "converted"),
            **values,
        )
    )


def reference(base: Path, adapter: Path | None, rows: int) -> Any:
    """The seed's way: resize, attach, leave apart."""
    model: Any = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is None:
        return model.eval()
    if rows != model.config.vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, adapter).eval()


def encode(directory: Path, text: str) -> list[int]:
    processor = pieces.itself(directory)
    return [processor.bos_id(), *processor.encode(text)]


def text_of(directory: Path, tokens: list[int]) -> str:
    """What SentencePiece's own pieces spell in the middle of a text; half a character at its end
    dropped."""
    processor = pieces.itself(directory)
    spelled = b""
    for token in tokens:
        if token >= processor.vocab_size():
            continue
        piece = processor.id_to_piece(token)
        if processor.is_byte(token):
            spelled += bytes([int(piece[3:5], 16)])
        elif not processor.is_control(token) and not processor.is_unknown(token):
            spelled += piece.replace("▁", " ").encode()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return decoder.decode(spelled).replace("\0", "\ufffd")


@torch.inference_mode()
def logits(loaded: Loaded, tokens: list[int]) -> torch.Tensor:
    """At all positions, computed in two chunks beside another sequence."""
    sequence = Sequence("", 0, "", len(tokens), tokens, None, blocks=list(range(1, 8)))
    other = Sequence("", 0, "", 9, tokens[:9], None, blocks=[10])
    network = loaded.engine.runner.network
    first = network.forward([Chunk(other, 0, 9), Chunk(sequence, 0, 5)])[1]
    second = network.forward([Chunk(sequence, 5, len(tokens) - 5)])[0]
    return network.head(torch.cat([first, second])).float()


@torch.inference_mode()
def answers(loaded: Loaded, model: Any, prompts: list[list[int]]) -> tuple[Told, list[list[int]]]:
    """Ours, all in one batch, and generate's, one after the other."""
    told = drive(
        loaded.engine, *(ask(f"r{i}", p, max_tokens=16, logprobs=0) for i, p in enumerate(prompts))
    )
    return told, [greedy(model, prompt, 16) for prompt in prompts]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_text_are_those_of_peft(case: str, decoder: str, tmp_path: Path) -> None:
    base, adapter = write(tmp_path, case)
    loaded = load_both(base, adapter, decoder=decoder)
    tokenizer = adapter if adapter is not None and (adapter / "tokenizer.model").is_file() else base
    assert loaded.info.tokenizer_path == str(tokenizer)
    assert loaded.info.lora == (adapter and str(adapter))
    assert loaded.info.name == "Base"
    assert loaded.info.decoder == decoder
    model = reference(base, adapter, loaded.info.vocab_size)
    prompt = encode(tokenizer, CHINESE_PROMPT)
    if "more pieces" in case:
        assert max(prompt) >= ROWS  # rows that only the adapter brings
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([prompt])).logits[0]
    size = theirs.abs().max()
    assert (logits(loaded, prompt) - theirs).abs().max() < 1e-4 * size
    if adapter:
        with torch.inference_mode(), model.disable_adapter():
            bare = model(input_ids=torch.tensor([prompt])).logits[0]
        if "resized" not in case:  # saved embeddings are peft's base model from then on
            assert (theirs - bare).abs().max() > 0.1 * size
    prompts = [prompt, prompt[:7], encode(tokenizer, "Tell me 三个建议")]
    told, expected = answers(loaded, model, prompts)
    for i, tokens in enumerate(expected):
        assert [score.token for score in told.logprobs[f"r{i}", 0]] == tokens
        assert told.text(f"r{i}") == text_of(tokenizer, tokens)


@pytest.mark.parametrize(
    "values", [{"load_in_8bit": True}, {"dtype": "float32"}], ids=["int8", "float32"]
)
def test_the_sum_of_both_is_what_is_packed(values: dict[str, Any], tmp_path: Path) -> None:
    """Bit for bit what a model would give that was merged beforehand."""
    base, adapter = write(tmp_path, "more pieces")
    assert adapter
    merged = tmp_path / "Merged"
    reference(base, adapter, MORE_ROWS).merge_and_unload().save_pretrained(merged)
    directories.write_tokenizer(merged, (adapter / "tokenizer.model").read_bytes())
    prompt = encode(adapter, CHINESE_PROMPT)
    ours = logits(load_both(base, adapter, decoder="native", **values), prompt)
    assert torch.equal(ours, logits(load_both(merged, None, decoder="native", **values), prompt))


@pytest.mark.parametrize("case", ["more pieces", "dora", "embedding and head, tied base"])
def test_beside_weights_that_nothing_can_be_added_to_it_stays_apart(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a quantised base."""
    monkeypatch.setattr(merging, "is_quantised", lambda model: True)
    base, adapter = write(tmp_path, case)
    loaded = load_both(base, adapter)
    assert loaded.info.decoder == "generic"
    network: Any = loaded.engine.runner.network
    assert any("lora_A" in name for name, _ in network.model.named_modules())
    assert network.projections["model.layers.1.self_attn.q_proj"] == (64, 64)
    assert all("lora_" not in name and "base_layer" not in name for name in network.projections)
    model = reference(base, adapter, loaded.info.vocab_size)
    prompt = encode(adapter if case == "more pieces" else base, CHINESE_PROMPT)  # type: ignore[arg-type]
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([prompt])).logits[0]
    assert (logits(loaded, prompt) - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_an_adapter_may_be_served_beside_one_that_was_merged(tmp_path: Path) -> None:
    base, adapter = write(tmp_path, "rslora")
    loaded = load_both(base, adapter)
    beside = directories.lora_directory(tmp_path / "Beside", base, seed=5)
    told = loaded.engine.load_adapter("beside", str(beside))
    assert isinstance(told, AdapterLoaded), told
    answers = drive(loaded.engine, ask("a", [5, 6, 7]), ask("b", [5, 6, 7], adapter="beside"))
    assert answers.text("a") != answers.text("b")


def test_an_adapter_as_chinese_alpaca_published_them_is_read(tmp_path: Path) -> None:
    """A pickle in half precision, with the settings that peft wrote in the spring of 2023."""
    base, adapter = write(tmp_path, "more pieces, a pickle")
    assert adapter
    file = adapter / "adapter_model.bin"
    halves = {name: weight.half() for name, weight in torch.load(file).items()}
    torch.save({name: weight.float() for name, weight in halves.items()}, file)
    expected = logits(load_both(base, adapter), prompt := encode(adapter, CHINESE_PROMPT))
    torch.save(halves, file)
    config = json.loads((adapter / "adapter_config.json").read_text())
    kept = ("bias", "fan_in_fan_out", "inference_mode", "lora_alpha", "modules_to_save")
    kept += ("peft_type", "r", "target_modules", "task_type", "lora_dropout")
    old = {name: config[name] for name in kept} | {"enable_lora": None, "merge_weights": False}
    old["base_model_name_or_path"] = "./../llama_7b_weights/chinese-llama-lora-merged"
    (adapter / "adapter_config.json").write_text(json.dumps(old))
    assert torch.equal(logits(load_both(base, adapter), prompt), expected)


def test_a_tokenizer_that_is_named_goes_before_the_adapters(tmp_path: Path) -> None:
    base, adapter = write(tmp_path, "more pieces")
    named = tmp_path / "Named"
    directories.write_tokenizer(named, pieces.extended(pieces.trained()))
    assert load_both(base, adapter, tokenizer_path=str(named)).info.tokenizer_path == str(named)


def test_a_base_of_pickles_is_read_as_tensors_alone(tmp_path: Path) -> None:
    base = directories.llama_directory(tmp_path / "Base")
    model = LlamaForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    loaded = load_both(base, None)
    prompt = encode(base, CHINESE_PROMPT)
    with torch.inference_mode():
        theirs = model.eval()(input_ids=torch.tensor([prompt])).logits[0]
    assert (logits(loaded, prompt) - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_tokens_that_were_added_later_get_rows_that_are_never_likely(tmp_path: Path) -> None:
    """A tokenizer with a [PAD] that the model never had, as Alpaca's."""
    base = directories.llama_directory(tmp_path / "Base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "Padded")
    told: list[LoadProgress] = []
    config = EngineConfig(
        base_model=str(base),
        tokenizer_path=str(tmp_path / "Padded"),
        cache_dir=str(tmp_path),
        kv_cache_tokens=512,
    )
    loaded = load(config, told.append)
    assert loaded.info.vocab_size == ROWS + 1
    assert any(f"{ROWS + 1} tokens: the embeddings are resized" in line.text for line in told)
    everywhere = logits(loaded, encode(base, CHINESE_PROMPT))
    assert (everywhere[:, ROWS] < everywhere[:, :ROWS].amax(-1) - 1).all()
