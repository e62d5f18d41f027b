"""What pages and questions cost in a database with many rows.

    DATABASE_URL=... python manage.py migrate
    DATABASE_URL=... python manage.py generatehistory --completions 1000000
    DATABASE_URL=... python manage.py foldusage
    DATABASE_URL=... python -m benchmarks.many_rows [--plans] [NAME ...]

Each case is asked once after a fresh connection (first) and then five times (median and fastest);
NAME: only cases whose name begins so. --plans: how the database answers the slowest query of each.
A staff user and a key of the busiest user are made, if they are not there.
"""

import argparse
import os
import platform
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ["ALLOWED_HOSTS"] = "testserver"
os.environ["LLMAPI_LOG_LEVEL"] = "WARNING"
django.setup()

from django.core.cache import cache  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Count  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.utils import timezone  # noqa: E402

from accounts.models import ApiKey, User  # noqa: E402
from accounts.services import key_create  # noqa: E402
from benchmarks.figures import markdown  # noqa: E402
from conversations.models import Completion, Conversation, Message, UsageHour  # noqa: E402
from conversations.usage.query import UsageQuery  # noqa: E402
from conversations.usage.totals import usage  # noqa: E402

WARM_RUNS = 5
LIMIT_MS = 500


@dataclass(frozen=True)
class Case:
    name: str
    ask: Callable[[], object]


@dataclass(frozen=True)
class Measured:
    first_ms: float
    warm_ms: list[float]
    queries: list[dict[str, str]]

    @property
    def slowest(self) -> dict[str, str]:
        return max(self.queries, key=lambda query: float(query["time"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plans", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    print(f"{database()}; Python {platform.python_version()}, Django {django.__version__}")
    print(
        ", ".join(
            f"{model.objects.count():,} {model._meta.verbose_name_plural}"
            for model in (Completion, Conversation, Message, UsageHour)
        )
    )
    rows, plans, slow = [], [], 0
    for case in cases():
        if options.names and not case.name.startswith(tuple(options.names)):
            continue
        measured = measure(case)
        median = statistics.median(measured.warm_ms)
        slow += median > LIMIT_MS
        print(f"{case.name}: {median:.0f} ms", file=sys.stderr, flush=True)
        figures = (measured.first_ms, median, min(measured.warm_ms))
        rows.append([case.name, *(f"{figure:.0f}" for figure in figures), len(measured.queries)])
        if options.plans:
            plans.append(f"\n### {case.name}\n\n{plan_of(measured.slowest)}")
    print()
    print(markdown(["", "first, ms", "median, ms", "fastest, ms", "queries"], rows))
    print(f"\n{slow} of {len(rows)} over {LIMIT_MS} ms")
    print(*plans, sep="\n")


def measure(case: Case) -> Measured:
    connection.close()
    with CaptureQueriesContext(connection) as captured:
        first_ms = timed(case.ask)
    queries = list(captured.captured_queries)
    return Measured(first_ms, [timed(case.ask) for _ in range(WARM_RUNS)], queries)


def timed(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1000


def database() -> str:
    if connection.vendor == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        return f"PostgreSQL {cursor.fetchone()[0]}"


def plan_of(query: dict[str, str]) -> str:
    """The query, and how the database answers it."""
    sql = query["sql"]
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN (ANALYZE)"
    with connection.cursor() as cursor:
        cursor.execute(f"{explain} {sql.replace('%', '%%')}", [])
        lines = [str(row[-1]) for row in cursor.fetchall()]
    return "\n".join(["```", f"{query['time']} s: {sql}", "", *lines, "```"])


# ---- cases ---------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    busiest = Completion.objects.values("user").annotate(requests=Count("pk")).order_by("-requests")
    user = User.objects.get(pk=busiest[0]["user"])
    quiet = User.objects.get(pk=list(busiest)[-1]["user"])
    yield from admin_cases(user, quiet)
    yield from dashboard_cases()
    yield from page_cases(user)
    yield from usage_cases(user)
    yield from stored_cases(user)


def admin_cases(user: User, quiet: User) -> Iterator[Case]:
    staff, _ = User.objects.get_or_create(
        username="many-rows-staff",
        defaults={"is_staff": True, "is_superuser": True, "password": "!"},
    )
    client = Client()
    client.force_login(staff)
    key = user.api_keys.earliest("pk")
    now = timezone.now()
    completion = Completion.objects.exclude(conversation=None).order_by("pk")[1000]
    for model, time_field in (("conversation", "updated_at"), ("completion", "created_at")):
        week = {f"{time_field}__gte": f"{now - timedelta(days=7):%Y-%m-%d 00:00:00+00:00}"}
        old_day = {
            f"{time_field}__gte": f"{now - timedelta(days=60):%Y-%m-%d 00:00:00+00:00}",
            f"{time_field}__lt": f"{now - timedelta(days=59):%Y-%m-%d 00:00:00+00:00}",
        }
        questions: dict[str, dict[str, str]] = {
            "first page": {},
            "page 200": {"p": "200"},
            "user who asks most": {"user": user.username},
            "user who asks least": {"user": quiet.username},
            "no such user": {"user": "nobody"},
            "key": {"key": key.name},
            "key by public id": {"key": f"sk-{key.public_id}"},
            "common model": {"model": "SmolLM2-135M-Instruct"},
            "rare model": {"model": "medical"},
            "status completed": {"status": "completed"},
            "status interrupted": {"status": "interrupted"},
            "status running, of which there are none": {"status": "running"},
            "7 days": week,
            "one day, 60 days ago": old_day,
            "user and 7 days": {**week, "user": user.username},
            "user and rare status": {"status": "interrupted", "user": user.username},
            "user, model, status and one day": {
                **old_day,
                "user": user.username,
                "model": "medical",
                "status": "failed",
            },
            "search: id of a completion": {"q": completion.public_id},
            "search: a common word": {"q": "garden"},
            "search: a word that nobody said": {"q": "xylophone"},
            "search: that word, of a user": {"q": "xylophone", "user": user.username},
            "search: that word, 7 days": {"q": "xylophone", **week},
        }
        if model == "completion":
            questions["kind embedding"] = {"kind__exact": "embedding"}
        else:
            questions["search: id of a conversation"] = {"q": completion.conversation.public_id}
            questions["sorted by title"] = {"o": "1"}
            questions["unreviewed"] = {"reviewed": "no"}
            questions["unreviewed, of a user"] = {"reviewed": "no", "user": user.username}
            questions["score 1"] = {"score": "1"}
        for name, query in questions.items():
            yield Case(f"admin, {model}s: {name}", page(client, model, query))


def page(client: Client, model: str, query: dict[str, str]) -> Callable[[], None]:
    return got(client, f"/admin/conversations/{model}/?{urlencode(query)}")


def got(client: Client, path: str) -> Callable[[], None]:
    """Anew, whatever is remembered of the last time."""

    def ask() -> None:
        cache.clear()
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.status_code)

    return ask


def dashboard_cases() -> Iterator[Case]:
    client = Client()
    client.force_login(User.objects.get(username="many-rows-staff"))
    for span in ("24h", "7d", "30d", "90d"):
        yield Case(f"admin, dashboard: {span}", got(client, f"/admin/?range={span}"))
    for model in ("user", "apikey"):
        yield Case(f"admin, {model}s with usage", got(client, f"/admin/accounts/{model}/"))


def page_cases(user: User) -> Iterator[Case]:
    """The pages of the user who asked most."""
    client = Client()
    client.force_login(user)
    conversation = user.conversations.order_by("-pk")[0]
    since = f"{timezone.now() - timedelta(days=60):%Y-%m-%d}"
    for path in (
        "/",
        "/keys/",
        *(f"/usage/?range={span}&by=model" for span in ("24h", "7d", "30d", "90d")),
        "/usage/?range=90d&by=key",
        "/history/",
        "/history/?q=garden",
        "/history/?q=xylophone",
        f"/history/?since={since}&until={since}",
        "/history/?model=medical",
        f"/history/{conversation.public_id}/",
        "/history/requests/",
        "/history/requests/?q=xylophone",
        "/history/requests/?kind=embedding",
        "/history/requests/?model=medical",
    ):
        name = path.replace(conversation.public_id, "conv_...").replace(since, "DAY")
        yield Case(f"page {name}", got(client, path))


def stored_cases(user: User) -> Iterator[Case]:
    client = api_client(user)
    chats = "/v1/chat/completions"
    for query in (
        "limit=20",
        "limit=100&order=desc",
        "model=medical",
        "status=failed",
        "metadata[a]=b",
    ):
        yield Case(f"GET {chats}?{query}", got(client, f"{chats}?{query}"))
    yield Case("GET /v1/conversations", got(client, "/v1/conversations"))


def usage_cases(user: User) -> Iterator[Case]:
    now = timezone.now()
    ninety = {"start": now - timedelta(days=90), "end": now}
    for name, query in (
        ("90 days by day", {"width": "day"}),
        ("90 days by model", {"group_by": ("model",)}),
        ("90 days by key", {"group_by": ("api_key",)}),
        ("90 days by day and model", {"width": "day", "group_by": ("model",)}),
        ("one day by hour", {"width": "hour", "start": now - timedelta(days=1)}),
    ):
        mine: dict[str, Any] = {**ninety, **query, "users": [user.pk]}
        yield Case(f"usage of a user: {name}", lambda mine=mine: usage(UsageQuery(**mine)))
    for name, query in (
        ("30 days by day", {"width": "day", "start": now - timedelta(days=30)}),
        ("90 days by day", {"width": "day"}),
        ("90 days by user", {"group_by": ("user",)}),
    ):
        all_: dict[str, Any] = {**ninety, **query}
        yield Case(f"usage of all: {name}", lambda all_=all_: usage(UsageQuery(**all_)))
    mine_api, staff_api = api_client(user), api_client(User.objects.get(username="many-rows-staff"))
    for name, client, query in (
        ("own, 7 days", mine_api, {}),
        ("own, 31 days by model", mine_api, {"group_by": "model", **days(31)}),
        ("own, 168 hours", mine_api, {"bucket_width": "1h", "limit": "168", **days(7)}),
        ("staff, 7 days", staff_api, {}),
        ("staff, 31 days by user", staff_api, {"group_by": "user", **days(31)}),
    ):
        yield Case(f"GET /v1/usage: {name}", asked(client, query))


def days(count: int) -> dict[str, str]:
    start = timezone.now() - timedelta(days=count - 1)
    return {"start_time": str(int(start.timestamp())), "limit": str(min(count, 31))}


def asked(client: Client, query: dict[str, str]) -> Callable[[], None]:
    query = {**query}
    if query.get("bucket_width") == "1h":
        query["limit"] = "168"

    def ask() -> None:
        answer = client.get(f"/v1/usage?{urlencode(query)}")
        assert answer.status_code == 200, answer.content

    return ask


def api_client(user: User) -> Client:
    ApiKey.objects.filter(user=user, name="many-rows").delete()
    _, key = key_create(user=user, name="many-rows")
    return Client(headers={"authorization": f"Bearer {key}"})


if __name__ == "__main__":
    main()
