"""`manage.py foldusage`: sum up by the hour what the server has not yet."""

from typing import Any

from django.core.management.base import BaseCommand

from accounts.management.database import failing_as
from conversations.usage.folding import folded_until, hours_fold


class Command(BaseCommand):
    help = (
        "Fold the usage of hours that are over, as a running server does every minute. Numbers are "
        "the same before and after."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        with failing_as("Nothing was folded"):
            folded = hours_fold()
            until = folded_until()
        upto = f"; usage is folded until {until:%Y-%m-%d %H:%M} UTC" if until else ""
        self.stdout.write(f"{folded} hours with requests folded{upto}.")
