"""What only the OpenAPI document needs: the shapes of answers, which `llmapi.payloads` builds, and
how drf-spectacular reads our strict fields."""

from typing import Any

from drf_spectacular.extensions import (
    OpenApiSerializerExtension,
    OpenApiSerializerFieldExtension,
)
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers as s


class StrictFieldSchema(OpenApiSerializerFieldExtension):
    target_class = "llmapi.fields.StrictField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = self.target.json_schema()
        return schema


class StrictSerializerSchema(OpenApiSerializerExtension):
    """What the serializer's fields do not say: that there are no others, and which are accepted
    where they change nothing."""

    target_class = "llmapi.strict.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = auto_schema._map_basic_serializer(self.target, direction)
        properties = schema["properties"]
        for name, values in self.target.neutral.items():
            # Not one `enum`, of which drf-spectacular makes a component with a name.
            properties[name] = {
                "oneOf": [{"enum": [value]} for value in values or (None,)],
                "nullable": True,
                "description": "Accepted where it changes nothing.",
            }
        for name, field in self.target.fields.items():
            if isinstance(field, s.ListSerializer):
                properties[name]["maxItems"] = getattr(field, "max_length", None)
                properties[name]["minItems"] = 0 if field.allow_empty else 1
        return schema | {"additionalProperties": False}


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


@extend_schema_field(
    {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
)
class Said(s.JSONField):
    """Text; or, of a message of the request that the seed's shape repeats, its parts."""


class AnswerMessage(s.Serializer):
    role = s.CharField()
    content = Said(allow_null=True)
    refusal = s.CharField(allow_null=True, required=False)


FINISH_REASONS = ["stop", "length"]


class ChatChoice(s.Serializer):
    index = s.IntegerField()
    message = AnswerMessage()
    logprobs = ChatLogprobs(allow_null=True, required=False)
    finish_reason = s.ChoiceField(FINISH_REASONS, required=False)


class ConversationName(s.Serializer):
    id = s.CharField()


class ChatCompletionResponse(s.Serializer):
    id = s.CharField()
    object = s.CharField(help_text="`chat.completion`")
    created = s.IntegerField(help_text="Unix time in seconds.")
    model = s.CharField()
    choices = ChatChoice(many=True)
    usage = Usage()
    metadata = s.DictField(child=s.CharField(), required=False, help_text="The request's own.")
    conversation = ConversationName(
        required=False, help_text="Which conversation it is a part of; not of what is not stored."
    )


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


@extend_schema_field(
    {"oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
)
class Vector(s.JSONField):
    """Numbers, or their bytes in base64."""


class EmbeddingItem(s.Serializer):
    object = s.CharField(help_text="`embedding`")
    index = s.IntegerField()
    embedding = Vector(help_text="With `encoding_format: base64`: a string instead.")


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
    """Of the echo backend, which has no model, `alias_of` alone."""

    context_length = s.IntegerField(required=False)
    parameters = s.IntegerField(required=False)
    dtype = s.CharField(required=False, help_text="Of the weights that are not quantised.")
    quantisation = s.CharField(required=False, allow_null=True)
    decoder = s.CharField(
        required=False, help_text="How the model is computed: `native`, `fused`, `generic`."
    )
    device = s.CharField(required=False)
    template = s.CharField(
        required=False, help_text="The chat template in force; `tokenizer`: the model's own."
    )
    adapter = ModelAdapter(
        required=False,
        allow_null=True,
        help_text="The LoRA adapter in its answers; of a merged one, the name.",
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


class NoteResponse(s.Serializer):
    note = s.CharField(help_text="Why the list is empty.")


class ModelListResponse(s.Serializer):
    object = s.CharField(help_text="`list`")
    data = ModelResponse(many=True)  # type: ignore[assignment]
    llmapi = NoteResponse(required=False)


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


class ListResponse(s.Serializer):
    object = s.CharField(help_text="`list`")
    first_id = s.CharField(allow_null=True)
    last_id = s.CharField(allow_null=True)
    has_more = s.BooleanField()


class StoredChatDetails(s.Serializer):
    status = s.ChoiceField(["running", "completed", "cancelled", "interrupted", "failed"])
    error = s.CharField(allow_null=True)
    parameters = s.DictField(help_text="Those in force, defaults filled in.")
    first_token_ms = s.IntegerField(allow_null=True)
    duration_ms = s.IntegerField(allow_null=True)


class StoredChatResponse(ChatCompletionResponse):
    request_id = s.CharField()
    service_tier = s.CharField()
    system_fingerprint = s.CharField(allow_null=True)
    input_user = s.CharField(allow_null=True)
    tools = s.JSONField(allow_null=True)
    tool_choice = s.JSONField(allow_null=True)
    response_format = s.JSONField(allow_null=True)
    temperature = s.FloatField(allow_null=True)
    top_p = s.FloatField(allow_null=True)
    presence_penalty = s.FloatField(allow_null=True)
    frequency_penalty = s.FloatField(allow_null=True)
    seed = s.IntegerField(allow_null=True)
    llmapi = StoredChatDetails()


class StoredChatListResponse(ListResponse):
    data = StoredChatResponse(many=True)  # type: ignore[assignment]


class StoredMessage(s.Serializer):
    id = s.CharField()
    role = s.CharField()
    content = s.CharField()
    name = s.CharField(allow_null=True)
    refusal = s.CharField(allow_null=True)
    content_parts = s.ListField(child=s.DictField(), allow_null=True)


class StoredMessageListResponse(ListResponse):
    data = StoredMessage(many=True)  # type: ignore[assignment]


class DeletedResponse(s.Serializer):
    id = s.CharField()
    object = s.CharField()
    deleted = s.BooleanField()


class ConversationDetails(s.Serializer):
    title = s.CharField()
    updated_at = s.IntegerField()


class ConversationResponse(s.Serializer):
    id = s.CharField()
    object = s.CharField(help_text="`conversation`")
    created_at = s.IntegerField(help_text="Unix time in seconds.")
    metadata = s.DictField(child=s.CharField())
    llmapi = ConversationDetails()


class ConversationListResponse(ListResponse):
    data = ConversationResponse(many=True)  # type: ignore[assignment]


class ItemPart(s.Serializer):
    type = s.ChoiceField(["input_text", "output_text"])
    text = s.CharField()


class ItemResponse(s.Serializer):
    id = s.CharField()
    type = s.CharField(help_text="`message`")
    role = s.CharField()
    status = s.ChoiceField(["completed", "incomplete"])
    content = ItemPart(many=True)


class ItemListResponse(ListResponse):
    data = ItemResponse(many=True)  # type: ignore[assignment]


class UsageResult(s.Serializer):
    object = s.CharField(help_text="`organization.usage.completions.result`")
    input_tokens = s.IntegerField()
    input_cached_tokens = s.IntegerField(help_text="Of these, not computed again.")
    output_tokens = s.IntegerField()
    num_model_requests = s.IntegerField()
    num_failed_requests = s.IntegerField(help_text="Interrupted by the server's end too.")
    num_cancelled_requests = s.IntegerField()
    mean_duration_ms = s.FloatField(allow_null=True)
    mean_first_token_ms = s.FloatField(allow_null=True)
    model = s.CharField(allow_null=True, help_text="This and the next: null if not grouped by.")
    api_key_id = s.CharField(allow_null=True, help_text="The key's public id.")
    user_id = s.CharField(allow_null=True, help_text="The user's name.")
    kind = s.ChoiceField(["chat", "completion", "embedding"], allow_null=True)


class UsageBucket(s.Serializer):
    object = s.CharField(help_text="`bucket`")
    start_time = s.IntegerField(help_text="Unix time in seconds.")
    end_time = s.IntegerField()
    results = UsageResult(many=True, help_text="Empty where nothing was used.")


class UsagePageResponse(s.Serializer):
    object = s.CharField(help_text="`page`")
    data = UsageBucket(many=True)  # type: ignore[assignment]
    has_more = s.BooleanField()
    next_page = s.CharField(allow_null=True, help_text="What `page` takes for the next one.")


class HealthResponse(s.Serializer):
    status = s.CharField()
    reason = s.CharField(required=False)
