"""What members of staff may do; and which users they may govern: make keys for, change, deactivate,
give a password, erase what they said."""

from django.db.models import Q

from accounts.models import User


def staff_may(user: User, right: str) -> bool:
    """Whether a user may do by the API what the admin asks this right for (`app.codename`): staff
    status alone is none, and neither is a right without it."""
    return user.is_staff and user.has_perm(right)


def may_govern(actor: User, user: User) -> bool:
    """Superusers everybody; others themselves, and those who have no rights of staff: whoever makes
    a key or a password for a user can act as that user, and what staff said is evidence of what
    they did."""
    return actor.is_superuser or actor.pk == user.pk or not (user.is_staff or user.is_superuser)


def user_locked(user: User) -> User:
    """The user as the database has it, until the end of the transaction: whoever raises its rights
    meanwhile waits, and then finds what was made for it."""
    return User.objects.select_for_update(no_key=True).get(pk=user.pk)


def governed_by(actor: User) -> Q:
    """The same as a condition on users."""
    if actor.is_superuser:
        return Q()
    return Q(pk=actor.pk) | Q(is_staff=False, is_superuser=False)
