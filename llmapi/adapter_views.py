"""Adapters that staff add and remove while the server runs.

These views wait for the engine, for seconds. Django runs each request's views on a thread of its
own, so nobody else waits with them.
"""

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import Scope, User
from accounts.permissions import HasScope, HasStaffRight
from llmapi import payloads
from llmapi.adapters import adapter_add, adapter_remove, adapters_listed
from llmapi.fields import StrictString
from llmapi.schema import (
    AdapterListResponse,
    ErrorResponse,
    ModelDeletedResponse,
    ModelResponse,
)
from llmapi.services import models
from llmapi.strict import StrictSerializer, validated
from llmapi.views import ERRORS

FORBIDDEN = OpenApiResponse(
    ErrorResponse, "Not the key of a staff user with the right to it, or adding is off."
)
CONFLICT = OpenApiResponse(ErrorResponse, "The name is taken, or the settings need the adapter.")


class NewAdapterSerializer(StrictSerializer):
    name = StrictString(
        required=True, allow_empty=False, max_length=200, help_text="The model id for clients."
    )
    path = StrictString(
        required=True,
        allow_empty=False,
        max_length=1024,
        help_text="A directory as peft saves it, inside the server's LLMAPI_ADAPTERS_DIR and "
        "relative to it.",
    )


RIGHTS = {
    "GET": "llmapi.view_adapter",
    "HEAD": "llmapi.view_adapter",
    "OPTIONS": "llmapi.view_adapter",
    "POST": "llmapi.add_adapter",
    "DELETE": "llmapi.delete_adapter",
}
"""Those of the admin's page."""


class StaffView(APIView):
    scope = Scope.ADMIN
    rights = RIGHTS
    permission_classes = [IsAuthenticated, HasStaffRight, HasScope]


def staff(request: Request) -> User:
    assert isinstance(request.user, User)
    return request.user


class AdaptersView(StaffView):
    @extend_schema(
        operation_id="listAdapters",
        summary="List the adapters, and how they fare",
        responses={200: AdapterListResponse, 401: ERRORS[401], 403: FORBIDDEN},
        tags=["Staff"],
    )
    def get(self, request: Request) -> Response:
        return Response(payloads.adapter_list(adapters_listed()))

    @extend_schema(
        operation_id="addAdapter",
        summary="Serve one more LoRA adapter",
        description="Answers when the engine serves it, and keeps it for later starts.",
        request=NewAdapterSerializer,
        responses={
            201: ModelResponse,
            400: OpenApiResponse(ErrorResponse, "It cannot be served; the message says why."),
            401: ERRORS[401],
            403: FORBIDDEN,
            409: CONFLICT,
            503: ERRORS[503],
        },
        tags=["Staff"],
    )
    def post(self, request: Request) -> Response:
        row = adapter_add(**validated(NewAdapterSerializer, request), by=staff(request))
        return Response(payloads.model_object(models.card(row.name)), status=201)


class AdapterView(StaffView):
    @extend_schema(
        operation_id="removeAdapter",
        summary="Serve an adapter no longer",
        description="Requests under way go on to their end; new ones are a 404.",
        request=None,
        responses={
            200: ModelDeletedResponse,
            401: ERRORS[401],
            403: FORBIDDEN,
            404: ERRORS[404],
            409: CONFLICT,
        },
        tags=["Staff"],
    )
    def delete(self, request: Request, name: str) -> Response:
        adapter_remove(name=name, by=staff(request))
        return Response(payloads.model_deleted(name))
