"""What is asked of usage."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from conversations.usage.folding import DAY, HOUR, day_of, hour_of

Width = Literal["hour", "day"]
Group = Literal["user", "api_key", "model", "kind"]
WIDTHS: dict[Width, timedelta] = {"hour": HOUR, "day": DAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Whose usage, between which times, summed up how.

    Times are taken as whole hours: `start` is rounded down, `end` (exclusive) up. width: a bucket;
    None: the whole time is one. users, keys: primary keys; None restricts nothing. A user's
    requests without a key (the anonymous user's) are in no list of keys.
    """

    start: datetime
    end: datetime
    width: Width | None = None
    group_by: tuple[Group, ...] = ()
    users: Collection[int] | None = None
    keys: Collection[int] | None = None
    models: Collection[str] | None = None
    kinds: Collection[str] | None = None

    @property
    def restrictions(self) -> dict[Group, Collection[Any]]:
        """{column: the values that it may have}."""
        wanted: dict[Group, Collection[Any] | None] = {
            "user": self.users,
            "api_key": self.keys,
            "model": self.models,
            "kind": self.kinds,
        }
        return {name: values for name, values in wanted.items() if values is not None}


def bucket_start(time: datetime, width: Width) -> datetime:
    """When the bucket began in which `time` is."""
    return hour_of(time) if width == "hour" else day_of(time)
