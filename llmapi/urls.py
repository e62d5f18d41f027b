"""The routes of the API, as Django and the OpenAPI document see them."""

from django.urls import path

from llmapi import adapter_views, metrics_views, views
from llmapi.history import chats, conversations
from llmapi.playground import views as playground
from llmapi.usage.views import UsageView

urlpatterns = [
    path("v1/chat/completions", chats.StoredChatsView.as_view()),
    path("v1/chat/completions/<str:completion_id>", chats.StoredChatView.as_view()),
    path(
        "v1/chat/completions/<str:completion_id>/messages",
        chats.StoredChatMessagesView.as_view(),
    ),
    path("v1/conversations", conversations.ConversationsView.as_view()),
    path("v1/conversations/<str:conversation_id>", conversations.ConversationView.as_view()),
    path("v1/conversations/<str:conversation_id>/items", conversations.ItemsView.as_view()),
    path(
        "v1/conversations/<str:conversation_id>/items/<str:item_id>",
        conversations.ItemView.as_view(),
    ),
    path("v1/completions", views.CompletionsView.as_view()),
    path("v1/embeddings", views.EmbeddingsView.as_view()),
    path("v1/models", views.ModelsView.as_view()),
    # path: hub ids have a slash in them
    path("v1/models/<path:model>", views.ModelView.as_view()),
    path("v1/usage", UsageView.as_view()),
    path("v1/admin/adapters", adapter_views.AdaptersView.as_view()),
    path("v1/admin/adapters/<path:name>", adapter_views.AdapterView.as_view()),
    path("playground/", playground.playground, name="playground"),
    path("playground/key/", playground.new_key, name="playground_key"),
    path("health", views.HealthView.as_view()),
    path("ready", views.ReadyView.as_view()),
    path("metrics", metrics_views.MetricsView.as_view()),
]
