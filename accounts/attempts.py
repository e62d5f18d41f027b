"""How often somebody may try: to sign in with a wrong password, or to sign up.

Counted in the database, so that it holds over all processes and a restart. An attempt is written
before it is made and taken back when it succeeds: of many at once, no more than the limit get
through.
"""

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.crypto import salted_hmac

from accounts.addresses import neighbourhood
from accounts.models import Attempt


@dataclass(frozen=True)
class Allowance:
    """How many attempts count until one has to wait, and for how long they count."""

    action: str
    window: timedelta
    per_address: int
    per_name: int
    """From one address, for one name."""


SIGN_IN = Allowance("sign-in", timedelta(minutes=15), per_address=30, per_name=6)
SIGN_UP = Allowance("sign-up", timedelta(hours=1), per_address=20, per_name=20)
KEPT = max(SIGN_IN.window, SIGN_UP.window)


class TooManyAttempts(Exception):
    """`wait`: how long until the next one is let through."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__(f"Wait for {wait}.")
        self.wait = wait


def attempt_begin(allowance: Allowance, *, address: str, name: str) -> Attempt:
    """Counts an attempt. Raises TooManyAttempts; that one then does not count, so that who keeps
    trying does not wait the longer for it."""
    now = timezone.now()
    Attempt.objects.filter(at__lt=now - KEPT).delete()
    attempt = Attempt.objects.create(
        action=allowance.action,
        address=digest(neighbourhood(address)),
        name=digest(name.casefold()),
        at=now,
    )
    from_address = Attempt.objects.filter(
        action=allowance.action, address=attempt.address, at__gt=now - allowance.window
    )
    waits = [
        wait_for(allowance, from_address, allowance.per_address),
        wait_for(allowance, from_address.filter(name=attempt.name), allowance.per_name),
    ]
    if any(waits):
        attempt.delete()
        raise TooManyAttempts(max(wait for wait in waits if wait))
    return attempt


def attempt_succeeded(attempt: Attempt) -> None:
    """Forgets those of this name from this address; others from there still count."""
    Attempt.objects.filter(
        action=attempt.action, address=attempt.address, name=attempt.name
    ).delete()


def wait_for(allowance: Allowance, counted: QuerySet[Attempt], limit: int) -> timedelta | None:
    """Until when these, the new one among them, are too many; None if they are not."""
    times = [*counted.order_by("-at").values_list("at", flat=True)[: limit + 1]]
    if len(times) <= limit:
        return None
    return max(times[-1] + allowance.window - timezone.now(), timedelta(seconds=1))


def digest(text: str) -> str:
    return salted_hmac("accounts.attempts", text, algorithm="sha256").hexdigest()
