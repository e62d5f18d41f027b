"""The groups that a new database begins with: what staff may do, cut along who should see what.

The groups are the operator's to change. What a later version adds to ROLES it gives once, and
writes down that it did (`RoleRight`): what was taken away again stays away.
"""

import logging
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


logger = logging.getLogger(__name__)


def roles_update(apps: Any = installed, using: str = "default", **kwargs: Any) -> None:
    """Makes each group that was never made, and gives each the rights that it was never given.

    Takes nothing away, and makes no group anew. Groups from before it was written down what was
    given, and groups of an operator's own with the name of a later role, are left as they are.
    Called after every migration, with the apps as the migration left them.
    """
    try:
        groups = apps.get_model("auth", "Group").objects.using(using)
        role_rights = apps.get_model("conversations", "RoleRight").objects.using(using)
    except LookupError:  # migrated to some place before these
        return
    given = set(role_rights.values_list("role", "right"))
    due = {
        role: missing
        for role, rights in ROLES.items()
        if (missing := [right for right in rights if (role, right) not in given])
    }
    if not due:
        return
    were_given = {role for role, _ in given}
    there = {group.name: group for group in groups.filter(name__in=due)}
    is_from_before = bool(there) and not given
    new = [] if is_from_before else [role for role in due if role not in {*there, *were_given}]
    known = permissions_make(apps, using)
    with transaction.atomic(using=using):
        there |= {role: groups.create(name=role) for role in new}
        for role in there.keys() & {*new, *were_given}:
            there[role].permissions.add(*(known[right] for right in due[role]))
            if role not in new:
                logger.info("the group %r is given: %s", role, ", ".join(due[role]))
        RoleRight = role_rights.model  # noqa: N806
        role_rights.bulk_create(RoleRight(role=role, right=r) for role in due for r in due[role])


def permissions_make(apps: Any, using: str) -> dict[str, Any]:
    """{`app.codename`: permission} of the two apps. Django makes them after the same migration, but
    may come to it later."""
    labels = ("accounts", "conversations")
    for label in labels:
        create_permissions(installed.get_app_config(label), verbosity=0, using=using, apps=apps)
    permissions = apps.get_model("auth", "Permission").objects.using(using)
    return {
        f"{permission.content_type.app_label}.{permission.codename}": permission
        for permission in permissions.filter(content_type__app_label__in=labels).select_related(
            "content_type"
        )
    }
