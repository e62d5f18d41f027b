"""Query strings, read as strictly as bodies: nothing is parsed and ignored."""

import difflib
import re
from collections.abc import Collection, Sequence

from django.http import QueryDict

from llmapi.errors import InvalidRequest, UnknownParameter


def unknown(name: str, known: Collection[str]) -> UnknownParameter:
    """The refusal of a parameter that a route does not have, with the nearest that it has."""
    shown = name[:100]
    nearest = difflib.get_close_matches(shown, known, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return UnknownParameter(f"Unknown parameter: '{shown}'.{hint}", param=shown or None)


def once(name: str, values: Sequence[str]) -> str:
    """The value of a parameter that is no list."""
    if len(values) > 1:
        raise InvalidRequest("May be given once only.", param=name[:100])
    return values[0]


def whole_number(name: str, text: str, smallest: int, largest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,11}", text) or not smallest <= int(text) <= largest:
        raise InvalidRequest(f"Must be a whole number from {smallest} to {largest}.", param=name)
    return int(text)


def check_no_query(params: QueryDict) -> None:
    """For routes that take none."""
    for name in params:
        raise unknown(name, [])
