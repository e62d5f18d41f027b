"""What is said of models, adapters and settings that cannot be served, before anything slow
begins."""

import json
import shutil
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import directories
import gguf
import numpy as np
import pieces
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmapi.engine import checks, loader, machine, rows
from llmapi.engine.checks import check_local
from llmapi.engine.config import EngineConfig
from llmapi.engine.headers import TensorHeader, read_headers
from llmapi.engine.loader import load
from llmapi.engine.machine import GIB
from llmapi.engine.messages import LoadProgress
from llmapi.engine.pickles import read_pickled
from llmapi.engine.source import LoadError, Source, asked_of_the_hub, find_source, model_name
from llmapi.engine.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, others that differ from it, and adapters for each."""
    root = tmp_path_factory.mktemp("made")
    base = directories.llama_directory(root / "Base")
    directories.llama_directory(root / "Sharded", shards=True)
    wider = directories.llama_directory(root / "Wider", hidden_size=96, num_attention_heads=6)
    deeper = directories.llama_directory(root / "Deeper", num_hidden_layers=4)
    directories.lora_directory(root / "plain", base)
    directories.lora_directory(root / "pickle", base, pickled=True)
    directories.lora_directory(root / "for-wider", wider)
    directories.lora_directory(root / "for-deeper", deeper)
    directories.lora_directory(root / "for-wider-pickle", wider, pickled=True)
    directories.chinese_lora_directory(root / "chinese", base)
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "place"))


def config(place: Path, base: str = "Base", lora: str | None = "plain", **values: Any) -> Any:
    return EngineConfig(
        base_model=str(place / base),
        lora_model=lora and str(place / lora),
        cache_dir=str(place / "cache"),
        **({"kv_cache_tokens": 512, "device": "cpu"} | values),
    )


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(path: Path, *names: str) -> None:
    """Drop tensors whose names contain any of these."""
    kept = {k: v for k, v in load_file(path).items() if not any(name in k for name in names)}
    save_file(kept, path)


def _no_adapter_config(place: Path) -> None:
    (place / "plain" / "adapter_config.json").unlink()


def _a_whole_model(place: Path) -> None:
    shutil.rmtree(place / "plain")
    shutil.copytree(place / "Base", place / "plain")


def _prefix_tuning(place: Path) -> None:
    edit(place / "plain" / "adapter_config.json", peft_type="PREFIX_TUNING")


def _broken_adapter_config(place: Path) -> None:
    (place / "plain" / "adapter_config.json").write_text('{"peft_type": "LORA"')


def _a_list_for_a_config(place: Path) -> None:
    (place / "plain" / "adapter_config.json").write_text("[]")


def _no_rank(place: Path) -> None:
    edit(place / "plain" / "adapter_config.json", r="eight")


def _activated(place: Path) -> None:
    edit(place / "plain" / "adapter_config.json", alora_invocation_tokens=[5, 6])


def _no_adapter_weights(place: Path) -> None:
    (place / "plain" / "adapter_model.safetensors").unlink()


def _empty_adapter_weights(place: Path) -> None:
    save_file({}, place / "plain" / "adapter_model.safetensors")


def _no_lora_weights(place: Path) -> None:
    without(place / "plain" / "adapter_model.safetensors", "lora_A", "lora_B")
    save_file({"x": torch.zeros(1)}, place / "plain" / "adapter_model.safetensors")


def _pointer(place: Path) -> None:
    (place / "plain" / "adapter_model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    )


def _cut_adapter(place: Path) -> None:
    file = place / "plain" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _no_safetensors(place: Path) -> None:
    (place / "plain" / "adapter_model.safetensors").write_bytes(b"what is this?" * 9)


def _no_shard(place: Path) -> None:
    (place / "Base" / "model.safetensors").unlink()
    for file in (place / "Sharded").glob("model*"):
        shutil.copy(file, place / "Base")
    (place / "Base" / "model-00002-of-00006.safetensors").unlink()


def _broken_base_config(place: Path) -> None:
    (place / "Base" / "config.json").write_text("{")


def _no_base_weights(place: Path) -> None:
    (place / "Base" / "model.safetensors").unlink()


def _cut_base(place: Path) -> None:
    file = place / "Base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _no_tokenizers(place: Path) -> None:
    (place / "Base" / "tokenizer.model").unlink()


def _meta(place: Path) -> None:
    (place / "Base" / "config.json").unlink()
    (place / "Base" / "consolidated.00.pth").touch()


def _a_tokenizer_alone(place: Path) -> None:
    (place / "Base" / "config.json").unlink()


def _nothing(place: Path) -> None:
    shutil.rmtree(place / "Base")
    (place / "Base").mkdir()


def _one_too_high(place: Path) -> None:
    (place / "Base").rename(place / "deeper")
    (place / "Base").mkdir()
    (place / "deeper").rename(place / "Base" / "deeper")


DAMAGES = [
    (_no_adapter_config, "plain' has no adapter_config.json, so it is no adapter"),
    (_a_whole_model, "looks like a whole model: give it with --base_model"),
    (_prefix_tuning, "is no LoRA adapter: .* peft_type 'PREFIX_TUNING'"),
    (_broken_adapter_config, "adapter_config.json' is not valid JSON"),
    (_a_list_for_a_config, "it holds no JSON object"),
    (_no_rank, "must give the rank"),
    (_activated, "it has alora_invocation_tokens"),
    (_no_adapter_weights, "has no weights: there is no adapter_model.safetensors"),
    (_empty_adapter_weights, "is empty: there is no tensor in it"),
    (_no_lora_weights, "holds no LoRA weights"),
    (_pointer, "only a pointer of git-lfs: .* 'git lfs pull'"),
    (_cut_adapter, r"is cut short \(.* bytes\): fetch it again"),
    (_no_safetensors, "is not a safetensors file"),
    (_no_shard, "lacks 1 of the 6 files of its weights, such as model-00002-of-00006.safetensors"),
    (_broken_base_config, "config.json' is not valid JSON"),
    (_no_base_weights, "has no weights: there is no model.safetensors or pytorch_model.bin"),
    (_cut_base, "model.safetensors' is cut short"),
    (_meta, "Meta's own format: convert it as docs/models.md#converting-what-is-not"),
    (
        _a_tokenizer_alone,
        "has no config.json, .* It has a tokenizer: give it with --tokenizer_path",
    ),
    (_nothing, "has no config.json, .* It is empty. Give the directory that has one"),
    (_one_too_high, r"has no config.json, .* Did you mean '.*/Base/deeper'\?"),
    (_no_tokenizers, r"has no tokenizer \(tokenizer.json or tokenizer.model\): name the directory"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES, ids=lambda v: getattr(v, "__name__", ""))
def test_damaged_files_are_named_by_the_web_process_already(
    damage: Any, says: str, place: Path
) -> None:
    damage(place)
    for check in (check_local, load):
        with pytest.raises(LoadError, match=says):
            check(config(place))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"lora": "nowhere"},
            r"There is no LoRA adapter at '.*nowhere' \(--lora_model\): no such directory",
        ),
        ({"lora": "plain/adapter_model.safetensors"}, "is a file: give the directory"),
        ({"base": "nowhere"}, "There is no model at '.*nowhere'"),
        ({"base": "plain"}, "It is an adapter: give it with --lora_model"),
        ({"tokenizer_path": "/nowhere"}, "There is no tokenizer directory at '/nowhere'"),
        (
            {"lora": "for-wider"},
            "for-wider' was not made for 'Base': its '.*_proj' is for a size of 96, and the base "
            "has 64. It says that it was made for '.*Wider'",
        ),
        (
            {"lora": "for-deeper"},
            "was not made for 'Base': it changes 'model.layers.3.self_attn.v_proj' and 3 others, "
            "and there is no such module",
        ),
        ({"lora": "plain", "base": "Wider"}, "was not made for 'Wider'"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "--load_in_8bit and --load_in_4bit exclude"),
        ({"load_in_4bit": True}, "--load_in_4bit needs a GPU; on a CPU take --load_in_8bit"),
        ({"gpus": (0,)}, "--gpus and --only_cpu exclude each other"),
    ],
)
def test_what_does_not_go_together_is_refused_by_the_web_process_already(
    values: dict[str, Any], says: str, made: Path
) -> None:
    for check in (check_local, load):
        with pytest.raises(LoadError, match=says):
            check(config(made, **values))


def test_a_pickle_made_for_another_base_is_refused_by_the_web_process_already(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_load_model", _never)
    for check in (check_local, load):
        with pytest.raises(LoadError, match=r"was not made for 'Base'.*size of 96"):
            check(config(made, lora="for-wider-pickle"))


def test_a_pickles_headers_are_those_of_safetensors(made: Path, tmp_path: Path) -> None:
    weights = load_file(made / "Base" / "model.safetensors")
    weights |= {"half": torch.zeros(3, 5).half(), "turned": torch.zeros(2, 3).bfloat16().t()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "a")
    torch.save(weights, tmp_path / "b")
    state: Any = OrderedDict(weights)  # as a module's state_dict() is
    state._metadata = OrderedDict({"": {"version": 1}})
    torch.save(state, tmp_path / "c")
    expected = read_headers([tmp_path / "a"])
    assert len(expected) == len(weights)
    assert read_pickled([tmp_path / "b"]) == read_pickled([tmp_path / "c"]) == expected
    half = weights["half"]
    torch.save({"a": half, "b": half.detach(), "c": half}, tmp_path / "d")
    again = [header.again for header in (read_pickled([tmp_path / "d"]) or {}).values()]
    assert again == [False, True, True]


def test_of_a_pickle_with_more_in_it_than_tensors_nothing_is_run(tmp_path: Path) -> None:
    torch.save({"a": _Trap(tmp_path / "sprung")}, tmp_path / "b")
    assert read_pickled([tmp_path / "b"]) is None
    (tmp_path / "c").write_bytes(b"no archive")
    assert read_pickled([tmp_path / "c"]) is None
    assert not (tmp_path / "sprung").exists()


def test_an_adapter_of_a_tied_head_is_not_taken_for_another_bases(tmp_path: Path) -> None:
    """A tied head is not among the base's tensors."""
    base = directories.llama_directory(tmp_path / "Base", tie_word_embeddings=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft says of tied embeddings to an adapter's maker
        directories.lora_directory(tmp_path / "plain", base, targets=("lm_head", "q_proj"))
    check_local(config(tmp_path))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda place: None, None),
        (
            lambda place: edit(place / "plain" / "adapter_config.json", use_dora=True),
            "cannot be served beside the base model: it uses DoRA",
        ),
        (
            lambda place: edit(place / "plain" / "adapter_config.json", bias="all"),
            "cannot be served beside the base model: it changes biases",
        ),
        (
            lambda place: edit(place / "plain" / "adapter_config.json", modules_to_save=["a"]),
            r"it brings layers of its own \(modules_to_save\)",
        ),
        (_cut_adapter, "is cut short"),
    ],
)
def test_an_adapter_beside_the_base_is_looked_at_by_the_web_process_already(
    damage: Any, says: str | None, place: Path
) -> None:
    damage(place)
    named = config(place, lora=None, adapters=(("law", str(place / "plain")),))
    if says is None:
        check_local(named)
        return
    with pytest.raises(LoadError, match=rf"adapter 'law' of --lora_modules .* served: .*{says}"):
        check_local(named)


def test_names_and_shapes_of_adapters_beside_the_base_are_looked_at_too(made: Path) -> None:
    wider = config(made, lora=None, adapters=(("law", str(made / "for-wider")),))
    with pytest.raises(LoadError, match="for-wider' was not made for 'Base'"):
        check_local(wider)
    for values in ({}, {"served_name": "law"}):
        name = values.get("served_name", "Base")
        same = config(made, lora=None, adapters=((name, str(made / "plain")),), **values)
        with pytest.raises(LoadError, match=f"The adapter '{name}' .* has the base model's name"):
            check_local(same)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind\n" * 9, "cut"])
def test_a_damaged_tokenizer_is_named_by_the_web_process_already(content: Any, place: Path) -> None:
    file = place / "Base" / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:2000] if content == "cut" else content)
    for check in (check_local, load):
        with pytest.raises(LoadError, match=r"tokenizer.model' is damaged, .* Fetch it again"):
            check(config(place, lora=None))
    file.write_bytes(b"IQ== 0\nIg== 1\nIw== 2\n")  # LLaMA 3's, another format of that name
    check_local(config(place, lora=None))


def test_what_the_hub_is_asked_for_is_told_apart_from_what_is_here(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    named = EngineConfig(base_model="nosuch/model", cache_dir="", tokenizer_path="./Base")
    assert asked_of_the_hub(named) == ["nosuch/model"]
    assert model_name(named) == "model"
    monkeypatch.setattr("huggingface_hub.snapshot_download", _never)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LoadError, match=r"cache does not have it; .* HF_HUB_OFFLINE is set"):
        load(named)


def _never(*args: object, **kwargs: object) -> None:
    raise AssertionError("the weights were read")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = place / "sprung"
    file = place / "pickle" / "adapter_model.bin"
    torch.save({"a": _Trap(trap)}, file)
    with pytest.raises(LoadError, match=r"more in it than tensors.*save_file"):
        load(config(place, lora="pickle"))
    file = place / "Base" / "pytorch_model.bin"
    (place / "Base" / "model.safetensors").unlink()
    torch.save({"a": _Trap(trap)}, file)
    with pytest.raises(LoadError, match=r"more in it than tensors.*save_file"):
        load(config(place, lora=None))
    assert not trap.exists()


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_vocabulary_that_no_resize_mends_is_refused_before_weights_are_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_load_model", _never)
    chinese = str(place / "chinese")
    cases = (
        # The Chinese tokenizer, and nobody who brings its rows.
        ({"lora": None, "tokenizer_path": chinese}, "409 tokens.* 400 rows, and no adapter"),
        ({"tokenizer_path": chinese}, "the adapter in '.*plain' does not bring the missing ones"),
        # The Chinese adapter with the base's tokenizer.
        ({"lora": "chinese", "tokenizer_path": str(place / "Base")}, "of 409 rows, .* 400 tokens"),
    )
    for values, says in cases:
        with pytest.raises(LoadError, match=says):
            load(config(place, **values))
    without(place / "chinese" / "adapter_model.safetensors", "lm_head")
    with pytest.raises(LoadError, match="409 rows of 'embed_tokens', the base 400"):
        load(config(place, lora="chinese"))


def test_a_tokenizer_that_lacks_tokens_of_the_models_own_is_refused_before_weights_are_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LLaMA's is on a merged Chinese-Alpaca: it would be served, and babble."""
    merged = directories.llama_directory(
        place / "Merged", tokenizer=pieces.extended(pieces.trained())
    )
    base = str(place / "Base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "_load_model", _never)
        with pytest.raises(
            LoadError,
            match=r"Base' has 400 tokens, and the one that 'Merged' brings has 9 more, such as "
            r"'.+': it belongs to another model. Leave --tokenizer_path out",
        ):
            load(config(place, "Merged", None, tokenizer_path=base))
    told: list[LoadProgress] = []
    (merged / "tokenizer.model").unlink()
    named = config(place, "Merged", None, tokenizer_path=base)
    assert load(named, told.append).info.vocab_size == 409
    assert not any("WARNING" in line.text for line in told)  # nine rows may be padding
    monkeypatch.setattr(rows, "SPARE_ROWS", 8)
    load(named, told.append)
    (warning,) = (line.text for line in told if "WARNING" in line.text)
    assert "has 400 tokens, and 'Merged' has rows for 409: 9 of them" in warning


def test_a_token_for_padding_alone_is_not_missed(place: Path) -> None:
    """The model's own tokenizer has a [PAD] and a row for it, the one that is given has not."""
    base = directories.llama_directory(place / "Padded", vocab_size=401)
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(base)
    named = config(place, "Padded", None, tokenizer_path=str(place / "Base"))
    assert load(named).info.vocab_size == 401


def test_weights_that_the_adapter_lacks_are_not_passed_over(place: Path) -> None:
    without(place / "plain" / "adapter_model.safetensors", "layers.1.self_attn.v_proj")
    with pytest.raises(LoadError, match=r"cannot be applied .*missing adapter keys"):
        load(config(place))


def test_a_base_without_a_tokenizer_may_have_an_adapter_with_one(place: Path) -> None:
    (place / "Base" / "tokenizer.model").unlink()
    with pytest.raises(LoadError, match=r"has no tokenizer .*--tokenizer_path"):
        load(config(place))
    assert load(config(place, lora="chinese")).info.tokenizer_path == str(place / "chinese")


# ---- memory --------------------------------------------------------------------------------------


def test_a_model_that_does_not_fit_is_refused_with_both_numbers_and_what_would_help(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sum(
        h.count for h in (checks.read_weights(find_source(config(made))).headers or {}).values()
    )
    monkeypatch.setattr(checks, "MARGIN", 2 * GIB)
    monkeypatch.setattr(checks, "available_bytes", lambda: 2 * GIB + 3 * whole)
    monkeypatch.setattr(checks, "installed_bytes", lambda: 4 * GIB)
    half = "Set LLMAPI_DTYPE=bfloat16 for half of it, end other programs or take a smaller model"
    for check in (check_local, load):
        with pytest.raises(
            LoadError,
            match=rf"'Base' needs about 2.0 GiB of memory, and 2.0 GiB are free\. {half}\.",
        ):
            check(config(made, lora=None))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "available_bytes", lambda: GIB)
            for dtype in ("auto", "bfloat16"):  # half of it does not fit either
                with pytest.raises(LoadError, match=r"free\. End other programs or take a smaller"):
                    check(config(made, dtype=dtype))
            patch.setattr(checks, "installed_bytes", lambda: GIB)
            with pytest.raises(LoadError, match=r"free\. Take a smaller model\."):
                check(config(made))


@pytest.mark.parametrize(
    ("values", "share", "ways"),
    [
        ({}, 1.5, "Give --load_in_8bit, give --load_in_4bit, name more GPUs (--gpus 0,1) or take"),
        ({}, 0.9, "Give --load_in_4bit, name more GPUs (--gpus 0,1) or take a smaller model."),
        ({"load_in_8bit": True}, 0.9, "Give --load_in_4bit, name more GPUs (--gpus 0,1) or take"),
        ({}, 0.5, "Name more GPUs (--gpus 0,1) or take a smaller model."),
        ({"load_in_4bit": True}, 0.5, "Name more GPUs (--gpus 0,1) or take a smaller model."),
    ],
)
def test_of_less_bits_on_a_gpu_only_those_are_advised_that_are_enough(
    values: dict[str, Any], share: float, ways: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MARGIN", 0)
    numbers = 10**9
    weights = checks.Weights({"a": TensorHeader("F16", (numbers,), 2 * numbers)}, 2 * numbers)
    free = int(numbers * share * 1.05)
    with pytest.raises(LoadError) as caught:
        checks.check_memory(config(Path(), **values), "it", weights, None, free_on_gpus=free)
    assert f"free. {ways}" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "gpu", "item_bytes"),
    [
        ({}, False, 4),
        ({"dtype": "bfloat16"}, False, 2),
        ({"load_in_8bit": True}, False, 4),
        ({}, True, 2),  # as in the file
        ({"dtype": "float32"}, True, 4),
        ({"load_in_8bit": True}, True, 1.1),
        ({"load_in_4bit": True}, True, 0.6),
    ],
)
def test_what_a_model_needs_follows_from_its_headers(
    values: dict[str, Any], gpu: bool, item_bytes: float, tmp_path: Path
) -> None:
    base = directories.llama_directory(tmp_path / "Half", shards=True, dtype=torch.float16)
    weights = checks.read_weights(Source(base, None, "Half"))
    assert weights.headers
    count = sum(header.count for header in weights.headers.values())
    assert weights.loaded_bytes(4) == 4 * count
    assert weights.loaded_bytes(None) == 2 * count
    needed = weights.loaded_bytes(item_bytes) + checks.MARGIN
    settings = config(tmp_path, "Half", None, **values)
    for free, fits in ((needed + 100, True), (needed - 100, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "available_bytes", lambda free=free: free)
            on_gpus = free if gpu else None
            try:
                checks.check_memory(settings, "Half", weights, None, free_on_gpus=on_gpus)
                assert fits
            except LoadError:
                assert not fits


def test_a_gguf_files_header_tells_how_much_it_becomes(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("tokenizer.ggml.tokens", ["一", "b", ""])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_tensor("one", np.zeros((3, 32), dtype=np.float32))
    writer.add_tensor("two", np.zeros(7, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights = checks.read_weights(Source(None, path, "small"))
    assert weights.numbers == 3 * 32 + 7
    assert weights.loaded_bytes(4) == 4 * (3 * 32 + 7)
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(LoadError, match="no GGUF file that can be read: fetch it again"):
        check_local(config(tmp_path, "small.gguf", None))


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_and_its_file_cache_does_not(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        1: ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (tmp_path / "memory").mkdir()
    (tmp_path / names[0]).write_text("1000000\n")
    (tmp_path / names[1]).write_text("700000\n")
    (tmp_path / names[0]).with_name("memory.stat").write_text(f"anon 5\n{names[2]} 400000\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.available_bytes() == 700_000


# ---- devices and settings ------------------------------------------------------------------------


def test_a_gpu_that_is_not_there_is_refused_with_what_to_do(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for gpus in ((0,), (0, 1)):
        asked = config(made, device="cuda:0", gpus=gpus)
        with pytest.raises(LoadError, match=r"torch sees no GPU here. Leave --gpus out or give"):
            load(asked)
        monkeypatch.setattr(checks, "why_no_gpu", lambda: "nobody sold one")
        with pytest.raises(LoadError, match=r"sees no GPU here \(nobody sold one\). Leave --gpus"):
            check_local(asked)
    with pytest.raises(
        LoadError, match=r"--load_in_4bit needs a GPU, .* \(nobody sold one\); on a"
    ):
        check_local(config(made, device="auto", load_in_4bit=True))
    monkeypatch.setattr(checks, "available_bytes", lambda: 0)
    with pytest.raises(LoadError, match=r"needs about .* GiB of memory"):
        check_local(config(made, device="auto"))
    monkeypatch.setattr(checks, "why_no_gpu", lambda: None)
    check_local(config(made, device="auto", load_in_4bit=True))
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LoadError, match=r"GPU 1,2 was asked for .* begin with 0 and end with 1"):
        load(config(made, device="cuda:1", gpus=(1, 2)))
    monkeypatch.setattr(loader, "find_spec", lambda name: None)
    with pytest.raises(LoadError, match="need bitsandbytes on a GPU: install it with"):
        load(config(made, device="cuda:0", gpus=(0,), load_in_8bit=True))


def test_whether_there_may_be_a_gpu_is_told_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_DEV", tmp_path)
    monkeypatch.setattr(machine, "version", lambda name: "2.13.0+cpu")
    assert "is built for CPUs alone" in (machine.why_no_gpu() or "")
    monkeypatch.setattr(machine, "version", lambda name: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "no device of a GPU's driver" in (machine.why_no_gpu() or "")
    (tmp_path / "nvidia0").touch()
    assert machine.why_no_gpu() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides" in (machine.why_no_gpu() or "")


def test_more_than_the_machine_or_the_model_can_do_is_told(made: Path) -> None:
    told: list[LoadProgress] = []
    cores = machine.usable_cores()
    info = load(config(made, threads=cores + 1, context_length=4000), told.append).info
    assert info.context_length == 512
    said = " / ".join(line.text for line in told)
    assert f"{cores + 1} threads were asked for (LLMAPI_THREADS), and there are {cores}" in said
    assert "made for 512 tokens: the context is that, not the 4,000" in said
    torch.set_num_threads(1)


def test_the_checks_import_neither_torch_nor_transformers() -> None:
    slow = {"torch", "transformers", "peft", "huggingface_hub"}
    code = f"import sys, llmapi.engine.checks; print({slow} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
