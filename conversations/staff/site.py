"""Django's admin, whose first page says how the server does."""

from typing import Any

from django.contrib import admin


class StaffSite(admin.AdminSite):
    pass
