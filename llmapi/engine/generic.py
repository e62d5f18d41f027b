"""The generic path: any causal language model of transformers whose attention is replaceable."""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as ListOf
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmapi.engine.adapters import Delta, Rows, Sizes, added, rows_of
from llmapi.engine.attention import IMPLEMENTATION, ShapeProbe, UnsupportedModel
from llmapi.engine.cache import CacheShape, KVCache
from llmapi.engine.plan import AttentionPlan, SpreadPlan
from llmapi.engine.step import Chunk

TOLERANCE = {torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
QUANTISED_TOLERANCE = 1e-1
"""At least, where activations are quantised too: bitsandbytes' 8 bits round a row differently in
other company."""


class GenericNetwork:
    """transformers' own forward with our attention (`Network`).

    All sequences of a step lie flattened in one row, `[1, tokens]`, each with its own positions;
    the attention plan keeps them apart.
    """

    kind = "generic"
    name = "transformers' layers"

    def __init__(self, model: Any) -> None:
        """`model`: a transformers causal language model on its device. Raises UnsupportedModel."""
        self.model = model.eval().requires_grad_(False)
        self.device = torch.device(model.device)
        self.embedding = model.get_input_embeddings().weight
        self.vocab_size, self.hidden_size = map(int, self.embedding.shape)
        self._body_name = model.base_model_prefix
        self._body = getattr(model, self._body_name)
        self._cache: KVCache | None = None
        self._adapted: list[Rows] = []
        """Of the step that runs."""
        self._hooked: set[str] = set()
        self.projections: Sizes = dict(_projections(model))
        model.set_attn_implementation(IMPLEMENTATION)
        if model.config._attn_implementation != IMPLEMENTATION:
            raise UnsupportedModel("this model does not let its attention be replaced")
        self.shape = self._probe()
        self.tolerance = TOLERANCE[self.shape.dtype]
        if getattr(model, "quantization_method", None) is not None:
            self.tolerance = max(self.tolerance, QUANTISED_TOLERANCE)

    def pack(self, deltas: Mapping[str, Delta]) -> dict[str, Delta]:
        for name in deltas.keys() - self._hooked:
            self.model.get_submodule(name).register_forward_hook(partial(self._adapt, name))
            self._hooked.add(name)
        return {
            name: Delta(*(half.to(self._device_of(name)) for half in delta))
            for name, delta in deltas.items()
        }

    def _device_of(self, name: str) -> torch.device:
        parameter = next(self.model.get_submodule(name).parameters())
        return torch.device(parameter.device)

    def _adapt(self, name: str, module: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
        """What follows each adapted projection: `[1, tokens, inputs]` to `[1, tokens, outputs]`."""
        for rows in self._adapted:
            if delta := rows.adapter.packed.get(name):
                x, y = args[0][0, rows.first : rows.end], output[0, rows.first : rows.end]
                y += added(delta, x).to(y.dtype)
        return output

    def use(self, cache: KVCache) -> None:
        self._cache = cache

    def forward(self, chunks: ListOf[Chunk]) -> list[Tensor]:
        if self._cache is None:
            raise RuntimeError("give it a cache first")
        spread = len(self._cache.devices) > 1
        plan = (SpreadPlan if spread else AttentionPlan)(self._cache, chunks)
        firsts: dict[Chunk, int] = {}
        tokens: list[int] = []
        positions: list[int] = []
        for chunk in plan.order:
            firsts[chunk] = len(tokens)
            tokens += chunk.sequence.tokens[chunk.start : chunk.end]
            positions += range(chunk.start, chunk.end)
        self._adapted = rows_of((chunk.count, chunk.sequence.adapter) for chunk in plan.order)
        try:
            hidden = self._call(plan, tokens, positions).last_hidden_state[0].to(self.device)
        finally:
            self._adapted = []
        return [hidden[firsts[chunk] : firsts[chunk] + chunk.count] for chunk in chunks]

    def head(self, hidden: Tensor) -> Tensor:
        # Through the model's own forward, for its scaling and capping; its body is stood in for.
        known = _Known(self._body_output(last_hidden_state=hidden[None]))
        setattr(self.model, self._body_name, known)
        try:
            logits: Tensor = self.model(input_ids=None, use_cache=False).logits[0]
        finally:
            setattr(self.model, self._body_name, self._body)
        return logits.to(self.device)

    def _call(self, plan: Any, tokens: list[int], positions: list[int]) -> Any:
        return self._body(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            use_cache=False,
            engine_plan=plan,
        )

    @torch.inference_mode()
    def _probe(self) -> CacheShape:
        """Ask the model itself what its layers store, rather than guess from its config."""
        probe = ShapeProbe()
        self._body_output = type(self._call(probe, [0, 0], [0, 1]))
        shapes = set(probe.seen.values())
        if len(shapes) != 1 or sorted(probe.seen) != list(range(len(probe.seen))):
            raise UnsupportedModel("its layers store keys and values of different shapes")
        kv_heads, key_dim, value_dim, dtype = shapes.pop()
        devices = tuple(probe.devices[layer] for layer in range(len(probe.seen)))
        spread = devices if len(set(devices)) > 1 else ()
        return CacheShape(len(probe.seen), kv_heads, key_dim, value_dim, dtype, spread)


def _projections(model: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, inputs and outputs of each, in layers of peft's (`base_layer`) too."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        plain = getattr(module, "base_layer", module)
        inside = ".base_layer" in name or ".lora_" in name
        if isinstance(plain, torch.nn.Linear) and module is not head and not inside:
            yield name, (plain.in_features, plain.out_features)


class _Known(torch.nn.Module):
    """Stands in for a model's body whose output is known already."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self._output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._output
