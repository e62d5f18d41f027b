"""`manage.py generatehistory`: fill an empty database with a history that nobody made."""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from accounts.management.database import failing_as
from conversations.measuring.synthetic import Plan, generate
from conversations.models import Completion
from conversations.processes.upkeep import analyse


class Command(BaseCommand):
    help = (
        "Fill a database with made-up users, keys, chats, completions and embeddings, to see how "
        "the server does with many rows. Never in a database that people use: it cannot be undone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--completions", type=positive, default=10_000)
        parser.add_argument("--users", type=positive, default=200)
        parser.add_argument("--days", type=positive, default=90)
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument(
            "--force", action="store_true", help="also if the database has requests already"
        )

    def handle(self, *args: Any, force: bool, **options: Any) -> None:
        plan = Plan(**{name: options[name] for name in ("completions", "users", "days", "seed")})
        started = time.monotonic()

        def report(done: int) -> None:
            self.stderr.write(f"{done:,} requests, {time.monotonic() - started:.0f} s")

        with failing_as("The history was not made, or not all of it"):
            if not force and Completion.objects.exists():
                raise CommandError(
                    "This database has requests already. Use one of its own (DATABASE_URL), or "
                    "say --force."
                )
            if connection.vendor == "sqlite" and not connection.in_atomic_block:
                # If the machine dies now, the file is made again.
                with connection.cursor() as cursor:
                    cursor.execute("PRAGMA synchronous = OFF")
                    cursor.execute("PRAGMA cache_size = -500000")
            generate(plan, report)
            analyse()
        self.stdout.write(
            f"{plan.completions:,} requests of {plan.users} users over {plan.days} days. "
            "'manage.py foldusage' sums them up by the hour."
        )


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
