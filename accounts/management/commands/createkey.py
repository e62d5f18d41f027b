"""`manage.py createkey USERNAME [--name N] [--expires DAYS]`: the key alone on stdout, all else on
stderr."""

from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction
from django.utils import timezone

from accounts import services
from accounts.management.database import failing_as
from accounts.models import ApiKey

MOST_DAYS = 36500


class Command(BaseCommand):
    help = "Make an API key for a user (and the user, if missing) and print it once, on stdout."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", help="whose key; made without a password if missing")
        parser.add_argument("--name", default="", help="what the key is for")
        parser.add_argument(
            "--expires", type=int, metavar="DAYS", help="refuse the key after so many days"
        )

    def handle(
        self, *args: Any, username: str, name: str, expires: int | None, **options: Any
    ) -> None:
        longest = ApiKey._meta.get_field("name").max_length or 0
        if len(name) > longest:
            raise CommandError(f"--name is longer than {longest} characters.")
        expires_at = None if expires is None else in_days(expires)
        try:
            with failing_as("No key was made"), transaction.atomic():
                user, created = services.user_get_or_create(username)
                namesakes = [*user.api_keys.filter(name=name, revoked_at=None)] if name else []
                key, text = services.key_create(user=user, name=name, expires_at=expires_at)
        except ValidationError as error:
            raise CommandError(f"No key was made: {' '.join(error.messages)}") from error
        if created:
            self.stderr.write(f"User {username!r} was made; it has no password.")
        if not user.is_active:
            self.stderr.write(f"User {username!r} is not active, so the key is refused for now.")
        for namesake in namesakes:
            self.stderr.write(f"There is another key of this name, {namesake.masked}.")
        settings = connection.settings_dict
        place = f"{settings['NAME']}" + (f" on {settings['HOST']}" if settings["HOST"] else "")
        self.stderr.write(f"{key.masked} for {username!r}, in the database {place}.")
        if expires_at is not None:
            self.stderr.write(f"It expires on {expires_at:%Y-%m-%d at %H:%M %Z}.")
        self.stderr.write("The key is shown this once:")
        self.stdout.write(text)


def in_days(days: int) -> datetime:
    if not 1 <= days <= MOST_DAYS:
        raise CommandError(f"--expires takes a number of days, from 1 to {MOST_DAYS}.")
    return timezone.now() + timedelta(days=days)
