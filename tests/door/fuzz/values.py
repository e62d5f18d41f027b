"""Values of fields: such as they take, and such as they do not."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from rest_framework.serializers import ListSerializer

from llmapi.fields import StrictBoolean, StrictFloat, StrictNumber, StrictString
from llmapi.history.serializers import ItemContentField
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
from llmapi.strict import StrictSerializer
from tests.engine.tiny import CORPUS

MOST = {
    "n": 3,
    "best_of": 4,
    "num_beams": 3,
    "max_tokens": 12,
    "max_completion_tokens": 12,
    "min_tokens": 12,
}
"""So that one example takes no longer than its share; the ends of bounds are tried in the table."""

VOCABULARY = 400
TOKENS = st.integers(0, VOCABULARY + 20)

# No lone surrogates, which JSON can write and UTF-8 cannot; NUL is among these.
TEXT = st.text(max_size=30) | st.sampled_from(CORPUS) | st.sampled_from(["", " ", "\0", "é", "🌸"])
NUMBERS = (
    st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**399, 1e308, 5e-324, 0.0, -0.0])
)
JUNK: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
"""Any JSON."""


def value_of(field: Any) -> SearchStrategy[Any]:
    """What the field takes, or nearly: bounds between fields may forbid it all the same."""
    match field:
        case StrictBoolean():
            return st.booleans()
        case StrictFloat():
            floats = st.floats(field.minimum, field.maximum, allow_nan=False)
            return floats | st.integers(int(field.minimum) + 1, int(field.maximum))
        case StrictNumber():
            least = int(field.minimum)
            return st.integers(least, max(least, MOST.get(field.field_name, int(field.maximum))))
        case StrictString():
            if field.choices:
                return st.sampled_from(field.choices)
            size = 40 if field.max_length is None else min(40, field.max_length)
            return words(0 if field.allow_empty else 1, size)
        case StopField():
            return words(1, 10) | st.lists(words(1, 10), max_size=field.max_stops)
        case TokenIdsField():
            return st.lists(TOKENS, max_size=5)
        case LogitBiasField():
            return st.dictionaries(TOKENS.map(str), st.floats(-100, 100), max_size=5)
        case EarlyStoppingField():
            return st.sampled_from([True, False, "never"])
        case PromptsField():
            text, tokens = words(1, 60), st.lists(TOKENS, min_size=1, max_size=20)
            return (
                text
                | tokens
                | st.lists(text, min_size=1, max_size=3)
                | st.lists(tokens, min_size=1, max_size=3)
            )
        case ContentField():
            kinds = st.sampled_from(field.types)
            part = st.fixed_dictionaries({"type": kinds, "text": words(0, 60)})
            if isinstance(field, ItemContentField):
                part = st.fixed_dictionaries(
                    {"type": kinds, "text": words(0, 60)}, optional={"annotations": st.just([])}
                )
            return words(0, 60) | st.lists(part, min_size=1, max_size=3)
        case MetadataField():
            return st.dictionaries(words(1, 20), words(0, 20), max_size=4)
        case ConversationField():
            return st.just("conv_nothing") | st.just({"id": "conv_nothing"})
        case ListSerializer():
            least = 0 if field.allow_empty else 1
            return st.lists(object_of(field.child), min_size=least, max_size=3)
        case StrictSerializer():
            return object_of(field)
    raise AssertionError(f"no strategy for {type(field).__name__}: write one")


def words(least: int, most: int) -> SearchStrategy[str]:
    """Text that is kept as it is: any but NUL and half characters."""
    characters = st.characters(exclude_characters="\0", codec="utf-8")
    return st.text(characters, min_size=least, max_size=most)


def object_of(serializer: StrictSerializer, *, mistakes: bool = False) -> SearchStrategy[Any]:
    """An object as the serializer takes it; with mistakes: perhaps, and perhaps with one or more
    fields that are wrong."""
    required, optional = {}, {}
    for name, field in serializer.fields.items():
        value = value_of(field)
        if not field.required:
            value |= st.none()
        if mistakes:
            value |= JUNK
        (required if field.required and not mistakes else optional)[name] = value
    for name, values in serializer.neutral.items():
        optional[name] = st.sampled_from([None, *values])
    if mistakes:
        for name in serializer.neutral:
            optional[name] |= JUNK
        optional["colour"] = JUNK
    return few_of(optional, required)


@st.composite
def few_of(draw: Any, optional: dict[str, Any], required: dict[str, Any]) -> dict[str, Any]:
    """Most fields are left out, as clients do: of many, nearly every body would be a mistake."""
    names = st.sampled_from(sorted(optional)) if optional else st.nothing()
    chosen = draw(st.lists(names, max_size=min(5, len(optional)), unique=True))
    return {name: draw(value) for name, value in required.items()} | {
        name: draw(optional[name]) for name in chosen
    }


@st.composite
def bodies(draw: Any, serializer: type[StrictSerializer], body: dict[str, Any]) -> Any:
    """Of a route that takes `body`: that, with a few fields that may be wrong; now and then any
    JSON at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(JUNK)
    changed = draw(object_of(serializer(), mistakes=draw(st.booleans())))
    return body | changed if draw(st.booleans()) else {**changed, **body}
