"""What the API keeps beside the history."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class Adapter(models.Model):
    """A LoRA adapter that staff added while a server ran: every later start serves it again."""

    name = models.CharField(max_length=200, unique=True, help_text="The model id for clients.")
    path = models.CharField(
        "directory", max_length=1024, help_text="Below the directory LLMAPI_ADAPTERS_DIR."
    )
    added_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="adapters"
    )
    added_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
