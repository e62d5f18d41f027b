"""The fused LLaMA-family decoder in torch: a GPU's path, and a CPU's without a C compiler.

The same mathematics as transformers' LlamaForCausalLM with fewer and larger operations: queries,
keys and values in one product, gate and up in another, and attention over the paged cache. On a GPU
that has the kernels for it, attention is one call per layer, and decode steps are captured graphs.
"""

from collections.abc import Mapping
from collections.abc import Sequence as ListOf
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from llmapi.engine.adapters import (
    JOINED,
    Delta,
    Rows,
    Sizes,
    added,
    joined,
    rows_of,
    sizes_of_layers,
)
from llmapi.engine.attention import Attends, Scores
from llmapi.engine.cache import CacheShape, KVCache
from llmapi.engine.generic import TOLERANCE
from llmapi.engine.graphs import DecodeSteps
from llmapi.engine.packed import PackedPlan, find_varlen
from llmapi.engine.placement import spread
from llmapi.engine.plan import AttentionPlan
from llmapi.engine.step import Chunk

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""RMSNorm, rotary positions, grouped queries, SwiGLU; optional biases and norms of queries and
keys. (`model_type` of the configuration.)"""


def why_not_fusable(model: Any) -> str | None:
    """Why this model takes the generic path, in a few words; None: the fused decoder serves it."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"'{config.model_type}' is not of the LLaMA family"
    if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        return f"its activation is {config.hidden_act}"
    if "dynamic" in (model.model.rotary_emb.rope_type or ""):
        return "its rotary positions depend on the length of the whole batch"
    if getattr(model, "quantization_method", None) is not None:
        return "its weights are quantised already"
    if any(type(m) is not torch.nn.Linear for m in _projections(model)):
        return "its projections are not plain matrices"
    if type(model.get_input_embeddings()) is not torch.nn.Embedding:
        return "its embedding is not a plain table"
    if spread(model):
        return "its layers lie on several devices"
    return None


def _projections(model: Any) -> list[Any]:
    found = [model.lm_head]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        found += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        found += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return found


@dataclass(frozen=True, slots=True)
class Affine:
    """y = x W^T + b, of one or several of the model's projections below each other."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    @classmethod
    def of(cls, *modules: Any) -> "Affine":
        """Join the modules; theirs is given up, so that memory holds each weight once."""
        if len(modules) == 1:
            return cls(modules[0].weight.detach(), modules[0].bias)
        weight = torch.cat([module.weight.detach() for module in modules])
        bias = None
        if any(module.bias is not None for module in modules):
            bias = torch.cat(
                [
                    m.weight.new_zeros(m.weight.shape[0]) if m.bias is None else m.bias.detach()
                    for m in modules
                ]
            )
        for module in modules:
            module.weight.data = module.weight.new_empty(0)
        return cls(weight, bias)


@dataclass(frozen=True, slots=True)
class Layer:
    qkv: Affine
    o: Affine
    gate_up: Affine
    down: Affine
    attention_norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    scores: Scores


class FusedDecoder:
    """A LLaMA-family model on one device (`Network`)."""

    kind = "fused"

    def __init__(self, model: Any, *, positions: int, most_rows: int) -> None:
        """Take over the weights of `model`, for which `why_not_fusable` is None; it cannot be used
        afterwards. `positions`: the longest sequence. `most_rows`: sequences that decode
        together."""
        config, body = model.config, model.model
        attention = body.layers[0].self_attn
        self.embedding = model.get_input_embeddings().weight.detach()
        self.device = self.embedding.device
        self.vocab_size, self.hidden_size = map(int, self.embedding.shape)
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._dim = int(attention.head_dim)
        self._epsilon = float(config.rms_norm_eps)
        self._cos, self._sin = rotations(body.rotary_emb, positions, self.embedding)
        self._lm_head = Affine.of(model.lm_head)
        self.projections: Sizes = sizes_of_layers(body.layers)
        self._layers = [self._take(layer) for layer in body.layers]
        self._norm = body.norm.weight.detach()
        self._positions, self._most_rows = positions, most_rows
        self._cache: KVCache | None = None
        self._steps: DecodeSteps | None = None
        dtype = self.embedding.dtype
        self.shape = CacheShape(len(self._layers), self._kv_heads, self._dim, self._dim, dtype)
        self.tolerance = TOLERANCE[dtype]
        self._varlen = find_varlen(self.device, dtype, self._heads, self._kv_heads, self._dim)
        self.name = "fused decoder"
        if self._varlen:
            self.name += ", packed attention"
            self.name += ", CUDA graphs" if self.device.type == "cuda" else ""

    def pack(self, deltas: Mapping[str, Delta]) -> list[dict[str, Delta]]:
        """For each layer, by product."""
        return [
            {
                product: Delta(*(half.to(self.embedding) for half in found[0]))
                for product in JOINED
                if (found := joined(deltas, self.projections, layer, product))
            }
            for layer in range(len(self._layers))
        ]

    def use(self, cache: KVCache) -> None:
        self._cache = cache
        if self._varlen:
            self._steps = DecodeSteps(
                self._through,
                cache,
                self._varlen,
                most_rows=self._most_rows,
                longest=self._positions,
                like=self.embedding,
            )

    def forward(self, chunks: ListOf[Chunk]) -> list[Tensor]:
        if self._cache is None:
            raise RuntimeError("give it a cache first")
        adapted = any(chunk.sequence.adapter for chunk in chunks)
        if self._steps and not adapted and self._steps.can_run(chunks):
            return list(self._steps.run(chunks).split(1))
        plan: Attends
        if self._varlen:
            plan, order = PackedPlan.of(self._cache, self._varlen, chunks), list(chunks)
        else:
            plan = AttentionPlan(self._cache, chunks)
            order = plan.order
        rows = [
            (chunk.sequence.tokens[p], p) for chunk in order for p in range(chunk.start, chunk.end)
        ]
        tokens, positions = torch.tensor(rows).t().to(self.device)
        adapters = rows_of((chunk.count, chunk.sequence.adapter) for chunk in order)
        hidden = self._through(plan, tokens, positions, adapters)
        parts = hidden.split([chunk.count for chunk in order])
        found = dict(zip(order, parts, strict=True))
        return [found[chunk] for chunk in chunks]

    def head(self, hidden: Tensor) -> Tensor:
        return self._lm_head(hidden)

    def _through(
        self, plan: Attends, tokens: Tensor, positions: Tensor, adapters: ListOf[Rows] = ()
    ) -> Tensor:
        """Tokens and positions `[tokens]` -> last hidden states `[tokens, hidden_size]`."""
        cos, sin = self._cos[positions], self._sin[positions]
        state = self.embedding[tokens]
        for number, layer in enumerate(self._layers):
            state = self._run(layer, number, plan, state, cos, sin, adapters)
        return rms_norm(state, self._norm.shape, self._norm, self._epsilon)

    def _run(
        self,
        layer: Layer,
        number: int,
        plan: Attends,
        state: Tensor,
        cos: Tensor,
        sin: Tensor,
        adapters: ListOf[Rows],
    ) -> Tensor:
        def product(name: str, x: Tensor) -> Tensor:
            y: Tensor = getattr(layer, name)(x)
            for rows in adapters:
                if delta := rows.adapter.packed[number].get(name):
                    y[rows.first : rows.end] += added(delta, x[rows.first : rows.end])
            return y

        tokens, groups = state.shape[0], (self._heads, self._kv_heads, self._kv_heads)
        normed = rms_norm(state, layer.attention_norm.shape, layer.attention_norm, self._epsilon)
        heads = product("qkv", normed).view(tokens, -1, self._dim)
        q, k, v = heads.split(groups, dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = rms_norm(q, layer.q_norm.shape, layer.q_norm, self._epsilon)
            k = rms_norm(k, layer.k_norm.shape, layer.k_norm, self._epsilon)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        attended = plan.attend(
            number, q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), layer.scores
        )
        state = state + product("o", attended.reshape(tokens, -1))
        normed = rms_norm(state, layer.mlp_norm.shape, layer.mlp_norm, self._epsilon)
        gate, up = product("gate_up", normed).chunk(2, dim=-1)
        return state + product("down", silu(gate) * up)

    @staticmethod
    def _take(layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return Layer(
            qkv=Affine.of(attention.q_proj, attention.k_proj, attention.v_proj),
            o=Affine.of(attention.o_proj),
            gate_up=Affine.of(mlp.gate_proj, mlp.up_proj),
            down=Affine.of(mlp.down_proj),
            attention_norm=layer.input_layernorm.weight.detach(),
            mlp_norm=layer.post_attention_layernorm.weight.detach(),
            q_norm=_norm(attention, "q_norm"),
            k_norm=_norm(attention, "k_norm"),
            scores=Scores(float(attention.scaling), window_of(attention), None),
        )


def window_of(attention: Any) -> int | None:
    """How many positions back a layer looks, its own included; None: all."""
    if attention.config.model_type == "mistral":
        window: int | None = attention.config.sliding_window
        return window
    return getattr(attention, "sliding_window", None)


def _norm(attention: Any, name: str) -> Tensor | None:
    module = getattr(attention, name, None)
    return None if module is None else module.weight.detach()


def rotations(rotary: Any, positions: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin `[positions, dim / 2]` in `like`'s dtype, from transformers' own module with all
    its scalings."""
    places = torch.arange(positions, device=like.device)[None]
    cos, sin = rotary(like.new_zeros(1, 1, 1), places)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x `[tokens, heads, dim]`, cos and sin `[tokens, dim / 2]`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
