from django.apps import AppConfig


class LlmapiConfig(AppConfig):
    name = "llmapi"
    verbose_name = "API"
