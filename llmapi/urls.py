"""The routes of the API, as Django and the OpenAPI document see them."""

from django.urls import path

from llmapi import (
    adapter_views,
    conversation_views,
    history_views,
    metrics_views,
    playground,
    usage_views,
    views,
)

urlpatterns = [
    path("v1/chat/completions", history_views.StoredChatsView.as_view()),
    path("v1/chat/completions/<str:completion_id>", history_views.StoredChatView.as_view()),
    path(
        "v1/chat/completions/<str:completion_id>/messages",
        history_views.StoredChatMessagesView.as_view(),
    ),
    path("v1/conversations", conversation_views.ConversationsView.as_view()),
    path("v1/conversations/<str:conversation_id>", conversation_views.ConversationView.as_view()),
    path("v1/conversations/<str:conversation_id>/items", conversation_views.ItemsView.as_view()),
    path(
        "v1/conversations/<str:conversation_id>/items/<str:item_id>",
        conversation_views.ItemView.as_view(),
    ),
    path("v1/completions", views.CompletionsView.as_view()),
    path("v1/embeddings", views.EmbeddingsView.as_view()),
    path("v1/models", views.ModelsView.as_view()),
    # path: hub ids have a slash in them
    path("v1/models/<path:model>", views.ModelView.as_view()),
    path("v1/usage", usage_views.UsageView.as_view()),
    path("v1/admin/adapters", adapter_views.AdaptersView.as_view()),
    path("v1/admin/adapters/<path:name>", adapter_views.AdapterView.as_view()),
    path("playground/", playground.playground, name="playground"),
    path("playground/key/", playground.new_key, name="playground_key"),
    path("health", views.HealthView.as_view()),
    path("ready", views.ReadyView.as_view()),
    path("metrics", metrics_views.MetricsView.as_view()),
]
