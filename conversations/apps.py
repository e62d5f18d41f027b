from typing import Any

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig
from django.db.models.signals import post_migrate


class ConversationsConfig(AppConfig):
    name = "conversations"
    verbose_name = "History"

    def ready(self) -> None:
        post_migrate.connect(update_roles, sender=self, dispatch_uid="conversations.staff.roles")


class StaffAdminConfig(AdminConfig):
    """Django's admin, with a dashboard for its first page."""

    default_site = "conversations.staff.site.StaffSite"


def update_roles(**kwargs: Any) -> None:
    from conversations.staff import roles  # models are not loaded when this module is

    kwargs.pop("sender")
    roles.roles_update(**kwargs)
