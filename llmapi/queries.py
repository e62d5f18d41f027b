"""Query strings, read as strictly as bodies: nothing is parsed and ignored."""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.http import QueryDict
from rest_framework import serializers

from conversations.own.stored import Cut
from llmapi.errors import InvalidRequest, UnknownParameter, UnsupportedParameter, first_problem
from llmapi.parameters import MetadataField

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


def read_query(
    params: QueryDict, *, order: str, known: Collection[str] = (), has_metadata: bool = False
) -> Query:
    """`order`: asc or desc, if none is sent. Raises InvalidRequest that names the parameter."""
    values: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for name, sent in params.lists():
        pair = METADATA.fullmatch(name) if has_metadata else None
        if len(sent) > 1:
            raise InvalidRequest("May stand once only.", param=name[:100])
        if pair:
            metadata[pair[1]] = sent[0]
        elif name in PAGING or name in known:
            values[name] = sent[0]
        else:
            raise _unknown(name, [*PAGING, *known])
    check_metadata(metadata)
    ordered = values.pop("order", order)
    if ordered not in ("asc", "desc"):
        raise InvalidRequest("Must be one of: 'asc', 'desc'.", param="order")
    cut = Cut(values.pop("after", None), _limit(values.pop("limit", "20")), ordered == "desc")
    return Query(cut, values, metadata)


def check_no_query(params: QueryDict) -> None:
    """For routes that take none."""
    for name in params:
        raise _unknown(name, [])


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


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidRequest("Must be an integer.", param="limit")
    if not 1 <= int(text) <= MAX_LIMIT:
        raise InvalidRequest(f"Must be from 1 to {MAX_LIMIT}.", param="limit")
    return int(text)


def _unknown(name: str, known: Collection[str]) -> UnknownParameter:
    shown = name[:100]
    nearest = difflib.get_close_matches(shown, known, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return UnknownParameter(f"Unknown parameter: '{shown}'.{hint}", param=shown)
