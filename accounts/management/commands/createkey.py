"""`manage.py createkey USERNAME [--name N]`: the key alone on stdout, all else on stderr."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, ProgrammingError, connection, transaction

from accounts import services
from accounts.models import ApiKey


class Command(BaseCommand):
    help = "Make an API key for a user (and the user, if missing) and print it once, on stdout."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", help="whose key; made without a password if missing")
        parser.add_argument("--name", default="", help="what the key is for")

    def handle(self, *args: Any, username: str, name: str, **options: Any) -> None:
        longest = ApiKey._meta.get_field("name").max_length or 0
        if len(name) > longest:
            raise CommandError(f"--name is longer than {longest} characters.")
        try:
            with transaction.atomic():
                user, created = services.user_get_or_create(username)
                key, text = services.key_create(user=user, name=name)
        except ValidationError as error:
            raise CommandError(f"No key was made: {' '.join(error.messages)}") from error
        except (OperationalError, ProgrammingError) as error:
            raise CommandError(
                f"No key was made; the database says: {str(error).splitlines()[0]}. If it is a new "
                "one, start the server once, or run 'manage.py migrate'."
            ) from error
        if created:
            self.stderr.write(f"User {username!r} was made; it has no password.")
        if not user.is_active:
            self.stderr.write(f"User {username!r} is not active, so the key is refused for now.")
        settings = connection.settings_dict
        place = f"{settings['NAME']}" + (f" on {settings['HOST']}" if settings["HOST"] else "")
        self.stderr.write(f"{key.masked} for {username!r}, in the database {place}.")
        self.stderr.write("The key is shown this once:")
        self.stdout.write(text)
