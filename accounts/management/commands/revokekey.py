"""`manage.py revokekey PUBLIC_ID`: refuse a key from its next request on, for ever."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from accounts import services
from accounts.management.database import failing_as
from accounts.management.naming import key_named


class Command(BaseCommand):
    help = "Revoke an API key: it is refused from its next request on, for ever."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "public_id", help="its 8 characters after 'sk-', as 'manage.py keys' lists them"
        )

    def handle(self, *args: Any, public_id: str, **options: Any) -> None:
        with failing_as("No key was revoked"):
            key = key_named(public_id)
            revoked = services.key_revoke(key)
        ending = "is revoked." if revoked else "was revoked already."
        self.stdout.write(f"{key.masked} of {key.user.username!r} {ending}")
