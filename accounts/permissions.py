"""What some keys may do and others may not."""

from typing import Any

from rest_framework.exceptions import MethodNotAllowed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from accounts.errors import PermissionRefused
from accounts.models import ApiKey, Scope, User
from accounts.rights import staff_may


class HasScope(BasePermission):
    """A key with scopes may be used for those alone; its owner's rights bound it besides.

    A view says in its attribute `scope` which one it wants: a `Scope`, one for each method, or None
    if it is open to every key but the playground's, which lies in a page of a browser and is for
    what that page asks. `read-only` opens the safe methods of all views.
    Raises PermissionRefused, which says what the key may be used for.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        key = request.auth
        if not isinstance(key, ApiKey) or not key.scopes:
            return True
        wanted = view.scope.get(request.method) if isinstance(view.scope, dict) else view.scope
        if wanted in key.scopes or (wanted is None and not key.for_playground):
            return True
        if Scope.READ_ONLY in key.scopes and request.method in SAFE_METHODS:
            return True
        raise PermissionRefused(
            f"This API key may not be used for this: it is for {', '.join(key.scopes)}. "
            "Use another key."
        )


class HasStaffRight(BasePermission):
    """The key of a user with staff status and the right that the view names for the method, in
    `rights`. Requests without a key have none, whoever they count as. A method without a right is
    for nobody: MethodNotAllowed."""

    message = "Only keys of staff users with the right to it may do this."

    def has_permission(self, request: Request, view: Any) -> bool:
        right = view.rights.get(request.method)
        if right is None:
            raise MethodNotAllowed(request.method or "")
        if request.auth is None or not isinstance(request.user, User):
            return False
        return staff_may(request.user, right)
