"""The requests of the door: what each route takes, with bounds, and what it refuses by name.

Every field has one of three fates, which `StrictSerializer` keeps: a declared field is honoured;
one in `neutral` is accepted at the values given there, where it changes nothing, and refused at any
other; a name that is in neither is unknown. docs/parameters.md shows the table, and a test walks
it.
"""

import difflib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from rest_framework import serializers

from llmapi.backends.base import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationOptions,
)
from llmapi.fields import (
    ContentField,
    PromptsField,
    StopField,
    StrictBoolean,
    StrictFloat,
    StrictInteger,
    StrictString,
    type_name,
)

MAX_CHOICES = 128
INT64 = 2**63 - 1
NEUTRAL = Mapping[str, tuple[Any, ...]]


class StrictSerializer(serializers.Serializer):
    """A serializer in which nothing vanishes: unknown and unsupported keys are errors that name
    them."""

    neutral: ClassVar[NEUTRAL] = {}
    """Parameter -> the values at which it changes nothing (null always is one)."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            message = f"Expected an object, but got {type_name(data)}."
            raise serializers.ValidationError({"non_field_errors": [message]})
        for key, value in data.items():
            if key not in self.fields:
                self.check_fate(key, value)
        return super().to_internal_value(data)

    def check_fate(self, key: str, value: Any) -> None:
        shown = key[:100]
        if key not in self.neutral:
            nearest = difflib.get_close_matches(shown, [*self.fields, *self.neutral], n=1)
            hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
            raise serializers.ValidationError(
                {shown: [f"Unknown parameter: '{shown}'.{hint}"]}, code="unknown_parameter"
            )
        neutral = self.neutral[key]
        # type() too, for 0 == False and 1 == True
        if value is None or any(type(value) is type(n) and value == n for n in neutral):
            return
        accepted = " or ".join(["null", *map(json.dumps, neutral)])
        raise serializers.ValidationError(
            {key: [f"'{key}' is not supported by this server; leave it out (or send {accepted})."]},
            code="unsupported_parameter",
        )


class RequestSerializer(StrictSerializer):
    """The body of one route of the door."""

    kept: ClassVar[tuple[str, ...]] = ("user",)
    """Parameters that are kept with the row as sent."""

    @property
    def streamed(self) -> bool:
        return bool(self.validated_data.get("stream"))

    @property
    def kept_parameters(self) -> dict[str, Any]:
        sent = self.validated_data
        return {name: sent[name] for name in self.kept if sent.get(name) is not None}


class StreamOptionsSerializer(StrictSerializer):
    neutral = {"include_obfuscation": (False,)}

    include_usage = StrictBoolean()


class GenerationSerializer(RequestSerializer):
    """What chat and completion share: the parameters of sampling, and of streaming."""

    neutral = {
        "frequency_penalty": (0, 0.0),
        "presence_penalty": (0, 0.0),
        "logit_bias": ({},),
        "min_p": (0, 0.0),
        "length_penalty": (1, 1.0),
        "early_stopping": (False,),
        "ignore_eos": (False,),
        "min_tokens": (0,),
        "stop_token_ids": ([],),
        "service_tier": ("auto", "default"),
    }

    model = StrictString(
        allow_empty=False,
        max_length=200,
        help_text="A model of /v1/models. Left out: the served model answers.",
    )
    max_tokens = StrictInteger(
        minimum=1,
        maximum=2**31 - 1,
        help_text="New tokens at most. Left out: 512. Never more than the context leaves.",
    )
    temperature = StrictFloat(minimum=0, maximum=2, help_text="0 is greedy.")
    top_p = StrictFloat(minimum=0, maximum=1)
    top_k = StrictInteger(minimum=0, maximum=1_000_000, help_text="0 switches it off.")
    repetition_penalty = StrictFloat(minimum=0.01, maximum=10, help_text="1 switches it off.")
    do_sample = StrictBoolean(help_text="false: greedy, or plain beam search.")
    num_beams = StrictInteger(
        minimum=1, maximum=16, help_text="More than 1: beam search; it stalls other requests."
    )
    n = StrictInteger(minimum=1, maximum=MAX_CHOICES, help_text="Choices for each prompt.")
    seed = StrictInteger(minimum=-INT64 - 1, maximum=INT64)
    stop = StopField(help_text="Up to four strings; the answer ends before the first of them.")
    stream = StrictBoolean(help_text="Send the answer as server-sent events.")
    stream_options = StreamOptionsSerializer(required=False, allow_null=True)
    user = StrictString(max_length=200, help_text="Your own id of the end user; kept with the row.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("stream_options") is not None and not attrs.get("stream"):
            raise serializers.ValidationError(
                {"stream_options": ["'stream_options' goes with 'stream': true only."]}
            )
        num_beams, n = attrs.get("num_beams") or 1, attrs.get("n") or 1
        if 1 < num_beams < n:
            raise serializers.ValidationError(
                {"n": [f"With beam search 'n' may be 'num_beams' ({num_beams}) at most."]}
            )
        return attrs

    @property
    def include_usage(self) -> bool:
        return bool((self.validated_data.get("stream_options") or {}).get("include_usage"))

    @property
    def options(self) -> GenerationOptions:
        sent = self.validated_data
        names = GenerationOptions.__dataclass_fields__
        options = {name: sent[name] for name in names if sent.get(name) is not None}
        if sent.get("max_completion_tokens") is not None:
            options["max_tokens"] = sent["max_completion_tokens"]
        return GenerationOptions(**options)


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

    role = StrictString(required=True)
    content = ContentField(help_text="Text, or an array of text parts.")
    message = ContentField(
        help_text="The seed's name of `content`; its shape of answer goes with it."
    )
    name = StrictString(max_length=64, help_text="Handed to the model's chat template.")

    def validate_role(self, role: str) -> str:
        if role in ("tool", "function"):
            raise serializers.ValidationError(
                f"Messages of role '{role}' are not supported by this server.",
                code="unsupported_parameter",
            )
        if role not in self.roles:
            known = ", ".join(f"'{known}'" for known in self.roles)
            raise serializers.ValidationError(f"Must be one of: {known}.")
        return role

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        given = [key for key in ("content", "message") if attrs.get(key) is not None]
        if len(given) == 2:
            raise serializers.ValidationError(
                {"message": ["Send 'content' or the older 'message', not both."]}
            )
        if not given:
            raise serializers.ValidationError({"content": ["This field is required."]})
        return attrs


class ChatCompletionSerializer(GenerationSerializer):
    neutral = {
        **GenerationSerializer.neutral,
        "best_of": (1,),
        "logprobs": (False,),
        "top_logprobs": (0,),
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
        "metadata": ({},),
        "store": (True,),
        "safety_identifier": (),
        "prompt_cache_key": (),
    }
    # max_length is checked before the messages are: a million of them costs nothing.
    messages = MessageSerializer(  # type: ignore[call-arg]  # goes to DRF's ListSerializer
        many=True,
        required=True,
        max_length=4096,
        error_messages={"max_length": "May hold {max_length} messages at most."},
    )
    max_completion_tokens = StrictInteger(
        minimum=1, maximum=2**31 - 1, help_text="The newer name of max_tokens."
    )

    def validate_messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not messages:
            raise serializers.ValidationError("At least one message is needed.")
        return messages

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("max_tokens") is not None and attrs.get("max_completion_tokens") is not None:
            raise serializers.ValidationError(
                {"max_tokens": ["Send 'max_completion_tokens' or 'max_tokens', not both."]}
            )
        return super().validate(attrs)

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
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
        "logprobs": (),
    }

    prompt = PromptsField(required=True, max_items=MAX_CHOICES)
    template = StrictString(
        choices=("auto", "none"),
        help_text="`auto` wraps a text prompt in the model's instruction template, `none` "
        "continues it raw. Left out: the server's setting.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(attrs["prompt"]) * (attrs.get("n") or 1) > MAX_CHOICES:
            raise serializers.ValidationError(
                {"n": [f"'prompt' times 'n' may be {MAX_CHOICES} choices at most."]}
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
