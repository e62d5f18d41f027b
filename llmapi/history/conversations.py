"""Conversations that are kept by id, as OpenAI's API has them, and their items."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import ApiKey
from conversations.errors import NotFound
from conversations.models import Conversation
from conversations.own import stored
from conversations.retention.erasing import conversation_erase
from conversations.tree import items
from llmapi.history import payloads
from llmapi.history.access import BUSY, NOT_YOURS, WITHOUT_BODY, HistoryView, owner_pk
from llmapi.history.paging import INCLUDE, check_include, paging, read_query
from llmapi.history.serializers import (
    LabelSerializer,
    NewConversationSerializer,
    NewItemsSerializer,
    messages_of,
)
from llmapi.queries import check_no_query
from llmapi.schema import (
    ConversationListResponse,
    ConversationResponse,
    DeletedResponse,
    ItemListResponse,
    ItemResponse,
)
from llmapi.strict import validated


class ConversationsView(HistoryView):
    @extend_schema(
        operation_id="listConversations",
        summary="List your conversations",
        description="Not in OpenAI's API. In the order of their last change; those that began with "
        "a plain chat request are among them.",
        parameters=paging("desc"),
        responses={200: ConversationListResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["Conversations"],
    )
    def get(self, request: Request) -> Response:
        query = read_query(request.query_params, order="desc")
        page = stored.conversations_page(owner_pk(request), query.cut)
        found = [payloads.conversation_object(row) for row in page.rows]
        return Response(payloads.list_of(found, page.has_more))

    @extend_schema(
        operation_id="createConversation",
        summary="Begin a conversation",
        request=NewConversationSerializer,
        responses={200: ConversationResponse, **WITHOUT_BODY},
        tags=["Conversations"],
    )
    def post(self, request: Request) -> Response:
        asked = validated(NewConversationSerializer, request)
        key = request.auth
        conversation = items.conversation_create(
            user_id=owner_pk(request),
            api_key_id=key.pk if isinstance(key, ApiKey) else None,
            metadata=asked.get("metadata") or {},
            messages=messages_of(asked.get("items")),
        )
        return Response(payloads.conversation_object(conversation))


class ConversationView(HistoryView):
    @extend_schema(
        operation_id="getConversation",
        summary="Read a conversation",
        responses={200: ConversationResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["Conversations"],
    )
    def get(self, request: Request, conversation_id: str) -> Response:
        check_no_query(request.query_params)
        conversation = stored.conversation(owner_pk(request), conversation_id)
        return Response(payloads.conversation_object(conversation))

    @extend_schema(
        operation_id="updateConversation",
        summary="Label a conversation",
        request=LabelSerializer,
        responses={200: ConversationResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["Conversations"],
    )
    def post(self, request: Request, conversation_id: str) -> Response:
        asked = validated(LabelSerializer, request)
        conversation = stored.conversation(owner_pk(request), conversation_id)
        items.conversation_label(conversation, asked["metadata"] or {})
        return Response(payloads.conversation_object(conversation))

    @extend_schema(
        operation_id="deleteConversation",
        summary="Delete a conversation",
        description="Its items go with it, and the text of all its requests. That they were asked "
        "still counts as usage.",
        request=None,
        responses={200: DeletedResponse, **WITHOUT_BODY, 404: NOT_YOURS, 409: BUSY},
        tags=["Conversations"],
    )
    def delete(self, request: Request, conversation_id: str) -> Response:
        conversation = stored.conversation(owner_pk(request), conversation_id)
        try:
            conversation_erase(conversation.pk)
        except Conversation.DoesNotExist as error:
            raise NotFound("conversation", conversation_id, param="conversation_id") from error
        return Response(payloads.conversation_deleted(conversation.public_id))


class ItemsView(HistoryView):
    @extend_schema(
        operation_id="listConversationItems",
        summary="List the items of a conversation",
        description="Its messages: of a conversation with branches, those on the way to the newest "
        "one.",
        parameters=[*paging("desc"), INCLUDE],
        responses={200: ItemListResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["Conversations"],
    )
    def get(self, request: Request, conversation_id: str) -> Response:
        query = read_query(check_include(request.query_params), order="desc")
        conversation = stored.conversation(owner_pk(request), conversation_id)
        page = stored.items_page(conversation, query.cut)
        found = [payloads.item_object(message) for message in page.rows]
        return Response(payloads.list_of(found, page.has_more))

    @extend_schema(
        operation_id="createConversationItems",
        summary="Add items to a conversation",
        parameters=[INCLUDE],
        request=NewItemsSerializer,
        responses={200: ItemListResponse, **WITHOUT_BODY, 404: NOT_YOURS, 409: BUSY},
        tags=["Conversations"],
    )
    def post(self, request: Request, conversation_id: str) -> Response:
        check_no_query(check_include(request.query_params))
        asked = validated(NewItemsSerializer, request)
        conversation = stored.conversation(owner_pk(request), conversation_id)
        added = items.items_append(conversation, messages_of(asked["items"]))
        return Response(payloads.list_of([payloads.item_object(m) for m in added], has_more=False))


class ItemView(HistoryView):
    @extend_schema(
        operation_id="getConversationItem",
        summary="Read an item of a conversation",
        parameters=[INCLUDE],
        responses={200: ItemResponse, **WITHOUT_BODY, 404: NOT_YOURS},
        tags=["Conversations"],
    )
    def get(self, request: Request, conversation_id: str, item_id: str) -> Response:
        check_no_query(check_include(request.query_params))
        conversation = stored.conversation(owner_pk(request), conversation_id)
        return Response(payloads.item_object(stored.item(conversation, item_id)))

    @extend_schema(
        operation_id="deleteConversationItem",
        summary="Delete an item of a conversation",
        description="What follows it stays, and moves up. The answer is the conversation.",
        request=None,
        responses={200: ConversationResponse, **WITHOUT_BODY, 404: NOT_YOURS, 409: BUSY},
        tags=["Conversations"],
    )
    def delete(self, request: Request, conversation_id: str, item_id: str) -> Response:
        conversation = stored.conversation(owner_pk(request), conversation_id)
        item = stored.item(conversation, item_id)
        items.item_delete(conversation, item.public_id)
        return Response(
            payloads.conversation_object(stored.conversation(owner_pk(request), conversation_id))
        )
