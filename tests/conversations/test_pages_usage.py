"""The page of what a user has used: sums, charts, a line a group, limits."""

import re
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import services as accounts
from accounts.models import ApiKey
from conversations.models import Completion, UsageHour
from conversations.own import usage as own_usage
from conversations.usage.folding import hours_fold
from tests.accounts.pages import signed_in


@pytest.fixture
def reader(alice):
    return signed_in(alice)


@pytest.fixture
def used(alice):
    """used(days_ago, **fields): a request of alice's that ended."""
    numbers = iter(range(10**6))
    now = timezone.now()

    def make(days_ago: float, **fields) -> Completion:
        values = {
            "public_id": f"cmpl-{next(numbers)}",
            "kind": "completion",
            "user": alice,
            "model": "tiny",
            "status": "completed",
            "prompt_tokens": 700,
            "completion_tokens": 500,
            "cached_tokens": 350,
            "duration_ms": 1500,
            "created_at": now - timedelta(days=days_ago),
        }
        return Completion.objects.create(**{**values, **fields})

    return make


def totals(answer) -> tuple[int, ...]:
    total = answer.context["report"].total
    return total.requests, total.prompt_tokens, total.completion_tokens, total.failed


def test_sums_are_those_of_the_chosen_time_and_of_nobody_else(reader, bob, used) -> None:
    for days in (0, 0.5, 3, 20, 80, 200):
        used(days)
    used(1, status="failed", completion_tokens=0)
    used(0, user=bob)
    sums = {key: totals(reader.get(f"/usage/?range={key}")) for key in own_usage.SPANS}
    assert sums == {
        "24h": (2, 1400, 1000, 0),
        "7d": (4, 2800, 1500, 1),
        "30d": (5, 3500, 2000, 1),
        "90d": (6, 4200, 2500, 1),
    }
    body = reader.get("/usage/?range=90d").content.decode()
    assert "4,200" in body
    assert "2,500" in body
    assert "2,100 cached (50 %)" in body
    assert "17 % of requests" in body
    assert totals(reader.get("/usage/?range=x&by=y")) == sums["7d"]


def test_numbers_are_the_same_once_the_hours_are_folded(reader, used) -> None:
    for days in (0.01, 1, 2.5, 6):
        used(days)
    before = reader.get("/usage/").context["report"]
    hours_fold()
    assert UsageHour.objects.exists()
    after = reader.get("/usage/").context["report"]
    assert after.total == before.total
    assert [line.usage for line in after.lines] == [line.usage for line in before.lines]


def test_lines_and_charts_are_by_model_or_by_key(reader, alice, used) -> None:
    laptop, _ = accounts.key_create(user=alice, name="<b>laptop")
    same_name, _ = accounts.key_create(user=alice, name="<b>laptop")
    played = [accounts.key_create(user=alice)[0] for _ in range(2)]
    ApiKey.objects.filter(pk__in=[key.pk for key in played]).update(for_playground=True)
    used(1, api_key=laptop, model="large", prompt_tokens=9000)
    used(1, api_key=same_name)
    for key in played:
        used(2, api_key=key)
    models = reader.get("/usage/").context["report"]
    assert [(line.name, line.usage.requests) for line in models.lines] == [
        ("large", 1),
        ("tiny", 3),
    ]
    answer = reader.get("/usage/?by=key")
    lines = {line.name: (line.usage.requests, line.key) for line in answer.context["report"].lines}
    assert lines == {
        f"<b>laptop ({laptop.masked})": (1, laptop),
        f"<b>laptop ({same_name.masked})": (1, same_name),
        "Playground": (2, None),
    }
    body = answer.content.decode()
    assert "&lt;b&gt;laptop" in body
    assert "<b>laptop" not in body
    assert f'href="/keys/{laptop.public_id}/"' in body


def test_more_groups_than_colours_share_the_last(reader, used) -> None:
    for number in range(7):
        used(1, model=f"model-{number}", prompt_tokens=1000 * (7 - number))
    report = reader.get("/usage/").context["report"]
    names = [series.name for series in report.charts[0].series]
    assert names == ["model-0", "model-1", "model-2", "others"]
    values = [sum(value or 0 for _, value in series.points) for series in report.charts[0].series]
    assert values == [1, 1, 1, 4]
    assert len(report.lines) == 7


def test_charts_are_drawings_with_a_description_and_their_numbers(reader, used) -> None:
    used(0.01)
    body = reader.get("/usage/?range=24h").content.decode()
    drawings = re.findall(r"<svg viewBox.*?</svg>", body, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        svg = ElementTree.fromstring(drawing)
        assert svg.get("role") == "img"
        assert svg.get("aria-label")
        assert "style" not in {name for element in svg.iter() for name in element.attrib}
    assert body.count("Time (UTC)") >= 2
    assert len(reader.get("/usage/?range=24h").context["report"].charts[0].series[0].points) == 24


def test_limits_show_what_is_left_of_them(reader, alice, used) -> None:
    assert "No limits." in reader.get("/usage/").content.decode()
    alice.token_budget, alice.token_budget_period = 5000, "month"
    alice.save()
    key, _ = accounts.key_create(user=alice, name="ci", limits={"requests_per_minute": 7})
    used(0)
    answer = reader.get("/usage/")
    (budget,) = answer.context["own_limits"]
    assert (budget.used, budget.limit) == (1200, 5000)
    ((limited, (per_minute,)),) = answer.context["key_limits"]
    assert (limited, per_minute.limit) == (key, 7)
    assert "1,200 / 5,000" in answer.content.decode()


def test_the_page_takes_as_many_queries_however_much_was_used(reader, alice, used) -> None:
    key, _ = accounts.key_create(user=alice)
    used(0, api_key=key)
    reader.get("/usage/?by=key")
    with CaptureQueriesContext(connection) as few:
        reader.get("/usage/?by=key&range=90d")
    for number in range(40):
        used(number, api_key=accounts.key_create(user=alice)[0], model=f"m{number}")
    with CaptureQueriesContext(connection) as many:
        reader.get("/usage/?by=key&range=90d")
    assert len(few) == len(many) <= 10


def test_nothing_used_is_said_and_nothing_is_drawn(reader) -> None:
    body = reader.get("/usage/").content.decode()
    assert "Nothing used in this time" in body
    assert "<svg viewBox" not in body


def test_pages_speak_chinese(reader, used, alice, history) -> None:
    used(0)
    history.say(alice, [("user", "北京?")], "是的。")
    chinese = {"HTTP_ACCEPT_LANGUAGE": "zh-CN"}
    for path, word in (
        ("/usage/", "输入 token"),
        ("/history/", "最近消息"),
        ("/history/requests/", "已完成"),
        (f"/history/{Completion.objects.get(kind='chat').conversation.public_id}/", "共 1 个请求"),
    ):
        assert word in reader.get(path, **chinese).content.decode(), path
