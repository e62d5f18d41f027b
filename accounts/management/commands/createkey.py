"""`manage.py createkey USERNAME [--name N] [--expires DAYS] [--scope S] [--model M] [limits]`: the
key alone on stdout, all else on stderr."""

from datetime import datetime, timedelta
from typing import Any, Literal

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction
from django.utils import timezone

from accounts import services
from accounts.management.database import failing_as
from accounts.models import ApiKey, BudgetPeriod, Scope
from accounts.offered import configured_models, unknown_among

LimitName = Literal[
    "requests_per_minute", "tokens_per_minute", "concurrent_requests", "token_budget"
]

LIMITS: dict[LimitName, str] = {
    "requests_per_minute": "requests within 60 seconds",
    "tokens_per_minute": "tokens, of prompts and answers, within 60 seconds",
    "concurrent_requests": "requests at once",
    "token_budget": "tokens in a day or a month",
}
MOST, MOST_BUDGET = 2**31 - 1, 2**63 - 1
MOST_DAYS = 36500


class Command(BaseCommand):
    help = "Make an API key for a user (and the user, if missing) and print it once, on stdout."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", help="whose key; made without a password if missing")
        parser.add_argument("--name", default="", help="what the key is for")
        parser.add_argument(
            "--expires", type=int, metavar="DAYS", help="refuse the key after so many days"
        )
        parser.add_argument(
            "--scope",
            action="append",
            default=[],
            choices=Scope.values,
            help="what the key is for, and nothing else; may be given several times",
        )
        parser.add_argument(
            "--model",
            action="append",
            default=[],
            metavar="MODEL",
            help="the key is for this model or alias, and no other; may be given several times",
        )
        for name, what in LIMITS.items():
            parser.add_argument(flag_of(name), type=int, metavar="N", help=what)
        parser.add_argument(
            "--token-budget-period",
            choices=BudgetPeriod.values,
            help="what --token-budget is for: a day or a calendar month, in UTC (default: month)",
        )

    def handle(
        self,
        *args: Any,
        username: str,
        name: str,
        expires: int | None,
        scope: list[str],
        model: list[str],
        **options: Any,
    ) -> None:
        longest = ApiKey._meta.get_field("name").max_length or 0
        if len(name) > longest:
            raise CommandError(f"--name is longer than {longest} characters.")
        limits = limits_in(options)
        expires_at = None if expires is None else in_days(expires)
        try:
            with failing_as("No key was made"), transaction.atomic():
                user, created = services.user_get_or_create(username)
                namesakes = [*user.api_keys.filter(name=name, revoked_at=None)] if name else []
                key, text = services.key_create(
                    user=user,
                    name=name,
                    expires_at=expires_at,
                    scopes=scope,
                    allowed_models=model,
                    limits=limits,
                )
        except ValidationError as error:
            raise CommandError(f"No key was made: {' '.join(error.messages)}") from error
        if created:
            self.stderr.write(f"User {username!r} was made; it has no password.")
        if not user.is_active:
            self.stderr.write(f"User {username!r} is not active, so the key is refused for now.")
        if scope == [Scope.ADMIN] and not user.is_staff:
            self.stderr.write(f"User {username!r} is not staff, so the key opens nothing for now.")
        served = configured_models() if model else []
        if not_served := unknown_among(model, served):
            self.stderr.write(
                f"With these settings the server serves {', '.join(served)}: the key cannot use "
                f"{', '.join(not_served)} until it is served too."
            )
        for namesake in namesakes:
            self.stderr.write(f"There is another key of this name, {namesake.masked}.")
        settings = connection.settings_dict
        place = f"{settings['NAME']}" + (f" on {settings['HOST']}" if settings["HOST"] else "")
        self.stderr.write(f"{key.masked} for {username!r}, in the database {place}.")
        if expires_at is not None:
            self.stderr.write(f"It expires on {expires_at:%Y-%m-%d at %H:%M %Z}.")
        self.stderr.write("The key is shown this once:")
        self.stdout.write(text)


def flag_of(limit: str) -> str:
    return f"--{limit.replace('_', '-')}"


def limits_in(options: dict[str, Any]) -> services.KeyLimits:
    """The limits among a command's options. Raises CommandError."""
    limits: services.KeyLimits = {}
    for name in LIMITS:
        number = options[name]
        most = MOST_BUDGET if name == "token_budget" else MOST
        if number is not None and not 0 <= number <= most:
            raise CommandError(f"{flag_of(name)} takes a number from 0 (nothing at all) to {most}.")
        limits[name] = number
    if period := options["token_budget_period"]:
        if limits["token_budget"] is None:
            raise CommandError("--token-budget-period goes with --token-budget.")
        limits["token_budget_period"] = period
    return limits


def in_days(days: int) -> datetime:
    if not 1 <= days <= MOST_DAYS:
        raise CommandError(f"--expires takes a number of days, from 1 to {MOST_DAYS}.")
    return timezone.now() + timedelta(days=days)
