"""Writes of users and keys. Database errors reach the caller."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict

from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts import keys
from accounts.errors import RateLimitExceeded
from accounts.models import ApiKey, Invitation, Scope, User

ANONYMOUS_USERNAME = "anonymous"
FIRST_STAFF_USERNAME = "admin"
LAST_USED_EVERY = timedelta(minutes=1)
LONGEST_MODEL_NAME = 200
PLAYGROUND_KEYS = 5
"""Of one user at once: one for each page that is open."""

PLAYGROUND_KEY_LIVES = timedelta(hours=1)
PLAYGROUND_KEYS_MADE = 60
"""Of one user within an hour: a page asks for one an hour."""


class KeyLimits(TypedDict, total=False):
    """Limits of a key alone, beside those of its owner; None: no such limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    token_budget: int | None
    token_budget_period: str


def key_create(
    *,
    user: User,
    name: str = "",
    expires_at: datetime | None = None,
    scopes: Sequence[str] = (),
    allowed_models: Sequence[str] = (),
    limits: KeyLimits | None = None,
    created_by: User | None = None,
) -> tuple[ApiKey, str]:
    """Makes a key and returns it with its text, which is not kept and cannot be shown again.

    scopes: values of `Scope`; allowed_models: ids or aliases; () restricts nothing.
    Raises ValidationError for the anonymous user, and for what a key cannot have.
    """
    key = ApiKey(
        user=user,
        name=name,
        expires_at=expires_at,
        scopes=list(scopes),
        allowed_models=list(allowed_models),
        created_by=created_by,
        **(limits or {}),
    )
    return key, key_issue(key)


def key_issue(key: ApiKey) -> str:
    """Saves a new `ApiKey` and returns its text: `key_create` for a form that filled the fields in.

    Raises ValidationError for the anonymous user, and for what a key cannot have.
    """
    key.clean_fields(exclude=["user", "created_by", "public_id", "digest", "last_four"])
    check_scopes(key.scopes)
    check_models(key.allowed_models)
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


def check_scopes(scopes: Sequence[str]) -> None:
    """Raises ValidationError for what is no scope."""
    unknown = [scope for scope in scopes if scope not in Scope.values]
    if unknown:
        raise ValidationError(
            f"There is no scope {unknown[0]!r}; there are {', '.join(Scope.values)}."
        )


def check_models(names: Sequence[str]) -> None:
    """Raises ValidationError for what is no name of a model. Whether one of that name is served is
    not asked: it may be tomorrow."""
    for name in names:
        is_name = isinstance(name, str) and name.strip() and "\0" not in name
        if not is_name or len(name) > LONGEST_MODEL_NAME:
            raise ValidationError(
                f"The name of a model has 1 to {LONGEST_MODEL_NAME} characters, none of them NUL; "
                "this is none: "
                f"{str(name)[:50]!r}."
            )


def key_rotate(key: ApiKey, grace: timedelta, created_by: User | None = None) -> tuple[ApiKey, str]:
    """Makes a key with the same rights, limits and expiry, and returns it with its text. The old
    one works for `grace` more, at most until it would have expired.

    Raises ValidationError for a key that works no more, that was rotated before or that the
    playground made, and for a negative grace.
    """
    if grace < timedelta(0):
        raise ValidationError("The old key cannot have expired before now.")
    with transaction.atomic():
        old = ApiKey.objects.select_for_update(of=("self",)).select_related("user").get(pk=key.pk)
        if reason := why_not_rotated(old):
            raise ValidationError(reason)
        new, text = key_create(
            user=old.user,
            name=old.name,
            expires_at=old.expires_at,
            scopes=old.scopes,
            allowed_models=old.allowed_models,
            limits=limits_of(old),
            created_by=created_by,
        )
        ends = timezone.now() + grace
        key.expires_at = ends if old.expires_at is None else min(ends, old.expires_at)
        key.replaced_by = new
        key.save(update_fields=["expires_at", "replaced_by"])
    return new, text


def why_not_rotated(key: ApiKey) -> str | None:
    """A sentence, or None: it can be."""
    if key.for_playground:
        return "The playground's keys are not rotated: it makes a new one by itself."
    if key.revoked_at is not None:
        return "This key was revoked; make a new one instead."
    if key.is_expired:
        return "This key has expired; make a new one instead."
    if key.replaced_by_id is not None:
        return "This key was rotated before; rotate the one that took its place."
    return None


def limits_of(key: ApiKey) -> KeyLimits:
    return {
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "concurrent_requests": key.concurrent_requests,
        "token_budget": key.token_budget,
        "token_budget_period": key.token_budget_period,
    }


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
    if recent.count() >= PLAYGROUND_KEYS_MADE:
        raise RateLimitExceeded(
            "The playground has made too many keys for this account within an hour. Try again "
            "later.",
            kind="requests",
            retry_after_s=120,
        )
    with transaction.atomic():
        # A minute more, for a request that may just be using one.
        made.filter(last_used_at=None, expires_at__lt=now - timedelta(minutes=1)).delete()
        text = key_issue(key)
        alive = ApiKey.objects.filter(
            user=user, for_playground=True, revoked_at=None, expires_at__gt=now
        )
        kept = alive.order_by("-pk").values_list("pk", flat=True)[:PLAYGROUND_KEYS]
        alive.exclude(pk__in=[*kept]).update(revoked_at=now)
    return text


def key_revoke(key: ApiKey) -> bool:
    """Refuses the key from its next request on, for ever. False if it was revoked already."""
    now = timezone.now()
    revoked = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now)
    if revoked:
        key.revoked_at = now
    return bool(revoked)


def keys_of_others_revoke(user: User) -> list[ApiKey]:
    """Revokes, and returns, the keys that somebody else than this user or a superuser made for it:
    whoever did can act as the user, who is about to get rights that they may not have."""
    made = user.api_keys.filter(revoked_at=None, created_by__is_superuser=False)
    return [key for key in made.exclude(created_by=user) if key_revoke(key)]


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
    name. Keys lose their names, its invitation the note, and the admin's log both. Returns how many
    keys are revoked by it."""
    now = timezone.now()
    with transaction.atomic():
        user.is_active = False
        user.email = user.first_name = user.last_name = ""
        user.set_unusable_password()
        user.save(update_fields=["is_active", "email", "first_name", "last_name", "password"])
        revoked = user.api_keys.filter(revoked_at=None).update(revoked_at=now)
        user.api_keys.update(name="")
        Invitation.objects.filter(used_by=user).update(note="")
        _unname(ApiKey.objects.filter(user=user))
        _unname(Invitation.objects.filter(used_by=user))
    return revoked


def _unname(rows: QuerySet[Any]) -> None:
    """The admin's log may hold names from when its objects were called by them."""
    kind = ContentType.objects.get_for_model(rows.model)
    for row in rows:
        entries = LogEntry.objects.filter(content_type=kind, object_id=str(row.pk))
        entries.exclude(object_repr=str(row)).update(object_repr=str(row))
        entries.filter(action_flag=ADDITION, change_message__startswith="In place of ").update(
            change_message="In place of another key."
        )
