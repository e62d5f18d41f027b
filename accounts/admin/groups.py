"""Groups of staff. Their rights are everybody's in them, so superusers alone change them."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest

from accounts.admin.rights import lock_others_out
from accounts.models import User

admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        group = form.instance
        before = {*group.permissions.values_list("pk", flat=True)}
        super().save_related(request, form, formsets, change)
        if {*group.permissions.values_list("pk", flat=True)} <= before:
            return
        for user in User.objects.filter(groups=group).order_by("pk"):
            lock_others_out(request, self.admin_site, user)
