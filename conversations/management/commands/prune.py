"""`manage.py prune`: take away what is older than the settings say."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from accounts.management.database import failing_as
from conversations.retention.pruning import limits_now, prune, would_prune
from conversations.retention.traces import LOG_IN_USE, file_rewrite


class Command(BaseCommand):
    help = (
        "Take away texts older than LLMAPI_KEEP_TEXT_DAYS and usage older than "
        "LLMAPI_KEEP_USAGE_DAYS, as a running server does every hour."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--dry-run", action="store_true", help="only say what would go")
        what.add_argument(
            "--vacuum",
            action="store_true",
            help="SQLite: also write the file anew (which nobody can write to meanwhile), so that "
            "no trace of what was pruned stays in it",
        )

    def handle(self, *args: Any, dry_run: bool, vacuum: bool, **options: Any) -> None:
        limits = limits_now()
        if not limits:
            self.stdout.write(
                "Everything is kept for ever: neither LLMAPI_KEEP_TEXT_DAYS nor "
                "LLMAPI_KEEP_USAGE_DAYS is set."
            )
            return
        with failing_as("Not everything was pruned"):
            if dry_run:
                self.stdout.write(f"Would be pruned: {would_prune(limits)}.")
            else:
                self.stdout.write(f"Pruned: {prune(limits)}.")
            if vacuum and not file_rewrite():
                self.stderr.write(LOG_IN_USE)
