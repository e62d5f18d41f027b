"""Users, their API keys and what both may use; invitations; what staff did. Neither users nor keys
are ever deleted: users are deactivated, keys are revoked."""

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

ANONYMOUS_USERNAME = "anonymous"


class BudgetPeriod(models.TextChoices):
    DAY = "day", _("day")
    MONTH = "month", _("month")


class Limits(models.Model):
    """How much may be used; null: no limit of this row's own."""

    requests_per_minute = models.PositiveIntegerField(
        _("requests per minute"), null=True, blank=True
    )
    tokens_per_minute = models.PositiveIntegerField(_("tokens per minute"), null=True, blank=True)
    concurrent_requests = models.PositiveIntegerField(_("requests at once"), null=True, blank=True)
    token_budget = models.PositiveBigIntegerField(_("token budget"), null=True, blank=True)
    token_budget_period = models.CharField(
        _("per"), max_length=5, choices=BudgetPeriod.choices, default=BudgetPeriod.MONTH
    )

    class Meta:
        abstract = True


class User(AbstractUser, Limits):  # noqa: DJ008 - AbstractUser has one
    """A person, or a program, that owns keys. Its limits hold for all of its keys together; where
    they are null, the server's defaults do."""

    password_by = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        help_text="Who of the staff set the password, and may know it; none: its owner.",
    )
    password_links = models.PositiveIntegerField(
        default=0, editable=False, help_text="How many were made; the newest alone is good."
    )

    @property
    def is_keyless(self) -> bool:
        """Whether this is the user that requests without a key count to. It has no keys, and
        nobody signs in as it."""
        return self.username == ANONYMOUS_USERNAME


class Scope(models.TextChoices):
    """What a key may be used for. A key without scopes may do all that its owner may."""

    CHAT = "chat", _("chat")
    COMPLETIONS = "completions", _("completions")
    EMBEDDINGS = "embeddings", _("embeddings")
    HISTORY = "history", _("read, label and delete the history")
    READ_ONLY = "read-only", _("read the history and the usage")
    ADMIN = "admin", _("what staff may do")


class ApiKey(Limits):
    """One key of one user. The key itself is shown once and not kept: `digest` is its SHA-256.

    Its limits are further ones, of this key alone. `scopes` holds values of `Scope`,
    `allowed_models` model ids or aliases; an empty list restricts nothing.
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

    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        help_text="Who made it by a page; none: the command line, or the server itself.",
    )
    replaced_by = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="replaces",
        help_text="The key that a rotation made; this one works until `expires_at`.",
    )
    for_playground = models.BooleanField(
        default=False,
        editable=False,
        help_text="Made by the playground for an hour, and in no list of keys.",
    )

    class Meta:
        verbose_name = "API key"
        indexes = [models.Index(fields=["user", "created_at"])]

    def __str__(self) -> str:
        # Nothing of the key itself, and no name: this is what the admin's log keeps.
        return f"key #{self.pk}"

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


class Invitation(models.Model):
    """A link by which somebody may become a user, once. The link is shown once and not kept."""

    digest = models.CharField(max_length=64, unique=True, editable=False)
    note = models.CharField(max_length=200, blank=True, help_text="Whom it is for.")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, editable=False, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    used_by = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="invitation",
    )
    used_at = models.DateTimeField(null=True, blank=True, editable=False)

    def __str__(self) -> str:
        # Not whom it is for: this is what the admin's log keeps.
        return f"invitation #{self.pk}"


class AuditEvent(models.Model):
    """What somebody did to another's texts: read, exported, erased, pruned. Only ever appended.
    What staff do to users, keys and invitations is in the admin's log.

    `target` names what it was done to, in the words of the place that did it (`user alice`,
    `conv_...`); it holds nothing of what was said.
    """

    class Action(models.TextChoices):
        READ = "read", _("read a text")
        EXPORT = "export", _("exported")
        ERASE = "erase", _("erased texts")
        PRUNE = "prune", _("pruned old rows")

    at = models.DateTimeField(default=timezone.now, db_index=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="None: a command on the server's own machine.",
    )
    action = models.CharField(max_length=10, choices=Action.choices)
    target = models.CharField(max_length=200)
    detail = models.JSONField(default=dict, blank=True)
    address = models.GenericIPAddressField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["actor", "at"]), models.Index(fields=["target", "at"])]

    def __str__(self) -> str:
        return f"{self.action} {self.target}"


class Attempt(models.Model):
    """One try to sign in or up, kept for as long as it counts. Of whom and from where it was there
    is only a keyed digest: people type passwords into the field for the name."""

    action = models.CharField(max_length=10)
    address = models.CharField(max_length=64)
    name = models.CharField(max_length=64)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [
            models.Index(fields=["action", "address", "at"]),
            models.Index(fields=["at"]),
        ]

    def __str__(self) -> str:
        return f"{self.action} #{self.pk}"
