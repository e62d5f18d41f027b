"""Many adapters on one base, each a model of its own; and other names for models."""

import asyncio
import json
import os
import socket
import time

import numpy
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from pydantic import ValidationError
from safetensors.numpy import save_file

from config.env import PROJECT_DIR, ServerSettings
from conversations.models import Completion
from llmapi.backends import local
from llmapi.backends.base import BackendFailed, ChatMessage, ChatRequest, GenerationOptions
from llmapi.backends.local import LocalBackend
from llmapi.configured import configured_backends
from llmapi.engine.config import EngineConfig
from llmapi.engine.decoder import FusedDecoder
from llmapi.engine.generic import GenericNetwork
from llmapi.engine.messages import GenerateRequest, LoadAdapter
from llmapi.engine.native.decoder import NativeDecoder
from llmapi.errors import ModelNotFound
from llmapi.services import models
from tests.door.client import Client
from tests.door.standin import StandIn

CHAT = "/v1/chat/completions"
TWO = {"zh": "/models/secret/zh", "law": "/models/secret/law"}
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


def kill(backend):
    with socket.socket(fileno=os.dup(backend.link._connection.fileno())) as pipe:
        pipe.shutdown(socket.SHUT_RDWR)


async def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def ready_is(status, seconds=30):
    deadline = time.monotonic() + seconds
    while (await Client().get("/ready")).status != status:
        assert time.monotonic() < deadline, f"/ready is not {status}"
        await asyncio.sleep(0.02)


# ---- adapters ------------------------------------------------------------------------------------


async def test_each_adapter_is_a_model_beside_its_base(start, asker):
    await sync_to_async(start)(TWO)
    body = (await asker.get("/v1/models")).json()
    assert [(m["id"], m["parent"], m["root"]) for m in body["data"]] == [
        ("base", None, "base"),
        ("zh", "base", "base"),
        ("law", "base", "base"),
    ]
    assert body["data"][0]["llmapi"]["adapter"] is None
    one = await asker.get("/v1/models/zh")
    assert one.json() == body["data"][1]
    assert one.json()["llmapi"] == {
        "context_length": 512,
        "parameters": 1000,
        "dtype": "float32",
        "quantisation": None,
        "decoder": "fused",
        "device": "cpu",
        "template": "tokenizer",
        "adapter": {"name": "zh", "rank": 8, "targets": ["q_proj", "v_proj"]},
        "alias_of": None,
    }
    assert b"secret" not in one.body


async def test_the_documentation_shows_what_clients_see(start, asker):
    text = (PROJECT_DIR / "docs" / "adapters.md").read_text(encoding="utf-8")
    shown = json.loads(text.split("```json")[1].split("```")[0])
    await sync_to_async(start)(TWO)
    one = (await asker.get("/v1/models/zh")).json()
    for ours, theirs in (
        (one, shown),
        (one["llmapi"], shown["llmapi"]),
        (one["llmapi"]["adapter"], shown["llmapi"]["adapter"]),
    ):
        assert list(ours) == list(theirs)
        assert {k: type(v) for k, v in ours.items()} == {k: type(v) for k, v in theirs.items()}
    kinds = (NativeDecoder.kind, FusedDecoder.kind, GenericNetwork.kind)
    assert shown["llmapi"]["decoder"] in kinds
    assert all(f"`{kind}` (" in text for kind in kinds)
    assert all(f"| `{key}` |" in text for key in [*one["llmapi"]][2:] if key != "device")


@pytest.mark.parametrize(
    "path", ["/secret/alpaca-lora", "/secret/hub/models--org--alpaca-lora/snapshots/0123abcd"]
)
async def test_a_merged_adapter_is_told_by_its_name_alone(start, engine, asker, path):
    engine.lora = path
    await sync_to_async(start)()
    answer = await asker.get("/v1/models/base")
    assert answer.json()["llmapi"]["adapter"] == {"name": "alpaca-lora"}
    assert b"secret" not in answer.body


async def test_the_model_of_a_request_chooses_the_adapter_and_is_kept_with_the_row(start, asker):
    await sync_to_async(start)(TWO)
    for model, said, told in (
        ("zh", "<zh>.", "zh"),
        ("base", "<>.", "base"),
        (None, "<>.", "base"),
    ):
        named = {"model": model} if model else {}
        answer = await asker.chat(**named)
        assert answer["choices"][0]["message"]["content"] == said
        assert answer["model"] == told
        text = (await asker.post("/v1/completions", {"prompt": "Hello", **named})).json()
        assert (text["model"], text["choices"][0]["text"]) == (told, said)
        row = await Completion.objects.filter(kind="completion").alatest("id")
        assert (row.model, row.status) == (told, "completed")
    (chunk, *_) = await asker.events(CHAT, {**HELLO, "model": "law"})
    assert chunk["model"] == "law"


async def test_embeddings_are_the_adapters_too(start, asker, engine):
    await sync_to_async(start)(TWO)
    answer = await asker.post("/v1/embeddings", {"model": "law", "input": "Hello"})
    assert (answer.status, answer.json()["model"]) == (200, "law")
    assert engine.heard[-1][-1].adapter == "law"


async def test_a_model_that_is_not_served_is_a_404_that_names_those_that_are(start, asker):
    await sync_to_async(start)(TWO, {"gpt-4": "law"})
    answer = await asker.post(CHAT, {**HELLO, "model": "art"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    for served in ("'base'", "'zh'", "'law'", "'gpt-4'"):
        assert served in answer.error["message"]


# ---- the start, and the engine's end -------------------------------------------------------------


def test_a_configured_adapter_that_fails_stops_the_start_with_its_message(start, engine):
    engine.refused = {"law": "Its shapes are those of another model."}
    with pytest.raises(BackendFailed) as error:
        start(TWO)
    assert "'law' of LLMAPI_LORA_MODELS" in str(error.value)
    assert "shapes are those of another model" in str(error.value)


def test_a_configured_adapter_in_which_the_engine_ends_stops_the_start(start, engine):
    engine.dies_of = {"law"}
    with pytest.raises(BackendFailed, match=r"'law'.*engine ended while it loaded"):
        start(TWO)


def test_an_adapter_may_not_be_called_as_its_base(start):
    with pytest.raises(BackendFailed, match="The base model has this name"):
        start({"base": "/models/zh"})


async def test_the_server_is_not_ready_before_its_adapters_are(start, engine, asker):
    engine.may_load.clear()
    starting = asyncio.ensure_future(sync_to_async(start)(TWO))
    await asyncio.wait([starting], timeout=1)
    assert (await Client().get("/ready")).status == 503
    assert (await asker.post(CHAT, HELLO)).status == 503
    engine.may_load.set()
    await starting
    assert (await Client().get("/ready")).status == 200


async def test_after_an_engines_end_adapters_are_loaded_before_they_are_asked(start, engine, asker):
    backend = await sync_to_async(start)(TWO)
    engine.may_load.clear()
    kill(backend)
    await ready_is(503)
    await until(lambda: engine.lives == 2 and engine.heard[1])
    for model in ("zh", "base"):
        answer = await asker.post(CHAT, {**HELLO, "model": model})
        assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert len((await asker.get("/v1/models")).json()["data"]) == 3
    engine.may_load.set()
    await ready_is(200)
    answer = await asker.chat(model="law")
    assert answer["choices"][0]["message"]["content"] == "<law>."
    kinds = [type(message) for message in engine.heard[1]]
    assert kinds == [LoadAdapter, LoadAdapter, GenerateRequest]


async def test_an_adapter_that_fails_after_an_engines_end_takes_no_other_with_it(
    start, engine, asker, staff
):
    backend = await sync_to_async(start)(TWO)
    engine.refused = {"zh": "Its file is gone."}
    kill(backend)
    await ready_is(503)
    await ready_is(200)
    assert (await asker.post(CHAT, {**HELLO, "model": "zh"})).status == 404
    assert (await asker.chat(model="law"))["model"] == "law"
    listed = (await staff.get("/v1/admin/adapters")).json()["data"]
    assert [(a["id"], a["state"], a["message"]) for a in listed] == [
        ("zh", "failed", "Its file is gone."),
        ("law", "served", None),
    ]


async def test_what_was_prepared_before_a_removal_never_reaches_the_engine(start, engine):
    backend = await sync_to_async(start)()
    backend.adapters.load("zh", "/models/zh", 30)
    request = ChatRequest((ChatMessage("user", "Hello"),), GenerationOptions(), model="zh")
    prepared = models.prepare(request, "chatcmpl-1", "user-1")
    stream = backend.stream(prepared)
    backend.adapters.drop("zh")
    with pytest.raises(ModelNotFound):
        await anext(stream)
    assert not any(isinstance(message, GenerateRequest) for message in engine.heard[0])


# ---- aliases -------------------------------------------------------------------------------------


async def test_an_alias_is_answered_by_its_model_under_that_models_name(start, asker):
    await sync_to_async(start)(TWO, {"gpt-4": "law", "gpt-3.5-turbo": "base"})
    for alias, model, said in (("gpt-4", "law", "<law>."), ("gpt-3.5-turbo", "base", "<>.")):
        answer = await asker.chat(model=alias)
        assert (answer["model"], answer["choices"][0]["message"]["content"]) == (model, said)
        assert (await Completion.objects.alatest("id")).model == model
        one = (await asker.get(f"/v1/models/{alias}")).json()
        assert (one["id"], one["llmapi"]["alias_of"]) == (alias, model)
    listed = (await asker.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["base", "zh", "law", "gpt-4", "gpt-3.5-turbo"]
    assert listed[3]["parent"] == listed[3]["root"] == "base"
    assert listed[4]["parent"] is None


@pytest.mark.parametrize(
    ("aliases", "sentence"),
    [
        ({"gpt-4": "art"}, "'gpt-4' stands for 'art', which is not served. Served: base, zh, law."),
        ({"base": "zh"}, "'base' is the id of a served model"),
        ({"zh": "law"}, "'zh' is the id of a served model"),
    ],
)
def test_an_alias_that_cannot_be_stops_the_start_before_an_engine_is_started(
    start, engine, aliases, sentence
):
    with pytest.raises(BackendFailed) as error:
        start(TWO, aliases)
    assert sentence in str(error.value)
    assert engine.lives == 0


def test_an_adapter_of_the_settings_that_fails_is_told_once(start, engine, caplog):
    engine.refused = {"zh": "Its file is torn."}
    with pytest.raises(BackendFailed, match=r"'zh' of LLMAPI_LORA_MODELS cannot .*: Its file is"):
        start(TWO)
    assert "torn" not in caplog.text


async def test_what_takes_long_is_said_before_it_begins(start, engine, monkeypatch):
    told = []
    monkeypatch.setattr(local, "why_no_gpu", lambda: None)
    await sync_to_async(start)(report=told.append)
    assert told[0] == "Starting the engine and looking for GPUs"
    config = EngineConfig("nosuch/model", "cache", lora_model="./tests")
    backend = LocalBackend(config, launch=engine.launch)
    backend.start(told.append)
    backend.stop()
    asked = [line for line in told if "hub" in line]
    assert asked == ["'nosuch/model' is no directory here: asking the hub for it"]


# ---- settings ------------------------------------------------------------------------------------


def test_pairs_are_read_from_one_string_or_several():
    both = {"a": "x", "b/c": "y=z"}
    assert ServerSettings(lora_models="a=x, b/c=y=z,").lora_models == both
    assert ServerSettings(lora_models=["a=x", "b/c=y=z"]).lora_models == both


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lora_models", "zh", "'zh' is no such pair"),
        ("lora_models", "zh=", "'zh=' is no such pair"),
        ("lora_models", "zh=a,zh=b", "names 'zh' twice"),
        ("model_aliases", "a=b,b=c", "'a' stands for 'b', which is an alias itself"),
        ("model_aliases", "a=a", "'a' stands for itself; a model's own name needs no alias"),
    ],
)
def test_pairs_that_are_none_are_named(field, value, words):
    with pytest.raises(ValidationError) as error:
        ServerSettings(**{field: value})
    assert words in str(error.value)


def test_names_and_directories_are_checked_before_anything_is_loaded(adapters_dir, tmp_path):
    zh = adapters_dir / "zh"
    bare = tmp_path / "bare"
    bare.mkdir()

    def refused(**values):
        with pytest.raises(ImproperlyConfigured) as error:
            configured_backends(ServerSettings(**values))
        return str(error.value)

    assert f"there is no directory '{tmp_path}/nowhere'" in refused(
        lora_models=f"zh={tmp_path}/nowhere"
    )
    assert "no adapter_config.json" in refused(lora_models=f"zh={bare}")
    assert "'z h' is no name of a model" in refused(lora_models=f"z h={zh}")
    assert "LLMAPI_MODEL_ALIASES: '-' is no name" in refused(model_aliases="-=x")
    assert "200 characters at most" in refused(model_aliases=f"{'a' * 201}=x")
    assert "is the name of an adapter" in refused(lora_models=f"zh={zh}", model_aliases="zh=x")
    assert "LLMAPI_ADAPTERS_DIR: there is no directory" in refused(adapters_dir=tmp_path / "none")
    assert "echo backend has no adapters" in refused(engine="echo", lora_models=f"zh={zh}")
    assert "is no LoRA adapter" in refused(lora_models=f"zh={zh}")
    (zh / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}')
    weights = {"base_model.model.model.norm.lora_A.weight": numpy.zeros((1, 1), numpy.float32)}
    save_file(weights, zh / "adapter_model.safetensors")
    assert "'zh' of --lora_modules (LLMAPI_LORA_MODELS) has the base model's name" in refused(
        lora_models=f"zh={zh}", model_name="zh"
    )
    (backend,) = configured_backends(ServerSettings(lora_models=f"zh={zh}"))
    assert backend.link.config.adapters == (("zh", str(zh)),)


def test_the_stand_in_refuses_as_an_engine_does_what_it_was_not_given(random_directory):
    """Or the tests above would not notice a request that came too early."""
    engine, told = StandIn(random_directory), []
    engine.tell = lambda *events: told.extend(events)
    engine.take(GenerateRequest("1", "u", ((1,),), None, adapter="zh"), set())
    assert told[0].message == "There is no such adapter."
