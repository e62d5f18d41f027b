"""The requests of the door: what each route takes, with bounds, and what it refuses by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rest_framework import serializers

from llmapi.backends.base import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationOptions,
)
from llmapi.bodies import MAX_CHOICES, GenerationSerializer, RequestSerializer
from llmapi.fields import StrictBoolean, StrictInteger, StrictString
from llmapi.keeping import Keeping
from llmapi.parameters import ContentField, ConversationField, MetadataField, PromptsField
from llmapi.strict import StrictSerializer

MAX_BEST_OF = 20
MAX_LOGPROBS = 20


class MessageSerializer(StrictSerializer):
    """One message: OpenAI's (`content`) or the seed's (`message`)."""

    neutral = {
        "refusal": (),
        "annotations": ([],),
        "audio": (),
        "function_call": (),
        "tool_calls": ([],),
        "tool_call_id": (),
    }
    roles = ("system", "developer", "user", "assistant")
    unsupported_roles = ("tool", "function")

    role = StrictString(required=True, choices=roles)
    content = ContentField(help_text="Text, or an array of text parts.")
    message = ContentField(
        help_text="The seed's name of `content`; its shape of answer goes with it."
    )
    name = StrictString(max_length=64, help_text="Handed to the model's chat template.")

    def to_internal_value(self, data: Any) -> Any:
        # Before its keys are: of the result of a tool it is the role that says what is wrong.
        role = data.get("role") if isinstance(data, dict) else None
        if role in self.unsupported_roles:
            raise serializers.ValidationError(
                {"role": [f"Messages of role '{role}' are not supported by this server."]},
                code="unsupported_parameter",
            )
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        given = [key for key in ("content", "message") if attrs.get(key) is not None]
        if len(given) == 2:
            raise serializers.ValidationError(
                {"message": ["May not stand beside 'content': send one of the two."]}
            )
        if not given:
            raise serializers.ValidationError({"content": ["This field is required."]})
        return attrs


class ChatCompletionSerializer(GenerationSerializer):
    neutral = {
        **GenerationSerializer.neutral,
        "best_of": (1,),
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "web_search_options": (),
        "safety_identifier": (),
        "prompt_cache_key": (),
    }
    # max_length is checked before the messages are: a million of them costs nothing.
    messages = MessageSerializer(  # type: ignore[call-arg]  # goes to DRF's ListSerializer
        many=True,
        required=True,
        allow_empty=False,
        max_length=4096,
        error_messages={
            "empty": "Must hold at least one message.",
            "max_length": "May hold {max_length} messages at most.",
        },
    )
    max_completion_tokens = StrictInteger(
        minimum=1, maximum=2**31 - 1, help_text="The newer name of max_tokens."
    )
    logprobs = StrictBoolean(help_text="Tell the log probability of each token of the answer.")
    top_logprobs = StrictInteger(
        minimum=0,
        maximum=MAX_LOGPROBS,
        help_text="And those of so many most probable tokens at its place; with `logprobs` only.",
    )
    metadata = MetadataField(
        help_text="Labels of your own, to find the chat by in `GET /v1/chat/completions`."
    )
    store = StrictBoolean(
        help_text="Whether `GET /v1/chat/completions` lists it. Left out: the server's setting."
    )
    conversation = ConversationField(
        help_text="Go on with this conversation: what was said in it goes before `messages`."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("max_tokens") is not None and attrs.get("max_completion_tokens") is not None:
            raise serializers.ValidationError(
                {"max_tokens": ["Send 'max_completion_tokens' or 'max_tokens', not both."]}
            )
        if attrs.get("store") is False and attrs.get("conversation") is not None:
            raise serializers.ValidationError(
                {"store": ["May not be false with 'conversation', to which the answer is added."]}
            )
        if attrs.get("top_logprobs") and not attrs.get("logprobs"):
            raise serializers.ValidationError(
                {"top_logprobs": ["'top_logprobs' goes with 'logprobs': true only."]}
            )
        return super().validate(attrs)

    @property
    def options(self) -> GenerationOptions:
        sent = self.validated_data
        logprobs = (sent.get("top_logprobs") or 0) if sent.get("logprobs") else None
        return replace(super().options, logprobs=logprobs)

    @property
    def keeping(self) -> Keeping:
        sent = self.validated_data
        return Keeping(sent.get("metadata") or {}, sent.get("store"), sent.get("conversation"))

    def to_request(self) -> ChatRequest:
        sent = self.validated_data
        return ChatRequest(
            messages=tuple(
                ChatMessage(
                    role=message["role"],
                    content=content_of(message),
                    name=message.get("name") or "",
                )
                for message in sent["messages"]
            ),
            options=self.options,
            model=sent.get("model"),
            seed_dialect=any(message.get("message") is not None for message in sent["messages"]),
        )


def content_of(message: Mapping[str, Any]) -> Any:
    content = message.get("content")
    return content if content is not None else message["message"]


class CompletionSerializer(GenerationSerializer):
    neutral = {
        **GenerationSerializer.neutral,
        "suffix": ("",),
    }

    max_tokens = StrictInteger(
        minimum=0,
        maximum=2**31 - 1,
        help_text="New tokens at most; 0 with `echo` only. Left out: the server's default. "
        "Never more than the context leaves.",
    )
    prompt = PromptsField(required=True, max_items=MAX_CHOICES)
    template = StrictString(
        choices=("auto", "none"),
        help_text="`auto` wraps a text prompt in the model's instruction template, `none` "
        "continues it raw. Left out: the server's setting.",
    )
    echo = StrictBoolean(
        help_text="Put the prompt in front of the answer; the prompt is continued raw. With "
        "`logprobs`, its tokens are told too."
    )
    logprobs = StrictInteger(
        minimum=0,
        maximum=MAX_LOGPROBS,
        help_text="Tell each token's log probability, and those of so many most probable ones.",
    )
    best_of = StrictInteger(
        minimum=1,
        maximum=MAX_BEST_OF,
        help_text="Write so many answers and send the `n` most probable; all of them count.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        n, best_of = attrs.get("n") or 1, attrs.get("best_of")
        if best_of is not None and best_of < n:
            raise serializers.ValidationError({"best_of": [f"Must be at least 'n' ({n})."]})
        if best_of is not None and best_of > n and attrs.get("stream"):
            raise serializers.ValidationError(
                {
                    "best_of": [
                        "May not be more than 'n' in a stream: the best is known at the end only."
                    ]
                }
            )
        if len(attrs["prompt"]) * max(n, best_of or 1) > MAX_CHOICES:
            name = "best_of" if best_of is not None and best_of > n else "n"
            raise serializers.ValidationError(
                {name: [f"'prompt' times '{name}' may be {MAX_CHOICES} choices at most."]}
            )
        if attrs.get("max_tokens") == 0 and not attrs.get("echo"):
            raise serializers.ValidationError(
                {"max_tokens": ["Must be at least 1; only with 'echo' may it be 0."]}
            )
        if attrs.get("echo") and attrs.get("template") == "auto":
            raise serializers.ValidationError(
                {"template": ["With 'echo' the prompt is continued raw: leave 'template' out."]}
            )
        return super().validate(attrs)

    def to_request(self) -> CompletionRequest:
        sent = self.validated_data
        return CompletionRequest(
            sent["prompt"], self.options, sent.get("model"), sent.get("template")
        )


class EmbeddingSerializer(RequestSerializer):
    kept = ("user", "encoding_format")

    model = StrictString(
        allow_empty=False,
        max_length=200,
        help_text="A model of /v1/models. Left out: the served model answers.",
    )
    input = PromptsField(required=True, max_items=2048)
    encoding_format = StrictString(choices=("float", "base64"))
    dimensions = StrictInteger(
        minimum=1, maximum=2**31 - 1, help_text="Keep this many numbers, normalised again."
    )
    user = StrictString(max_length=200, help_text="Your own id of the end user; kept with the row.")

    @property
    def as_base64(self) -> bool:
        return self.validated_data.get("encoding_format") == "base64"

    def to_request(self) -> EmbeddingRequest:
        sent = self.validated_data
        return EmbeddingRequest(sent["input"], sent.get("model"), sent.get("dimensions"))
