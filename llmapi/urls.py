"""The routes of the API, as Django and the OpenAPI document see them."""

from django.urls import path

from llmapi import adapter_views, usage_views, views

urlpatterns = [
    path("v1/chat/completions", views.ChatCompletionsView.as_view()),
    path("v1/completions", views.CompletionsView.as_view()),
    path("v1/embeddings", views.EmbeddingsView.as_view()),
    path("v1/models", views.ModelsView.as_view()),
    # path: hub ids have a slash in them
    path("v1/models/<path:model>", views.ModelView.as_view()),
    path("v1/usage", usage_views.UsageView.as_view()),
    path("v1/admin/adapters", adapter_views.AdaptersView.as_view()),
    path("v1/admin/adapters/<path:name>", adapter_views.AdapterView.as_view()),
    path("health", views.HealthView.as_view()),
    path("ready", views.ReadyView.as_view()),
]
