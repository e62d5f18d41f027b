"""Staff add and remove adapters while the server runs, and nobody else does."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.auth.models import Permission

from accounts.models import User
from accounts.services import key_create
from conversations.models import Completion
from llmapi import adapters
from llmapi.engine.messages import DropAdapter, GenerateRequest, LoadAdapter
from llmapi.models import Adapter
from llmapi.services import models
from tests.door.client import Client
from tests.door.test_adapters import CHAT, HELLO, kill, ready_is, until

ROUTE = "/v1/admin/adapters"
ZH = {"name": "zh", "path": "zh"}


@pytest.fixture
def begun(start, adapters_dir):
    """`await begun(adapters, aliases)`: the server runs, with a directory for staff."""
    return sync_to_async(start)


async def restart(begun, *args):
    await sync_to_async(models.stop)()
    return await begun(*args)


async def listed(staff):
    answer = await staff.get(ROUTE)
    assert answer.status == 200
    return {adapter["id"]: adapter for adapter in answer.json()["data"]}


async def model_ids(client):
    return [model["id"] for model in (await client.get("/v1/models")).json()["data"]]


# ---- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "route"), [("GET", ROUTE), ("POST", ROUTE), ("DELETE", f"{ROUTE}/law")]
)
async def test_only_keys_of_staff_users_may(begun, staff, asker, settings, method, route):
    await begun()
    await staff.post(ROUTE, {"name": "law", "path": "law"})

    async def status(client):
        under_way = client.post(route, ZH) if method == "POST" else client.request(method, route)
        answer = await under_way
        return answer.status, answer.error["code"]

    assert await status(Client()) == (401, "invalid_api_key")
    assert await status(asker) == (403, "permission_denied")
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"allow_anonymous": True})
    assert await status(Client()) == (403, "permission_denied")
    # not even if somebody gave the user that stands for nobody staff status
    await User.objects.filter(username="anonymous").aupdate(is_staff=True)
    assert await status(Client()) == (403, "permission_denied")
    assert await model_ids(asker) == ["base", "law"]


@pytest.mark.parametrize("right", [None, "view_adapter", "add_adapter", "delete_adapter"])
async def test_a_staff_users_key_may_what_its_owner_may_in_the_admin(begun, adapters_dir, right):
    await begun()

    def make():
        clerk = User.objects.create_user("clerk", is_staff=True)
        clerk.user_permissions.set(Permission.objects.filter(codename=right))
        return Client(key_create(user=clerk)[1])

    clerk = await sync_to_async(make)()
    answers = {
        "view_adapter": await clerk.get(ROUTE),
        "add_adapter": await clerk.post(ROUTE, ZH),
        "delete_adapter": await clerk.request("DELETE", f"{ROUTE}/nothing"),
    }
    given = {"view_adapter": 200, "add_adapter": 201, "delete_adapter": 404}
    for wanted, answer in answers.items():
        assert answer.status == (given[wanted] if wanted == right else 403), wanted
    assert (await clerk.request("PUT", ROUTE)).status == 405


# ---- adding --------------------------------------------------------------------------------------


async def test_an_added_adapter_is_served_at_once_and_after_every_later_start(
    begun, staff, asker, adapters_dir
):
    await begun()
    answer = await staff.post(ROUTE, ZH)
    assert answer.status == 201, answer.body
    assert answer.json() == (await asker.get("/v1/models/zh")).json()
    assert answer.json()["parent"] == "base"
    assert str(adapters_dir) not in answer.body.decode()
    assert (await asker.chat(model="zh"))["choices"][0]["message"]["content"] == "<zh>."
    entry = await LogEntry.objects.select_related("user").aget()
    assert (entry.user.username, entry.action_flag, entry.object_repr) == ("boss", ADDITION, "zh")

    await restart(begun)
    assert (await asker.chat(model="zh"))["model"] == "zh"
    one = (await listed(staff))["zh"]
    row = await Adapter.objects.aget()
    assert one == {
        "id": "zh",
        "object": "adapter",
        "state": "served",
        "message": None,
        "source": "staff",
        "path": "zh",
        "added_by": "boss",
        "created": int(row.added_at.timestamp()),
        "rank": 8,
        "targets": ["q_proj", "v_proj"],
        "bytes": 4096,
    }


async def test_others_are_answered_while_the_engine_loads(begun, staff, engine):
    await begun()
    engine.may_load.clear()
    adding = asyncio.ensure_future(staff.post(ROUTE, ZH))
    await until(lambda: engine.heard[0])
    assert (await listed(staff))["zh"]["state"] == "loading"
    assert (await Client().get("/ready")).status == 200
    second = await staff.post(ROUTE, {"name": "zh", "path": "law"})
    assert (second.status, second.error["code"]) == (409, "name_taken")
    assert (await staff.request("DELETE", f"{ROUTE}/zh")).status == 404
    assert not adding.done()
    engine.may_load.set()
    assert (await adding).status == 201


async def test_the_engines_refusal_is_a_400_with_its_message_and_leaves_nothing(
    begun, staff, asker, engine
):
    await begun()
    engine.refused = {"zh": "It was made for another model."}
    answer = await staff.post(ROUTE, ZH)
    assert (answer.status, answer.error["code"]) == (400, "adapter_refused")
    assert answer.error["message"] == "It was made for another model."
    assert await listed(staff) == {}
    assert await model_ids(asker) == ["base"]
    assert not await LogEntry.objects.aexists()
    engine.refused = {}
    assert (await staff.post(ROUTE, ZH)).status == 201


async def test_an_engine_that_takes_too_long_is_not_waited_for(
    begun, staff, asker, engine, monkeypatch
):
    await begun()
    monkeypatch.setattr(adapters, "LOAD_TIMEOUT_S", 0.1)
    engine.may_load.clear()
    answer = await staff.post(ROUTE, ZH)
    assert answer.status == 503
    assert "within 0.1 s" in answer.error["message"]
    monkeypatch.undo()
    engine.refused = {"zh": "Not this time."}  # its answer to the first is the first's alone
    again = asyncio.ensure_future(staff.post(ROUTE, {"name": "law", "path": "law"}))
    engine.may_load.set()
    assert (await again).status == 201
    assert await model_ids(asker) == ["base", "law"]
    kinds = [type(message) for message in engine.heard[0]]
    assert kinds == [LoadAdapter, DropAdapter, LoadAdapter]


async def test_an_engine_that_ends_while_it_loads_is_started_again_without_that_adapter(
    begun, staff, asker, engine
):
    await begun()
    engine.dies_of = {"zh"}
    answer = await staff.post(ROUTE, ZH)
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert "engine ended" in answer.error["message"]
    await ready_is(200)
    assert engine.lives == 2
    assert engine.asked_to_load() == []
    assert await model_ids(asker) == ["base"]
    assert not await Adapter.objects.aexists()


async def test_without_a_directory_nothing_is_added(begun, staff, engine, settings):
    await begun()
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"adapters_dir": None})
    answer = await staff.post(ROUTE, ZH)
    assert (answer.status, answer.error["code"]) == (403, "adapters_off")
    assert "LLMAPI_ADAPTERS_DIR" in answer.error["message"]
    assert engine.heard == [[]]


@pytest.mark.parametrize(
    "body",
    [{}, {"name": "zh"}, {**ZH, "path": 5}, {**ZH, "rank": 8}, {**ZH, "path": ""}, []],
)
async def test_a_body_that_is_none_is_a_400(begun, staff, body):
    await begun()
    assert (await staff.post(ROUTE, body)).status == 400


async def test_names_that_are_taken_are_a_409_and_bad_ones_a_400(begun, staff, engine):
    await begun({"law": "/models/law"}, {"gpt-4": "law"})
    assert (await staff.post(ROUTE, ZH)).status == 201
    for taken in ("base", "law", "zh", "gpt-4"):
        answer = await staff.post(ROUTE, {"name": taken, "path": "law"})
        assert (answer.status, answer.error["code"]) == (409, "name_taken"), taken
    for bad in ("z h", "../zh", "zh/", "-", "zh,law", "zh=law"):
        answer = await staff.post(ROUTE, {"name": bad, "path": "law"})
        assert (answer.status, answer.error["param"]) == (400, "name"), bad
    assert engine.asked_to_load() == ["law", "zh"]


# ---- paths ---------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path, adapters_dir):
    """An adapter beside the directory of adapters, and the ways to it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "adapter_config.json").write_text("{}")
    (tmp_path / "adapters-too").symlink_to(outside)  # shares a prefix with the directory's name
    (adapters_dir / "link").symlink_to(outside)
    (adapters_dir / "up").symlink_to("..")
    (adapters_dir / "circle").symlink_to("circle")
    (adapters_dir / "bare").mkdir()
    (adapters_dir / "file").write_text("{}")
    (adapters_dir / "borrowed").mkdir()
    (adapters_dir / "borrowed" / "adapter_config.json").write_text("{}")
    (adapters_dir / "borrowed" / "adapter_model.safetensors").symlink_to("/etc/passwd")
    (adapters_dir / "adapter_config.json").write_text("{}")
    return outside


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "zh/../../outside",
        "../adapters-too",
        "{outside}",
        "/etc",
        "link",
        "up/outside",
        "up/adapters",
        ".",
        "zh/..",
        "circle",
        "circle/zh",
        "bare",
        "file",
        "file/zh",
        "nothing",
        "borrowed",
        "~",
        "x" * 1000,
        "zh\0",
    ],
)
async def test_a_path_that_is_no_adapter_inside_is_refused(begun, staff, engine, outside, path):
    await begun()
    body = {"name": "zh", "path": path.format(outside=outside)}
    answer = await staff.post(ROUTE, body)
    assert (answer.status, answer.error["param"]) == (400, "path"), answer.body
    assert engine.heard == [[]]
    assert not await Adapter.objects.aexists()


async def test_what_lies_outside_is_not_told(begun, staff, outside):
    """Whether it exists or not, the sentence is the same."""
    await begun()
    there = await staff.post(ROUTE, {"name": "zh", "path": "../outside"})
    not_there = await staff.post(ROUTE, {"name": "zh", "path": "../nowhere"})
    assert there.error == not_there.error


async def test_ways_inside_are_followed(begun, staff, engine, adapters_dir):
    (adapters_dir / "link").symlink_to("zh")
    await begun()
    ways = {"a": "zh", "b": "link", "c": "law/../zh", "d": str(adapters_dir / "zh"), "e": "./zh/"}
    for name, path in ways.items():
        assert (await staff.post(ROUTE, {"name": name, "path": path})).status == 201, path
    given = {message.path for message in engine.heard[0]}
    assert given == {str((adapters_dir / "zh").resolve())}
    assert {row.path async for row in Adapter.objects.all()} == {"zh"}


# ---- removing ------------------------------------------------------------------------------------


async def test_a_removed_adapter_finishes_what_runs_and_takes_nothing_new(
    begun, staff, asker, engine
):
    await begun()
    await staff.post(ROUTE, ZH)
    engine.holds = True
    async with asker.stream(CHAT, {**HELLO, "model": "zh"}) as running:
        await running.start()
        events = running.events()
        async with asyncio.timeout(30):
            while not (await anext(events))["choices"][0]["delta"].get("content"):
                pass
        answer = await staff.request("DELETE", f"{ROUTE}/zh")
        assert (answer.status, answer.json()) == (
            200,
            {"id": "zh", "object": "model", "deleted": True},
        )
        refused = await asker.post(CHAT, {**HELLO, "model": "zh"})
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        engine.finish()
        rest = [event async for event in events]
    assert rest[-1] == "[DONE]"
    assert rest[-2]["choices"][0]["finish_reason"] == "stop"
    row = await Completion.objects.aget()
    assert (row.model, row.status) == ("zh", "completed")
    assert [type(m) for m in engine.heard[0]] == [LoadAdapter, GenerateRequest, DropAdapter]
    assert await model_ids(asker) == ["base"]
    entry = await LogEntry.objects.select_related("user").alatest("id")
    assert (entry.user.username, entry.action_flag, entry.object_repr) == ("boss", DELETION, "zh")

    backend = await restart(begun)
    assert await listed(staff) == {}
    kill(backend)  # nor does a later engine get it
    await ready_is(503)
    await ready_is(200)
    assert engine.asked_to_load() == []
    assert (await staff.request("DELETE", f"{ROUTE}/zh")).status == 404


async def test_what_the_settings_need_is_not_removed(begun, staff, asker):
    await begun({"law": "/models/law"})
    await staff.post(ROUTE, ZH)
    await restart(begun, {"law": "/models/law"}, {"gpt-4": "zh"})
    for name, variable in (("law", "LLMAPI_LORA_MODELS"), ("zh", "LLMAPI_MODEL_ALIASES")):
        answer = await staff.request("DELETE", f"{ROUTE}/{name}")
        assert (answer.status, answer.error["code"]) == (409, "adapter_in_use")
        assert variable in answer.error["message"]
    assert await model_ids(asker) == ["base", "law", "zh", "gpt-4"]


# ---- starts after something has changed ----------------------------------------------------------


async def test_a_directory_that_vanished_is_listed_as_failed_and_stops_nothing(
    begun, staff, asker, adapters_dir, caplog
):
    await begun()
    for name in ("zh", "law"):
        await staff.post(ROUTE, {"name": name, "path": name})
    (adapters_dir / "zh").rename(adapters_dir.parent / "gone")
    (adapters_dir / "zh").symlink_to(adapters_dir.parent / "gone")  # out of the directory now
    await restart(begun, None, {"gpt-4": "zh"})
    (warning,) = (r for r in caplog.records if "'zh' that staff added" in r.getMessage())
    assert warning.levelname == "WARNING"
    assert "leads out" in warning.getMessage()
    assert "DELETE /v1/admin/adapters/zh" in warning.getMessage()
    assert (await asker.chat(model="law"))["model"] == "law"
    for name in ("zh", "gpt-4"):
        answer = await asker.post(CHAT, {**HELLO, "model": name})
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert f"The model '{name}' is not served" in answer.error["message"]
    for answered in (answer, await asker.get("/v1/models/gpt-4")):
        assert "it stands for the adapter 'zh', which could not be" in answered.error["message"]
    one = (await listed(staff))["zh"]
    assert (one["state"], one["rank"]) == ("failed", None)
    assert "leads out" in one["message"]
    again = await staff.post(ROUTE, {"name": "zh", "path": "law"})
    assert (again.status, again.error["code"]) == (409, "name_taken")
    assert "is there already, and it is not served: The path leads out" in again.error["message"]
    assert "remove it (DELETE /v1/admin/adapters/zh) and add it again" in again.error["message"]
    await restart(begun)
    assert (await staff.request("DELETE", f"{ROUTE}/zh")).status == 200
    assert list(await listed(staff)) == ["law"]


async def test_without_a_directory_at_a_later_start_one_line_says_so(
    begun, staff, settings, caplog
):
    await begun()
    for name in ("zh", "law"):
        await staff.post(ROUTE, {"name": name, "path": name})
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"adapters_dir": None})
    caplog.clear()
    await restart(begun)
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR"))
    assert "not served, for LLMAPI_ADAPTERS_DIR is not set: law, zh" in warning
    assert {a["state"] for a in (await listed(staff)).values()} == {"failed"}


async def test_the_directory_itself_is_told_apart_from_what_lies_outside(begun, staff):
    await begun()
    answer = await staff.post(ROUTE, {"name": "zh", "path": "."})
    assert "is the directory of adapters itself" in answer.error["message"]


async def test_an_adapter_of_staff_that_fails_at_the_start_stops_nothing(
    begun, staff, asker, engine
):
    await begun()
    for name in ("zh", "law"):
        await staff.post(ROUTE, {"name": name, "path": name})
    engine.refused, engine.dies_of = {"law": "Its file is torn."}, {"zh"}
    await restart(begun)
    states = {name: (a["state"], a["message"]) for name, a in (await listed(staff)).items()}
    assert states == {
        "law": ("failed", "Its file is torn."),
        "zh": ("failed", "The engine ended while it loaded the adapter."),
    }
    assert (await asker.chat())["model"] == "base"


async def test_names_of_the_settings_win_over_those_that_staff_gave(begun, staff, asker, engine):
    await begun()
    for name in ("zh", "law"):
        await staff.post(ROUTE, {"name": name, "path": name})
    await restart(begun, {"zh": "/models/other"}, {"law": "zh"})
    assert await model_ids(asker) == ["base", "zh", "law"]
    assert [m.path for m in engine.heard[-1]] == ["/models/other"]
    answer = (await staff.get(ROUTE)).json()["data"]
    assert [(a["id"], a["source"], a["state"]) for a in answer] == [
        ("zh", "settings", "served"),
        ("law", "staff", "failed"),
        ("zh", "staff", "failed"),
    ]
    # The row of that name can go; the setting's stays.
    assert (await staff.request("DELETE", f"{ROUTE}/zh")).status == 200
    assert (await asker.chat(model="zh"))["model"] == "zh"
