"""`manage.py passwordlink USERNAME`: a link by which the user sets a password, alone on stdout."""

from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import links
from accounts.management.database import failing_as
from accounts.models import User


class Command(BaseCommand):
    help = "Print a link by which a user sets a password: its first, or one in place of a lost one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, username: str, **options: Any) -> None:
        with failing_as("No link was made"):
            user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"There is no user {username!r}.")
        try:
            path = links.password_path(user)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        days = settings.PASSWORD_RESET_TIMEOUT // (24 * 3600)
        self.stderr.write(
            f"By this link {username!r} sets a password, once, within {days} days; older links "
            "are void. "
            "Whoever has it can do so: hand it over in person, or by a channel that you trust."
        )
        if not settings.LLMAPI.public_url:
            self.stderr.write(
                "If users reach the server at another address than this link's (behind a proxy, or "
                "with --port), set LLMAPI_PUBLIC_URL."
            )
        self.stdout.write(links.link(path))
