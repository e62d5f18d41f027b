"""What ends when somebody is given rights: whatever others than superusers could act by."""

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.http import HttpRequest

from accounts import services
from accounts.models import ApiKey, User


def rights_of(user_pk: int | None) -> set[str]:
    """What a user may do beside using the API, as it is in the database."""
    user = User.objects.filter(pk=user_pk).first() if user_pk is not None else None
    if user is None:
        return set()
    rights = {name for name in ("is_staff", "is_superuser") if getattr(user, name)}
    rights |= {f"group {pk}" for pk in user.groups.values_list("pk", flat=True)}
    return rights | {f"right {pk}" for pk in user.user_permissions.values_list("pk", flat=True)}


def lock_others_out(request: HttpRequest, site: AdminSite, user: User) -> None:
    """Ends it, notes that in the logs of the user and the keys, and tells who gave the rights."""
    revoked, knows_password = services.others_locked_out(user)
    keys, users = site.get_model_admin(ApiKey), site.get_model_admin(User)
    for key in revoked:
        keys.log_change(request, key, f"Revoked: {user.get_username()} was given rights.")
    if revoked:
        messages.warning(
            request,
            f"{len(revoked)} of {user.get_username()}'s keys were made by others, who could have "
            "acted by these rights; they are revoked.",
        )
    if knows_password is not None:
        users.log_change(request, user, "Password ended: rights were given.")
        messages.warning(
            request,
            f"The password of {user.get_username()} was set by {knows_password}, who could have "
            "acted by these rights; it is void. Set another one, or make a link for a new one.",
        )
