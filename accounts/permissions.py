"""What some keys may do and others may not."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request


class IsStaffKey(BasePermission):
    """The key of a user with staff status. Requests without a key never are one, whoever they
    count as."""

    message = "Only keys of staff users may do this."

    def has_permission(self, request: Request, view: Any) -> bool:
        return request.auth is not None and bool(request.user.is_staff)
