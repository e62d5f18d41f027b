"""`manage.py rotatekey PUBLIC_ID [--grace HOURS]`: a new key in place of an old one, which works a
while longer; the new one alone on stdout."""

from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import services
from accounts.management.database import failing_as
from accounts.management.naming import key_named

DEFAULT_HOURS = 24
MOST_HOURS = 24 * 365


class Command(BaseCommand):
    help = (
        "Make a key with the name, rights, limits and expiry of another, which works for some "
        "hours more; prints the new key once, on stdout."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "public_id", help="its 8 characters after 'sk-', as 'manage.py keys' lists them"
        )
        parser.add_argument(
            "--grace",
            type=int,
            default=DEFAULT_HOURS,
            metavar="HOURS",
            help=f"how long the old key still works; 0: not at all (default: {DEFAULT_HOURS})",
        )

    def handle(self, *args: Any, public_id: str, grace: int, **options: Any) -> None:
        if not 0 <= grace <= MOST_HOURS:
            raise CommandError(f"--grace takes a number of hours, from 0 to {MOST_HOURS}.")
        try:
            with failing_as("No key was rotated"):
                old = key_named(public_id)
                new, text = services.key_rotate(old, timedelta(hours=grace))
        except ValidationError as error:
            raise CommandError(f"No key was rotated: {' '.join(error.messages)}") from error
        self.stderr.write(f"{new.masked} takes the place of {old.masked} of {old.user.username!r},")
        self.stderr.write(f"which works until {old.expires_at:%Y-%m-%d %H:%M %Z}.")
        self.stderr.write("The new key is shown this once:")
        self.stdout.write(text)
