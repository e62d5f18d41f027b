"""Which part of a list is asked for: the query strings of the history's lists."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from conversations.own.stored import Cut
from llmapi.errors import InvalidRequest, UnsupportedParameter, first_problem
from llmapi.parameters import MetadataField
from llmapi.queries import once, unknown, whole_number

MAX_LIMIT = 100
PAGING = ("after", "limit", "order")
METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)
INCLUDABLE = (
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
)
"""Parts of items that no item here has: to ask for them changes nothing."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a list was asked for. `values`: the parameters that are its own, if they were sent."""

    cut: Cut
    values: dict[str, str]
    metadata: dict[str, str]


def paging(order: str) -> list[OpenApiParameter]:
    """What all lists take, for the OpenAPI document."""
    return [
        OpenApiParameter("after", str, description="The id of the last one of the page before."),
        OpenApiParameter(
            "limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 20}
        ),
        OpenApiParameter("order", str, enum=["asc", "desc"], default=order),
    ]


INCLUDE = OpenApiParameter(
    "include",
    {"type": "array", "items": {"type": "string", "enum": list(INCLUDABLE)}},
    description="Parts that no item here has: to ask for them changes nothing.",
)


def read_query(
    params: QueryDict, *, order: str, known: Collection[str] = (), has_metadata: bool = False
) -> Query:
    """`order`: asc or desc, if none is sent. Raises InvalidRequest that names the parameter."""
    values: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for name, sent in params.lists():
        if has_metadata and (pair := METADATA.fullmatch(name)):
            metadata[pair[1]] = once(name, sent)
        elif name in PAGING or name in known:
            values[name] = once(name, sent)
        else:
            raise unknown(name, [*PAGING, *known])
    check_metadata(metadata)
    ordered = values.pop("order", order)
    if ordered not in ("asc", "desc"):
        raise InvalidRequest("Must be one of: 'asc', 'desc'.", param="order")
    limit = whole_number("limit", values.pop("limit", "20"), 1, MAX_LIMIT)
    cut = Cut(values.pop("after", None), limit, ordered == "desc")
    return Query(cut, values, metadata)


def check_include(params: QueryDict) -> QueryDict:
    """The parameters without `include`, which may ask for parts that no item has."""
    rest = params.copy()
    for name in ("include", "include[]"):
        for value in rest.pop(name, []):
            if value not in INCLUDABLE:
                shown = str(value)[:100]
                raise UnsupportedParameter(
                    f"'include' of '{shown}' is not supported by this server; leave it out.",
                    param="include",
                )
    return rest


def check_metadata(metadata: dict[str, str]) -> None:
    """The bounds of what is stored hold for what is asked for too."""
    try:
        MetadataField().run_validation(metadata)
    except serializers.ValidationError as error:
        detail: Any = error.detail
        raise first_problem({"metadata": detail}) from error
