"""What the views of the history share: whose it is, and who may look."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.errors import PermissionRefused
from accounts.models import Scope
from accounts.permissions import HasScope
from llmapi.schema import ErrorResponse
from llmapi.views import ERRORS


class HasHistory(BasePermission):
    """Requests without a key have none: they share one user, and strangers must not read each
    other."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.auth is None:
            raise PermissionRefused(
                "Requests without an API key have no history, for strangers would read each "
                "other's. Send an API key."
            )
        return True


class MayDelete(BasePermission):
    """Whether owners delete what they said is the operator's policy, here as on the pages."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.method == "DELETE" and not settings.LLMAPI.users_may_delete:
            raise PermissionRefused(
                "The operator of this server keeps the history: nothing of it is deleted by its "
                "owners. Ask the operator."
            )
        return True


class HistoryView(APIView):
    """A route over the key owner's own history: another's is not found."""

    scope: Any = Scope.HISTORY
    permission_classes = [IsAuthenticated, HasHistory, HasScope, MayDelete]


def owner_pk(request: Request) -> int:
    pk = request.user.pk
    assert pk is not None, "the permission classes let nobody else in"
    return pk


WITHOUT_BODY = {code: ERRORS[code] for code in (400, 401, 403)}
NOT_YOURS = OpenApiResponse(ErrorResponse, "You have none of this id.")
BUSY = OpenApiResponse(ErrorResponse, "A request of it is still being answered.")
