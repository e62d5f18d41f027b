"""The dashboard, users and keys with their usage, the audit log, erasing and pruning."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.audit import address_of, record
from accounts.models import AuditEvent, User
from accounts.services import key_create
from conversations import reviews
from conversations.charts.chart import Chart, Series, number
from conversations.charts.drawing import figure
from conversations.models import Completion, Conversation, Review
from conversations.staff.dashboard import SPANS, dashboard
from conversations.usage.folding import hours_fold

pytestmark = pytest.mark.django_db

CONVERSATIONS = "/admin/conversations/conversation/"
COMPLETIONS = "/admin/conversations/completion/"
AUDIT = "/admin/accounts/auditevent/"


@pytest.fixture(autouse=True)
def _fresh_figures():  # type: ignore[no-untyped-def]
    cache.clear()
    yield
    cache.clear()


def page_url(row) -> str:  # type: ignore[no-untyped-def]
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


# ---- charts --------------------------------------------------------------------------------------

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def points(*values: float | None) -> list[tuple[datetime, float | None]]:
    return [(NOON + timedelta(hours=index), value) for index, value in enumerate(values)]


def test_bars_are_as_high_as_their_numbers_and_stand_on_each_other() -> None:
    chart = Chart("Tokens", [Series("in", points(10, 20)), Series("out", points(30, 20))])
    bars = re.findall(
        r'<rect class="chart-(\d)" x="([\d.]+)" y="([\d.]+)".*?height="([\d.]+)"', figure(chart)
    )
    (_, x1, y1, h1), (_, x2, _, h2), (_, x3, y3, h3), (_, _, _, h4) = bars
    assert x1 == x3 != x2
    assert float(h2) == pytest.approx(2 * float(h1), abs=0.2)
    assert float(h3) == pytest.approx(3 * float(h1), abs=0.2)
    assert float(h4) == float(h2)
    assert float(y3) + float(h3) == pytest.approx(float(y1), abs=0.2)


def test_a_line_is_broken_where_there_is_no_value() -> None:
    chart = Chart("Time", [Series("ms", points(1, 2, None, 3, None, 4, 5))], kind="lines")
    assert figure(chart).count("<polyline") == 2
    assert figure(chart).count("<circle") == 1


def test_a_chart_says_its_numbers_as_words_and_as_a_table_too() -> None:
    chart = Chart(
        "Tokens", [Series("in", points(1, 2500)), Series("out", points(3, None))], unit="t"
    )
    html = figure(chart)
    assert 'role="img" aria-label="Tokens. in: at most 2.5k t (2026-11-01 13:00); out' in html
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', html)
    assert rows == [("2026-11-01 13:00", "2.5k", ""), ("2026-11-01 12:00", "1", "3")]


def test_charts_hold_no_style_no_script_and_no_markup_of_others() -> None:
    hostile = "<script>alert(1)</script>\"'"
    all_series = [Series(hostile, points(1)), Series("b", points(2))]
    html = figure(Chart(hostile, all_series, unit=hostile))
    assert "<script" not in html
    assert "style=" not in html
    assert Chart("x", []).is_empty
    assert "Nothing in this time" in figure(Chart("x", [Series("a", points(0, None))]))


def test_numbers_are_short() -> None:
    shown = [number(value) for value in (0, 7, 0.25, 12.5, 999, 1000, 1234, 56_789, 5_600_000, 2e9)]
    assert shown == ["0", "7", "0.2", "12", "999", "1k", "1.2k", "57k", "5.6M", "2G"]


# ---- dashboard -----------------------------------------------------------------------------------


@pytest.fixture
def busy(alice, bob, history):  # type: ignore[no-untyped-def]
    """Of alice 3 requests, one of them failed and one a week old; of bob one that runs."""
    history.say(alice, [("user", "a")], "yes")
    failed = history.start(alice, [("user", "b")], model="big")
    history.finish(failed, status="failed", first_token_ms=None)
    old = history.say(alice, [("user", "c")], "yes")
    Completion.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=7))
    history.start(bob, [("user", "d")])


@pytest.mark.parametrize("is_folded", [False, True])
def test_dashboard_counts_what_happened(busy, is_folded: bool) -> None:
    if is_folded:
        assert hours_fold()
    shown = dashboard("30d")
    by_title = {chart.title: chart for chart in shown.figures.charts}

    def sums(title: str) -> list[float]:
        return [sum(v for _, v in s.points if v) for s in by_title[title].series]

    assert sums("Requests") == [4]
    assert sums("Cancelled and failed") == [0, 1]
    assert sums("Tokens") == [28, 15]
    assert by_title["Active users"].series[0].points[-1][1] == 2
    assert by_title["Time to first token, mean"].series[0].points[-1][1] == 12
    assert [(top.name, top.usage.requests) for top in shown.figures.users] == [
        ("alice", 3),
        ("bob", 1),
    ]
    assert {top.name for top in shown.figures.models} == {"tiny", "big"}
    assert (shown.running, shown.processes, shown.unreviewed) == (1, 0, "4")
    assert (shown.figures.today.requests, shown.figures.users_today) == (3, 2)


@pytest.mark.parametrize("name", SPANS)
def test_each_range_ends_now_and_has_its_buckets(staff_client, busy, name: str) -> None:
    shown = dashboard(name)
    for chart in shown.figures.charts:
        times = [time for time, _ in chart.series[0].points]
        assert len(times) == SPANS[name].count
        assert times[-1] <= timezone.now() < times[-1] + timedelta(hours=SPANS[name].hours)
    body = staff_client.get("/admin/", {"range": name}).content.decode()
    assert 'aria-current="page"' in body
    assert body.count("<svg viewBox") == 6


def test_dashboard_of_an_empty_server_and_of_a_nonsense_range(staff_client) -> None:
    body = staff_client.get("/admin/", {"range": "<b>"}).content.decode()
    assert "Last 24 hours" in body
    assert body.count("Nothing in this time") == 6


def test_dashboard_asks_a_fixed_number_of_queries(
    staff_client, busy, alice, history, django_assert_max_num_queries
) -> None:
    for index in range(20):
        user = User.objects.create_user(f"u{index}")
        history.say(user, [("user", "x")], "y", model=f"m{index % 3}")
    with django_assert_max_num_queries(24):
        staff_client.get("/admin/")


def test_unreviewed_are_counted_no_further_than_needed(busy, monkeypatch) -> None:
    monkeypatch.setattr("conversations.staff.dashboard.UNREVIEWED_AT_MOST", 2)
    assert dashboard(None).unreviewed == "2+"


# ---- users and keys ------------------------------------------------------------------------------


def test_users_and_keys_have_their_usage_and_ways_to_it(staff_client, alice, bob, history) -> None:
    key, _ = key_create(user=alice, name="laptop")
    for _ in range(3):
        history.say(alice, [("user", "a")], "yes", api_key_id=key.pk)
    old = history.say(alice, [("user", "c")], "yes", api_key_id=key.pk)
    Completion.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=31))
    for url in ("/admin/accounts/user/", "/admin/accounts/apikey/"):
        body = staff_client.get(url).content.decode()
        assert "36 tokens" in body
        assert "3 requests" in body
    users = staff_client.get("/admin/accounts/user/").content.decode()
    assert "nothing" in users  # bob
    for link in (
        f"user__id__exact={alice.pk}",
        "completion/?user=alice",
        "conversation/?user=alice",
    ):
        assert link in users
    keys = staff_client.get("/admin/accounts/apikey/", {"user__id__exact": alice.pk})
    assert f"completion/?key=sk-{key.public_id}" in keys.content.decode()
    shown = staff_client.get(COMPLETIONS, {"key": f"sk-{key.public_id}"})
    assert len(shown.context["cl"].result_list) == 4


@pytest.mark.parametrize("page", ["user", "apikey"])
def test_lists_of_owners_ask_a_fixed_number_of_queries(staff_client, page: str, history) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            staff_client.get(f"/admin/accounts/{page}/")
        return len(queries)

    def more(count: int) -> None:
        for index in range(count):
            user = User.objects.create_user(f"u{count}.{index}")
            key, _ = key_create(user=user)
            history.say(user, [("user", "a")], "yes", api_key_id=key.pk)

    more(2)
    few = asked()
    more(12)
    assert asked() == few <= 14


# ---- the audit log -------------------------------------------------------------------------------


def events() -> list[tuple[str, str, str | None]]:
    rows = AuditEvent.objects.order_by("pk").values_list("action", "target", "actor__username")
    return list(rows)


def test_each_reading_of_a_text_is_recorded_with_who_and_from_where(
    staff_client, alice, history
) -> None:
    row = history.say(alice, [("user", "hello")], "hi there")
    staff_client.get(page_url(row.conversation), REMOTE_ADDR="2001:db8::7")
    staff_client.get(page_url(row))
    staff_client.get(CONVERSATIONS)
    assert events() == [
        ("read", row.conversation.public_id, "staff"),
        ("read", row.public_id, "staff"),
    ]
    event = AuditEvent.objects.earliest("pk")
    assert (event.address, event.detail) == ("2001:db8::7", {"user": "alice"})


def test_a_page_without_text_is_no_reading(client, alice, history) -> None:
    row = history.say(alice, [("user", "hello")], "hi there")
    auditor = User.objects.create_user("ada", is_staff=True)
    auditor.groups.add(Group.objects.get(name="auditor"))
    client.force_login(auditor)
    assert client.get(page_url(row.conversation)).status_code == 200
    assert client.get(page_url(row)).status_code == 200
    assert events() == []


@pytest.mark.parametrize(
    ("told", "kept"),
    [("10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"), ("", None), ("unix:/run/x", None)],
)
def test_addresses_are_kept_as_far_as_they_are_some(rf, told: str, kept: str | None) -> None:
    assert address_of(rf.get("/", REMOTE_ADDR=told)) == kept


def test_behind_proxies_the_clients_address_is_kept(rf, settings) -> None:
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"proxies": 1})
    request = rf.get("/", REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="6.6.6.6, 10.2.3.4")
    assert address_of(request) == "10.2.3.4"


def test_the_log_is_filtered_and_searched_and_changed_by_nobody(staff_client, alice) -> None:
    record("read", "conv_1", actor=alice)
    record("erase", "user bob")
    body = staff_client.get(AUDIT).content.decode()
    assert "conv_1" in body
    assert "(the server, or a command)" in body

    def found(**query: str) -> list[str]:
        return [row.target for row in staff_client.get(AUDIT, query).context["cl"].result_list]

    assert found(actor="ALICE") == ["conv_1"]
    assert found(action__exact="erase") == ["user bob"]
    assert found(q="user b") == ["user bob"]
    assert found(at__gte="2100-01-01 00:00:00+00:00") == []
    event = AuditEvent.objects.earliest("pk")
    assert "conv_1" in staff_client.get(page_url(event)).content.decode()
    assert staff_client.post(page_url(event), {"target": "x"}).status_code == 403
    for page in (f"{AUDIT}add/", f"{AUDIT}{event.pk}/delete/"):
        assert staff_client.post(page, {"post": "yes"}).status_code == 403
    staff_client.post(AUDIT, {"action": "delete_selected", "_selected_action": [event.pk]})
    assert len(events()) == 2


# ---- erasing -------------------------------------------------------------------------------------


@pytest.fixture
def officer(client):  # type: ignore[no-untyped-def]
    user = User.objects.create_user("olga", is_staff=True)
    user.groups.add(Group.objects.get(name="privacy officer"))
    client.force_login(user)
    return client


def act(client, url: str, action: str, *pks: int, **data: str):  # type: ignore[no-untyped-def]
    data = {"action": action, "_selected_action": pks, **data}
    return client.post(url, data, follow=True).content.decode()


def test_conversations_are_erased_once_confirmed_with_their_review(officer, alice, history) -> None:
    gone = history.say(alice, [("user", "gone")], "yes")
    kept = history.say(alice, [("user", "kept")], "yes")
    reviews.review_save(
        gone.conversation.pk,
        reviews.Judgement(1, [], "about gone"),
        reviewer=alice,
        version="",
        seen_at=gone.conversation.updated_at,
    )
    asked = act(officer, CONVERSATIONS, "erase_selected", gone.conversation_id)
    assert gone.conversation.public_id in asked
    assert Conversation.objects.count() == 2
    assert events() == []
    done = act(officer, CONVERSATIONS, "erase_selected", gone.conversation_id, confirmed="yes")
    assert "1 erased" in done
    assert list(Conversation.objects.all()) == [kept.conversation]
    assert not Review.objects.exists()
    assert events() == [("erase", gone.conversation.public_id, "olga")]
    gone.refresh_from_db()
    assert gone.erased_at is not None
    assert gone.completion_tokens == 5


def test_completions_are_erased_and_running_ones_refused(officer, alice, history) -> None:
    plain = history.start(alice, prompt="gone")
    history.finish(plain, "gone too")
    running = history.start(alice, prompt="running")
    body = act(officer, COMPLETIONS, "erase_selected", plain, running, confirmed="yes")
    assert "1 erased" in body
    assert "still being answered" in body
    assert Completion.objects.get(erased_at=None).pk == running
    # What was refused was not done, and is not in the log.
    assert [target for _, target, _ in events()] == [Completion.objects.get(pk=plain).public_id]


def test_all_at_once_is_no_way_to_erase(officer, alice, history) -> None:
    row = history.say(alice, [("user", "kept")], "yes")
    for url, action in (
        (CONVERSATIONS, "erase_selected"),
        (COMPLETIONS, "erase_selected"),
        ("/admin/accounts/user/", "erase_texts"),
    ):
        act(officer, url, action, row.pk, confirmed="yes", select_across="1")
    row.refresh_from_db()
    assert row.erased_at is None


def test_a_users_texts_are_erased(officer, alice, bob, history) -> None:
    history.say(alice, [("user", "gone")], "yes")
    history.say(bob, [("user", "kept")], "yes")
    users = "/admin/accounts/user/"
    assert "Erase for ever" in act(officer, users, "erase_texts", alice.pk)
    assert "1 conversations" in act(officer, users, "erase_texts", alice.pk, confirmed="yes")
    assert Conversation.objects.get().user == bob
    assert events() == [("erase", "user alice", "olga")]


@pytest.mark.parametrize("right", ["is_staff", "is_superuser"])
def test_superusers_alone_erase_what_staff_said(
    officer, staff_client, alice, bob, history, right: str
) -> None:
    setattr(alice, right, True)
    alice.save()
    chat = history.say(alice, [("user", "evidence")], "yes")
    plain = history.start(alice, prompt="evidence")
    history.finish(plain, "yes")
    of_bob = history.say(bob, [("user", "kept, for it was ticked with alice's")], "yes")
    officer.force_login(User.objects.get(username="olga"))
    for url, action, *pks in (
        ("/admin/accounts/user/", "erase_texts", alice.pk, bob.pk),
        (CONVERSATIONS, "erase_selected", chat.conversation_id, of_bob.conversation_id),
        (COMPLETIONS, "erase_selected", plain, of_bob.pk),
    ):
        assert "Nothing was done" in act(officer, url, action, *pks)
        assert "Nothing was done" in act(officer, url, action, *pks, confirmed="yes")
    assert not Completion.objects.exclude(erased_at=None).exists()
    assert events() == []
    own = history.say(User.objects.get(username="olga"), [("user", "own")], "yes")
    assert "1 erased" in act(
        officer, CONVERSATIONS, "erase_selected", own.conversation_id, confirmed="yes"
    )
    staff_client.force_login(User.objects.get(username="staff"))
    for url, pk in ((CONVERSATIONS, chat.conversation_id), (COMPLETIONS, plain)):
        assert "1 erased" in act(staff_client, url, "erase_selected", pk, confirmed="yes")


# ---- pruning -------------------------------------------------------------------------------------


def test_pruning_says_what_would_go_and_then_does_it(officer, alice, history, settings) -> None:
    page = f"{COMPLETIONS}prune/"
    assert "kept for ever" in officer.get(page).content.decode()
    assert officer.post(page).status_code == 200
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"keep_text_days": 30})
    old = history.say(alice, [("user", "old")], "yes").conversation
    Conversation.objects.filter(pk=old.pk).update(updated_at=timezone.now() - timedelta(days=31))
    new = history.say(alice, [("user", "new")], "yes").conversation
    assert "<dt>Conversations</dt><dd>1</dd>" in officer.get(page).content.decode()
    assert Conversation.objects.count() == 2
    body = officer.post(page, follow=True).content.decode()
    assert "Pruned: 1 conversations" in body
    assert list(Conversation.objects.all()) == [new]
    asked, done = AuditEvent.objects.order_by("pk")
    assert (asked.actor.username, asked.detail["conversations"]) == ("olga", 1)
    assert (done.actor, done.detail["conversations"]) == (None, 1)
