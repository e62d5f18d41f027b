"""How many rows a model's embeddings get, and whether its tokenizer is the one that goes with
them."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from llmapi.engine import merging
from llmapi.engine.conversion import Report
from llmapi.engine.lora import AdapterFiles, check_fits, embedding_rows
from llmapi.engine.messages import LoadProgress
from llmapi.engine.source import LoadError, has_tokenizer
from llmapi.engine.tokenizer import load_tokenizer

SPARE_ROWS = 512
"""Rows without a token that are nothing unusual: vocabularies are padded to a multiple of 512 at
most, for the hardware's sake (Qwen2 has 399 of them, Pythia 411)."""


def rows_needed(
    directory: Path,
    name: str,
    adapter: AdapterFiles | None,
    tokenizer: Any,
    tokenizer_directory: Path,
    report: Report,
) -> int:
    """Rows that the embeddings of the model in `directory` must have; found before any weight is
    read. `report` hears of many rows without a token.

    Raises LoadError if the adapter, the base and the tokenizer do not belong together.
    """
    own = merging.module_shapes(directory)
    shapes = {} if adapter is None else merging.tensor_shapes(adapter)
    if adapter is not None:
        check_fits(adapter, shapes, own, name)
    loaded = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    config = loaded.get_text_config()
    ids = set(tokenizer.get_vocab().values())
    tokens = max(ids) + 1
    rows = embedding_rows(
        adapter,
        shapes,
        base=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        tokens=tokens,
        ordinary=max(ids - set(tokenizer.added_tokens_decoder), default=-1) + 1,
    )
    if tokenizer_directory != directory:
        _check_against_own(directory, name, tokens, rows, tokenizer_directory)
    if rows - tokens > SPARE_ROWS:
        report(
            LoadProgress(
                f"WARNING: the tokenizer in '{tokenizer_directory}' has {tokens:,} tokens, and "
                f"'{name}' has rows for {rows:,}: {rows - tokens:,} of them can be neither read "
                "nor written. If answers make no sense, this is not the model's tokenizer: name "
                "the right one with --tokenizer_path"
            )
        )
    return rows


def _check_against_own(
    directory: Path, name: str, tokens: int, rows: int, tokenizer_directory: Path
) -> None:
    """Raises LoadError if the model's own tokenizer has tokens for which the model has rows, and
    the given one has none. A token for padding is not missed."""
    if rows == tokens or not has_tokenizer(directory):
        return
    try:
        own = load_tokenizer(directory)
    except Exception:  # perhaps that is why another one is given
        return
    lacking = [
        token
        for token, number in own.get_vocab().items()
        if tokens <= number < rows and token != own.pad_token
    ]
    if lacking:
        raise LoadError(
            f"The tokenizer in '{tokenizer_directory}' has {tokens:,} tokens, and the one that "
            f"'{name}' brings has {len(lacking):,} more, such as '{max(lacking, key=len)}': it "
            "belongs to another model. Leave --tokenizer_path out, or give it the model's own "
            f"directory, '{directory}'."
        )
