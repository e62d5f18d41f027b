"""A user whose every text holds one word, and a search for that word in the whole database."""

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.utils import timezone

from accounts import links
from accounts import services as accounts
from accounts.models import Invitation, User
from conversations.idempotency import KeyUse
from conversations.models import Completion, Conversation, Label, Review

MARK = "zebra7713"

HOLD_NO_TEXT = {
    # Ids, digests, and words out of lists of our own.
    *("accounts_apikey.digest", "accounts_apikey.last_four", "accounts_apikey.public_id"),
    *("accounts_apikey.scopes", "accounts_apikey.token_budget_period"),
    *("accounts_attempt.action", "accounts_attempt.address", "accounts_attempt.name"),
    *("accounts_auditevent.action", "accounts_auditevent.address"),
    *("accounts_invitation.digest", "accounts_user.password", "accounts_user.token_budget_period"),
    *("conversations_completion.finish_reason", "conversations_completion.kind"),
    *("conversations_completion.public_id", "conversations_completion.request_id"),
    *("conversations_completion.status", "conversations_conversation.public_id"),
    *("conversations_idempotencykey.digest", "conversations_idempotencykey.fingerprint"),
    *("conversations_message.chain_hash", "conversations_message.finish_reason"),
    *("conversations_message.public_id", "conversations_message.role"),
    *("conversations_usagehour.kind", "conversations_modelday.kind"),
    *("conversations_roleright.role", "conversations_roleright.right"),
    "django_admin_log.object_id",
    # Models that are served, as the operator named them; a request for another one has no row.
    *("accounts_apikey.allowed_models", "conversations_completion.model"),
    *("conversations_completion.adapter", "conversations_usagehour.model"),
    "conversations_modelday.model",
    *("llmapi_adapter.name", "llmapi_adapter.path"),
    # The server's own machine.
    *("conversations_serverprocess.host", "conversations_serverprocess.lock_path"),
    "conversations_serverprocess.uuid",
    # User names stay, for usage and audit point to them; of what was done, they, numbers, and those
    # filters of an export that are no words of a text or a name.
    *("accounts_user.username", "accounts_auditevent.target", "accounts_auditevent.detail"),
    # Django's own. Sessions are encoded: they hold who is signed in, and which forms were taken.
    *("auth_group.name", "auth_permission.codename", "auth_permission.name"),
    *("django_content_type.app_label", "django_content_type.model"),
    *("django_migrations.app", "django_migrations.name"),
    *("django_session.session_data", "django_session.session_key"),
}
"""Columns, of those that could, in which nothing stands that somebody said. A new column is either
among them or filled by `everything_said_by` and `everything_about`."""

NO_WORDS_FIT = (
    *("AutoField", "BigAutoField", "BooleanField", "DateField", "DateTimeField", "DurationField"),
    *("BigIntegerField", "IntegerField", "PositiveBigIntegerField", "PositiveIntegerField"),
    *("PositiveSmallIntegerField", "SmallIntegerField", "FloatField", "DecimalField", "UUIDField"),
)
U1, A1 = ("user", f"{MARK} one"), ("assistant", f"{MARK} two")
U2 = ("user", f"{MARK} three")
U3 = ("user", f"{MARK} five")


def places_of(mark: str) -> list[str]:
    """Every column of every table of the database, whatever its type, that holds `mark`."""
    places = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            name = connection.ops.quote_name(table)
            for column in connection.introspection.get_table_description(cursor, table):
                quoted = connection.ops.quote_name(column.name)
                cursor.execute(
                    f"SELECT count(*) FROM {name} WHERE CAST({quoted} AS text) LIKE %s",
                    [f"%{mark}%"],
                )
                if cursor.fetchone()[0]:
                    places.append(f"{table}.{column.name}")
    return places


def columns() -> dict[str, bool]:
    """Every column of every table, whatever model it is of, and whether words would fit into it."""
    found = {}
    introspection = connection.introspection
    with connection.cursor() as cursor:
        for table in introspection.table_names(cursor):
            if table == "sqlite_sequence":
                continue
            for column in introspection.get_table_description(cursor, table):
                kind = introspection.get_field_type(column.type_code, column)
                name = kind[0] if isinstance(kind, tuple) else kind
                found[f"{table}.{column.name}"] = name not in NO_WORDS_FIT
    return found


def everything_said_by(user: User, history) -> None:
    """One request of each kind and end, with the mark in every text that a request has."""
    marked = {"parameters": {"stop": [MARK], "user": MARK}}
    history.say(user, [(*U1, MARK)], A1[1], **marked)
    history.say(user, [(*U1, MARK), A1, U2], f"{MARK} four", f"{MARK} or four")
    keyed = {**marked, "idempotency": KeyUse.of(MARK.encode(), MARK.encode())}
    history.finish(history.start(user, prompt=[f"{MARK} prompt"], **keyed), MARK, answer=MARK)
    embedded = history.start(user, kind="embedding", prompt=MARK, **marked)
    history.finish(embedded, completion_tokens=0)
    failed = history.start(user, [U3], **marked)
    history.finish(failed, f"{MARK} part", status="failed", error=f"No room for {MARK}.")
    Completion.objects.filter(user=user).update(metadata={MARK: MARK})
    Conversation.objects.filter(user=user).update(metadata={"topic": MARK})
    first = Conversation.objects.filter(user=user).earliest("pk")
    review = Review.objects.create(conversation=first, reviewer=user, notes=f"says {MARK}")
    label = Label.objects.create(name=f"about {MARK}")
    review.labels.add(label)
    for row, called in ((first, first.title), (label, label.name)):  # as older versions did
        logged(user, row, called)


def everything_about(user: User) -> None:
    """The mark in all that is known of a user beside what it said."""
    key, _ = accounts.key_create(user=user, name=f"{MARK}'s laptop")
    user.email, user.first_name, user.last_name = f"{MARK}@example.org", MARK, MARK
    user.save()
    boss = User.objects.create_superuser("boss")
    invitation, _ = links.invitation_create(created_by=boss, note=f"for {MARK}")
    Invitation.objects.update(used_by=user, used_at=timezone.now())
    logged(boss, key, key.name, change_message=f"In place of {MARK}.")
    logged(boss, key, str(key))
    logged(boss, invitation, f"for {MARK}")


def logged(user: User, row, called: str, **values) -> None:
    LogEntry.objects.create(
        user=user,
        content_type=ContentType.objects.get_for_model(row),
        object_id=str(row.pk),
        object_repr=called,
        action_flag=ADDITION if values else CHANGE,
        **values,
    )
