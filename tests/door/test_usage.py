"""GET /v1/usage: one's own numbers, for staff everyone's, and strict questions."""

from datetime import UTC, datetime, timedelta
from itertools import count
from urllib.parse import urlencode

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, Permission

from accounts.models import ApiKey, Scope, User
from accounts.services import key_create
from conversations.models import Completion
from conversations.staff.roles import ROLES
from conversations.usage.folding import hours_fold
from tests.door.client import Client

DAY0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WHEN = {"start_time": int(DAY0.timestamp()), "end_time": int((DAY0 + 3 * DAY).timestamp())}
numbers = count()


def used(key, after, **fields):
    values = {
        "public_id": f"cmpl-usage-{next(numbers)}",
        "kind": "chat",
        "user": key.user,
        "api_key": key,
        "model": "tiny",
        "status": "completed",
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "cached_tokens": 6,
        "duration_ms": 100,
        "created_at": DAY0 + after,
    }
    Completion.objects.create(**{**values, **fields})


@pytest.fixture
def keys(transactional_db):
    """Two keys of alice's, one of bob's, one of a staff user's, each used."""
    alice, bob = (User.objects.create_user(name) for name in ("alice", "bob"))
    staff = User.objects.create_user("boss", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="view_usagehour"))
    made = {
        name: key_create(user=user, name=name)
        for name, user in (("one", alice), ("two", alice), ("bob", bob), ("staff", staff))
    }
    one, two, bobs = (made[name][0] for name in ("one", "two", "bob"))
    used(one, timedelta(0))
    used(one, 5 * HOUR, model="large", status="failed")
    used(two, DAY, kind="embedding")
    used(bobs, 2 * HOUR, prompt_tokens=1000)
    used(one, 40 * DAY)
    hours_fold()
    return made


def client_of(keys, name):
    return Client(keys[name][1])


async def read(client, **query):
    answer = await client.get("/v1/usage?" + urlencode({**WHEN, **query}, doseq=True))
    assert answer.status == 200, answer.body
    return answer.json()


def results(page):
    return [result for bucket in page["data"] for result in bucket["results"]]


async def test_user_sees_own_usage_by_day(keys):
    page = await read(client_of(keys, "one"))
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    assert [bucket["start_time"] for bucket in page["data"]] == [
        WHEN["start_time"] + day * 86400 for day in range(3)
    ]
    assert [bucket["end_time"] - bucket["start_time"] for bucket in page["data"]] == [86400] * 3
    assert [len(bucket["results"]) for bucket in page["data"]] == [1, 1, 0]
    assert page["data"][0]["results"][0] == {
        "object": "organization.usage.completions.result",
        "input_tokens": 20,
        "input_cached_tokens": 12,
        "output_tokens": 8,
        "num_model_requests": 2,
        "num_failed_requests": 1,
        "num_cancelled_requests": 0,
        "mean_duration_ms": 100.0,
        "mean_first_token_ms": None,
        "model": None,
        "api_key_id": None,
        "user_id": None,
        "kind": None,
    }


async def test_usage_is_grouped_and_filtered(keys):
    alice = client_of(keys, "one")
    one, two = keys["one"][0].public_id, keys["two"][0].public_id
    grouped = results(await read(alice, **{"group_by[]": ["model", "api_key"], "group_by": "kind"}))
    assert [(r["model"], r["api_key_id"], r["kind"]) for r in grouped] == [
        ("large", one, "chat"),
        ("tiny", one, "chat"),
        ("tiny", two, "embedding"),
    ]
    assert [r["input_tokens"] for r in results(await read(alice, models="large"))] == [10]
    only_two = results(await read(alice, api_key_ids=two, group_by="api_key_id"))
    assert [(r["api_key_id"], r["num_model_requests"]) for r in only_two] == [(two, 1)]


async def test_staff_see_everyone_and_others_do_not(keys):
    staff = client_of(keys, "staff")
    everyone = results(await read(staff, group_by="user"))
    assert [(r["user_id"], r["input_tokens"]) for r in everyone] == [
        ("alice", 20),
        ("bob", 1000),
        ("alice", 10),
    ]
    assert [r["input_tokens"] for r in results(await read(staff, user_ids="bob"))] == [1000]
    assert [r["input_tokens"] for r in results(await read(client_of(keys, "bob")))] == [1000]
    for query in ("user_ids=bob", "group_by=user", "user_ids=nobody"):
        answer = await client_of(keys, "one").get(f"/v1/usage?{query}")
        assert (answer.status, answer.error["code"]) == (403, "permission_denied")
    assert (await client_of(keys, "one").get("/v1/usage?user_ids=alice")).status == 200


@pytest.mark.parametrize("without", ["staff status", "the right"])
async def test_staff_status_and_the_right_are_needed_both(keys, without):
    def take():
        staff = User.objects.get(username="boss")
        staff.is_staff = without != "staff status"
        staff.save()
        if without == "the right":
            staff.user_permissions.clear()

    await sync_to_async(take)()
    staff = client_of(keys, "staff")
    assert results(await read(staff)) == []
    for query in ("user_ids=bob", "group_by=user"):
        assert (await staff.get(f"/v1/usage?{query}")).status == 403


@pytest.mark.parametrize("group", ROLES)
async def test_each_group_reads_everyones_usage_or_its_own(keys, group):
    def make():
        member = User.objects.create_user("member", is_staff=True)
        member.groups.add(Group.objects.get(name=group))
        return Client(key_create(user=member)[1])

    member = await sync_to_async(make)()
    sees_all = group in ("auditor", "privacy officer")
    assert (await member.get("/v1/usage?group_by=user")).status == (200 if sees_all else 403)
    assert (len(results(await read(member))) > 0) == sees_all


async def test_staff_key_for_other_things_sees_its_owner_alone(keys):
    def restrict():
        ApiKey.objects.filter(name="staff").update(scopes=[Scope.READ_ONLY])

    await sync_to_async(restrict)()
    staff = client_of(keys, "staff")
    assert results(await read(staff)) == []
    assert (await staff.get("/v1/usage?user_ids=bob")).status == 403


async def test_key_of_another_user_is_as_unknown_as_none(keys):
    sentences = set()
    for key in (keys["bob"][0].public_id, "AAAAAAAA"):
        answer = await client_of(keys, "one").get(f"/v1/usage?api_key_ids={key}")
        assert (answer.status, answer.error["param"]) == (404, "api_key_ids")
        sentences.add(answer.error["message"].replace(key, "KEY"))
    assert len(sentences) == 1
    answer = await client_of(keys, "staff").get("/v1/usage?user_ids=nobody")
    assert (answer.status, answer.error["param"]) == (404, "user_ids")


async def test_scope_of_the_key_decides(keys):
    def give(scopes):
        ApiKey.objects.filter(name="one").update(scopes=scopes)

    for scopes, status in (
        ([Scope.CHAT], 403),
        ([Scope.HISTORY], 200),
        ([Scope.CHAT, Scope.READ_ONLY], 200),
    ):
        await sync_to_async(give)(scopes)
        assert (await client_of(keys, "one").get("/v1/usage")).status == status


async def test_pages_together_are_the_whole(keys):
    alice = client_of(keys, "one")
    whole = await read(alice, bucket_width="1h", limit=168)
    assert len(whole["data"]) == 72
    pieces, cursor = [], {}
    while True:
        page = await read(alice, bucket_width="1h", limit=31, **cursor)
        pieces += page["data"]
        if not page["has_more"]:
            break
        cursor = {"page": page["next_page"]}
    assert pieces == whole["data"]
    assert sum(r["num_model_requests"] for r in results(whole)) == 3


async def test_without_times_it_is_the_last_seven_days(keys):
    page = (await client_of(keys, "one").get("/v1/usage")).json()
    assert len(page["data"]) == 7
    last = page["data"][-1]
    assert last["start_time"] <= datetime.now(UTC).timestamp() < last["end_time"]
    assert not page["has_more"]
    hours = (await client_of(keys, "one").get("/v1/usage?bucket_width=1h")).json()
    assert len(hours["data"]) == 24


async def test_whoever_sends_no_key_has_no_usage(keys, settings):
    assert (await Client().get("/v1/usage")).status == 401
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"allow_anonymous": True})
    assert (await Client().get("/v1/usage")).status == 403


async def test_a_request_is_in_the_usage_when_it_was_answered(client):
    body = {"messages": [{"role": "user", "content": "Hello " * 40}], "max_tokens": 3}
    said = [(await client.post("/v1/chat/completions", body)).json() for _ in range(2)]
    page = (await client.get("/v1/usage?group_by=model")).json()
    (result,) = results(page)
    assert result["num_model_requests"] == 2
    for name, mine in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
        assert result[name] == sum(answer["usage"][mine] for answer in said)
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in said]
    assert result["input_cached_tokens"] == sum(cached) > 0
