"""The groups that a new database begins with: what staff may do, cut along who should see what."""

from typing import Any

from django.apps import apps as installed
from django.contrib.auth.management import create_permissions
from django.db import transaction

USERS_AND_KEYS = ("accounts.view_user", "accounts.view_apikey")
METADATA = ("conversations.view_conversation", "conversations.view_completion")

ROLES: dict[str, tuple[str, ...]] = {
    # Who used what and when, and who among the staff read it; nothing of what was said.
    "auditor": (
        *METADATA,
        *USERS_AND_KEYS,
        "conversations.view_usagehour",
        "conversations.view_serverprocess",
        "accounts.view_auditevent",
    ),
    "reviewer": (
        *METADATA,
        "conversations.read_text",
        "conversations.view_review",
        "conversations.add_review",
        "conversations.change_review",
        "conversations.view_label",
        "conversations.add_label",
        "conversations.change_label",
    ),
    "key manager": (
        *USERS_AND_KEYS,
        "accounts.add_user",
        "accounts.change_user",
        "accounts.add_apikey",
        "accounts.change_apikey",
        "accounts.view_invitation",
        "accounts.add_invitation",
        "accounts.change_invitation",
    ),
    "privacy officer": (
        *METADATA,
        *USERS_AND_KEYS,
        "conversations.view_usagehour",
        "accounts.view_auditevent",
        "conversations.export_text",
        "conversations.erase_text",
    ),
}
"""Name of the group: its permissions, as `app.codename`."""


def roles_make(apps: Any = installed, using: str = "default", **kwargs: Any) -> None:
    """Makes all groups, unless one of them is there: from then on they are the operator's, who may
    change, rename and delete them without finding them made anew.

    Called after every migration, with the apps as the migration left them.
    """
    try:
        group_model = apps.get_model("auth", "Group")
        permission_model = apps.get_model("auth", "Permission")
        apps.get_model("conversations", "Review"), apps.get_model("accounts", "AuditEvent")
    except LookupError:  # migrated to some place before all of these
        return
    groups = group_model.objects.using(using)
    if groups.filter(name__in=ROLES).exists():
        return
    for label in ("accounts", "conversations"):
        # Django makes them after the same migration, but may come to it later.
        create_permissions(installed.get_app_config(label), verbosity=0, using=using, apps=apps)
    known = {
        f"{permission.content_type.app_label}.{permission.codename}": permission
        for permission in permission_model.objects.using(using)
        .filter(content_type__app_label__in=("accounts", "conversations"))
        .select_related("content_type")
    }
    with transaction.atomic(using=using):
        for name, rights in ROLES.items():
            groups.create(name=name).permissions.set([known[right] for right in rights])
