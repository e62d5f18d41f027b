"""Which way a model is computed: the fastest that can."""

from pathlib import Path
from typing import Any

from llmapi.engine.config import EngineConfig
from llmapi.engine.conversion import Report
from llmapi.engine.decoder import FusedDecoder, why_not_fusable
from llmapi.engine.generic import GenericNetwork
from llmapi.engine.messages import LoadProgress
from llmapi.engine.native import library
from llmapi.engine.native.decoder import NativeDecoder
from llmapi.engine.native.library import NativeUnavailable
from llmapi.engine.network import Network
from llmapi.engine.source import LoadError

DECODERS = ("auto", "native", "fused", "generic")


def choose_network(model: Any, config: EngineConfig, positions: int, report: Report) -> Network:
    """The network that serves `model`, for sequences of `positions` at most.

    With `decoder` auto what cannot be is passed over, and `report` hears why. Raises LoadError
    (asked for by name and impossible; 8 bits on a CPU without the native decoder),
    UnsupportedModel.
    """
    if config.decoder not in DECODERS:
        raise LoadError(f"'{config.decoder}' is no decoder: give {', '.join(DECODERS)}.")
    eight_on_cpu = config.load_in_8bit and model.device.type == "cpu"
    obstacle = why_not_fusable(model)
    if config.decoder in ("auto", "native"):
        try:
            return _native(model, config, positions, obstacle, report, eight=eight_on_cpu)
        except NativeUnavailable as error:
            if config.decoder == "native":
                raise LoadError(f"The native decoder cannot serve this model: {error}.") from error
            if model.device.type == "cpu" and obstacle is None:
                report(LoadProgress(f"Without the native decoder it is slower: {error}"))
            why = str(error)
    if eight_on_cpu:
        needs = "--load_in_8bit on a CPU needs the native decoder"
        raise LoadError(f"{needs}: {why if config.decoder == 'auto' else 'it was not chosen'}.")
    if obstacle is None and config.decoder != "generic":
        return FusedDecoder(model, positions=positions, most_rows=config.max_batch)
    if config.decoder == "fused":
        raise LoadError(f"The fused decoder cannot serve this model: {obstacle}.")
    return GenericNetwork(model)


def quantisation(config: EngineConfig, device: str) -> str | None:
    """How the weights are quantised, in words for people."""
    if not (config.load_in_8bit or config.load_in_4bit):
        return None
    if device == "cpu":
        return "int8"
    return "bitsandbytes 8-bit" if config.load_in_8bit else "bitsandbytes 4-bit"


def _native(
    model: Any,
    config: EngineConfig,
    positions: int,
    obstacle: str | None,
    report: Report,
    *,
    eight: bool,
) -> Network:
    if model.device.type != "cpu":
        raise NativeUnavailable("it is for CPUs")
    if obstacle:
        raise NativeUnavailable(obstacle)
    weights = "int8" if eight else str(model.dtype).removeprefix("torch.")
    if weights == "float16":
        raise NativeUnavailable("it has no float16")
    announcement = LoadProgress("Building the native decoder for this CPU, once (a few seconds)")
    built = library.load(Path(config.cache_dir), lambda: report(announcement))
    return NativeDecoder(
        model,
        weights=weights,
        positions=positions,
        most_rows=max(config.step_tokens, config.max_batch),
        built=built,
    )
