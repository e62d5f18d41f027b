"""A user whose every text holds one word, and a search for that word in the whole database."""

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection

from accounts.models import User
from conversations.models import Completion, Conversation, Review

MARK = "zebra7713"
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


def everything_said_by(user: User, history) -> None:
    """One request of each kind and end, with the mark in every text that a request has."""
    marked = {"parameters": {"stop": [MARK], "user": MARK}}
    history.say(user, [U1], A1[1], **marked)
    history.say(user, [U1, A1, U2], f"{MARK} four", f"{MARK} or four")
    history.finish(history.start(user, prompt=[f"{MARK} prompt"], **marked), MARK)
    embedded = history.start(user, kind="embedding", prompt=MARK, **marked)
    history.finish(embedded, completion_tokens=0)
    failed = history.start(user, [U3], **marked)
    history.finish(failed, f"{MARK} part", status="failed", error=f"No room for {MARK}.")
    Completion.objects.filter(user=user).update(metadata={MARK: MARK})
    Conversation.objects.filter(user=user).update(metadata={"topic": MARK})
    first = Conversation.objects.filter(user=user).earliest("pk")
    Review.objects.create(conversation=first, reviewer=user, notes=f"says {MARK}")
    LogEntry.objects.create(
        user=user,
        content_type=ContentType.objects.get_for_model(Conversation),
        object_id=str(first.pk),
        object_repr=str(first),
        action_flag=CHANGE,
    )
