"""Writes of keys. Database errors reach the caller."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypedDict

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, Scope, User
from accounts.rights import may_govern, user_locked

LAST_USED_EVERY = timedelta(minutes=1)
LONGEST_MODEL_NAME = 200


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
    Raises what `key_issue` does.
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

    Raises ValidationError for the anonymous user, and for what a key cannot have; PermissionDenied
    if `created_by` does not govern the owner.
    """
    key.clean_fields(exclude=["user", "created_by", "public_id", "digest", "last_four"])
    check_scopes(key.scopes)
    check_models(key.allowed_models)
    if key.user.is_keyless:
        raise ValidationError(
            f"The user {key.user.username!r} stands for requests without a key, so it has none.",
            code="anonymous",
        )
    parsed = keys.new_key()
    key.public_id = parsed.public_id
    key.digest = parsed.digest
    key.last_four = parsed.last_four
    with transaction.atomic():
        if key.created_by is not None and not may_govern(key.created_by, user_locked(key.user)):
            raise PermissionDenied
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
