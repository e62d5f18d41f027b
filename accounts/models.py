"""Users and their API keys. Neither is ever deleted: users are deactivated, keys are revoked."""

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone


class User(AbstractUser):
    """A person, or a program, that owns keys. Ours from the first migration: it can grow."""


class BudgetPeriod(models.TextChoices):
    DAY = "day"
    MONTH = "month"


class ApiKey(models.Model):
    """One key of one user. The key itself is shown once and not kept: `digest` is its SHA-256.

    The limits below `allowed_models` belong to the table's first shape, for they are dear to add
    to a live one; null (or an empty list) means that the key sets no limit of its own.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="api_keys"
    )
    name = models.CharField(max_length=100, blank=True, help_text="What the key is for.")
    public_id = models.CharField(max_length=8, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    last_four = models.CharField(max_length=4, editable=False)

    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    scopes = models.JSONField(default=list, blank=True)
    allowed_models = models.JSONField(default=list, blank=True)
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrent_requests = models.PositiveIntegerField(null=True, blank=True)
    token_budget = models.PositiveBigIntegerField(null=True, blank=True)
    token_budget_period = models.CharField(
        max_length=5, choices=BudgetPeriod.choices, default=BudgetPeriod.MONTH
    )

    class Meta:
        verbose_name = "API key"
        indexes = [models.Index(fields=["user", "created_at"])]

    def __str__(self) -> str:
        # Nothing of the key itself: this is what the admin's log keeps.
        return f"{self.name or 'key'} #{self.pk}"

    @property
    def masked(self) -> str:
        """How the key may be shown: its public id and last four characters."""
        return f"sk-{self.public_id}…{self.last_four}"

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    @property
    def is_usable(self) -> bool:
        """Neither revoked nor expired. Whether the owner is active is the owner's business."""
        return self.revoked_at is None and not self.is_expired

    @property
    def status(self) -> str:
        """In the words of the admin and of `manage.py keys`. Reads the owner."""
        if self.revoked_at is not None:
            return "revoked"
        if self.is_expired:
            return "expired"
        return "usable" if self.user.is_active else "owner not active"
