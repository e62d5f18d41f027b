"""Where the pages of history and usage are. The header's links are `history` and `usage`."""

from django.urls import path

from conversations.pages import deleting, exporting, lists, one_request, transcript, usage

urlpatterns = [
    path("usage/", usage.usage, name="usage"),
    path("history/", lists.conversations, name="history"),
    path("history/export/", exporting.conversations, name="history_export"),
    path("history/requests/", lists.requests, name="requests"),
    path("history/requests/export/", exporting.requests, name="requests_export"),
    path("history/requests/<str:public_id>/", one_request.one_request, name="request"),
    path("history/requests/<str:public_id>/export/", exporting.request, name="request_export"),
    path("history/requests/<str:public_id>/delete/", deleting.request, name="request_delete"),
    path("history/<str:public_id>/", transcript.transcript, name="conversation"),
    path(
        "history/<str:public_id>/messages/<str:message_id>/",
        transcript.text,
        name="message_text",
    ),
    path("history/<str:public_id>/rename/", transcript.rename, name="conversation_rename"),
    path("history/<str:public_id>/export/", exporting.conversation, name="conversation_export"),
    path("history/<str:public_id>/delete/", deleting.conversation, name="conversation_delete"),
]
