"""The history: who asked what, and what was answered.

A chat is a tree of messages (`Conversation`, `Message`); every request, chat or not, is one narrow
`Completion` row with a 1:1 `CompletionContent` beside it, so that text can expire before usage.
"""

from django.conf import settings
from django.db import models
from django.utils import timezone

from conversations.ids import conversation_id, message_id
from conversations.storage.jsontext import ReadableJSONEncoder


class ServerProcess(models.Model):
    """One web process: while it lives it holds `lock_path` locked and beats every second."""

    uuid = models.UUIDField(unique=True, editable=False)
    host = models.CharField(max_length=255, help_text="Host name and boot id: one kernel's life.")
    pid = models.PositiveIntegerField()
    lock_path = models.CharField(max_length=1024, blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now)
    stopped_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "server processes"
        indexes = [models.Index(fields=["stopped_at", "heartbeat_at"])]

    def __str__(self) -> str:
        return f"{self.host.split('/')[0]} pid {self.pid}"


class Conversation(models.Model):
    """A tree of messages of one user. A regenerate, an edit or the n-th choice is a sibling."""

    public_id = models.CharField(max_length=40, unique=True, default=conversation_id)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        db_index=False,
        related_name="conversations",
    )
    api_key = models.ForeignKey(
        "accounts.ApiKey",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        db_index=False,
        related_name="conversations",
        help_text="The key that began it; none for anonymous requests.",
    )
    title = models.CharField(max_length=200, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    reviewed_at = models.DateTimeField(
        null=True, blank=True, help_text="Of its review, if it has not gone on since."
    )

    class Meta:
        indexes = [
            models.Index(fields=["user", "updated_at"]),
            models.Index(fields=["api_key", "updated_at"]),
            models.Index(fields=["updated_at"]),
            models.Index(fields=["reviewed_at", "updated_at"]),
        ]
        permissions = [
            ("read_text", "Can read what was said"),
            ("export_text", "Can export what was said"),
            ("erase_text", "Can erase what was said"),
        ]

    def __str__(self) -> str:
        # Never the title: it is made of what was said, and many see this who may not read that.
        return self.public_id


class Message(models.Model):
    """One message, stored once, however many later calls repeat it in their history."""

    public_id = models.CharField(max_length=40, unique=True, default=message_id)
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, db_index=False, related_name="messages"
    )
    parent = models.ForeignKey(
        "self",
        # A tree goes with its conversation, in one statement. CASCADE would walk down it level by
        # level, and a chat of a thousand messages would end in a RecursionError.
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="children",
    )
    depth = models.PositiveIntegerField(help_text="0 for the first message of the conversation.")
    role = models.CharField(max_length=20)
    name = models.CharField(max_length=100, blank=True)
    content = models.JSONField(
        null=True, encoder=ReadableJSONEncoder, help_text="A string, or a list of content parts."
    )
    chain_hash = models.CharField(
        max_length=64, help_text="SHA-256 over the parent's chain hash and this message, per user."
    )
    completion = models.ForeignKey(
        "conversations.Completion",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_index=False,
        related_name="outputs",
        help_text="The request that made it; none if a client sent it.",
    )
    choice_index = models.PositiveIntegerField(
        null=True, blank=True, help_text="Null: a client sent it; else it was generated here."
    )
    finish_reason = models.CharField(max_length=20, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [
            # Only an answer of ours is ever looked for by its hash alone: thousands of
            # conversations that begin with the same words cost a look-up nothing.
            models.Index(
                fields=["chain_hash", "id"],
                condition=models.Q(choice_index__isnull=False),
                name="message_generated_chain",
            ),
            models.Index(fields=["conversation", "depth"]),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["completion", "choice_index"], name="message_one_per_choice"
            ),
            # What clients send is stored once per place in the tree; equal answers are siblings.
            models.UniqueConstraint(
                fields=["conversation", "chain_hash"],
                condition=models.Q(choice_index__isnull=True),
                name="message_input_stored_once",
            ),
            models.CheckConstraint(
                condition=models.Q(parent__isnull=True, depth=0)
                | models.Q(parent__isnull=False, depth__gt=0),
                name="message_root_has_depth_0",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role} {self.public_id}"


class Completion(models.Model):
    """One request for generation or embedding, committed as `running` before it is begun."""

    class Kind(models.TextChoices):
        CHAT = "chat"
        COMPLETION = "completion"
        EMBEDDING = "embedding"

    class Status(models.TextChoices):
        RUNNING = "running"
        COMPLETED = "completed"
        CANCELLED = "cancelled", "cancelled by the client"
        INTERRUPTED = "interrupted", "interrupted by the server's end"
        FAILED = "failed"

    public_id = models.CharField(max_length=48, unique=True)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        db_index=False,
        related_name="completions",
    )
    api_key = models.ForeignKey(
        "accounts.ApiKey",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        db_index=False,
        related_name="completions",
    )
    process = models.ForeignKey(
        ServerProcess,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="completions",
    )
    conversation = models.ForeignKey(
        Conversation,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_index=False,
        related_name="completions",
    )
    head = models.ForeignKey(
        Message,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="asked_by",
        help_text="The last input message.",
    )
    model = models.CharField(max_length=200)
    adapter = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=11, choices=Status.choices, default=Status.RUNNING)
    finish_reason = models.CharField(
        max_length=20,
        blank=True,
        help_text="Of the first choice; a chat's messages have their own.",
    )
    streamed = models.BooleanField(default=False)

    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(
        default=0, help_text="Of the prompt's tokens, those that were not computed again."
    )

    metadata = models.JSONField(default=dict, blank=True, help_text="The client's own labels.")
    was_answered = models.BooleanField(
        default=False,
        help_text="Whether it brought its conversation an answer, or a part, be it deleted since.",
    )
    is_stored = models.BooleanField(
        default=True, help_text="Whether the API lists it; a request may ask for `store: false`."
    )
    erased_at = models.DateTimeField(
        null=True, blank=True, help_text="Since when its text is gone; the row counts as usage."
    )

    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)
    first_token_ms = models.PositiveIntegerField(null=True, blank=True)
    duration_ms = models.PositiveIntegerField(null=True, blank=True)

    request_id = models.CharField(max_length=64, blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        # These serve the foreign keys too, which therefore have no index of their own: this table
        # is written before anything is generated.
        indexes = [
            models.Index(fields=["user", "created_at"]),
            models.Index(fields=["api_key", "created_at"]),
            models.Index(fields=["status", "process"]),
            models.Index(fields=["conversation", "created_at"]),
            models.Index(fields=["created_at"]),
            # The filters of the admin's list, and what users quote: docs/many-rows.md.
            models.Index(fields=["status", "created_at"]),
            models.Index(fields=["model", "created_at"]),
            models.Index(fields=["kind", "created_at"]),
            models.Index(fields=["request_id"]),
        ]

    def __str__(self) -> str:
        return self.public_id


class CompletionContent(models.Model):
    """The text of one request. Of a chat, whose messages are in the tree: the running output."""

    completion = models.OneToOneField(
        Completion, on_delete=models.CASCADE, primary_key=True, related_name="content"
    )
    parameters = models.JSONField(
        default=dict,
        encoder=ReadableJSONEncoder,
        help_text="The parameters in force, defaults filled in.",
    )
    prompt = models.JSONField(
        null=True,
        encoder=ReadableJSONEncoder,
        help_text="Prompt or inputs as sent; null for chats, whose prompt is the tree.",
    )
    output = models.JSONField(
        default=list,
        encoder=ReadableJSONEncoder,
        help_text='One {"text", "finish_reason"} per choice: of a running request so far, of a '
        "completion for good. A chat's answers move into the tree when it ends.",
    )

    def __str__(self) -> str:
        return f"content of {self.completion_id}"


class IdempotencyKey(models.Model):
    """A name that a client gave to a request, so that it can send it again without having it
    answered twice. Whether it still stands for that request, the request's status says."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, db_index=False, related_name="+"
    )
    digest = models.CharField(max_length=64, help_text="Of the key, which is not stored.")
    fingerprint = models.CharField(
        max_length=64,
        help_text="Of the request: HMAC-SHA256 by the key, without which nobody can try out what "
        "was asked.",
    )
    completion = models.OneToOneField(
        Completion, on_delete=models.CASCADE, related_name="idempotency_key"
    )
    created_at = models.DateTimeField(default=timezone.now)
    answer = models.TextField(
        blank=True, help_text="As JSON; empty while there is none, and where none may be kept."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "digest"], name="idempotency_key_once")
        ]
        indexes = [models.Index(fields=["created_at"])]

    def __str__(self) -> str:
        return f"idempotency key of {self.completion_id}"


class UsageSums(models.Model):
    """What was used, in numbers."""

    requests = models.PositiveIntegerField()
    failed = models.PositiveIntegerField(help_text="Failed, or interrupted by the server's end.")
    cancelled = models.PositiveIntegerField()
    prompt_tokens = models.PositiveBigIntegerField()
    cached_tokens = models.PositiveBigIntegerField()
    completion_tokens = models.PositiveBigIntegerField()
    duration_ms = models.PositiveBigIntegerField(help_text="Sum over those that ended in time.")
    durations = models.PositiveIntegerField(help_text="How many those are.")
    first_token_ms = models.PositiveBigIntegerField(help_text="Sum over those that said a word.")
    first_tokens = models.PositiveIntegerField(help_text="How many those are.")

    class Meta:
        abstract = True


class UsageHour(UsageSums):
    """What one key used of one model in one hour that is over: completions, folded.

    Counts of the hour in which the requests began. Hours that are not folded yet are counted from
    the completions themselves (`conversations.usage`).
    """

    hour = models.DateTimeField(help_text="When it began.")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, db_index=False, related_name="+"
    )
    api_key = models.ForeignKey(
        "accounts.ApiKey",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        db_index=False,
        related_name="+",
    )
    model = models.CharField(max_length=200)
    kind = models.CharField(max_length=10, choices=Completion.Kind.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "user", "api_key", "model", "kind"], name="usage_one_per_hour"
            ),
            # For the constraint above, no two nulls are equal.
            models.UniqueConstraint(
                fields=["hour", "user", "model", "kind"],
                condition=models.Q(api_key__isnull=True),
                name="usage_one_per_hour_without_key",
            ),
        ]
        indexes = [models.Index(fields=["user", "hour"]), models.Index(fields=["api_key", "hour"])]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.model}"


class UserDay(UsageSums):
    """What one user used in one day (of UTC) that is over: hours, folded. For questions about all
    users over months, which have a few hundred hours for each of these rows to read."""

    day = models.DateTimeField(help_text="When it began.")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, db_index=False, related_name="+"
    )

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["day", "user"], name="user_day_one"),
        ]
        indexes = [models.Index(fields=["user", "day"])]

    def __str__(self) -> str:
        return f"{self.day:%Y-%m-%d} user {self.user_id}"


class ModelDay(UsageSums):
    """What all users together used of one model in one day: hours, folded beside `UserDay`."""

    day = models.DateTimeField(help_text="When it began.")
    model = models.CharField(max_length=200)
    kind = models.CharField(max_length=10, choices=Completion.Kind.choices)

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["day", "model", "kind"], name="model_day_one"),
        ]

    def __str__(self) -> str:
        return f"{self.day:%Y-%m-%d} {self.model}"


class Label(models.Model):
    """A word that reviewers put on conversations."""

    name = models.CharField(max_length=50, unique=True)

    def __str__(self) -> str:
        return self.name


class Review(models.Model):
    """What staff think of a conversation: one judgement, changed by whoever looks at it next."""

    conversation = models.OneToOneField(
        Conversation, on_delete=models.CASCADE, primary_key=True, related_name="review"
    )
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="reviews"
    )
    score = models.PositiveSmallIntegerField(
        null=True, blank=True, choices=[(score, str(score)) for score in range(1, 6)]
    )
    labels = models.ManyToManyField(Label, blank=True, related_name="reviews")
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(score__isnull=True) | models.Q(score__range=(1, 5)),
                name="review_score_1_to_5",
            )
        ]

    def __str__(self) -> str:
        return f"review of {self.conversation_id}"


class RoleRight(models.Model):
    """A right that the group of this name was given, by the version of this server that brought it:
    no later one gives it again (`conversations.staff.roles`)."""

    role = models.CharField(max_length=150)
    right = models.CharField(max_length=200, help_text="`app.codename`")

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["role", "right"], name="role_right_once")]

    def __str__(self) -> str:
        return f"{self.role}: {self.right}"
