"""A GGUF file, turned once into a Hugging Face directory that loads in a tenth of a second."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from llmapi.engine.checks import tokenizer_directory
from llmapi.engine.config import EngineConfig
from llmapi.engine.lora import read_adapter
from llmapi.engine.messages import LoadProgress
from llmapi.engine.source import LoadError, find_adapter, find_source, has_tokenizer

FORMAT_VERSION = 1
"""Raise it when the same file would now be converted differently."""

_CHUNK = 64 * 1024 * 1024
_WORTH_TELLING = 2 * 1024**3
"""Smaller files are read in a second or two."""

Report = Callable[[LoadProgress], None]


def converted(gguf: Path, cache_dir: Path, report: Report) -> Path:
    """The directory with the model and its tokenizer, in float32. Raises LoadError.

    Keyed by content, so a file that was replaced is converted anew and a file that was moved is
    not. It appears under its name whole or not at all: it is written beside it and then renamed. A
    lock keeps a second process from doing the same work, and makes it safe to clear away what a
    killed one left.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    key = f"{_content_hash(gguf, report)}-{FORMAT_VERSION}"
    target = cache_dir / key
    if target.is_dir():
        return target
    with FileLock(cache_dir / f"{key}.lock"):
        if target.is_dir():
            return target
        unfinished = cache_dir / f"{key}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            _convert(gguf, unfinished, report)
            os.rename(unfinished, target)
        except OSError as error:
            raise LoadError(
                f"'{gguf}' could not be converted into '{cache_dir}': {error}"
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def tokenizer_of(config: EngineConfig, report: Report) -> Path:
    """The directory of the tokenizer that a server with this configuration would use; a GGUF file
    is converted for it. Raises LoadError."""
    source = find_source(config)
    adapter = read_adapter(find_adapter(config.lora_model)) if config.lora_model else None
    if source.directory is not None:
        return tokenizer_directory(config, source.directory, adapter)
    assert source.gguf is not None
    if config.tokenizer_path or (adapter is not None and has_tokenizer(adapter.directory)):
        return tokenizer_directory(config, source.gguf.parent, adapter)
    return converted(source.gguf, Path(config.cache_dir), report)


def _content_hash(path: Path, report: Report) -> str:
    digest = hashlib.sha256()
    size = max(path.stat().st_size, 1)
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if size >= _WORTH_TELLING:
                report(LoadProgress(f"Reading {path.name}", done / size))
    return digest.hexdigest()[:32]


def _convert(gguf: Path, directory: Path, report: Report) -> None:
    where, name = str(gguf.parent), gguf.name
    report(LoadProgress(f"Converting {name}, once: the tokenizer"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            where, gguf_file=name, local_files_only=True, trust_remote_code=False
        )
        doing = f"Converting {name}, once: the weights"
        report(LoadProgress(f"{doing} (about 20 s per 100 MB)"))
        with _tensors_counted(lambda share: report(LoadProgress(doing, share))):
            model: Any = AutoModelForCausalLM.from_pretrained(
                where,
                gguf_file=name,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
            )
    except OSError:
        raise
    except Exception as error:
        raise LoadError(
            f"'{gguf}' could not be read by transformers ({type(error).__name__}: {error}). "
            "Its architecture or its quantisation may be unknown; try the original in safetensors."
        ) from error
    # A model that came from GGUF believes that it is still quantised and refuses to be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    report(LoadProgress(f"Converting {name}, once: writing it down"))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@contextmanager
def _tensors_counted(tell: Callable[[float], None]) -> Iterator[None]:
    """Tell every tenth of the tensors that transformers has read, in place of its progress bar."""

    def counted(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        for number, tensor in enumerate(tensors, 1):
            yield tensor
            if number * 10 // len(tensors) > (number - 1) * 10 // len(tensors):
                tell(number / len(tensors))

    bar = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = counted
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar
