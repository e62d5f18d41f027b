"""`manage.py keys [USERNAME]`: the keys there are, newest first; never the keys themselves."""

from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.management.database import failing_as
from accounts.models import ApiKey, User

HEADINGS = (
    *("PUBLIC ID", "USER", "STATUS", "LAST USED", "EXPIRES", "SCOPES", "MODELS", "LIMITS"),
    "NAME",
)


class Command(BaseCommand):
    help = "List API keys, newest first: those of a user, or all."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", nargs="?", help="whose keys; left out: everyone's")

    def handle(self, *args: Any, username: str | None, **options: Any) -> None:
        keys = ApiKey.objects.filter(for_playground=False).select_related("user").order_by("-pk")
        with failing_as("The keys could not be read"):
            if username is not None:
                if not User.objects.filter(username=username).exists():
                    raise CommandError(f"There is no user {username!r}.")
                keys = keys.filter(user__username=username)
            rows = [HEADINGS, *map(row_of, keys)]
        if len(rows) == 1:
            self.stderr.write("There are no keys; 'manage.py createkey USERNAME' makes one.")
            return
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
            self.stdout.write("  ".join(padded).rstrip())


def row_of(key: ApiKey) -> tuple[str, ...]:
    times = when(key.last_used_at), when(key.expires_at)
    rights = ",".join(key.scopes) or "all", ",".join(key.allowed_models) or "all"
    limits = limits_text(key)
    return (key.public_id, key.user.username, key.status, *times, *rights, limits, key.name)


def limits_text(key: ApiKey) -> str:
    """`10 requests/min, 5000 tokens/day`; `none`."""
    limits = (
        (key.requests_per_minute, "requests/min"),
        (key.tokens_per_minute, "tokens/min"),
        (key.concurrent_requests, "at once"),
        (key.token_budget, f"tokens/{key.token_budget_period}"),
    )
    return ", ".join(f"{limit} {what}" for limit, what in limits if limit is not None) or "none"


def when(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M}"
