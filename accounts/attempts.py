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
class Throttle:
    """How many attempts count until one has to wait, and for how long they count."""

    action: str
    window: timedelta
    per_address: int
    per_name: int
    """From one address, for one name."""


SIGN_IN = Throttle("sign-in", timedelta(minutes=15), per_address=30, per_name=6)
SIGN_UP = Throttle("sign-up", timedelta(hours=1), per_address=20, per_name=20)
KEPT = max(SIGN_IN.window, SIGN_UP.window)


class TooManyAttempts(Exception):
    """`wait`: how long until the next one is let through."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__(f"Wait for {wait}.")
        self.wait = wait


def attempt_begin(throttle: Throttle, *, address: str, name: str) -> Attempt:
    """Counts an attempt. Raises TooManyAttempts; that one then does not count, so that who keeps
    trying does not wait the longer for it."""
    now = timezone.now()
    Attempt.objects.filter(at__lt=now - KEPT).delete()
    attempt = Attempt.objects.create(
        action=throttle.action,
        address=digest(neighbourhood(address)),
        name=digest(name.casefold()),
        at=now,
    )
    from_address = Attempt.objects.filter(
        action=throttle.action, address=attempt.address, at__gt=now - throttle.window
    )
    waits = [
        wait_for(throttle, from_address, throttle.per_address),
        wait_for(throttle, from_address.filter(name=attempt.name), throttle.per_name),
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


def wait_for(throttle: Throttle, counted: QuerySet[Attempt], limit: int) -> timedelta | None:
    """Until when these, the new one among them, are too many; None if they are not."""
    times = [*counted.order_by("-at").values_list("at", flat=True)[: limit + 1]]
    if len(times) <= limit:
        return None
    return max(times[-1] + throttle.window - timezone.now(), timedelta(seconds=1))


def digest(text: str) -> str:
    return salted_hmac("accounts.attempts", text, algorithm="sha256").hexdigest()
