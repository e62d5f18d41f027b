"""The fused LLaMA-family decoder on a CPU: weights packed once, one call into C per step."""

import ctypes
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as ListOf
from typing import Any

import torch
from torch import Tensor

from llmapi.engine.adapters import JOINED, Delta, Sizes, joined, sizes_of_layers
from llmapi.engine.cache import CacheShape, KVCache
from llmapi.engine.decoder import rotations, window_of
from llmapi.engine.native import library
from llmapi.engine.native.library import BLOCK, GROUP, KINDS, MAX_QUERIES
from llmapi.engine.step import Chunk

TOLERANCES = {"float32": 2e-3, "bfloat16": 1e-1, "int8": 2e-1}
"""Of the logits, as a part of the largest."""


class NativeDecoder:
    """A LLaMA-family model packed for decoder.c (`Network`).

    Keys and values are float32 if the weights are, else bfloat16.

    Not thread-safe: the scratch memory belongs to the step that runs.
    """

    device = torch.device("cpu")

    kind = "native"

    def __init__(
        self,
        model: Any,
        *,
        weights: str,
        positions: int,
        most_rows: int,
        built: ctypes.CDLL,
    ) -> None:
        """Pack `model`, for which `why_not_fusable` is None, with `weights` float32, bfloat16 or
        int8.

        The model's own weights are given up on the way, so that memory never holds both.
        `positions`: the longest sequence. `most_rows`: tokens of a step at most. `built`:
        `library.load`'s. Raises NativeUnavailable.
        """
        self._library = built
        self._panel = int(built.decoder_panel())
        self._kind = KINDS[weights]
        self.name = f"native decoder, {weights} weights"
        self.tolerance = TOLERANCES[weights]
        self._most_rows = most_rows
        self._kept: list[Tensor] = []
        """What C points to."""
        config, base = model.config, model.model
        self.embedding = model.get_input_embeddings().weight.detach().float().contiguous()
        self.vocab_size, self.hidden_size = map(int, self.embedding.shape)
        attention = base.layers[0].self_attn
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._dim = int(attention.head_dim)
        self._inner = int(config.intermediate_size)
        self._threads = torch.get_num_threads()
        if self._heads // self._kv_heads > MAX_QUERIES:
            raise library.NativeUnavailable("too many queries share one key")
        kept = torch.float32 if weights == "float32" else torch.bfloat16
        self.shape = CacheShape(len(base.layers), self._kv_heads, self._dim, self._dim, kept)
        cos, sin = rotations(base.rotary_emb, positions, self.embedding[:1])
        tied = model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
        self.projections: Sizes = sizes_of_layers(base.layers)
        head = self._pack([model.lm_head], release=not tied)
        layers = (library.Layer * len(base.layers))(*map(self._layer, base.layers))
        self._head = head
        self._layers = layers
        self._widest = max(self._heads * self._dim, self._inner, self.hidden_size)
        self._decoder = library.Decoder(
            layers=layers,
            embedding=self.embedding.data_ptr(),
            norm=self._keep(base.norm.weight),
            cos=self._keep(cos),
            sin=self._keep(sin),
            layer_count=len(base.layers),
            hidden=self.hidden_size,
            heads=self._heads,
            kv_heads=self._kv_heads,
            head_dim=self._dim,
            inner=self._inner,
            threads=self._threads,
            narrow=weights != "float32",
            epsilon=config.rms_norm_eps,
            scale=attention.scaling,
        )
        self._allocate_scratch()

    def pack(self, deltas: Mapping[str, Delta]) -> "PackedAdapter":
        packed = PackedAdapter(deltas, self.projections, len(self._layers), self._panel)
        if packed.most_rank > self._decoder.most_rank:
            self._low = torch.empty(self._most_rows * packed.most_rank)
            self._decoder.low = self._low.data_ptr()
            self._decoder.most_rank = packed.most_rank
        return packed

    def use(self, cache: KVCache) -> None:
        """Read and write this cache from now on. Its blocks must hold BLOCK positions."""
        if cache.block_size != BLOCK:
            raise ValueError(f"blocks must hold {BLOCK} positions")
        self._decoder.blocks = cache.blocks
        for layer, (keys, values) in zip(self._layers, cache.layers(), strict=True):
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()

    def forward(self, chunks: ListOf[Chunk]) -> list[Tensor]:
        rows = [
            (chunk.sequence.tokens[p], p, chunk.sequence.blocks[p // BLOCK] * BLOCK + p % BLOCK)
            for chunk in chunks
            for p in range(chunk.start, chunk.end)
        ]
        if len(rows) > self._most_rows:
            raise ValueError(f"{len(rows)} tokens in a step that was made for {self._most_rows}")
        tokens, positions, slots = torch.tensor(rows, dtype=torch.int64).t().contiguous()
        pieces, tables = self._pieces(chunks)
        adapters = _adapters_of_rows(chunks)
        out = torch.empty(len(rows), self.hidden_size)
        step = library.Step(
            rows=len(rows),
            pieces=len(pieces),
            tokens=tokens.data_ptr(),
            positions=positions.data_ptr(),
            slots=slots.data_ptr(),
            piece=pieces.data_ptr(),
            tables=tables.data_ptr(),
            adapters=None if adapters is None else adapters.data_ptr(),
            out=out.data_ptr(),
        )
        if not self._library.decoder_forward(ctypes.byref(self._decoder), ctypes.byref(step)):
            raise MemoryError
        return list(out.split([chunk.count for chunk in chunks]))

    def head(self, hidden: Tensor) -> Tensor:
        out = torch.empty(len(hidden), self.vocab_size)
        d = self._decoder
        for first in range(0, len(hidden), self._most_rows):
            rows = hidden[first : first + self._most_rows].contiguous()
            computed = self._library.decoder_linear(
                ctypes.byref(self._head), rows.data_ptr(), len(rows), self.hidden_size,
                out[first:].data_ptr(), self._threads, ctypes.byref(d.inputs),
            )  # fmt: skip
            if not computed:
                raise MemoryError
        return out

    def _pieces(self, chunks: ListOf[Chunk]) -> tuple[Tensor, Tensor]:
        """Attention's pieces of work: so many rows of one sequence that their queries fit."""
        most = max(MAX_QUERIES // (self._heads // self._kv_heads), 1)
        pieces: list[tuple[int, int, int, int]] = []
        tables: list[int] = []
        row = 0
        for chunk in chunks:
            for first in range(0, chunk.count, most):
                count = min(most, chunk.count - first)
                pieces.append((row + first, count, chunk.start + first, len(tables)))
            tables += chunk.sequence.blocks[: -(-chunk.end // BLOCK)]
            row += chunk.count
        return torch.tensor(pieces, dtype=torch.int64), torch.tensor(tables, dtype=torch.int64)

    # ---- packing ---------------------------------------------------------------------------------

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._kept.append(tensor.detach().float().contiguous())
        return self._kept[-1].data_ptr()

    def _layer(self, module: Any) -> library.Layer:
        attention, mlp = module.self_attn, module.mlp
        return library.Layer(
            qkv=self._pack([attention.q_proj, attention.k_proj, attention.v_proj]),
            o=self._pack([attention.o_proj]),
            gate_up=self._pack([mlp.gate_proj, mlp.up_proj], in_turn=True),
            down=self._pack([mlp.down_proj]),
            attention_norm=self._keep(module.input_layernorm.weight),
            mlp_norm=self._keep(module.post_attention_layernorm.weight),
            q_norm=self._keep(getattr(getattr(attention, "q_norm", None), "weight", None)),
            k_norm=self._keep(getattr(getattr(attention, "k_norm", None), "weight", None)),
            window=window_of(attention) or 0,
        )

    def _pack(
        self, modules: list[Any], *, in_turn: bool = False, release: bool = True
    ) -> library.Linear:
        """One matrix from those of `modules`: below each other, or a panel of each in turn."""
        width = modules[0].weight.shape[1]
        heights = [module.weight.shape[0] for module in modules]
        inputs = -(-width // GROUP) * GROUP
        panel = self._panel
        if in_turn:
            panels = sum(-(-height // panel) for height in heights)
        else:
            panels = -(-sum(heights) // panel)
        size = panels * panel * inputs
        dtype = (torch.float32, torch.bfloat16, torch.int8)[self._kind]
        scales = None
        packed = torch.empty(size, dtype=dtype)
        self._kept.append(packed)
        if self._kind == KINDS["int8"]:
            scales = torch.empty(size // GROUP, dtype=torch.bfloat16)
            self._kept.append(scales)
        linear = library.Linear(
            weights=packed.data_ptr(),
            scales=None if scales is None else scales.data_ptr(),
            bias=self._keep(_bias(modules, panel if in_turn else None)),
            inputs=inputs,
            outputs=panels * panel if in_turn else sum(heights),
            kind=self._kind,
        )
        for number, rows in enumerate(_matrices(modules, in_turn=in_turn)):
            stride = len(modules) if in_turn else 1
            self._library.decoder_pack(
                ctypes.byref(linear), rows.data_ptr(), rows.shape[0], width,
                number if in_turn else 0, stride,
            )  # fmt: skip
        if release:
            for module in modules:
                module.weight.data = torch.empty(0)
        return linear

    def _allocate_scratch(self) -> None:
        width = (self._heads + 2 * self._kv_heads) * self._dim
        sizes = {
            "state": self.hidden_size,
            "normed": self.hidden_size,
            "qkv": width,
            "attended": self._heads * self._dim,
            "activated": self._inner,
        }
        for name, size in sizes.items():
            scratch = torch.empty(self._most_rows * size)
            self._kept.append(scratch)
            setattr(self._decoder, name, scratch.data_ptr())
        self._decoder.inputs, memory = library.inputs_for(self._most_rows, self._widest)
        self._kept += memory


class PackedAdapter:
    """An adapter's matrices as they lie for decoder.c, and where."""

    def __init__(self, deltas: Mapping[str, Delta], sizes: Sizes, layers: int, panel: int) -> None:
        self._kept: list[Tensor] = []
        self.most_rank = 0
        self._layers = (library.AdapterLayer * layers)()
        for number, layer in enumerate(self._layers):
            for product in JOINED:
                if found := joined(deltas, sizes, number, product):
                    setattr(layer, product, self._delta(product, *found, panel))
        self.address = ctypes.addressof(self._layers)

    def _delta(self, product: str, whole: Delta, own: ListOf[Tensor], panel: int) -> library.Delta:
        rank, inputs = whole.a.shape
        if product == "gate_up":  # a panel of each in turn, as their weights lie
            b = torch.stack([_in_panels(matrix, panel) for matrix in own], dim=1)
        else:
            b = _in_panels(whole.b, panel)
        self._kept += [whole.a.contiguous(), b.contiguous()]
        self.most_rank = max(self.most_rank, rank)
        a, b = self._kept[-2:]
        return library.Delta(a=a.data_ptr(), b=b.data_ptr(), rank=rank, inputs=inputs)


def _in_panels(b: Tensor, panel: int) -> Tensor:
    """`[outputs, rank]` -> `[panels, rank, panel]`."""
    outputs, rank = b.shape
    padded = torch.nn.functional.pad(b, (0, 0, 0, -outputs % panel))
    return padded.view(-1, panel, rank).transpose(1, 2)


def _adapters_of_rows(chunks: ListOf[Chunk]) -> Tensor | None:
    """For each row of a step where its adapter lies, 0 for none; None: nobody has one."""
    adapters = [(chunk.sequence.adapter, chunk.count) for chunk in chunks]
    if not any(adapter for adapter, _ in adapters):
        return None
    places = [adapter.packed.address if adapter else 0 for adapter, n in adapters for _ in range(n)]
    return torch.tensor(places, dtype=torch.int64)


def _matrices(modules: list[Any], *, in_turn: bool) -> Iterator[Tensor]:
    weights = [module.weight.detach().float().contiguous() for module in modules]
    yield from weights if in_turn or len(weights) == 1 else [torch.cat(weights)]


def _bias(modules: list[Any], panel: int | None) -> Tensor | None:
    """As the outputs lie; `panel`: padded to whole panels of so many, which take turns."""
    if all(module.bias is None for module in modules):
        return None
    parts = [
        torch.zeros(m.weight.shape[0]) if m.bias is None else m.bias.detach().float()
        for m in modules
    ]
    if panel is None:
        return torch.cat(parts)
    padded = [torch.nn.functional.pad(p, (0, -len(p) % panel)).view(-1, panel) for p in parts]
    return torch.stack(padded, dim=1).flatten()
