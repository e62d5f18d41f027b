"""GET /metrics, for Prometheus."""

from typing import Any, NoReturn

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiTypes, extend_schema
from prometheus_client.exposition import choose_encoder
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts import keys
from accounts.authentication import ApiKeyAuthentication
from accounts.models import Scope
from accounts.permissions import HasScope, HasStaffRight
from llmapi import readings
from llmapi.errors import InvalidRequest
from llmapi.views import ERRORS

RIGHT = "conversations.view_completion"
"""That of the admin's first page, which shows such figures too."""

BY_TOKEN = object()


class MetricsToken(BaseAuthentication):
    """`Authorization: Bearer LLMAPI_METRICS_TOKEN`. No database is asked, so that the figures can
    be had when there is none."""

    def authenticate(self, request: Request) -> tuple[None, object] | None:
        token = settings.LLMAPI.metrics_token
        scheme, _, sent = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if token is None or scheme.lower() != "bearer" or not keys.is_equal(sent.strip(), token):
            return None
        return None, BY_TOKEN

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class MetricsTokenScheme(OpenApiAuthenticationExtension):
    """How the OpenAPI document shows it."""

    target_class = MetricsToken
    name = "metricsToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "LLMAPI_METRICS_TOKEN"}


class MayReadMetrics(BasePermission):
    """That token, or the key of a staff user with the right."""

    message = HasStaffRight.message

    def has_permission(self, request: Request, view: Any) -> bool:
        if request.auth is BY_TOKEN:
            return True
        if settings.SECURE_SSL_REDIRECT and not request.is_secure():
            self.refuse_plain_http()
        return HasStaffRight().has_permission(request, view) and HasScope().has_permission(
            request, view
        )

    def refuse_plain_http(self) -> NoReturn:
        raise InvalidRequest("Use https: a key that is sent over plain http can be read.")


class MetricsView(APIView):
    scope = Scope.ADMIN
    rights = dict.fromkeys(("GET", "HEAD", "OPTIONS"), RIGHT)
    authentication_classes = [MetricsToken, ApiKeyAuthentication]
    permission_classes = [MayReadMetrics]

    @extend_schema(
        operation_id="metrics",
        summary="Figures for Prometheus",
        description="With the token of LLMAPI_METRICS_TOKEN, or the key of a staff user who may "
        "see requests. In Prometheus' text format, or in OpenMetrics' if that is asked for.",
        responses={(200, "text/plain"): OpenApiTypes.STR, 401: ERRORS[401], 403: ERRORS[403]},
        tags=["Probes"],
    )
    def get(self, request: Request) -> HttpResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return HttpResponse(encode(readings.registry), content_type=content_type)
