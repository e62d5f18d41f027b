"""What a conversation is called: at first by its own first words, later as its owner likes."""

from conversations.models import Conversation

LONGEST_TITLE = 200


def conversation_rename(conversation: Conversation, title: str) -> None:
    """Gives it another title, in one line. That is no turn of the chat: its place in lists stays,
    and so does its review."""
    title = " ".join(title.split())[:LONGEST_TITLE]
    Conversation.objects.filter(pk=conversation.pk).update(title=title)
