"""The times that charts span."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from conversations.charts.chart import Chart, Kind, Series
from conversations.usage.query import UsageQuery, Width, bucket_start


@dataclass(frozen=True, slots=True)
class Span:
    """`count` buckets of `hours` each (of UTC's day), the last of which is now."""

    name: Any
    hours: int
    count: int

    @property
    def width(self) -> Width:
        return "day" if self.hours == 24 else "hour"

    def start_of(self, time: datetime) -> datetime:
        """When the bucket began in which `time` is."""
        start = bucket_start(time, self.width)
        return start - timedelta(hours=start.hour % self.hours)

    def starts(self, now: datetime) -> list[datetime]:
        last = self.start_of(now)
        return [last - timedelta(hours=self.hours * n) for n in range(self.count - 1, -1, -1)]

    def query(self, now: datetime, **fields: Any) -> UsageQuery:
        # A request that comes this very moment belongs to it too.
        end = now + timedelta(seconds=1)
        values = {"start": self.starts(now)[0], "end": end, "width": self.width, **fields}
        return UsageQuery(**values)

    def chart(self, title: str, *series: Series, kind: Kind = "bars", unit: str = "") -> Chart:
        """With times as short as tell them apart."""
        return Chart(
            title,
            series,
            kind=kind,
            unit=unit,
            time_format="%H:%M" if self.hours * self.count <= 24 else "%m-%d",
            long_time_format="%Y-%m-%d" if self.hours == 24 else "%Y-%m-%d %H:%M",
        )
