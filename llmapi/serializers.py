"""The requests of the door: what each route takes, with bounds, and what it refuses by name.

Every field has one of three fates, which `StrictSerializer` keeps: a declared field is honoured;
one in `neutral` is accepted at the values given there, where it changes nothing, and refused at any
other; a name that is in neither is unknown. docs/parameters.md shows the table, and a test walks
it.
"""

import difflib
import json
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Self

from rest_framework import serializers

from llmapi.backends.base import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationOptions,
)
from llmapi.fields import StrictBoolean, StrictFloat, StrictInteger, StrictString, type_name
from llmapi.keeping import Keeping
from llmapi.parameters import (
    ContentField,
    ConversationField,
    EarlyStoppingField,
    LogitBiasField,
    MetadataField,
    PromptsField,
    StopField,
    TokenIdsField,
)

MAX_CHOICES = 128
MAX_BEST_OF = 20
MAX_LOGPROBS = 20
INT64 = 2**63 - 1
NEUTRAL = Mapping[str, tuple[Any, ...]]
TAKEN_BY = {
    "messages": "/v1/chat/completions",
    "prompt": "/v1/completions",
    "input": "/v1/embeddings",
}
"""What a request is about, by which it can be told which route it was meant for."""


class StrictListSerializer(serializers.ListSerializer):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, list):
            message = f"Must be an array, not {type_name(data)}."
            raise serializers.ValidationError({"non_field_errors": [message]})
        return super().to_internal_value(data)


class StrictSerializer(serializers.Serializer):
    """A serializer in which nothing vanishes: unknown and unsupported keys are errors that name
    them."""

    neutral: ClassVar[NEUTRAL] = {}
    """Parameter -> the values at which it changes nothing (null always is one)."""

    class Meta:
        list_serializer_class = StrictListSerializer

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            message = f"Must be an object, not {type_name(data)}."
            raise serializers.ValidationError({"non_field_errors": [message]})
        for key, value in data.items():
            if key not in self.fields:
                self.check_fate(key, value)
        return super().to_internal_value(data)

    def check_fate(self, key: str, value: Any) -> None:
        shown = key[:100]
        if key not in self.neutral:
            message = f"Unknown parameter: '{shown}'. {self.hint(shown)}".rstrip()
            raise serializers.ValidationError({shown: [message]}, code="unknown_parameter")
        neutral = self.neutral[key]
        # type() too, for 0 == False and 1 == True
        if value is None or any(type(value) is type(n) and value == n for n in neutral):
            return
        accepted = " or ".join(["null", *map(json.dumps, neutral)])
        message = f"'{key}' is not supported by this server; leave it out (or send {accepted})."
        raise serializers.ValidationError({key: [message]}, code="unsupported_parameter")

    def hint(self, unknown: str) -> str:
        """What may have been meant by a parameter that there is not."""
        nearest = difflib.get_close_matches(unknown, [*self.fields, *self.neutral], n=1)
        return f"Did you mean '{nearest[0]}'?" if nearest else ""


class RequestSerializer(StrictSerializer):
    """The body of one route of the door."""

    kept: ClassVar[tuple[str, ...]] = ("user",)
    """Parameters that are kept with the row as sent."""

    @classmethod
    def read(cls, body: Any) -> Self:
        """The serializer of this body, which was found valid. Raises ValidationError."""
        serializer = copy(cls._blank())
        serializer.initial_data = body
        serializer.is_valid(raise_exception=True)
        return serializer

    @classmethod
    @cache
    def _blank(cls) -> Self:
        """What all serializers of this class are copies of, with the fields that they share: to
        make those anew takes as long as to check a body. Nothing of a body is kept in a field."""
        blank = cls(data=None)
        assert blank.fields
        return blank

    def hint(self, unknown: str) -> str:
        route = TAKEN_BY.get(unknown)
        return f"{route} takes it." if route else super().hint(unknown)

    @property
    def streamed(self) -> bool:
        return bool(self.validated_data.get("stream"))

    @property
    def kept_parameters(self) -> dict[str, Any]:
        sent = self.validated_data
        return {name: sent[name] for name in self.kept if sent.get(name) is not None}

    @property
    def keeping(self) -> Keeping:
        return Keeping()


class StreamOptionsSerializer(StrictSerializer):
    neutral = {"include_obfuscation": (False,)}

    include_usage = StrictBoolean()


class GenerationSerializer(RequestSerializer):
    """What chat and completion share: the parameters of sampling, and of streaming."""

    neutral = {"service_tier": ("auto", "default")}

    model = StrictString(
        allow_empty=False,
        max_length=200,
        help_text="A model of /v1/models. Left out: the served model answers.",
    )
    max_tokens = StrictInteger(
        minimum=1,
        maximum=2**31 - 1,
        help_text="New tokens at most. Left out: the server's default. Never more than the context "
        "leaves.",
    )
    temperature = StrictFloat(minimum=0, maximum=2, help_text="0 is greedy.")
    top_p = StrictFloat(minimum=0, maximum=1)
    top_k = StrictInteger(minimum=0, maximum=1_000_000, help_text="0 switches it off.")
    min_p = StrictFloat(
        minimum=0,
        maximum=1,
        help_text="Cuts off tokens below this share of the best one's probability.",
    )
    repetition_penalty = StrictFloat(
        minimum=0.01, maximum=10, help_text="Over prompt and answer. 1 switches it off."
    )
    frequency_penalty = StrictFloat(
        minimum=-2, maximum=2, help_text="For each time that the answer has the token already."
    )
    presence_penalty = StrictFloat(
        minimum=-2, maximum=2, help_text="Once, if the answer has the token already."
    )
    logit_bias = LogitBiasField(
        help_text='Token id as a string -> -100 to 100, added to its logit: `{"42": -100}`.'
    )
    do_sample = StrictBoolean(help_text="false: greedy, or plain beam search.")
    num_beams = StrictInteger(
        minimum=1, maximum=16, help_text="More than 1: beam search with so many."
    )
    length_penalty = StrictFloat(
        minimum=-10,
        maximum=10,
        help_text="Beam search only: above 0 favours long answers, below 0 short ones.",
    )
    early_stopping = EarlyStoppingField(
        help_text="Beam search only: when to stop, as transformers defines it."
    )
    n = StrictInteger(minimum=1, maximum=MAX_CHOICES, help_text="Choices for each prompt.")
    seed = StrictInteger(minimum=-INT64 - 1, maximum=INT64)
    stop = StopField(help_text="Up to four strings; the answer ends before the first of them.")
    stop_token_ids = TokenIdsField(
        help_text="The answer ends at the first of these, as at an end token."
    )
    min_tokens = StrictInteger(
        minimum=0,
        maximum=2**31 - 1,
        help_text="No end token and no stop_token_ids before so many; `stop` ends all the same.",
    )
    ignore_eos = StrictBoolean(help_text="End tokens are drawn like any other and end nothing.")
    stream = StrictBoolean(help_text="Send the answer as server-sent events.")
    stream_options = StreamOptionsSerializer(required=False, allow_null=True)
    user = StrictString(max_length=200, help_text="Your own id of the end user; kept with the row.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("stream_options") is not None and not attrs.get("stream"):
            raise serializers.ValidationError(
                {"stream_options": ["'stream_options' goes with 'stream': true only."]}
            )
        check_beams(attrs)
        limit = attrs.get("max_completion_tokens") or attrs.get("max_tokens")
        if limit is not None and (attrs.get("min_tokens") or 0) > limit:
            raise serializers.ValidationError(
                {"min_tokens": [f"May not be more than 'max_tokens' ({limit})."]}
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


def check_beams(attrs: Mapping[str, Any]) -> None:
    """What goes with beam search, and what only with it."""
    num_beams, n = attrs.get("num_beams") or 1, attrs.get("n") or 1
    if num_beams == 1:
        for name, neutral in (("length_penalty", 1), ("early_stopping", False)):
            if attrs.get(name) not in (None, neutral):
                raise serializers.ValidationError(
                    {name: [f"'{name}' is for beam search: it goes with 'num_beams' above 1."]}
                )
        return
    if n > num_beams:
        raise serializers.ValidationError(
            {"n": [f"With beam search 'n' may be 'num_beams' ({num_beams}) at most."]}
        )
    for name, asked in (
        ("best_of", (attrs.get("best_of") or 1) > n),
        # A completion's logprobs may be 0, which asks for something; a chat's false does not.
        ("logprobs", attrs.get("logprobs") is not None and attrs["logprobs"] is not False),
    ):
        if asked:
            raise serializers.ValidationError(
                {name: [f"'{name}' does not go with beam search ('num_beams' above 1)."]}
            )


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

    role = StrictString(required=True)
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

    def validate_role(self, role: str) -> str:
        if role not in self.roles:
            known = ", ".join(f"'{known}'" for known in self.roles)
            raise serializers.ValidationError(f"Must be one of: {known}.")
        return role

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
        max_length=4096,
        error_messages={"max_length": "May hold {max_length} messages at most."},
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

    def validate_messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not messages:
            raise serializers.ValidationError("Must hold at least one message.")
        return messages

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
