"""`manage.py prune`: take away what is older than the settings say."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from accounts.management.database import failing_as
from conversations.retention.pruning import limits_now, prune, would_prune


class Command(BaseCommand):
    help = (
        "Take away texts older than LLMAPI_KEEP_TEXT_DAYS and usage older than "
        "LLMAPI_KEEP_USAGE_DAYS, as a running server does every hour."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
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
