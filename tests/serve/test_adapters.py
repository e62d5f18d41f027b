"""Adapters of a real engine behind a real server: added, mixed, there again after either's end."""

import os
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.serve.asking import CHAT, bearer, chat, post
from tests.serve.server import until

ROUTE = "/v1/admin/adapters"


@pytest.fixture(scope="module")
def adapters_dir(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters that change every answer."""
    directory = tmp_path_factory.mktemp("adapters")
    for rank, name in enumerate(("law", "zh"), start=2):
        model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32)
        config = peft.LoraConfig(r=rank, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
        with warnings.catch_warnings():  # peft calls transformers' old names
            warnings.simplefilter("ignore", FutureWarning)
            adapted = peft.get_peft_model(model, config)
        generator = torch.Generator().manual_seed(rank)
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_" in parameter_name:
                parameter.data.normal_(std=0.5, generator=generator)
        adapted.save_pretrained(directory / name)
    return directory


def test_adapters_from_the_first_start_to_the_second(new_server, adapters_dir):
    server = new_server(
        flags=["--only_cpu", "--lora_modules", f"law={adapters_dir / 'law'}"],
        LLMAPI_ADAPTERS_DIR=str(adapters_dir),
        LLMAPI_MODEL_ALIASES="gpt-4=law",
    )
    server.start()
    url = server.wait_ready()
    key = server.new_key("admin")  # a staff user, made by the first start
    models = ("nonsense", "law", "zh")

    def said(model: str) -> str:
        answer = post(server.url, key, CHAT, chat(24, model=model))
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == {"gpt-4": "law"}.get(model, model)
        return answer.json()["choices"][0]["message"]["content"]

    assert post(url, server.new_key(), ROUTE, {"name": "zh", "path": "zh"}).status_code == 403
    added = post(url, key, ROUTE, {"name": "zh", "path": "zh"})
    assert added.status_code == 201, added.text
    assert added.json()["llmapi"]["adapter"] == {
        "name": "zh",
        "rank": 3,
        "targets": ["q_proj", "v_proj"],
    }
    alone = {model: said(model) for model in models}
    assert len(set(alone.values())) == 3
    with ThreadPoolExecutor(6) as together:
        assert [*together.map(said, models * 2)] == [alone[model] for model in models * 2]
    assert said("gpt-4") == alone["law"]

    os.kill(server.engine_pid, signal.SIGKILL)
    until(lambda: server.ready_status() == 503, "the engine's end is noticed")
    until(lambda: server.ready_status() == 200, "another engine is ready", 60)
    assert {model: said(model) for model in models} == alone

    assert server.stop() == 0
    server.start()
    server.wait_ready()
    assert {model: said(model) for model in models} == alone
    gone = httpx.delete(f"{server.url}{ROUTE}/zh", headers=bearer(key), timeout=60)
    assert gone.json() == {"id": "zh", "object": "model", "deleted": True}
    assert post(server.url, key, CHAT, chat(4, model="zh")).status_code == 404
    assert said("law") == alone["law"]
