"""`manage.py revokekey PUBLIC_ID`: refuse a key from its next request on, for ever."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import keys, services
from accounts.management.database import failing_as
from accounts.models import ApiKey


class Command(BaseCommand):
    help = "Revoke an API key: it is refused from its next request on, for ever."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "public_id", help="its 8 characters after 'sk-', as 'manage.py keys' lists them"
        )

    def handle(self, *args: Any, public_id: str, **options: Any) -> None:
        with failing_as("No key was revoked"):
            key = ApiKey.objects.select_related("user").filter(public_id=named(public_id)).first()
            if key is None:
                # Not what was typed: it may be a key.
                raise CommandError("There is no such key. 'manage.py keys' lists the public ids.")
            revoked = services.key_revoke(key)
        ending = "is revoked." if revoked else "was revoked already."
        self.stdout.write(f"{key.masked} of {key.user.username!r} {ending}")


def named(text: str) -> str:
    """The public id in what an operator has at hand: itself, the key as it is shown, or the whole
    key."""
    whole = keys.parse(text)
    return whole.public_id if whole else text.removeprefix(keys.PREFIX).partition("…")[0]
