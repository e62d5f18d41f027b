"""LoRA adapters beside the base model: the same numbers as peft's, any mixture in one batch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from driving import Reference, ask, drive, embed, make_engine, some_prompt
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmapi.engine import source
from llmapi.engine.engine import Engine
from llmapi.engine.messages import AdapterFailed, AdapterLoaded
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Chunk

ATTENTION = ["q_proj", "v_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "small": {"r": 2, "lora_alpha": 8, "target_modules": ATTENTION},
    "whole": {"r": 5, "lora_alpha": 10, "target_modules": ALL, "use_rslora": True},
    "uneven": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["k_proj", "o_proj", "up_proj"],
        "rank_pattern": {"o_proj": 7},
        "alpha_pattern": {"layers.0.mlp.up_proj": 2},
        "layers_to_transform": [0],
    },
}
NETWORKS = [
    {"decoder": "native"},
    {"decoder": "fused"},
    {"decoder": "generic"},
    {"decoder": "native", "dtype": "bfloat16"},
    {"decoder": "native", "load_in_8bit": True},
]


def write_adapter(base: Path, to: Path, **config: Any) -> Path:
    """An adapter whose B matrices are random too, so that it changes the answers."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    generator = torch.Generator().manual_seed(len(str(config)))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.2, generator=generator)
    adapted.save_pretrained(to)
    return to


@pytest.fixture(scope="module")
def adapters(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(tiny_dir, root / name, **c) for name, c in ADAPTERS.items()}


def serving(tiny_dir: Path, adapters: dict[str, Path], **values: Any) -> Engine:
    engine = make_engine(tiny_dir, **values)
    for name, path in adapters.items():
        loaded = engine.load_adapter(name, str(path))
        assert isinstance(loaded, AdapterLoaded), loaded
    return engine


@torch.inference_mode()
def logits_of(engine: Engine, adapter: str, prompt: list[int]) -> Tensor:
    """Of the last token, computed in two chunks beside a neighbour without an adapter."""
    network = engine.runner.network
    ours = Sequence("", 0, "", len(prompt), prompt, None, adapter=engine._adapters.get(adapter))
    other = Sequence("", 0, "", 20, some_prompt(9, 20), None)
    ours.blocks, other.blocks = list(range(1, 9)), list(range(10, 14))
    network.forward([Chunk(other, 0, 11), Chunk(ours, 0, 7)])
    hidden = network.forward([Chunk(ours, 7, len(prompt) - 7), Chunk(other, 11, 3)])[0]
    return network.head(hidden[-1:])[0].float()


@torch.inference_mode()
def logits_of_peft(base: Path, adapter: Path | None, prompt: list[int]) -> Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter)
    return model.eval()(input_ids=torch.tensor([prompt])).logits[0, -1]


@pytest.mark.parametrize("values", NETWORKS, ids=str)
def test_logits_are_those_of_peft(
    tiny_dir: Path, adapters: dict[str, Path], values: dict[str, Any]
) -> None:
    engine, prompt = serving(tiny_dir, adapters, **values), some_prompt(3, 30)
    base = logits_of_peft(tiny_dir, None, prompt)
    exact = "dtype" not in values and "load_in_8bit" not in values
    for name, path in {"": None, **adapters}.items():
        theirs = logits_of_peft(tiny_dir, path, prompt)
        ours = logits_of(engine, name, prompt)
        size = theirs.abs().max()
        assert (ours - theirs).abs().max() < (1e-4 if exact else 6e-2) * size, name
        if path:  # and the adapter is what makes the difference
            assert (theirs - base).abs().max() > 0.2 * size, name


@pytest.mark.parametrize("values", NETWORKS, ids=str)
def test_all_in_one_batch_say_what_each_says_alone(
    tiny_dir: Path, adapters: dict[str, Path], values: dict[str, Any]
) -> None:
    engine = serving(tiny_dir, adapters, **values)
    prompt = some_prompt(1, 40)
    requests = [
        ask(f"{name}-{i}", prompt if i else some_prompt(4, 9), adapter=name, max_tokens=20)
        for i in range(2)
        for name in ("", *adapters)
    ]
    together = drive(engine, *requests)
    texts = {}
    for request in requests:
        alone = drive(engine, request).text(request.request_id)
        assert together.text(request.request_id) == alone
        texts[request.request_id] = alone
    assert len(set(texts.values())) == len(texts)  # each of them has its own to say


@pytest.mark.usefixtures("packed")
def test_packed_attention_and_buckets_know_adapters(
    tiny_dir: Path, adapters: dict[str, Path]
) -> None:
    test_all_in_one_batch_say_what_each_says_alone(tiny_dir, adapters, {"decoder": "fused"})


def test_greedy_text_is_that_of_generate(tiny_dir: Path, adapters: dict[str, Path]) -> None:
    engine, prompt = serving(tiny_dir, adapters), some_prompt(5, 25)
    for name, path in adapters.items():
        reference = Reference(tiny_dir)
        reference.model = peft.PeftModel.from_pretrained(reference.model, path).eval()
        expected, _ = reference.continue_text(prompt, 20)
        told = drive(engine, ask("r", prompt, adapter=name, max_tokens=20))
        assert told.text("r") == expected


def test_beams_and_embeddings_have_their_adapter(tiny_dir: Path, adapters: dict[str, Path]) -> None:
    engine, prompt = serving(tiny_dir, adapters), some_prompt(6, 20)
    texts, vectors = set(), []
    for name in ("", *adapters):
        told = drive(engine, ask("b", prompt, adapter=name, num_beams=3, n=1))
        texts.add(told.text("b"))
        request = embed("e", prompt)
        request = type(request)(request.request_id, request.user, request.inputs, name)
        vectors.append(drive(engine, request).vectors["e", 0])
    assert len(texts) == 4
    assert all(not torch.allclose(vectors[0], other, atol=1e-3) for other in vectors[1:])


def test_what_one_adapter_computed_no_other_takes_over(
    tiny_dir: Path, adapters: dict[str, Path]
) -> None:
    engine, prompt = serving(tiny_dir, adapters), some_prompt(7, 64)

    def cached(name: str) -> int:
        told = drive(engine, ask("r", prompt, adapter=name, shared_tokens=64))
        return told.finished["r", 0].cached_tokens

    assert [cached(name) for name in ("", "small", "whole")] == [0, 0, 0]
    assert [cached(name) for name in ("", "small", "whole")] == [48, 48, 48]
    engine.load_adapter("small", str(adapters["uneven"]))
    assert cached("small") == 0


def test_one_that_is_dropped_or_replaced_serves_those_that_have_it(
    tiny_dir: Path, adapters: dict[str, Path]
) -> None:
    engine, prompt = serving(tiny_dir, adapters), some_prompt(8, 20)
    expected = drive(engine, ask("r", prompt, adapter="small")).text("r")
    changes: list[Callable[[], object]] = [
        lambda: engine.drop_adapter("small"),
        lambda: engine.load_adapter("small", str(adapters["whole"])),
    ]

    def change_once() -> None:
        if changes:
            changes.pop(0)()

    told = drive(engine, ask("r", prompt, adapter="small"), after_step=change_once)
    assert told.text("r") == expected
    assert drive(engine, ask("r", prompt, adapter="small")).text("r") != expected
    engine.drop_adapter("small")
    engine.drop_adapter("small")
    assert "no longer served" in drive(engine, ask("r", prompt, adapter="small")).failed["r"]


def broken_weights(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(path / "adapter_model.safetensors")
    change(weights)
    save_file(weights, path / "adapter_model.safetensors")


def config_with(**values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (
        lambda path: (path / "adapter_config.json").unlink(),
        "no adapter_config.json",
    ),
    "no JSON": (lambda path: (path / "adapter_config.json").write_text("{"), "not valid JSON"),
    "no weights": (
        lambda path: (path / "adapter_model.safetensors").unlink(),
        "has no weights",
    ),
    "no LoRA": (config_with(peft_type="IA3"), "no LoRA adapter.*IA3"),
    "DoRA": (config_with(use_dora=True), "DoRA.*--lora_model"),
    "its own embedding": (config_with(modules_to_save=["embed_tokens"]), "layers of its own"),
    "biases": (config_with(bias="all"), "biases"),
    "another rank": (config_with(r=3), "says that .* rank 3, and it has 2"),
    "another size": (
        lambda path: broken_weights(path, lambda w: w.update({A0: torch.zeros(2, 11)})),
        "another base model.*inputs.*\\[2, 11\\]",
    ),
    "another layer": (
        lambda path: broken_weights(
            path, lambda w: w.update({A0.replace("layers.0", "layers.9"): torch.zeros(2, 48)})
        ),
        "another base model: this one has no projection 'model.layers.9",
    ),
    "a number for a matrix": (
        lambda path: broken_weights(path, lambda w: w.update({A0: torch.tensor(1.0)})),
        "another base model",
    ),
    "cut short": (
        lambda path: (path / "adapter_model.safetensors").write_bytes(
            (path / "adapter_model.safetensors").read_bytes()[:-5]
        ),
        "cut short",
    ),
    "half of it": (lambda path: broken_weights(path, lambda w: w.pop(A0)), "lacks a half"),
    "NaN": (
        lambda path: broken_weights(path, lambda w: w[A0].fill_(torch.nan)),
        "broken numbers",
    ),
    "DoRA's vectors": (
        lambda path: broken_weights(
            path, lambda w: w.update({A0.replace("lora_A", "lora_magnitude"): torch.ones(4)})
        ),
        "no LoRA matrix",
    ),
    "an output layer": (
        lambda path: broken_weights(
            path,
            lambda w: w.update(
                {f"base_model.model.lm_head.lora_{h}.weight": torch.ones(2, 2) for h in "AB"}
            ),
        ),
        "output layer",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_that_cannot_be_served_says_why(
    tiny_dir: Path, tmp_path: Path, name: str, engine: Engine
) -> None:
    spoil, sentence = BAD[name]
    path = write_adapter(tiny_dir, tmp_path / "adapter", **ADAPTERS["small"])
    spoil(path)
    failed = engine.load_adapter("bad", str(path))
    assert isinstance(failed, AdapterFailed)
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(failed.message)
    assert "no longer served" in drive(engine, ask("r", [1, 2], adapter="bad")).failed["r"]


def test_settings_of_older_peft_that_are_off_are_passed_over_without_a_word(
    tiny_dir: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """As all of Chinese-Alpaca's adapters have them. (A warning would be an error here.)"""
    path = Path(shutil.copytree(adapters["small"], tmp_path / "old"))
    file = path / "adapter_config.json"
    old = json.loads(file.read_text()) | {"enable_lora": None, "merge_weights": False}
    file.write_text(json.dumps(old))
    serving(tiny_dir, {"old": path})
    file.write_text(json.dumps(old | {"of_next_year": 5}))
    with pytest.warns(UserWarning, match=r"\['of_next_year'\]"):
        serving(tiny_dir, {"newer": path})


def test_a_directory_that_is_gone_is_not_looked_for_on_the_hub(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "fetch", lambda *args: pytest.fail("asked the hub"))
    failed = engine.load_adapter("bad", "org/adapter")
    assert isinstance(failed, AdapterFailed)
    assert failed.message == "There is no directory 'org/adapter'."


def test_whatever_an_adapter_breaks_the_engine_goes_on(
    engine: Engine, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(deltas: object) -> object:
        raise MemoryError("no room")

    monkeypatch.setattr(engine.runner.network, "pack", fails)
    failed = engine.load_adapter("small", str(adapters["small"]))
    assert isinstance(failed, AdapterFailed)
    assert "MemoryError: no room" in failed.message
    assert drive(engine, ask("r", [1, 2])).text("r")
