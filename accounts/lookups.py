"""What the address of a list in the admin may ask for."""

from typing import Any, ClassVar

from django.http import HttpRequest
from django.utils.dateparse import parse_datetime


class FilteredAlone:
    """A list that is asked by its filters alone. Django lets any column be asked in the address,
    and with `?digest__startswith=` one reads what no page shows, letter by letter."""

    list_filter: ClassVar[Any]
    other_lookups: tuple[str, ...] = ()
    """Those of links between lists."""

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        allowed: set[str | None] = {*self.other_lookups}
        for item in self.list_filter:
            if isinstance(item, tuple):  # a field, and the filter for it
                item = item[0]
            if isinstance(item, str):
                hows = ("exact", "id__exact", "gte", "lt", "isnull")
                allowed |= {f"{item}__{how}" for how in hows}
            else:
                allowed.add(getattr(item, "parameter_name", None))
        if lookup.endswith(("__gte", "__lt")) and not is_moment(value):
            return False
        return lookup in allowed


def is_moment(text: str) -> bool:
    """Whether this is a time with its zone, as the filters write them."""
    try:
        moment = parse_datetime(text)
    except ValueError:
        return False
    return moment is not None and moment.tzinfo is not None
