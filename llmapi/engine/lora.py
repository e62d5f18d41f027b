"""LoRA adapters as their files describe them, and whether one fits a base model.

Knows neither torch nor peft, so that all this is known before anything slow begins.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmapi.engine.headers import TensorHeader, read_headers
from llmapi.engine.pickles import read_pickled
from llmapi.engine.source import ADAPTER_CONFIG, ADAPTER_FILES, LoadError, is_pickle, read_json

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

EMBEDDINGS, HEADS = ("embed_tokens", "wte"), ("lm_head",)
"""Last parts of the names of modules that have a row for each token."""

PADDINGS = (8, 16, 32, 64, 128, 256)
"""An embedding may have more rows than its tokenizer has tokens: up to the next multiple of one of
these, for the hardware's sake."""

MERGE = "It can be merged into the base model instead: --lora_model."

WHOLE_MODULES = (
    "it brings layers of its own (modules_to_save), an embedding of a larger vocabulary perhaps. "
) + MERGE
NEUTRAL = {
    "use_dora": (False, "it uses DoRA. " + MERGE),
    "modules_to_save": (None, WHOLE_MODULES),
    "bias": ("none", "it changes biases. " + MERGE),
    "lora_bias": (False, "its B matrices have biases. " + MERGE),
    "fan_in_fan_out": (False, "its matrices are transposed (fan_in_fan_out). " + MERGE),
    "trainable_token_indices": (None, "it changes single tokens' embeddings. " + MERGE),
    "target_parameters": (None, "it changes parameters that are no projections. " + MERGE),
    "layer_replication": (None, "it needs layers of the base model repeated."),
    "alora_invocation_tokens": (None, "it works from certain tokens on only (aLoRA)."),
    "use_qalora": (False, "it is a QA-LoRA."),
    "use_bdlora": (None, "it is a block-diagonal LoRA."),
    "arrow_config": (None, "it routes between several adapters (Arrow)."),
    "kasa_config": (None, "it is a KaSA."),
    "monteclora_config": (None, "it is a MonteCLoRA."),
    "velora_config": (None, "it is a VeLoRA."),
}
"""Settings of peft that change more than `scale * B A` does, which is all that an adapter beside
its base may do: (the value that changes nothing, what to say of any other)."""

_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)(?:\.base_layer)?\."
    r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|weight)(?:\.weight)?"
)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A LoRA adapter in a directory, as peft writes it."""

    directory: Path
    file: Path
    base: str | None
    """The model that it says it was made for: a path or a hub id of wherever that was."""
    rank: int
    """The largest of its ranks."""
    targets: tuple[str, ...]
    """Names of the projections that it changes, such as `q_proj`."""
    saved: tuple[str, ...]
    """Modules that it replaces whole."""
    headers: Mapping[str, TensorHeader] | None
    """Its tensors; None: a pickle of which only torch can tell them."""
    why_not_beside: str | None
    """Why it cannot be served beside its base, as far as its settings tell; None: it can."""


def read_adapter(directory: Path) -> AdapterFiles:
    """The adapter in `directory`. Raises LoadError: no LoRA, unreadable, empty."""
    config = read_json(directory / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise LoadError(
            f"'{directory}' is no LoRA adapter: its {ADAPTER_CONFIG} says peft_type {kind!r}, and "
            "only 'LORA' is served."
        )
    for name in ("alora_invocation_tokens", "megatron_config"):
        if config.get(name):
            raise LoadError(f"'{directory}' cannot be served: it has {name} in {ADAPTER_CONFIG}.")
    file = next((directory / n for n in ADAPTER_FILES if (directory / n).is_file()), None)
    if file is None:
        raise LoadError(f"'{directory}' has no weights: there is no {' or '.join(ADAPTER_FILES)}.")
    adapter = AdapterFiles(
        directory=directory,
        file=file,
        base=config.get("base_model_name_or_path"),
        rank=_rank(config),
        targets=_names(config.get("target_modules")),
        saved=_names(config.get("modules_to_save")),
        headers=read_pickled([file]) if is_pickle(file) else read_headers([file]),
        why_not_beside=next(
            (
                f"The adapter in '{directory}' cannot be served beside the base model: {sentence}"
                for name, (neutral, sentence) in NEUTRAL.items()
                if (config.get(name, neutral) or neutral) != neutral
            ),
            None,
        ),
    )
    if adapter.headers is not None:
        check_contents(adapter, {name: h.shape for name, h in adapter.headers.items()})
    return adapter


def check_contents(adapter: AdapterFiles, shapes: Shapes) -> None:
    """Raises LoadError if these are not a LoRA's tensors."""
    if not any(part.startswith("lora_") for _, part, _ in _tensors(shapes)):
        raise LoadError(f"'{adapter.file}' holds no LoRA weights (lora_A, lora_B).")


def check_fits(adapter: AdapterFiles, shapes: Shapes, base: Shapes, base_name: str) -> None:
    """Raises LoadError if an adapter with tensors of `shapes` was not made for a model with those
    of `base`. How many rows embeddings have is not looked at."""
    weights = {name.removesuffix(".weight"): shape for name, shape in base.items()}
    unknown = sorted({module for module, _, _ in _tensors(shapes) if module not in weights})
    if unknown:
        others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise _made_for_another(
            adapter, base_name, f"it changes '{unknown[-1]}'{others}, and there is no such module"
        )
    for module, part, shape in _tensors(shapes):
        own = weights[module]
        if len(shape) != 2 or len(own) != 2:
            if part == "weight" and shape != own:
                raise _differs(adapter, base_name, module, shape, own)
            continue
        rows, width = own
        by_token = module.rpartition(".")[2] in EMBEDDINGS + HEADS
        match part:
            case "lora_A" if shape[1] not in own:  # either: Conv1D lies the other way round
                raise _differs(adapter, base_name, module, (shape[1],), (width,))
            case "lora_B" if shape[0] not in own and not by_token:
                raise _differs(adapter, base_name, module, (shape[0],), (rows,))
            case "lora_embedding_B" if shape[0] != width:
                raise _differs(adapter, base_name, module, (shape[0],), (width,))
            case "weight" if shape[1] != width or (shape[0] != rows and not by_token):
                raise _differs(adapter, base_name, module, shape, own)


def embedding_rows(
    adapter: AdapterFiles | None,
    shapes: Shapes,
    *,
    base: int,
    tied: bool,
    tokens: int,
    ordinary: int,
) -> int:
    """How many rows the model's embeddings must have, for the tokenizer and the adapter.

    `shapes`: of the adapter's tensors. `base`: rows of the base model; `tied`: its output
    embedding is the input's. `tokens`: of the tokenizer; `ordinary`: those that ordinary text may
    have, without what was added to them. Raises LoadError if no resize mends what does not fit.
    """
    saved = _saved_rows(shapes)
    if adapter is None or not saved:
        if ordinary > base:
            brings = (
                f"the adapter in '{adapter.directory}'" if adapter else "no adapter (--lora_model)"
            )
            lacks = "does not bring" if adapter else "brings"
            raise LoadError(
                f"The tokenizer has {tokens:,} tokens, the model's embedding has {base:,} rows, "
                f"and {brings} {lacks} the missing ones. Give the tokenizer that belongs to the "
                "model with --tokenizer_path."
            )
        return max(base, tokens)
    rows = max(saved.values())
    if min(saved.values()) != rows:
        told = " and ".join(f"{count:,} of {name}" for name, count in saved.items())
        raise LoadError(f"The adapter in '{adapter.directory}' contradicts itself: rows {told}.")
    if rows != base and not tied and len(saved) == 1:
        (name,) = saved
        raise LoadError(
            f"The adapter in '{adapter.directory}' has {rows:,} rows of '{name}', the base "
            f"{base:,}, and it does not bring the other embedding for them."
        )
    padded = rows in (-(-tokens // multiple) * multiple for multiple in PADDINGS)
    if rows == tokens or padded or (rows == base and tokens < rows):
        return rows
    raise LoadError(
        f"The adapter in '{adapter.directory}' has embeddings of {rows:,} rows, and the tokenizer "
        f"has {tokens:,} tokens: give the tokenizer that it was trained with by --tokenizer_path."
    )


def _saved_rows(shapes: Shapes) -> dict[str, int]:
    """Rows of the embeddings that the adapter holds whole, by the last part of the module's
    name."""
    found = {}
    for module, part, shape in _tensors(shapes):
        name = module.rpartition(".")[2]
        if part == "weight" and name in EMBEDDINGS + HEADS:
            found[name] = shape[0]
    return found


def _tensors(shapes: Shapes) -> Iterator[tuple[str, str, Shape]]:
    """(module, part, shape) of tensors whose place in the base is known."""
    for name, shape in shapes.items():
        found = _TENSOR.fullmatch(name)
        if found and not name.endswith((".modules_to_save.weight", ".original_module.weight")):
            yield found["module"], found["part"], shape


def _differs(
    adapter: AdapterFiles, base_name: str, module: str, theirs: Shape, base: Shape
) -> LoadError:
    told = ["x".join(map(str, shape)) for shape in (theirs, base)]
    return _made_for_another(
        adapter, base_name, f"its '{module}' is for a size of {told[0]}, and the base has {told[1]}"
    )


def _made_for_another(adapter: AdapterFiles, base_name: str, reason: str) -> LoadError:
    made_for = f" It says that it was made for '{adapter.base}'." if adapter.base else ""
    return LoadError(
        f"The adapter in '{adapter.directory}' was not made for '{base_name}': {reason}.{made_for}"
    )


def _rank(config: dict[str, Any]) -> int:
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise LoadError(f"{ADAPTER_CONFIG} must give the rank, 'r', as a positive number.")
    return max(ranks)


def _names(given: object) -> tuple[str, ...]:
    """As peft takes them: a list, or one regular expression."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(sorted(map(str, given)))  # type: ignore[call-overload]
