"""`manage.py foldusage`: sum up by the hour and by the day what the server has not yet."""

from typing import Any

from django.core.management.base import BaseCommand

from accounts.management.database import failing_as
from conversations.usage.folding import days_fold, folded_until, hours_fold


class Command(BaseCommand):
    help = (
        "Fold the usage of hours and days that are over, as a running server does every minute. "
        "Numbers are the same before and after."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        with failing_as("Nothing was folded"):
            hours, days = hours_fold(), days_fold()
            until = folded_until()
        upto = f"; usage is folded until {until:%Y-%m-%d %H:%M} UTC" if until else ""
        self.stdout.write(f"{hours} hours with requests and {days} days folded{upto}.")
