"""Layers on several GPUs, as far as a machine without one can tell: where accelerate puts them,
that its hooks let our attention through, and a whole engine on devices that pretend. No real GPU
has been seen by any of this."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import directories
import pytest
import torch
from accelerate import dispatch_model
from driving import make_engine, some_prompt
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.accelerate import _get_device_map

from llmapi.engine import placement
from llmapi.engine.cache import CacheShape, KVCache
from llmapi.engine.generic import GenericNetwork
from llmapi.engine.machine import cache_tokens
from llmapi.engine.placement import check_placement
from llmapi.engine.sequence import Sequence
from llmapi.engine.source import LoadError
from llmapi.engine.step import Chunk

GPUS = [torch.device("cuda", 0), torch.device("cuda", 1)]
CONFIG = LlamaConfig(
    vocab_size=400,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directories.llama_directory(tmp_path_factory.mktemp("placed") / "Base")


def test_layers_are_spread_over_the_named_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By accelerate's own rules, from what we hand to `from_pretrained`."""
    with torch.device("meta"):
        model = LlamaForCausalLM(CONFIG)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    named = [torch.device("cuda", 1), torch.device("cuda", 3)]
    for free, fits in ((size, True), (size // 4, False)):
        monkeypatch.setattr(placement, "free_on", lambda device, free=free: free)
        given = placement.placement(named)
        model.hf_device_map = _get_device_map(model, given["device_map"], given["max_memory"], None)
        places = [model.hf_device_map.get(f"model.layers.{i}") for i in range(4)]
        if fits:
            assert places == [1, 1, 3, 3]
            assert set(model.hf_device_map.values()) == {1, 3}
            check_placement(model, named)
        else:
            with pytest.raises(LoadError, match="does not fit the GPUs that --gpus names"):
                check_placement(model, named)


def test_one_device_takes_all() -> None:
    assert placement.placement([GPUS[1]]) == {"device_map": {"": GPUS[1]}}
    assert placement.placement([torch.device("cpu")]) == {"device_map": None}


def test_layers_on_two_devices_say_what_they_say_on_one(tmp_path: Path) -> None:
    """On devices that pretend (pretended.py): nothing meets across them, and the numbers are
    transformers', with a merged adapter too."""
    program = Path(__file__).with_name("pretended.py")
    root = program.parent.parent.parent
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "spread", done.stderr[-4000:]


def test_the_cache_is_as_large_as_the_tightest_gpu_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = (GPUS[0], GPUS[0], GPUS[1], GPUS[1])
    shape = CacheShape(4, 2, 16, 16, torch.float32, devices)
    free = {GPUS[0]: 10_000 * shape.bytes_per_token, GPUS[1]: 1_000 * shape.bytes_per_token}
    monkeypatch.setattr("llmapi.engine.machine.free_on", lambda device: free[device])
    # Half of the layers are there, so it has room for twice as many positions of them.
    assert cache_tokens(shape, shape.devices, most=10**9) == 1_700
    assert cache_tokens(shape, shape.devices, most=500) == 500


def test_accelerates_hooks_let_our_attention_through(base: Path) -> None:
    """With real numbers: the hooks move arguments about, and the plan is among them."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tokens = some_prompt(1, 40)
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([tokens])).logits[0]
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    parts += [f"model.layers.{i}" for i in range(2)]
    dispatch_model(model, dict.fromkeys(parts, "cpu"), force_hooks=True)
    assert hasattr(model.model.layers[0], "_hf_hook")
    network = GenericNetwork(model)
    network.use(KVCache(network.shape, blocks=8, block_size=16, device=network.device))
    sequence = Sequence("", 0, "", 40, tokens, None, blocks=[1, 2, 3])
    with torch.inference_mode():
        first = network.forward([Chunk(sequence, 0, 25)])[0]
        second = network.forward([Chunk(sequence, 25, 15)])[0]
        ours = network.head(torch.cat([first, second]))
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_a_cache_in_one_place_is_as_before(base: Path) -> None:
    engine = make_engine(base, decoder="generic")
    assert engine.runner.shape.devices == ()
    assert engine.runner.cache.devices == (torch.device("cpu"),)
