"""Where a model's files are: a directory, a .gguf file, or the hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from llmapi.engine.config import EngineConfig

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
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


def check_local(config: EngineConfig) -> None:
    """What can be told in a moment and without the hub. Raises LoadError."""
    if Path(config.base_model).expanduser().exists() or not _HUB_ID.fullmatch(config.base_model):
        find_source(config)
    given = config.tokenizer_path
    if given and (Path(given).expanduser().exists() or not _HUB_ID.fullmatch(given)):
        find_tokenizer(given)


def find_tokenizer(given: str) -> Path:
    """The directory that `tokenizer_path` means. Raises LoadError."""
    path = Path(given).expanduser()
    directory = path
    if not path.is_dir():
        if path.exists() or not _HUB_ID.fullmatch(given):
            raise LoadError(f"There is no tokenizer directory at '{given}'.")
        directory = fetch(given, ("config.json", *TOKENIZER))
    if not has_tokenizer(directory):
        raise LoadError(f"'{given}' has no tokenizer.json, tokenizer.model or vocab.json.")
    return directory


def fetch(hub_id: str, patterns: tuple[str, ...]) -> Path:
    """A local copy of those files of a hub repository; only fetched if not here yet. Raises
    LoadError."""
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except Exception as error:
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


def gguf_name(path: Path) -> str:
    """`SmolLM2-135M-Instruct.Q4_1.gguf` -> `SmolLM2-135M-Instruct`.

    The file's name and not its `general.name`, which is whatever the converter's directory was
    called.
    """
    name = _QUANTISATION.sub("", path.stem)
    return path.resolve().parent.name if name.lower() in _MEANINGLESS else name


def _check_directory(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        ggufs = sorted(directory.glob("*.gguf"))
        hint = f" Did you mean '{ggufs[0]}'?" if ggufs else ""
        raise LoadError(f"'{directory}' has no config.json, so it is no Hugging Face model.{hint}")
    if any(directory.glob("*.safetensors")):
        return
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt*")):
        raise LoadError(
            f"'{directory}' has its weights as pickle files (.bin), which can run code when they "
            "are read. Only safetensors and GGUF are loaded: convert it, or fetch a safetensors "
            "version."
        )
    raise LoadError(f"'{directory}' has no weights: there is no .safetensors file in it.")


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise LoadError(
            f"'{path}' is not a GGUF file. Give a .gguf file, or a directory in Hugging Face "
            "format."
        )
