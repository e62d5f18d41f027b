"""Where the files of a model, a tokenizer or an adapter are: a directory, a .gguf file, or the
hub."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmapi.engine.config import EngineConfig

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What transformers looks for, in this order; each may be in parts, named by an index."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZER = (
    "tokenizer*",
    "*.model",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
CONFIG = ("config.json", "generation_config.json")

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_QUANTISATION = re.compile(r"[-._](I?Q\d\w*|F16|F32|BF16|FP16|FP32)$", re.IGNORECASE)
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\n")
_MEANINGLESS = {"model", "ggml-model", "main", "snapshot"}


class LoadError(Exception):
    """The model cannot be served; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files on this machine. Exactly one of the two is set."""

    directory: Path | None
    gguf: Path | None
    name: str


def find_source(config: EngineConfig) -> Source:
    """Find the base model, fetching it from the hub if it is a hub id. Raises LoadError."""
    given = config.base_model
    path = Path(given).expanduser()
    if path.is_dir():
        _check_directory(path)
        return Source(path, None, config.served_name or path.resolve().name)
    if path.is_file():
        _check_gguf(path)
        return Source(None, path, config.served_name or gguf_name(path))
    if path.suffix == ".gguf" or not _HUB_ID.fullmatch(given):
        raise LoadError(
            f"There is no model at '{given}'. Give a directory in Hugging Face format, "
            "a .gguf file, or a hub id such as 'HuggingFaceTB/SmolLM2-135M-Instruct'."
        )
    directory = fetch(given, (*CONFIG, *WEIGHTS, *TOKENIZER))
    _check_directory(directory)
    return Source(directory, None, config.served_name or given.rpartition("/")[2])


def model_name(config: EngineConfig) -> str:
    """The id under which the base model will be served. Raises LoadError as `find_source` does."""
    if config.served_name:
        return config.served_name
    if is_hub_id(config.base_model):
        return config.base_model.rpartition("/")[2]
    return find_source(config).name


def asked_of_the_hub(config: EngineConfig) -> list[str]:
    """What of the settings is no path here, and is asked of the hub therefore."""
    named = (config.base_model, config.lora_model, config.tokenizer_path)
    return [given for given in named if given and is_hub_id(given)]


def is_offline() -> bool:
    """Whether the hub's library was told to look into its cache alone."""
    words = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(word.upper() in ("1", "ON", "YES", "TRUE") for word in words)


def find_tokenizer(given: str) -> Path:
    """The directory that `tokenizer_path` means. Raises LoadError."""
    path = Path(given).expanduser()
    directory = path
    if not path.is_dir():
        if not is_hub_id(given):
            raise LoadError(f"There is no tokenizer directory at '{given}'.")
        directory = fetch(given, ("config.json", *TOKENIZER))
    if not has_tokenizer(directory):
        raise LoadError(
            f"'{given}' has no tokenizer.json, tokenizer.model or vocab.json: --tokenizer_path "
            "takes the directory in which one of them is."
        )
    check_tokenizer(directory)
    return directory


def find_adapter(given: str) -> Path:
    """The directory that `lora_model` means, fetched from the hub if it is a hub id. Raises
    LoadError."""
    directory = Path(given).expanduser()
    if directory.is_file():
        raise LoadError(f"'{given}' is a file: give the directory of the LoRA adapter.")
    if not directory.is_dir():
        if not is_hub_id(given):
            raise LoadError(
                f"There is no LoRA adapter at '{given}' (--lora_model): no such directory."
            )
        directory = fetch(given, (ADAPTER_CONFIG, *ADAPTER_FILES, *TOKENIZER))
    if not (directory / ADAPTER_CONFIG).is_file():
        hint = ""
        if (directory / "config.json").is_file():
            hint = " It looks like a whole model: give it with --base_model."
        raise LoadError(
            f"'{given}' has no {ADAPTER_CONFIG}, so it is no adapter that peft wrote.{hint}"
        )
    return directory


def is_hub_id(given: str) -> bool:
    """Whether this names something on the hub, and nothing on this machine."""
    return not Path(given).expanduser().exists() and bool(_HUB_ID.fullmatch(given))


def fetch(hub_id: str, patterns: tuple[str, ...]) -> Path:
    """A local copy of those files of a hub repository; only fetched if not here yet. Raises
    LoadError."""
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except Exception as error:
        if is_offline():
            raise LoadError(
                f"'{hub_id}' is no path on this machine, and the hub's cache does not have it; the "
                "hub was not asked, for HF_HUB_OFFLINE is set. Check the spelling, or give a path."
            ) from error
        raise LoadError(
            f"'{hub_id}' is no path on this machine, and it could not be fetched from the hub "
            f"({type(error).__name__}: {error}). Check the spelling and the network, "
            "or give a path."
        ) from error


def has_tokenizer(directory: Path) -> bool:
    return any(
        (directory / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
    )


def check_tokenizer(directory: Path) -> None:
    """Raises LoadError if the file of its SentencePiece model is damaged. (Of the others, their
    reader says what is wrong.)"""
    model = directory / "tokenizer.model"
    if not model.is_file() or (directory / "tokenizer.json").is_file():
        return
    with model.open("rb") as file:
        first = file.read(64)
    if first.startswith(b"version https://git-lfs"):
        raise LoadError(
            f"'{model}' is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'."
        )
    if _TIKTOKEN.match(first):
        return  # LLaMA 3's file of this name has another format
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(model))
    except (RuntimeError, OSError) as error:
        raise LoadError(
            f"'{model}' is damaged, or no tokenizer: it is not the SentencePiece model that a file "
            "of this name holds. Fetch it again."
        ) from error


def gguf_name(path: Path) -> str:
    """`SmolLM2-135M-Instruct.Q4_1.gguf` -> `SmolLM2-135M-Instruct`.

    The file's name and not its `general.name`, which is whatever the converter's directory was
    called.
    """
    name = _QUANTISATION.sub("", path.stem)
    return path.resolve().parent.name if name.lower() in _MEANINGLESS else name


def weight_files(directory: Path) -> list[Path]:
    """The files of a model's weights, all there: safetensors, else pickles. Raises LoadError."""
    for name in WEIGHT_FILES:
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():
            return [directory / name]
        if index.is_file():
            return _parts(index)
    raise LoadError(f"'{directory}' has no weights: there is no {' or '.join(WEIGHT_FILES)} in it.")


def is_pickle(path: Path) -> bool:
    return path.suffix != ".safetensors"


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises LoadError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"'{path}' cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise LoadError(f"'{path}' is not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise LoadError(f"'{path}' is not valid: it holds no JSON object.")
    return value


def _parts(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LoadError(f"'{index}' is not valid: it has no weight_map.")
    parts = [index.parent / str(name) for name in sorted(set(weight_map.values()))]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise LoadError(
            f"'{index.parent}' lacks {len(missing)} of the {len(parts)} files of its weights, such "
            f"as {missing[0]}: fetch it again."
        )
    return parts


def _check_directory(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise LoadError(
            f"'{directory}' has no config.json, so it is no Hugging Face model.{_hint(directory)}"
        )
    read_json(directory / "config.json")
    weight_files(directory)


def _hint(directory: Path) -> str:
    """What else a directory without a config.json may be."""
    if ggufs := sorted(directory.glob("*.gguf")):
        return f" Did you mean '{ggufs[0]}'?"
    if (directory / ADAPTER_CONFIG).is_file():
        return " It is an adapter: give it with --lora_model, and its base with --base_model."
    if any(directory.glob("consolidated.*.pth")):
        return " It is in Meta's own format: convert it as docs/models.md#converting-what-is-not-in-hugging-face-format says."  # noqa: E501
    if has_tokenizer(directory):
        return (
            " It has a tokenizer: give it with --tokenizer_path, and with --base_model the "
            "directory of the model's config.json and weights."
        )
    below = sorted(path.parent for path in directory.glob("*/config.json"))
    if below:
        return f" Did you mean '{below[0]}'?"
    is_empty = not any(directory.iterdir())
    return (
        f"{' It is empty.' if is_empty else ''} Give the directory that has one, and the weights."
    )


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise LoadError(
            f"'{path}' is not a GGUF file. Give a .gguf file, or a directory in Hugging Face "
            "format."
        )
