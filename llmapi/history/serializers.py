"""Bodies of the history's routes: labels, and items of conversations."""

from collections.abc import Mapping
from typing import Any, ClassVar

from rest_framework import serializers

from conversations.tree.said import NewMessage
from llmapi.fields import StrictString
from llmapi.parameters import ContentField, MetadataField
from llmapi.serializers import MessageSerializer
from llmapi.strict import StrictSerializer

MAX_ITEMS = 20


class LabelSerializer(StrictSerializer):
    metadata = MetadataField(
        required=True, allow_null=True, help_text="In place of all that there were; null: none."
    )


class ItemContentField(ContentField):
    """The content of an item: text, or text parts as the Responses API names them. Internal value:
    text, or (of several parts) what a chat calls them."""

    types = ("input_text", "output_text", "text")
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "annotations": ([], None),
        "logprobs": ([], None),
        "prompt_cache_breakpoint": (None,),
    }
    """What an item that was read here, or an SDK, has beside the text."""

    default_error_messages = {
        "part_type": "Parts of type '{type}' are not supported by this server; send "
        "{{'type': 'input_text'}} parts.",
        "part_keys": "The key '{extra}' of a text part is not supported by this server.",
    }

    def to_internal_value(self, data: Any) -> Any:
        texts = super().to_internal_value(data)
        if isinstance(texts, str):
            return texts
        # One part is stored as the plain text that a chat would send: equal words, equal history.
        return texts[0] if len(texts) == 1 else [{"type": "text", "text": t} for t in texts]

    def part(self, data: Any) -> str:
        if not isinstance(data, dict) or not isinstance(data.get("type"), str):
            self.fail("part")
        if data["type"] not in self.types:
            self.fail("part_type", type=data["type"][:40])
        if "text" not in data:
            self.fail("part")
        for key, value in data.items():
            if key not in ("type", "text") and value not in self.neutral.get(key, ()):
                self.fail("part_keys", extra=str(key)[:40])
        return self.text.run_validation(data["text"])


class ItemsSerializer(serializers.ListSerializer):
    """Items, none of which is null: `allow_null` is of the list, and DRF hands it on."""

    def run_child_validation(self, data: Any) -> Any:
        if data is None:
            raise serializers.ValidationError({"non_field_errors": ["May not be null."]})
        return super().run_child_validation(data)


class ItemSerializer(StrictSerializer):
    """One message. Everything else that the Responses API calls an item is refused by name."""

    neutral = {"phase": ()}

    type = StrictString(help_text="`message`, which it is if left out.")
    role = StrictString(required=True, choices=MessageSerializer.roles)
    content = ItemContentField(required=True, help_text="Text, or an array of text parts.")
    id = StrictString(max_length=200, help_text="Not kept: each item gets an id of its own here.")
    status = StrictString(choices=("completed", "incomplete", "in_progress"), help_text="Not kept.")

    def to_internal_value(self, data: Any) -> Any:
        # Before its keys are: of a tool's call it is the type that says what is wrong.
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "message":
            raise serializers.ValidationError(
                {"type": [f"Items of type '{kind[:40]}' are not supported by this server."]},
                code="unsupported_parameter",
            )
        return super().to_internal_value(data)

    class Meta:
        list_serializer_class = ItemsSerializer


HOW_MANY: dict[str, Any] = {
    "empty": "Must hold at least one item.",
    "max_length": "May hold {max_length} items at most; add the others by further calls.",
}


class NewConversationSerializer(StrictSerializer):
    metadata = MetadataField(help_text="Labels of your own.")
    items = ItemSerializer(  # type: ignore[call-arg]  # goes to DRF's ListSerializer
        many=True,
        required=False,
        allow_null=True,
        max_length=MAX_ITEMS,
        error_messages=HOW_MANY,
    )


class NewItemsSerializer(StrictSerializer):
    items = ItemSerializer(  # type: ignore[call-arg]
        many=True,
        required=True,
        allow_empty=False,
        max_length=MAX_ITEMS,
        error_messages=HOW_MANY,
    )


def messages_of(items: list[dict[str, Any]] | None) -> list[NewMessage]:
    return [NewMessage(item["role"], item["content"]) for item in items or ()]
