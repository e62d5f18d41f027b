"""Writes of users and keys. Database errors reach the caller."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, BudgetPeriod, User

ANONYMOUS_USERNAME = "anonymous"
FIRST_STAFF_USERNAME = "admin"
LAST_USED_EVERY = timedelta(minutes=1)


def key_create(
    *,
    user: User,
    name: str = "",
    expires_at: datetime | None = None,
    scopes: Sequence[str] = (),
    allowed_models: Sequence[str] = (),
    created_by: User | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    concurrent_requests: int | None = None,
    token_budget: int | None = None,
    token_budget_period: str = BudgetPeriod.MONTH,
) -> tuple[ApiKey, str]:
    """Makes a key and returns it with its text, which is not kept and cannot be shown again.

    Raises ValidationError for the anonymous user.
    """
    key = ApiKey(
        user=user,
        name=name,
        expires_at=expires_at,
        scopes=[*scopes],
        allowed_models=[*allowed_models],
        created_by=created_by,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent_requests=concurrent_requests,
        token_budget=token_budget,
        token_budget_period=token_budget_period,
    )
    return key, key_issue(key)


def key_rotate(key: ApiKey, grace: timedelta, created_by: User | None = None) -> tuple[ApiKey, str]:
    """Makes a key that takes this one's place, and lets this one work for `grace` more. Raises
    ValidationError for a key that is revoked, expired or rotated already."""
    if not key.is_usable or key.replaced_by_id is not None:
        raise ValidationError("This key has ended or was replaced already.", code="ended")
    ends_at = timezone.now() + grace
    with transaction.atomic():
        new, text = key_create(
            user=key.user,
            name=key.name,
            expires_at=key.expires_at,
            scopes=key.scopes,
            allowed_models=key.allowed_models,
            created_by=created_by,
            requests_per_minute=key.requests_per_minute,
            tokens_per_minute=key.tokens_per_minute,
            concurrent_requests=key.concurrent_requests,
            token_budget=key.token_budget,
            token_budget_period=key.token_budget_period,
        )
        key.replaced_by = new
        key.expires_at = min(ends_at, key.expires_at) if key.expires_at else ends_at
        key.save(update_fields=["replaced_by", "expires_at"])
    return new, text


def key_issue(key: ApiKey) -> str:
    """Saves a new `ApiKey` and returns its text: `key_create` for a form that filled the fields in.

    Raises ValidationError for the anonymous user.
    """
    if key.user.username == ANONYMOUS_USERNAME:
        raise ValidationError(
            f"The user {ANONYMOUS_USERNAME!r} stands for requests without a key, so it has none.",
            code="anonymous",
        )
    parsed = keys.new_key()
    key.public_id = parsed.public_id
    key.digest = parsed.digest
    key.last_four = parsed.last_four
    key.save(force_insert=True)
    return parsed.text


def key_revoke(key: ApiKey) -> bool:
    """Refuses the key from its next request on, for ever. False if it was revoked already."""
    now = timezone.now()
    revoked = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now)
    if revoked:
        key.revoked_at = now
    return bool(revoked)


def key_rename(key: ApiKey, name: str) -> None:
    key.name = name
    key.save(update_fields=["name"])


def key_used(key: ApiKey) -> None:
    """Notes that the key was used: at most once a minute, so that a busy key costs no writes."""
    now = timezone.now()
    before = now - LAST_USED_EVERY
    if key.last_used_at is not None and key.last_used_at > before:
        return
    # Of several requests at once, one writes.
    ApiKey.objects.filter(Q(last_used_at=None) | Q(last_used_at__lte=before), pk=key.pk).update(
        last_used_at=now
    )
    key.last_used_at = now


def user_get_or_create(username: str) -> tuple[User, bool]:
    """The user of that name and whether it was made now: without a password, so that it can use
    keys but not sign in. Raises ValidationError for a name that no user may have."""
    username = User.normalize_username(username)
    user = User.objects.filter(username=username).first()
    if user is not None:
        return user, False
    new_user = User(username=username)
    new_user.set_unusable_password()
    new_user.clean_fields(exclude=["last_login", "email"])
    try:
        with transaction.atomic():
            new_user.save(force_insert=True)
    except IntegrityError:  # Another process was faster.
        return User.objects.get(username=username), False
    return new_user, True


def anonymous_user() -> User:
    """The user of requests without a key. It has no password; made when first asked for."""
    return user_get_or_create(ANONYMOUS_USERNAME)[0]


def first_staff_create() -> tuple[User, str, str] | None:
    """On a database without a superuser: makes `admin` with a random password and a key, and
    returns (user, password, key's text). None if there is one, if the name is taken, or if another
    server that starts at the same time makes it."""
    if User.objects.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    try:
        with transaction.atomic():
            user = User.objects.create_superuser(FIRST_STAFF_USERNAME, password=password)
            _, key = key_create(user=user, name="first key")
    except IntegrityError:
        return None
    return user, password, key


def user_retire(user: User) -> int:
    """Deactivates a user for good: no sign-in, no key, no e-mail address, no name but the user
    name. Keys lose their names. Returns how many keys are revoked by it."""
    now = timezone.now()
    with transaction.atomic():
        user.is_active = False
        user.email = user.first_name = user.last_name = ""
        user.set_unusable_password()
        user.save(update_fields=["is_active", "email", "first_name", "last_name", "password"])
        revoked = user.api_keys.filter(revoked_at=None).update(revoked_at=now)
        user.api_keys.update(name="")
    return revoked
