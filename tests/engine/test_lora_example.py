"""docs/examples/lora/train.py says what is wrong with what it is given."""

import sys
from pathlib import Path

import pytest

from docs.examples.lora import train


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"pairs.jsonl' \(--pairs\) cannot be read: No such file"),
        (b"\xff", "is not UTF-8 text"),
        (b"\n", "is empty"),
        (b'{"instruction": "a", "answer": "b"}\n{"instruction": "a"}', "line 2, is no JSON object"),
        (b"what?", "line 1, is no JSON object with the strings 'instruction' and 'answer'"),
    ],
)
def test_pairs_that_are_none_end_it_with_a_sentence(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=says):
        train.read_pairs(path)


def test_a_base_that_is_not_there_ends_it_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = train.torch.get_num_threads()
    for given, says in ((tmp_path / "none", "There is no model at"), (tmp_path, "no tokenizer")):
        monkeypatch.setattr(sys, "argv", ["train", "--base_model", str(given)])
        with pytest.raises(SystemExit, match=says):
            train.main()
    train.torch.set_num_threads(threads)
