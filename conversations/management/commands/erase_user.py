"""`manage.py erase_user USERNAME`: all that a user said, and was answered, is gone."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import audit
from accounts.management.database import failing_as
from accounts.models import AuditEvent, User
from accounts.services import user_retire
from conversations.processes.journal import folder, journals_replay
from conversations.retention.erasing import user_erase
from conversations.retention.traces import LOG_IN_USE, file_rewrite


class Command(BaseCommand):
    help = (
        "Erase all texts of a user: conversations, prompts, answers, labels. Its requests go on "
        "counting as usage. Backups made before still hold what is erased."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument(
            "--deactivate",
            action="store_true",
            help="also revoke the user's keys, end its access, and remove its names and address",
        )
        parser.add_argument(
            "--no-vacuum",
            action="store_true",
            help="SQLite: do not write the file anew (which nobody can write to meanwhile); traces "
            "of texts stay in it until somebody does",
        )

    def handle(
        self,
        *args: Any,
        username: str,
        yes: bool,
        deactivate: bool,
        no_vacuum: bool,
        **options: Any,
    ) -> None:
        with failing_as("Not everything was erased"):
            user = User.objects.filter(username=username).first()
            if user is None:
                raise CommandError(f"There is no user {username!r}.")
            if not yes:
                self.confirm(user, deactivate)
            keys = user_retire(user) if deactivate else 0  # First: it says nothing more after this.
            journals_replay(folder())  # What a server left there may be this user's.
            conversations, completions = user_erase(user.pk)
            detail = {"conversations": conversations, "completions": completions}
            if deactivate:
                detail["keys"] = keys
            audit.record(AuditEvent.Action.ERASE, f"user {username}", detail=detail)
            self.stdout.write(
                f"Erased {conversations} conversations and the texts of {completions} requests of "
                f"{username!r}."
            )
            if deactivate:
                self.stdout.write(f"{username!r} is deactivated; {keys} keys are revoked.")
            if not no_vacuum and not file_rewrite():
                self.stderr.write(LOG_IN_USE)

    def confirm(self, user: User, deactivate: bool) -> None:
        what = "and the user deactivated " if deactivate else ""
        self.stdout.write(
            f"All texts of {user.username!r} will be erased {what}for good. Type the user name to "
            "go on: ",
            ending="",
        )
        self.stdout.flush()
        try:
            answer = input()
        except EOFError:
            answer = ""
        if answer.strip() != user.username:
            raise CommandError("Nothing was erased.")
