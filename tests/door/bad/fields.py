"""Fields that are wrong, on each route that takes a body."""

from collections.abc import Iterator
from typing import Any

from llmapi.adapter_views import NewAdapterSerializer
from llmapi.fields import StrictBoolean, StrictInteger, StrictNumber, StrictString
from llmapi.history.serializers import (
    LabelSerializer,
    NewConversationSerializer,
    NewItemsSerializer,
)
from llmapi.serializers import (
    ChatCompletionSerializer,
    CompletionSerializer,
    EmbeddingSerializer,
)
from llmapi.strict import StrictSerializer
from tests.door.bad.line import (
    ADAPTERS,
    CHAT,
    COMPLETIONS,
    CONVERSATION,
    CONVERSATIONS,
    EMBEDDINGS,
    HELLO,
    ITEM,
    ITEMS,
    ONE_CHAT,
    Bad,
    bad,
)

UNKNOWN, UNSUPPORTED = "unknown_parameter", "unsupported_parameter"
TOO_LONG = "context_length_exceeded"
MESSAGE, PART = "messages[1]", "content[0]"


def chat(param: str, value: Any, code: str | None = None, *, at: str | None = None, **more: Any):
    """A chat with a parameter that is wrong; `at`: where in it."""
    return bad(CHAT, {"messages": HELLO, param: value, **more}, at or param, code)


def said(message: Any, param: str, code: str | None = None) -> Bad:
    """A chat whose second message is wrong."""
    return bad(CHAT, {"messages": [HELLO[0], message]}, param, code)


def content(value: Any, param: str = f"{MESSAGE}.content") -> Bad:
    return said({"role": "user", "content": value}, param)


def text(param: str, value: Any, code: str | None = None, **more: Any) -> Bad:
    """A completion with a parameter that is wrong."""
    return bad(COMPLETIONS, {"prompt": "a", param: value, **more}, param, code)


def prompt(value: Any, param: str = "prompt", code: str | None = None) -> Bad:
    return bad(COMPLETIONS, {"prompt": value}, param, code)


def embedded(value: Any, param: str = "input", code: str | None = None, **more: Any) -> Bad:
    return bad(EMBEDDINGS, {"input": value, **more}, param, code)


MESSAGES = [
    bad(CHAT, {}, "messages"),
    bad(CHAT, {"messages": []}, "messages"),
    bad(CHAT, {"messages": "Hello"}, "messages"),
    bad(CHAT, {"messages": {"role": "user", "content": "Hello"}}, "messages"),
    bad(CHAT, {"messages": None}, "messages"),
    bad(CHAT, {"messages": ["Hello"]}, "messages[0]"),
    bad(CHAT, {"messages": [None]}, "messages[0]"),
    bad(CHAT, {"messages": [[HELLO]]}, "messages[0]"),
    bad(CHAT, {"messages": [{}]}, "messages[0].role"),
    bad(CHAT, {"messages": [{}] * 1_000_000}, "messages"),
    said({"role": "user"}, f"{MESSAGE}.content"),
    said({"role": "king", "content": "Hi"}, f"{MESSAGE}.role"),
    said({"role": ["user"], "content": "Hi"}, f"{MESSAGE}.role"),
    said({"role": "tool", "content": "Hi"}, f"{MESSAGE}.role", UNSUPPORTED),
    said({"role": "user", "content": "a", "message": "b"}, f"{MESSAGE}.message"),
    said({"role": "user", "content": "Hi", "colour": "red"}, f"{MESSAGE}.colour", UNKNOWN),
    said(
        {"role": "user", "content": "Hi", "tool_calls": [{}]}, f"{MESSAGE}.tool_calls", UNSUPPORTED
    ),
    said({"role": "user", "content": "Hi", "name": "x" * 65}, f"{MESSAGE}.name"),
    said({"role": "user", "content": "Hi", "name": "a\0b"}, f"{MESSAGE}.name"),
    said({"role": "user", "message": "a\0b"}, f"{MESSAGE}.message"),
    content(5),
    content([]),
    content({"type": "text", "text": "a"}),
    content("a\0b"),
    content([{"type": "text", "text": "a"}] * 257),
    content(["Hi"], f"{MESSAGE}.{PART}"),
    content([None], f"{MESSAGE}.{PART}"),
    content([{"type": "image_url"}], f"{MESSAGE}.{PART}"),
    content([{"type": 5, "text": "a"}], f"{MESSAGE}.{PART}"),
    content([{"type": "text"}], f"{MESSAGE}.{PART}"),
    content([{"type": "text", "text": 5}], f"{MESSAGE}.{PART}"),
    content([{"type": "text", "text": "a\0b"}], f"{MESSAGE}.{PART}"),
    content([{"type": "text", "text": "a", "b": 1}], f"{MESSAGE}.{PART}"),
    bad(CHAT, {"messages": [{"role": "user", "content": "word " * 2000}]}, "messages", TOO_LONG),
    bad(CHAT, {"messages": [{"role": "user", "content": "a" * 5_000_000}]}, "messages", TOO_LONG),
]

SAMPLING = [
    chat("model", "gpt-4", "model_not_found"),
    chat("model", ""),
    chat("repetition_penalty", 0),
    chat("max_tokens", 5, max_completion_tokens=5),
    chat("n", 3, num_beams=2),
    chat("stop", "", at="stop[0]"),
    chat("stop", ["a", ""], at="stop[1]"),
    chat("stop", [5], at="stop[0]"),
    chat("stop", ["a\0"], at="stop[0]"),
    chat("stop", ["a" * 1001], at="stop[0]"),
    chat("stop", ["a"] * 5),
    chat("stop", ["a"] * 5000),
    chat("stop", 5),
    chat("stop", {}),
    chat("stream_options", {"include_usage": True}),
    chat("stream_options", [], stream=True),
    chat("stream_options", {"include_usage": 1}, at="stream_options.include_usage", stream=True),
    chat("stream_options", {"tea": 1}, UNKNOWN, at="stream_options.tea", stream=True),
    chat("logit_bias", []),
    chat("logit_bias", {"5": 101}),
    chat("logit_bias", {"5": 10**399}),
    chat("logit_bias", {"5": "1"}),
    chat("logit_bias", {"5": None}),
    chat("logit_bias", {"5": True}),
    chat("logit_bias", {"five": 1}),
    chat("logit_bias", {"-5": 1}),
    chat("logit_bias", {"05": 1}),
    chat("logit_bias", {" 5": 1}),
    chat("logit_bias", {"٥": 1}),
    chat("logit_bias", {"": 1}),
    chat("logit_bias", {"400": 1}),
    chat("logit_bias", {"9999999999": 1}),
    chat("logit_bias", {"9" * 300: 1}),
    chat("logit_bias", {str(i): 1 for i in range(4097)}),
    chat("stop_token_ids", 5),
    chat("stop_token_ids", ["5"]),
    chat("stop_token_ids", [True]),
    chat("stop_token_ids", [5.0]),
    chat("stop_token_ids", [-1]),
    chat("stop_token_ids", [400]),
    chat("stop_token_ids", [2**63]),
    chat("stop_token_ids", [10**399]),
    chat("stop_token_ids", [5] * 129),
    chat("min_tokens", 6, max_tokens=5),
    chat("min_tokens", 6, max_completion_tokens=5),
    chat("min_tokens", 513),
    chat("top_logprobs", 21, logprobs=True),
    chat("top_logprobs", 1),
    chat("top_logprobs", 1, logprobs=False),
    chat("logprobs", True, num_beams=2),
    chat("length_penalty", 2),
    chat("early_stopping", True),
    chat("early_stopping", "always", num_beams=2),
    chat("early_stopping", 1, num_beams=2),
    chat("best_of", 2, UNSUPPORTED),
    chat("tools", [{"type": "function"}], UNSUPPORTED),
    chat("response_format", {"type": "json_object"}, UNSUPPORTED),
    chat("echo", True, UNKNOWN),
    chat("temprature", 1, UNKNOWN),
    chat("prompt", "Hello", UNKNOWN),
    chat("k" * 300, 1, UNKNOWN, at="k" * 100),
    chat("a\0b", 1, UNKNOWN),
    bad(CHAT, {"messages": HELLO, "": 1}, None, UNKNOWN),
]

LABELLED = (
    (CHAT, {"messages": HELLO}),
    *((path, {}) for path in (ONE_CHAT, CONVERSATION, CONVERSATIONS)),
)
KEEPING = [
    chat("store", False, conversation="conv_x"),
    chat("conversation", 5),
    chat("conversation", ""),
    chat("conversation", "a\0b"),
    chat("conversation", "c" * 201),
    chat("conversation", {}),
    chat("conversation", {"id": 5}),
    chat("conversation", {"id": "conv_x", "at": 1}),
    chat("conversation", "conv_nothing", "not_found"),
    *(
        bad(path, {**body, "metadata": value}, param)
        for path, body in LABELLED
        for value, param in (
            ([], "metadata"),
            ("x", "metadata"),
            ({"k": 5}, "metadata.k"),
            ({"k": None}, "metadata.k"),
            ({"k": {}}, "metadata.k"),
            ({"k": "x" * 513}, "metadata.k"),
            ({"k": "a\0b"}, "metadata.k"),
            ({"a\0b": "v"}, "metadata"),
            ({"": "v"}, "metadata"),
            ({"k" * 65: "v"}, "metadata"),
            ({f"k{i}": "v" for i in range(17)}, "metadata"),
        )
    ),
    *(bad(path, {}, "metadata") for path in (ONE_CHAT, CONVERSATION)),
]  # fmt: skip

PROMPTS = [
    bad(COMPLETIONS, {}, "prompt"),
    *(
        prompt(value)
        for value in (
            *(None, "", [], 5, True, {"text": "a"}, "a\0b"),
            *(["a", 5], [5, "a"], [5, -1], [5, 2**31], [5, 2**63], [5, 10**399], [5, 100_000]),
            *([True], [1.5], [None], [{}], [5, [5]], ["a"] * 129),
        )
    ),
    prompt([""], "prompt[0]"),
    prompt(["a", "b\0"], "prompt[1]"),
    prompt([[]], "prompt[0]"),
    prompt([[5], ["a"]], "prompt[1]"),
    prompt([[[5]]], "prompt[0]"),
    prompt([[5], [100_000]]),
    prompt(list(range(5, 300)) * 4, code=TOO_LONG),
    prompt("a" * 5_000_000, code=TOO_LONG),
    text("n", 3, prompt=["a"] * 64),
    text("template", "alpaca"),
    text("best_of", 2, n=3),
    text("best_of", 2, stream=True),
    text("best_of", 2, num_beams=2),
    text("best_of", 20, prompt=["a"] * 7),
    text("template", "auto", echo=True),
    text("max_tokens", 0),
    text("max_tokens", 0, echo=False),
    text("logprobs", 0, num_beams=2),
    text("suffix", "b", UNSUPPORTED),
    text("messages", HELLO, UNKNOWN),
]

INPUTS = [
    bad(EMBEDDINGS, {}, "input"),
    *(embedded(value) for value in (None, "", [], 5, {}, ["a"] * 2049, [5, 100_000], [-1])),
    embedded(["a", ""], "input[1]"),
    embedded(["ok", "word " * 2000], code=TOO_LONG),
    embedded("a" * 5_000_000, code=TOO_LONG),
    embedded("a", "encoding_format", encoding_format="hex"),
    embedded("a", "dimensions", dimensions=100_000),
    embedded("a", "stream", UNKNOWN, stream=True),
]

STORED_ITEMS = [
    *(
        bad(path, {"items": [item]}, param, code)
        for path in (CONVERSATIONS, ITEMS)
        for item, param, code in (
            ("Hello", "items[0]", None),
            (None, "items[0]", None),
            ({"type": "function_call", "name": "f"}, "items[0].type", UNSUPPORTED),
            ({"type": "reasoning", "summary": []}, "items[0].type", UNSUPPORTED),
            ({"type": "item_reference", "id": "x"}, "items[0].type", UNSUPPORTED),
            ({**ITEM, "type": 5}, "items[0].type", None),
            ({**ITEM, "role": "tool"}, "items[0].role", None),
            ({"role": "user"}, "items[0].content", None),
            ({**ITEM, "content": None}, "items[0].content", None),
            ({**ITEM, "content": []}, "items[0].content", None),
            ({**ITEM, "content": "a\0b"}, "items[0].content", None),
            ({**ITEM, "content": [{"type": "input_image"}]}, f"items[0].{PART}", None),
            ({**ITEM, "content": [{"type": "input_text", "text": 5}]}, f"items[0].{PART}", None),
            ({**ITEM, "content": [{"type": "text", "text": "", "a": 1}]}, f"items[0].{PART}", None),
            ({**ITEM, "id": 5}, "items[0].id", None),
            ({**ITEM, "status": "done"}, "items[0].status", None),
            ({**ITEM, "phase": "commentary"}, "items[0].phase", UNSUPPORTED),
            ({**ITEM, "name": "x"}, "items[0].name", UNKNOWN),
        )
    ),
    *(bad(path, {"items": [ITEM] * 21}, "items") for path in (CONVERSATIONS, ITEMS)),
    *(bad(path, {"items": "x"}, "items") for path in (CONVERSATIONS, ITEMS)),
    *(bad(ITEMS, body, "items") for body in ({}, {"items": []}, {"items": None})),
]  # fmt: skip

NEW_ADAPTERS = [
    bad(ADAPTERS, {}, "name"),
    bad(ADAPTERS, {"name": "a"}, "path"),
    bad(ADAPTERS, {"name": "", "path": "law"}, "name"),
    bad(ADAPTERS, {"name": "a b", "path": "law"}, "name"),
    bad(ADAPTERS, {"name": "../a", "path": "law"}, "name"),
    *(
        bad(ADAPTERS, {"name": "a", "path": path}, "path")
        for path in ("", "/etc", "..", "../law", "law/../..", "nothing", "x" * 1025, "~")
    ),
]  # fmt: skip

GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "max_tokens": 1},
    COMPLETIONS: {"prompt": "a", "max_tokens": 1},
    EMBEDDINGS: {"input": "a"},
}
REPEATED = [
    Bad("POST", path, 400, None, "Idempotency-Key", body, {"idempotency-key": key})
    for path, body in GOOD.items()
    for key in ("", " ", "a b", "x" * 256, "\u00e9", "a\tb")
]

SERIALIZERS: dict[str, tuple[type[StrictSerializer], dict[str, Any]]] = {
    CHAT: (ChatCompletionSerializer, {"messages": HELLO}),
    COMPLETIONS: (CompletionSerializer, {"prompt": "a"}),
    EMBEDDINGS: (EmbeddingSerializer, {"input": "a"}),
    ONE_CHAT: (LabelSerializer, {"metadata": {}}),
    CONVERSATION: (LabelSerializer, {"metadata": {}}),
    CONVERSATIONS: (NewConversationSerializer, {}),
    ITEMS: (NewItemsSerializer, {"items": [ITEM]}),
    ADAPTERS: (NewAdapterSerializer, {"name": "a", "path": "law"}),
}
"""Route -> what its body must be, and one that is."""


def wrong_values(field: Any) -> Iterator[Any]:
    """Of the field's type nearly, but not quite."""
    yield from ([], {}, [1], {"a": 1})
    if isinstance(field, StrictNumber):
        yield from ("1", "", True, False, 2**63, -(2**63) - 1, 10**399, -(10**399), 1e308)
        if field.maximum is not None:
            yield field.maximum + 1
        if field.minimum is not None:
            yield field.minimum - 1
        if isinstance(field, StrictInteger):
            yield from (1.0, 1.5)
    elif isinstance(field, StrictBoolean):
        yield from (0, 1, "true", "on", 0.0)
    elif isinstance(field, StrictString):
        yield from (5, True, "a\0b")
        if field.max_length is not None:
            yield "x" * (field.max_length + 1)
        if field.choices is not None:
            yield "nonsense"


def each_field() -> Iterator[Bad]:
    """Every number, boolean and string of every route: a new one is here too."""
    for path, (serializer, body) in SERIALIZERS.items():
        for name, field in serializer().fields.items():
            if isinstance(field, StrictNumber | StrictBoolean | StrictString):
                yield from (bad(path, {**body, name: v}, name) for v in wrong_values(field))
                if field.required:
                    yield bad(path, {**body, name: None}, name)
        yield bad(path, {**body, "colour": "red"}, "colour", UNKNOWN)
        yield from (bad(path, whole, None) for whole in ([], "Hello", 5, None, True, [body]))


LINES = [
    *(*MESSAGES, *SAMPLING, *KEEPING, *PROMPTS, *INPUTS, *STORED_ITEMS, *NEW_ADAPTERS, *REPEATED),
    *each_field(),
]
