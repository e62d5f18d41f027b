"""Two GPUs that do not exist: `pretended:0` and `pretended:1`.

Their tensors know where they are and refuse to meet across devices, as a GPU's do; their numbers
are computed on the CPU. Registered for the whole process and for good, so run it as a program of
its own: it loads a model and an adapter, spread over both, and compares what the engine says with
transformers and peft.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import directories
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import PeftModel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import LlamaForCausalLM

# Tensors of inference mode cannot be wrapped. Before anything of the engine is decorated with it.
torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]

from driving import ask, drive, embed, greedy, some_prompt  # noqa: E402

from llmapi.engine import loader  # noqa: E402
from llmapi.engine.config import EngineConfig  # noqa: E402

NAME = "pretended"


class Placed(torch.Tensor):
    """A tensor that says that it is on another device than it is."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor, device: torch.device) -> "Placed":
        placed: Placed = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=device,
        )
        placed.raw = raw
        return placed

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Placed({self.raw!r}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Literals(TorchFunctionMode):
    """What goes between tensors and Python's numbers past all dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return torch.tensor(*args, **(kwargs | {"device": None})).to(kwargs["device"])
        if func is torch.Tensor.tolist and isinstance(args[0], Placed):
            return args[0].raw.tolist()
        if func == torch.Tensor.data.__set__ and isinstance(args[0], Placed):
            args[0].raw = args[1].raw
            return None
        indexing = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
        if indexing and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]).to(args[0].device), *args[2:])
        return func(*args, **kwargs)


class Devices(TorchDispatchMode):
    """Makes new tensors on the pretended devices too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


COPIES = ("copy_", "_to_copy", "to")


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operator on the CPU, and its results where its arguments are."""
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    # Single numbers of the CPU may go anywhere, and a copy is how tensors travel.
    devices = dict.fromkeys(t.device for t in tensors if t.dim() or isinstance(t, Placed))
    if len(devices) > 1 and func.overloadpacket.__name__ not in COPIES:
        raise RuntimeError(f"{func} wants all tensors on the same device: {[*devices]}")
    target = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    target = target or next(iter(devices), torch.device("cpu"))
    plain, named = tree_map(_on_cpu, (args, kwargs))
    result = func(*plain, **named)
    if target.type != NAME:
        return result
    mine = {id(t.raw): t for t in tensors if isinstance(t, Placed)}

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        known = mine.get(id(value))  # what works in place gives its argument back
        same = known is not None and known.device == target
        return known if same else Placed(value, target)

    return tree_map(placed, result)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Placed):
        return value.raw
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value


def spread(model: Any, devices: list[torch.device]) -> Any:
    """Half of the layers on each, with accelerate's hooks, as its device map would have it."""
    first, last = devices
    body, half = model.model, len(model.model.layers) // 2
    places = {body.embed_tokens: first, body.rotary_emb: last, body.norm: last, model.lm_head: last}
    places |= {layer: first if i < half else last for i, layer in enumerate(body.layers)}
    for module, device in places.items():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            owner, _, leaf = name.rpartition(".")
            moved: Any = Placed(tensor.detach(), device)
            if isinstance(tensor, torch.nn.Parameter):
                moved = torch.nn.Parameter(moved, requires_grad=False)
            setattr(module.get_submodule(owner), leaf, moved)
        hook = AlignDevicesHook(execution_device=device)
        hook.init_hook = lambda module: module  # type: ignore[method-assign]
        add_hook_to_module(module, hook)
    return model.eval()


def main(root: Path) -> None:
    base = directories.llama_directory(root / "Base", num_hidden_layers=4)
    adapter = directories.lora_directory(root / "Adapter", base)
    model = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), adapter
    ).eval()
    prompts = [some_prompt(i, length) for i, length in enumerate((3, 30, 70))]
    expected = [greedy(model, prompt, 10) for prompt in prompts]

    _setup_privateuseone_for_python_backend(NAME)
    devices = [torch.device(NAME, 0), torch.device(NAME, 1)]
    loader._devices = lambda config: devices  # type: ignore[assignment]
    loader._load_model = lambda *args: spread(  # type: ignore[assignment]
        LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), devices
    )
    loader._check_room = lambda *args: None  # type: ignore[assignment]
    config = EngineConfig(
        base_model=str(base),
        lora_model=str(adapter),
        cache_dir=str(root / "cache"),
        kv_cache_tokens=512,
        max_batch=8,
        step_tokens=32,
    )
    with Literals(), Devices():
        loaded = loader.load(config)
        network: Any = loaded.engine.runner.network
        assert network.shape.devices == (devices[0],) * 2 + (devices[1],) * 2
        assert loaded.engine.runner.cache.devices == tuple(devices)
        assert loaded.info.device == "pretended:0,pretended:1"
        told = drive(
            loaded.engine,
            *(ask(f"r{i}", p, max_tokens=10, logprobs=0) for i, p in enumerate(prompts)),
            ask("beams", prompts[0], num_beams=3, max_tokens=5),
            ask("drawn", prompts[1], n=2, do_sample=True, seed=1, max_tokens=5),
            embed("vectors", prompts[2]),
        )
    assert not told.failed, told.failed
    for i, tokens in enumerate(expected):
        assert [score.token for score in told.logprobs[f"r{i}", 0]] == tokens
    assert len(told.finished) == 3 + 1 + 2
    with torch.no_grad():
        states = model(input_ids=torch.tensor([prompts[2]]), output_hidden_states=True)
    vector = torch.nn.functional.normalize(states.hidden_states[-1][0].mean(0), dim=-1)
    assert (told.vectors["vectors", 0] - vector).abs().max() < 1e-4

    # A device that is not minded would have been noticed.
    with Literals(), Devices():
        one, other = (Placed(torch.zeros(2), device) for device in devices)
        met = False
        with suppress(RuntimeError):
            met = bool((one + other).shape)
        assert not met
    print("spread")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
