"""The playground's keys: for chats alone, for an hour, and in no list of keys."""

from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from accounts.errors import RateLimitExceeded
from accounts.models import ApiKey, Scope, User
from accounts.rights import user_locked
from accounts.services.keys import key_issue

PLAYGROUND_KEYS = 5
"""Of one user at once: one for each page that is open."""

PLAYGROUND_KEY_LIVES = timedelta(hours=1)
PLAYGROUND_KEYS_MADE = 60
"""Of one user within an hour: a page asks for one an hour."""


def playground_key_create(user: User) -> str:
    """A key for chats alone, for an hour, that no list of keys shows; returns its text. Of those
    that the user has, the newest few go on working; old ones with which nothing was asked are
    deleted.

    Raises ValidationError for the anonymous user and for one who is not active, and
    RateLimitExceeded for who asks for too many.
    """
    if not user.is_active:
        raise ValidationError("This account is not active.")
    now = timezone.now()
    key = ApiKey(
        user=user,
        name="playground",
        expires_at=now + PLAYGROUND_KEY_LIVES,
        scopes=[Scope.CHAT.value],
        created_by=user,
        for_playground=True,
    )
    made = ApiKey.objects.filter(user=user, for_playground=True)
    recent = made.filter(created_at__gt=now - PLAYGROUND_KEY_LIVES)
    with transaction.atomic():
        user_locked(user)  # of several at once, each counts those before it
        if recent.count() >= PLAYGROUND_KEYS_MADE:
            raise RateLimitExceeded(
                "The playground has made too many keys for this account within an hour. Try again "
                "later.",
                kind="requests",
                retry_after_s=120,
            )
        # A minute more, for a request that may just be using one.
        made.filter(last_used_at=None, expires_at__lt=now - timedelta(minutes=1)).delete()
        text = key_issue(key)
        alive = ApiKey.objects.filter(
            user=user, for_playground=True, revoked_at=None, expires_at__gt=now
        )
        kept = alive.order_by("-pk").values_list("pk", flat=True)[:PLAYGROUND_KEYS]
        alive.exclude(pk__in=[*kept]).update(revoked_at=now)
    return text


def playground_keys_end(user: User) -> None:
    """Refuses all that the user has, from their next request on. A page that is still open, and
    still signed in, makes itself a new one."""
    alive = ApiKey.objects.filter(user=user, for_playground=True, revoked_at=None)
    alive.filter(expires_at__gt=timezone.now()).update(revoked_at=timezone.now())
