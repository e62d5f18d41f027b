"""The routes as DRF views.

The three of the door hold a route's policies, serializer and documentation; `llmapi.consumers` runs
those policies itself and answers POST. Models and probes are plain views.
"""

from typing import Any, ClassVar, NoReturn

from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    OpenApiTypes,
    extend_schema,
)
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import ApiKey, Scope
from conversations.errors import IDEMPOTENCY_KEY
from llmapi import payloads
from llmapi.bodies import RequestSerializer
from llmapi.errors import RETRY_AFTER_S, AsgiNeeded
from llmapi.readiness import why_not_ready
from llmapi.schema import (
    ChatCompletionResponse,
    CompletionResponse,
    EmbeddingResponse,
    ErrorResponse,
    HealthResponse,
    ModelListResponse,
    ModelResponse,
)
from llmapi.serializers import (
    ChatCompletionSerializer,
    CompletionSerializer,
    EmbeddingSerializer,
)
from llmapi.services import models

ERRORS = {
    400: OpenApiResponse(ErrorResponse, "The request is wrong; `param` names the field."),
    401: OpenApiResponse(
        ErrorResponse, "The key is missing, malformed, unknown, expired or revoked."
    ),
    403: OpenApiResponse(ErrorResponse, "The key is not for this."),
    404: OpenApiResponse(ErrorResponse, "There is no such model or route."),
    413: OpenApiResponse(ErrorResponse, "The body is too large."),
    429: OpenApiResponse(ErrorResponse, "A limit of the key or of its owner is reached."),
    503: OpenApiResponse(ErrorResponse, "Not now: loading, overloaded or shutting down."),
}
OF_KEYS = {
    409: OpenApiResponse(
        ErrorResponse,
        "A request with this `Idempotency-Key` is being answered, or its answer is not kept.",
    ),
    422: OpenApiResponse(ErrorResponse, "This `Idempotency-Key` was used for another request."),
}
KEY_PARAMETER = OpenApiParameter(
    IDEMPOTENCY_KEY,
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    OpenApiParameter.HEADER,
    description="A new word for each new request, such as a UUID. When the request is sent again "
    "with it, it is not answered anew: the answer of the first time comes, with the header "
    "`idempotent-replayed`.",
)
STREAMS = (
    "\n\nWith `stream: true` the answer is `text/event-stream`: chunks as `data:` events, then "
    '`data: [DONE]`. An error after the first chunk comes as `data: {"error": ...}`.'
)


def example(value: dict[str, Any]) -> list[OpenApiExample]:
    """What the documentation page proposes to send."""
    return [OpenApiExample("A first request", value=value, request_only=True)]


class DoorView(APIView):
    """A route whose POST is answered by a consumer (`llmapi.routing`)."""

    scope: ClassVar[Scope]
    serializer_class: ClassVar[type[RequestSerializer]]

    def refuse(self) -> NoReturn:
        raise AsgiNeeded("This route needs the ASGI server: start it with 'manage.py serve'.")


class ChatCompletionsView(DoorView):
    scope = Scope.CHAT
    serializer_class = ChatCompletionSerializer

    @extend_schema(
        operation_id="createChatCompletion",
        summary="Answer a chat",
        description="Messages use OpenAI's key `content`, or the seed's `message`; the latter gets "
        "the seed's shape of answer, which lists the conversation before it." + STREAMS,
        request=ChatCompletionSerializer,
        examples=example(
            {"messages": [{"role": "user", "content": "What is the capital of China?"}]}
        ),
        responses={
            (200, "application/json"): ChatCompletionResponse,
            (200, "text/event-stream"): OpenApiTypes.STR,
            **ERRORS,
            **OF_KEYS,
        },
        parameters=[KEY_PARAMETER],
        tags=["Chat"],
    )
    def post(self, request: Request) -> Response:
        self.refuse()


class CompletionsView(DoorView):
    scope = Scope.COMPLETIONS
    serializer_class = CompletionSerializer

    @extend_schema(
        operation_id="createCompletion",
        summary="Answer an instruction, or continue a prompt",
        description="A text prompt is an instruction, wrapped in the model's template; "
        '`"template": "none"` continues it raw, as prompts of token ids always are.' + STREAMS,
        request=CompletionSerializer,
        examples=example({"prompt": "Name three colours.", "max_tokens": 60}),
        responses={
            (200, "application/json"): CompletionResponse,
            (200, "text/event-stream"): OpenApiTypes.STR,
            **ERRORS,
            **OF_KEYS,
        },
        parameters=[KEY_PARAMETER],
        tags=["Completions"],
    )
    def post(self, request: Request) -> Response:
        self.refuse()


class EmbeddingsView(DoorView):
    scope = Scope.EMBEDDINGS
    serializer_class = EmbeddingSerializer

    @extend_schema(
        operation_id="createEmbedding",
        summary="Embed texts",
        description="The mean of the last hidden state over the tokens, L2-normalised.",
        request=EmbeddingSerializer,
        examples=example({"input": "The weather is fine today."}),
        responses={200: EmbeddingResponse, **ERRORS, **OF_KEYS},
        parameters=[KEY_PARAMETER],
        tags=["Embeddings"],
    )
    def post(self, request: Request) -> Response:
        self.refuse()


def allowed_models(request: Request) -> list[str]:
    """Those of the key; empty: all."""
    return request.auth.allowed_models if isinstance(request.auth, ApiKey) else []


class ModelsView(APIView):
    scope = None

    @extend_schema(
        operation_id="listModels",
        summary="List the served models",
        responses={200: ModelListResponse, 401: ERRORS[401]},
        tags=["Models"],
    )
    def get(self, request: Request) -> Response:
        allowed = allowed_models(request)
        cards = models.cards(allowed)
        note = None if cards else models.why_none(allowed) or models.unavailable
        return Response(payloads.model_list(cards, note))


class ModelView(APIView):
    scope = None

    @extend_schema(
        operation_id="retrieveModel",
        summary="Read one model",
        responses={200: ModelResponse, **{status: ERRORS[status] for status in (401, 403, 404)}},
        tags=["Models"],
    )
    def get(self, request: Request, model: str) -> Response:
        models.check_allowed(model, allowed_models(request))
        return Response(payloads.model_object(models.card(model)))


class ProbeView(APIView):
    """GET of these is answered by `llmapi.probes`."""

    authentication_classes = []
    permission_classes = [AllowAny]


class HealthView(ProbeView):
    @extend_schema(
        operation_id="health",
        summary="Is the web process alive?",
        responses={200: HealthResponse},
        auth=[],
        tags=["Probes"],
    )
    def get(self, request: Request) -> Response:
        return Response(payloads.healthy())


class ReadyView(ProbeView):
    @extend_schema(
        operation_id="ready",
        summary="Would a request be answered now?",
        description="200 when the model is loaded, the database answers, and the server is not "
        "shutting down; otherwise 503 with the reason.",
        responses={200: HealthResponse, 503: HealthResponse},
        auth=[],
        tags=["Probes"],
    )
    def get(self, request: Request) -> Response:
        reason = why_not_ready()
        body = payloads.readiness(reason)
        if reason is None:
            return Response(body)
        return Response(body, status=503, headers={"Retry-After": str(RETRY_AFTER_S)})
