"""Stored chat completions, as OpenAI's API has them: list, read, label, delete."""

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Scope
from accounts.permissions import HasScope
from conversations.errors import NotFound
from conversations.models import Completion
from conversations.own import stored
from conversations.retention.erasing import completion_erase
from conversations.tree.items import completion_label
from llmapi.errors import InvalidRequest
from llmapi.history import payloads
from llmapi.history.access import (
    BUSY,
    NOT_YOURS,
    WITHOUT_BODY,
    HasHistory,
    HistoryView,
    owner_pk,
)
from llmapi.history.paging import paging, read_query
from llmapi.history.serializers import LabelSerializer
from llmapi.queries import check_no_query
from llmapi.schema import (
    DeletedResponse,
    StoredChatListResponse,
    StoredChatResponse,
    StoredMessageListResponse,
)
from llmapi.strict import validated
from llmapi.views import ChatCompletionsView

STATUSES = ("any", *Completion.Status.values)


class StoredChatsView(ChatCompletionsView):
    """The same path as the door's, which answers POST itself (`llmapi.routing`)."""

    scope = {"POST": Scope.CHAT, "GET": Scope.HISTORY, "HEAD": Scope.HISTORY}  # type: ignore[assignment]
    permission_classes = [IsAuthenticated, HasHistory, HasScope]

    @extend_schema(
        operation_id="listChatCompletions",
        summary="List your stored chats",
        description="In the order in which they began. `metadata[KEY]=VALUE` finds those with this "
        "label; several must all be there.",
        parameters=[
            *paging("asc"),
            OpenApiParameter("model", str, description="The model that answered."),
            OpenApiParameter(
                "metadata",
                {"type": "object", "additionalProperties": {"type": "string"}},
                style="deepObject",
            ),
            OpenApiParameter(
                "status",
                str,
                enum=STATUSES,
                default="completed",
                description="Not in OpenAI's API: those that ended early, too, or run still.",
            ),
        ],
        responses={200: StoredChatListResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["History"],
    )
    def get(self, request: Request) -> Response:
        query = read_query(
            request.query_params, order="asc", known=("model", "status"), has_metadata=True
        )
        status = query.values.get("status", Completion.Status.COMPLETED)
        if status not in STATUSES:
            known = ", ".join(f"'{name}'" for name in STATUSES)
            raise InvalidRequest(f"Must be one of: {known}.", param="status")
        page = stored.chats_page(
            owner_pk(request),
            query.cut,
            model=query.values.get("model"),
            metadata=query.metadata,
            status=None if status == "any" else status,
        )
        answers = stored.answers_of(page.rows)
        chats = [payloads.stored_chat(row, answers[row.pk]) for row in page.rows]
        return Response(payloads.list_of(chats, page.has_more))


class StoredChatView(HistoryView):
    @extend_schema(
        operation_id="getChatCompletion",
        summary="Read a stored chat",
        responses={200: StoredChatResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["History"],
    )
    def get(self, request: Request, completion_id: str) -> Response:
        check_no_query(request.query_params)
        return self.shown(stored.chat(owner_pk(request), completion_id))

    @extend_schema(
        operation_id="updateChatCompletion",
        summary="Label a stored chat",
        request=LabelSerializer,
        responses={200: StoredChatResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["History"],
    )
    def post(self, request: Request, completion_id: str) -> Response:
        asked = validated(LabelSerializer, request)
        chat = stored.chat(owner_pk(request), completion_id)
        completion_label(chat, asked["metadata"] or {})
        return self.shown(chat)

    @extend_schema(
        operation_id="deleteChatCompletion",
        summary="Delete a stored chat",
        description="Erases its text, but for what a later turn of the conversation repeats. That "
        "it was asked still counts as usage.",
        request=None,
        responses={200: DeletedResponse, **WITHOUT_BODY, 404: NOT_YOURS, 409: BUSY},
        tags=["History"],
    )
    def delete(self, request: Request, completion_id: str) -> Response:
        chat = stored.chat(owner_pk(request), completion_id)
        try:
            completion_erase(chat.pk)
        except Completion.DoesNotExist as error:
            raise NotFound(
                "stored chat completion", completion_id, param="completion_id"
            ) from error
        return Response(payloads.chat_deleted(chat.public_id))

    def shown(self, chat: Completion) -> Response:
        return Response(payloads.stored_chat(chat, stored.answers_of([chat])[chat.pk]))


class StoredChatMessagesView(HistoryView):
    @extend_schema(
        operation_id="getChatCompletionMessages",
        summary="What a stored chat was asked",
        description="The messages of the request, history included; the answers are its `choices`.",
        parameters=paging("asc"),
        responses={200: StoredMessageListResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["History"],
    )
    def get(self, request: Request, completion_id: str) -> Response:
        query = read_query(request.query_params, order="asc")
        page = stored.inputs_page(stored.chat(owner_pk(request), completion_id), query.cut)
        messages = [payloads.stored_message(message) for message in page.rows]
        return Response(payloads.list_of(messages, page.has_more))
