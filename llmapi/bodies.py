"""What the bodies of the door's routes share: how they are read, and the parameters of sampling and
streaming."""

from collections.abc import Mapping
from copy import copy
from functools import cache
from typing import Any, ClassVar, Self

from rest_framework import serializers

from llmapi.backends.base import GenerationOptions
from llmapi.fields import StrictBoolean, StrictFloat, StrictInteger, StrictString
from llmapi.keeping import Keeping
from llmapi.parameters import EarlyStoppingField, LogitBiasField, StopField, TokenIdsField
from llmapi.strict import StrictSerializer

MAX_CHOICES = 128
INT64 = 2**63 - 1
TAKEN_BY = {
    "messages": "/v1/chat/completions",
    "prompt": "/v1/completions",
    "input": "/v1/embeddings",
}
"""What a request is about, by which it can be told which route it was meant for."""


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
