"""Writes of users. Database errors reach the caller."""

import secrets
from typing import Any

from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts.models import ANONYMOUS_USERNAME, ApiKey, Invitation, User
from accounts.services.keys import key_create, keys_of_others_revoke
from accounts.services.playground_keys import playground_keys_end

FIRST_STAFF_USERNAME = "admin"


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


def password_set(user: User, by: User) -> None:
    """Notes who has set the user's password and so knows it, and ends what was begun by an older
    one: Django ends the sessions, this the playground's keys."""
    User.objects.filter(pk=user.pk).update(password_by=None if by == user else by)
    playground_keys_end(user)


def others_locked_out(user: User) -> tuple[list[ApiKey], User | None]:
    """Ends what others than the user or superusers have to act as it, who is about to get rights
    that they may not have: the keys that they made, and a password that they set. Returns those
    keys, and whose password it was."""
    revoked = keys_of_others_revoke(user)
    user = User.objects.select_related("password_by").get(pk=user.pk)
    knows = user.password_by
    if knows is None or knows.is_superuser or not user.has_usable_password():
        return revoked, None
    user.set_unusable_password()
    user.password_by = None
    user.save(update_fields=["password", "password_by"])
    return revoked, knows


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
