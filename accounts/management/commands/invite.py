"""`manage.py invite [--days N] [--note TEXT] [--by USERNAME]`: a link by which somebody becomes a
user, alone on stdout."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import links
from accounts.management.database import failing_as
from accounts.models import Invitation, User


class Command(BaseCommand):
    help = "Print a link by which somebody makes an account, once (LLMAPI_SIGN_UP=invitation)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--days",
            type=int,
            default=links.INVITATION_DAYS,
            metavar="N",
            help=f"how long the link is good; default: {links.INVITATION_DAYS}",
        )
        parser.add_argument("--note", default="", help="whom it is for")
        parser.add_argument(
            "--by", metavar="USERNAME", help="who invites; default: the first superuser"
        )

    def handle(self, *args: Any, days: int, note: str, by: str | None, **options: Any) -> None:
        if settings.LLMAPI.sign_up == "closed":
            raise CommandError(
                "Sign-up is closed, so the link would open nothing. Set LLMAPI_SIGN_UP=invitation, "
                "for the server too, or make the user yourself: 'manage.py createkey USERNAME'."
            )
        if not 1 <= days <= links.MOST_INVITATION_DAYS:
            raise CommandError(
                f"--days takes a number of days, from 1 to {links.MOST_INVITATION_DAYS}."
            )
        longest = Invitation._meta.get_field("note").max_length or 0
        if len(note) > longest:
            raise CommandError(f"--note is longer than {longest} characters.")
        with failing_as("No invitation was made"):
            invitation, path = links.invitation_create(
                created_by=inviting(by), note=note, days=days
            )
        self.stderr.write(
            f"Good for one account, until {invitation.expires_at:%Y-%m-%d %H:%M %Z}. "
            "The link is shown this once:"
        )
        self.stdout.write(links.link(path))


def inviting(username: str | None) -> User:
    """Who stands as the maker of the invitation."""
    users = User.objects.filter(is_active=True)
    if username is None:
        user = users.filter(is_superuser=True).order_by("pk").first()
        missing = "There is no superuser yet; name who invites: --by USERNAME."
    else:
        user = users.filter(username=username).first()
        missing = f"There is no active user {username!r}."
    if user is None:
        raise CommandError(missing)
    return user
