"""What only the OpenAPI document needs: the shapes of answers, which `llmapi.payloads` builds, and
how drf-spectacular reads our strict fields."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from rest_framework import serializers as s


class StrictFieldSchema(OpenApiSerializerFieldExtension):
    target_class = "llmapi.fields.StrictField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = self.target.json_schema()
        return schema


class ErrorDetail(s.Serializer):
    message = s.CharField()
    type = s.CharField()
    param = s.CharField(allow_null=True)
    code = s.CharField(allow_null=True)


class ErrorResponse(s.Serializer):
    error = ErrorDetail()


class PromptTokensDetails(s.Serializer):
    cached_tokens = s.IntegerField(help_text="Found in the cache, and not computed again.")


class CompletionTokensDetails(s.Serializer):
    reasoning_tokens = s.IntegerField()


class Usage(s.Serializer):
    prompt_tokens = s.IntegerField()
    completion_tokens = s.IntegerField(help_text="All that were drawn, those of `best_of` too.")
    total_tokens = s.IntegerField()
    prompt_tokens_details = PromptTokensDetails()
    completion_tokens_details = CompletionTokensDetails()


class TopLogprob(s.Serializer):
    token = s.CharField(help_text="Part of a character as `\\xe5\\x95`.")
    logprob = s.FloatField()
    bytes = s.ListField(child=s.IntegerField(), allow_null=True)


class TokenLogprob(TopLogprob):
    top_logprobs = TopLogprob(many=True)


class ChatLogprobs(s.Serializer):
    content = TokenLogprob(many=True)
    refusal = s.JSONField(allow_null=True)


class TextLogprobs(s.Serializer):
    tokens = s.ListField(child=s.CharField())
    token_logprobs = s.ListField(child=s.FloatField(allow_null=True))
    top_logprobs = s.ListField(child=s.DictField(child=s.FloatField(), allow_null=True))
    text_offset = s.ListField(child=s.IntegerField())


class AnswerMessage(s.Serializer):
    role = s.CharField()
    content = s.CharField(allow_null=True)
    refusal = s.CharField(allow_null=True, required=False)


FINISH_REASONS = ["stop", "length"]


class ChatChoice(s.Serializer):
    index = s.IntegerField()
    message = AnswerMessage()
    logprobs = ChatLogprobs(allow_null=True, required=False)
    finish_reason = s.ChoiceField(FINISH_REASONS, required=False)


class ChatCompletionResponse(s.Serializer):
    id = s.CharField()
    object = s.CharField(help_text="`chat.completion`")
    created = s.IntegerField(help_text="Unix time in seconds.")
    model = s.CharField()
    choices = ChatChoice(many=True)
    usage = Usage()


class TextChoice(s.Serializer):
    index = s.IntegerField()
    text = s.CharField()
    logprobs = TextLogprobs(allow_null=True)
    finish_reason = s.ChoiceField(FINISH_REASONS)


class CompletionResponse(s.Serializer):
    id = s.CharField()
    object = s.CharField(help_text="`text_completion`")
    created = s.IntegerField(help_text="Unix time in seconds.")
    model = s.CharField()
    choices = TextChoice(many=True)
    usage = Usage()


class EmbeddingItem(s.Serializer):
    object = s.CharField(help_text="`embedding`")
    index = s.IntegerField()
    embedding = s.ListField(
        child=s.FloatField(), help_text="With `encoding_format: base64`: a string instead."
    )


class EmbeddingUsage(s.Serializer):
    prompt_tokens = s.IntegerField()
    total_tokens = s.IntegerField()


class EmbeddingResponse(s.Serializer):
    object = s.CharField(help_text="`list`")
    data = EmbeddingItem(many=True)  # type: ignore[assignment]
    model = s.CharField()
    usage = EmbeddingUsage()


class ModelAdapter(s.Serializer):
    name = s.CharField()
    rank = s.IntegerField(required=False, help_text="The largest of its ranks.")
    targets = s.ListField(
        child=s.CharField(), required=False, help_text="The projections that it changes."
    )


class ModelDetails(s.Serializer):
    context_length = s.IntegerField()
    parameters = s.IntegerField()
    dtype = s.CharField(help_text="Of the weights that are not quantised.")
    quantisation = s.CharField(allow_null=True)
    decoder = s.CharField(help_text="How the model is computed: `native`, `fused`, `generic`.")
    device = s.CharField()
    template = s.CharField(help_text="The chat template in force; `tokenizer`: the model's own.")
    adapter = ModelAdapter(
        allow_null=True, help_text="The LoRA adapter in its answers; of a merged one, the name."
    )
    alias_of = s.CharField(allow_null=True, help_text="The id of the model that answers.")


class ModelResponse(s.Serializer):
    id = s.CharField()
    object = s.CharField(help_text="`model`")
    created = s.IntegerField()
    owned_by = s.CharField()
    root = s.CharField(help_text="The id of the base model.")  # type: ignore[assignment]
    parent = s.CharField(  # type: ignore[assignment]
        allow_null=True, help_text="Of an adapter: the id of its base model."
    )
    llmapi = ModelDetails()


class ModelListResponse(s.Serializer):
    object = s.CharField(help_text="`list`")
    data = ModelResponse(many=True)  # type: ignore[assignment]


class ModelDeletedResponse(s.Serializer):
    id = s.CharField()
    object = s.CharField(help_text="`model`")
    deleted = s.BooleanField()


class AdapterResponse(s.Serializer):
    id = s.CharField()
    object = s.CharField(help_text="`adapter`")
    state = s.ChoiceField(["loading", "served", "failed"])
    message = s.CharField(allow_null=True, help_text="Why it failed.")
    source = s.ChoiceField(["settings", "staff"])  # type: ignore[assignment]
    path = s.CharField(allow_null=True, help_text="Below LLMAPI_ADAPTERS_DIR.")
    added_by = s.CharField(allow_null=True)
    created = s.IntegerField(allow_null=True)
    rank = s.IntegerField(allow_null=True)
    targets = s.ListField(child=s.CharField(), allow_null=True)
    bytes = s.IntegerField(allow_null=True, help_text="Memory that it takes.")


class AdapterListResponse(s.Serializer):
    object = s.CharField(help_text="`list`")
    data = AdapterResponse(many=True)  # type: ignore[assignment]


class HealthResponse(s.Serializer):
    status = s.CharField()
    reason = s.CharField(required=False)
