"""A history that nobody made is one that the server could have made."""

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F, Sum

from accounts.models import ApiKey, User
from conversations.measuring import synthetic
from conversations.models import Completion, Conversation, Message, UsageHour
from conversations.retention.erasing import conversation_erase
from conversations.tree import chain
from conversations.usage.folding import hours_fold


def generate(capsys, **options):  # type: ignore[no-untyped-def]
    call_command("generatehistory", **{"completions": 300, "users": 5, "days": 10, **options})
    return capsys.readouterr().out


def test_made_history_is_whole(db, capsys, monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "ROWS_AT_ONCE", 100)  # several portions
    assert "300 requests of 5 users" in generate(capsys)
    assert Completion.objects.count() == 300
    assert (User.objects.count(), ApiKey.objects.count()) == (5, 10)
    assert set(Completion.objects.values_list("kind", flat=True)) == {
        "chat",
        "completion",
        "embedding",
    }
    assert Completion.objects.exclude(api_key__user=F("user")).count() == 0
    assert Completion.objects.filter(content=None).count() == 0
    for message in Message.objects.select_related("parent", "conversation")[:200]:
        above = message.parent
        base = above.chain_hash if above else chain.root(message.conversation.user_id)
        assert message.chain_hash == chain.link(base, message.role, "", message.content)
        assert message.depth == (above.depth + 1 if above else 0)
    hours_fold()
    folded = UsageHour.objects.aggregate(total=Sum("requests"))["total"]
    assert folded > 200


def test_made_history_goes_on(db, capsys, history) -> None:
    generate(capsys)
    answer = Message.objects.filter(role="assistant", depth=1).latest("pk")
    chat = [("user", answer.parent.content), ("assistant", answer.content), ("user", "And then?")]
    row = history.say(answer.conversation.user, chat, "Nothing.")
    assert row.conversation == answer.conversation
    conversation_erase(row.conversation_id)
    assert not Conversation.objects.filter(pk=answer.conversation_id).exists()


def test_same_seed_makes_the_same_texts(db, capsys) -> None:
    def said() -> list[str]:
        return list(Message.objects.order_by("pk").values_list("content", flat=True)[:50])

    generate(capsys, seed=7)
    first = said()
    Completion.objects.all().delete()
    Conversation.objects.all().delete()
    generate(capsys, seed=7)
    assert said() == first


def test_database_with_requests_is_left_alone(alice, history, capsys) -> None:
    history.say(alice, [("user", "real")], "words")
    with pytest.raises(CommandError, match="has requests already"):
        generate(capsys)
    assert Completion.objects.count() == 1
    generate(capsys, force=True)
    assert Completion.objects.count() == 301
