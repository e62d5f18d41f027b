"""What `GET /v1/usage` is asked: strict, as bodies are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

from django.http import QueryDict
from django.utils import timezone

from conversations.usage.query import WIDTHS, Group, Width, bucket_start
from llmapi.errors import InvalidRequest
from llmapi.queries import once, unknown, whole_number

EPOCH = datetime.fromtimestamp(0, UTC)
BUCKETS: Mapping[str, Width] = {"1h": "hour", "1d": "day"}
DEFAULT_LIMIT: Mapping[Width, int] = {"hour": 24, "day": 7}
LARGEST_LIMIT: Mapping[Width, int] = {"hour": 168, "day": 31}
LATEST = 32_503_680_000  # the year 3000
LONGEST_LIST = 100

# OpenAI's names beside ours.
GROUPS: Mapping[str, Group] = {
    **{group: group for group in get_args(Group)},
    "api_key_id": "api_key",
    "user_id": "user",
}
ONCE = ("start_time", "end_time", "bucket_width", "limit", "page")
LISTS = ("group_by", "models", "api_key_ids", "user_ids")


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """A page of buckets, which begin at `start`, at `start + width`, ... and before `end`.

    limit: how many of them this page has at most. api_key_ids, user_ids: public ids of keys and
    names of users, not looked up yet. Lists are None if they were not sent.
    """

    start: datetime
    end: datetime
    width: Width
    limit: int
    group_by: tuple[Group, ...]
    models: list[str] | None
    api_key_ids: list[str] | None
    user_ids: list[str] | None

    @property
    def starts(self) -> list[datetime]:
        """When the buckets of this page begin."""
        step = WIDTHS[self.width]
        count = min(self.limit, -((self.start - self.end) // step))
        return [self.start + step * number for number in range(count)]

    @property
    def next_page(self) -> str | None:
        """The cursor of the buckets after these; None: there are none."""
        after = self.start + WIDTHS[self.width] * len(self.starts)
        return f"page_{int(after.timestamp())}" if after < self.end else None


def read_question(query: QueryDict) -> UsageQuestion:
    """Raises InvalidRequest or UnknownParameter, which name the parameter."""
    given = _lists(query)
    values = {name: once(name, given[name]) for name in ONCE if name in given}
    width = _width(values.get("bucket_width"))
    now = timezone.now()
    end = _time("end_time", values["end_time"], 1) if "end_time" in values else now
    start = bucket_start(end, width) - WIDTHS[width] * (DEFAULT_LIMIT[width] - 1)
    if "start_time" in values:
        start = _time("start_time", values["start_time"])
    if start >= end:
        raise InvalidRequest("Must be before 'end_time' (default: now).", param="start_time")
    start = max(bucket_start(start, width), EPOCH)
    if "page" in values:
        start = _page(values["page"], start, end, width)
    return UsageQuestion(
        start=start,
        end=end,
        width=width,
        limit=_limit(values.get("limit"), width),
        group_by=_groups(given.get("group_by", [])),
        models=given.get("models"),
        api_key_ids=given.get("api_key_ids"),
        user_ids=given.get("user_ids"),
    )


def _lists(query: QueryDict) -> dict[str, list[str]]:
    """All that was sent, by name; lists may be repeated or written as `name[]`."""
    given: dict[str, list[str]] = {}
    for sent, values in query.lists():
        name = sent.removesuffix("[]")
        if name not in LISTS and sent not in ONCE:
            raise unknown(sent, [*ONCE, *LISTS])
        given.setdefault(name, []).extend(str(value) for value in values)
    for name, values in given.items():
        if len(values) > LONGEST_LIST:
            raise InvalidRequest(f"Must be given {LONGEST_LIST} times at most.", param=name)
    return given


def _time(name: str, text: str, smallest: int = 0) -> datetime:
    return datetime.fromtimestamp(whole_number(name, text, smallest, LATEST), UTC)


def _width(text: str | None) -> Width:
    if text is None:
        return "day"
    if text not in BUCKETS:
        raise InvalidRequest(f"Must be one of {', '.join(BUCKETS)}.", param="bucket_width")
    return BUCKETS[text]


def _limit(text: str | None, width: Width) -> int:
    if text is None:
        return DEFAULT_LIMIT[width]
    return whole_number("limit", text, 1, LARGEST_LIMIT[width])


def _page(text: str, start: datetime, end: datetime, width: Width) -> datetime:
    found = re.fullmatch(r"page_([0-9]{1,11})", text)
    if found and int(found[1]) <= LATEST:
        page = datetime.fromtimestamp(int(found[1]), UTC)
        if start <= page < end and bucket_start(page, width) == page:
            return page
    raise InvalidRequest(
        "Must be the 'next_page' of an answer to the same question. Give 'start_time' and "
        "'end_time' with each page.",
        param="page",
    )


def _groups(names: list[str]) -> tuple[Group, ...]:
    for name in names:
        if name not in GROUPS:
            raise InvalidRequest(f"Must be one of {', '.join(GROUPS)}.", param="group_by")
    return tuple(dict.fromkeys(GROUPS[name] for name in names))
