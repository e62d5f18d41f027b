"""Finding and loading models: what works, and what is said when it does not."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from driving import ask, drive

from llmapi.engine import conversion
from llmapi.engine.config import EngineConfig
from llmapi.engine.loader import Loaded, _half, load
from llmapi.engine.messages import LoadProgress
from llmapi.engine.source import LoadError, gguf_name


def config(base_model: Path | str, tmp_path: Path, **overrides: Any) -> EngineConfig:
    values = {"kv_cache_tokens": 1024} | overrides
    return EngineConfig(base_model=str(base_model), cache_dir=str(tmp_path / "cache"), **values)


def copy(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / directory.name))


def test_a_directory_loads_and_tells_what_it_is(tiny_dir: Path, tmp_path: Path) -> None:
    progress: list[LoadProgress] = []
    info = load(config(tiny_dir, tmp_path), progress.append).info
    assert info.name == "Tiny-Random"
    assert info.tokenizer_path == str(tiny_dir)
    assert (info.context_length, info.hidden_size, info.vocab_size) == (1024, 64, 400)
    assert info.eos_token_ids == (2,)
    assert (info.dtype, info.device, info.kv_cache_tokens) == ("float32", "cpu", 1024)
    assert info.parameters > 10_000
    assert any("weights" in line.text for line in progress)


def test_the_served_name_can_be_given(tiny_dir: Path, tmp_path: Path) -> None:
    assert load(config(tiny_dir, tmp_path, served_name="mine")).info.name == "mine"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("llama-2-7b-chat.Q4_K_M.gguf", "llama-2-7b-chat"),
        ("Qwen3-0.6B-f16.gguf", "Qwen3-0.6B"),
        ("Mistral-7B-v0.3-IQ2_XS.gguf", "Mistral-7B-v0.3"),
        ("plain.gguf", "plain"),
        ("ggml-model-q8_0.gguf", "models"),
    ],
)
def test_a_gguf_file_is_served_under_its_name_without_the_quantisation(
    file: str, name: str
) -> None:
    assert gguf_name(Path("/somewhere/models") / file) == name


def test_generation_defaults_are_what_the_file_itself_says(tiny_dir: Path, tmp_path: Path) -> None:
    directory = copy(tiny_dir, tmp_path)
    given = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [2, 7]}
    (directory / "generation_config.json").write_text(json.dumps(given))
    info = load(config(directory, tmp_path)).info
    assert info.generation_defaults == {"temperature": 0.6, "top_p": 0.9, "do_sample": True}
    assert info.eos_token_ids == (2, 7)


def test_the_turn_end_of_the_chat_template_ends_an_answer(tiny_dir: Path, tmp_path: Path) -> None:
    directory = copy(tiny_dir, tmp_path)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        values = json.loads((directory / name).read_text())
        values["eos_token" if "tokenizer" in name else "eos_token_id"] = (
            "<|endoftext|>" if "tokenizer" in name else 0
        )
        (directory / name).write_text(json.dumps(values))
    assert load(config(directory, tmp_path)).info.eos_token_ids == (0, 2)


def test_the_context_can_be_shortened_and_shrinks_to_the_cache_with_a_note(
    tiny_dir: Path, tmp_path: Path
) -> None:
    progress: list[LoadProgress] = []
    shorter = load(config(tiny_dir, tmp_path, context_length=200), progress.append).info
    assert shorter.context_length == 200
    assert not any("context is" in line.text for line in progress)
    tight = load(config(tiny_dir, tmp_path, kv_cache_tokens=320), progress.append)
    assert tight.info.context_length == 320
    assert any("the context is 320, not 1024" in line.text for line in progress)
    assert drive(tight.engine, ask("a", [5] * 300, max_tokens=20)).finished


def test_the_cache_is_sized_from_free_memory(tiny_dir: Path, tmp_path: Path) -> None:
    info = load(config(tiny_dir, tmp_path, kv_cache_tokens=None, max_batch=4)).info
    assert info.kv_cache_tokens == 4 * 1024


def test_another_tokenizer_can_be_named(tiny_dir: Path, tmp_path: Path) -> None:
    bare = copy(tiny_dir, tmp_path)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(LoadError, match="--tokenizer_path"):
        load(config(bare, tmp_path))
    info = load(config(bare, tmp_path, tokenizer_path=str(tiny_dir))).info
    assert info.tokenizer_path == str(tiny_dir)


def _without_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def _without_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def _cut_weights(directory: Path) -> None:
    data = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(data[: len(data) // 2])


def _broken_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def _own_code(directory: Path) -> None:
    values = json.loads((directory / "config.json").read_text())
    values |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.Model"}}
    (directory / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_without_config, "has no config.json"),
        (_without_weights, "has no weights"),
        (_pickled, "a pickle with more in it than tensors"),
        (_cut_weights, "is cut short"),
        (_broken_config, "is not valid JSON"),
        (_own_code, "cannot be"),
    ],
)
def test_a_damaged_directory_is_refused_with_a_sentence(
    damage: Any, says: str, tiny_dir: Path, tmp_path: Path
) -> None:
    directory = copy(tiny_dir, tmp_path)
    damage(directory)
    with pytest.raises(LoadError, match=says):
        load(config(directory, tmp_path))


@pytest.mark.parametrize(
    "given", ["/no/such/place", "./nowhere", "missing.gguf", "one", "a/b/c", "~/nothing/here"]
)
def test_a_path_that_leads_nowhere_is_refused_without_asking_the_hub(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", _never)
    with pytest.raises(LoadError, match="There is no model at"):
        load(config(given, tmp_path))


def _never(*args: object, **kwargs: object) -> None:
    raise AssertionError("the hub was asked")


def test_a_hub_id_out_of_reach_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(LoadError, match="could not be fetched"):
        load(config("someone/something", tmp_path))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4 something else")
    with pytest.raises(LoadError, match="is not a GGUF file"):
        load(config(tmp_path / "x.gguf", tmp_path))


def test_a_gguf_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LoadError, match="could not be"):
        load(config(tmp_path / "x.gguf", tmp_path))
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] in ([], [".lock"])


def test_two_converters_at_once_do_the_work_once(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF pretended")
    conversions: list[Path] = []

    def convert(path: Path, directory: Path, report: Any) -> None:
        conversions.append(directory)
        shutil.copytree(tiny_dir, directory)

    monkeypatch.setattr(conversion, "_convert", convert)
    found: list[Path] = []
    stale = tmp_path / "cache"
    threads = [
        threading.Thread(target=lambda: found.append(conversion.converted(gguf, stale, _quiet)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert len(set(found)) == 1
    assert (found[0] / "model.safetensors").is_file()


def _quiet(progress: LoadProgress) -> None:
    pass


def test_bad_settings_are_refused(tiny_dir: Path, tmp_path: Path) -> None:
    for overrides, says in (
        ({"dtype": "int3"}, "dtype"),
        ({"device": "warp drive"}, "device"),
        ({"step_tokens": 4}, "step_tokens"),
        ({"tokenizer_path": "/nowhere"}, "tokenizer"),
    ):
        with pytest.raises(LoadError, match=says):
            load(config(tiny_dir, tmp_path, **overrides))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_serves_too(dtype: str, tiny_dir: Path, tmp_path: Path) -> None:
    loaded: Loaded = load(config(tiny_dir, tmp_path, dtype=dtype))
    assert loaded.info.dtype == dtype
    told = drive(
        loaded.engine,
        ask("a", [5, 6, 7], do_sample=True, seed=1),
        ask("b", [5, 6, 7], num_beams=4, do_sample=True, top_k=40, temperature=0.7),
    )
    assert set(told.finished) == {("a", 0), ("b", 0)}
    assert torch.get_default_dtype() == torch.float32
    assert tiny.SPECIAL


@pytest.mark.parametrize(
    ("capability", "half"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)],
)
def test_a_gpu_without_bfloat16_takes_float16(
    capability: tuple[int, int], half: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert _half(torch.device("cuda")) == half
