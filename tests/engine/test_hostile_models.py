"""What comes with a model is data: no code of it is run. (Pickles: test_checks.py; chat templates:
tests/door/test_hostile_templates.py.)"""

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmapi.engine import engine
from llmapi.engine.config import EngineConfig
from llmapi.engine.loader import load
from llmapi.engine.source import LoadError

ROOM = Path(engine.__file__).parent
LOADS = {"from_pretrained", "from_config"}
BY_TRANSFORMERS = {"AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"}


def config(directory: Path, cache: Path) -> EngineConfig:
    return EngineConfig(str(directory), str(cache), kv_cache_tokens=512, threads=1, max_batch=2)


@pytest.fixture
def bait(tiny_dir: Path, tmp_path: Path) -> Path:
    """A model with code in its directory, which leaves a trace if it is run. `auto_map` entries are
    the test's to set."""
    directory = tmp_path / "bait"
    shutil.copytree(tiny_dir, directory)
    trace = f"open({str(tmp_path / 'sprung')!r}, 'w').close()\n"
    classes = (
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig):\n    model_type = 'bait'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast): pass\n"
    )
    (directory / "bait.py").write_text(trace + classes)
    (directory / "setup.py").write_text(trace)
    (directory / "__init__.py").write_text(trace)
    return directory


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


MODEL = {"AutoConfig": "bait.Config", "AutoModelForCausalLM": "bait.Model"}


@pytest.mark.parametrize("model_type", ["llama", "bait"])
def test_code_of_a_model_is_never_run(bait: Path, model_type: str, tmp_path: Path) -> None:
    change(bait / "config.json", model_type=model_type, auto_map=MODEL)
    if model_type == "llama":  # which transformers knows itself
        assert load(config(bait, tmp_path)).info.context_length
    else:
        with pytest.raises(LoadError):
            load(config(bait, tmp_path))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("named", ["bait.Tokenizer", "someone/repository--bait.Tokenizer"])
def test_code_of_a_tokenizer_is_never_run(
    bait: Path, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", _nobody_is_there)
    mapped = {"AutoTokenizer": [None, named]}
    change(bait / "tokenizer_config.json", tokenizer_class="Tokenizer", auto_map=mapped)
    with pytest.raises(LoadError):
        load(config(bait, tmp_path))
    assert not (tmp_path / "sprung").exists()


def _nobody_is_there(*args: object) -> str:
    raise AssertionError("transformers asked whether it may run the code")


def test_every_call_that_might_run_such_code_says_no() -> None:
    """Without a word, transformers asks the terminal."""
    found = 0
    for path in sorted(ROOM.glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            owner = call.func.value
            if call.func.attr in LOADS and isinstance(owner, ast.Name):
                if owner.id not in BY_TRANSFORMERS:
                    continue
                found += 1
                given = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert given.get("trust_remote_code") == "False", f"{path.name}:{call.lineno}"
    assert found >= 6
