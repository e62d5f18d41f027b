"""What a conversation is called: at first by its own first words, later as its owner likes."""

from collections.abc import Collection

from conversations.models import Conversation, Message
from conversations.tree.said import NewMessage, title_of

LONGEST_TITLE = 200


def conversation_rename(conversation: Conversation, title: str) -> None:
    """Gives it another title, in one line. That is no turn of the chat: its place in lists stays,
    and so does its review."""
    title = " ".join(title.split())[:LONGEST_TITLE]
    Conversation.objects.filter(pk=conversation.pk).update(title=title)


def title_renew(conversation_pk: int, gone: Collection[str]) -> None:
    """If the conversation is called by one of these titles, of messages that are gone, it is called
    by the first words that are left. A title that its owner gave stays."""
    called = Conversation.objects.filter(pk=conversation_pk, title__in=set(gone) - {""})
    if not called.exists():
        return
    inputs = Message.objects.filter(conversation=conversation_pk, choice_index=None)
    in_order = inputs.order_by("depth", "pk")
    first = in_order.filter(role="user").first() or in_order.first()
    called.update(title=title_of_message(first) if first else "")


def title_of_message(message: Message) -> str:
    return title_of([NewMessage(message.role, message.content)])
