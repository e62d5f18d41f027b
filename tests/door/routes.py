"""Which routes there are, and which of them the matrix does not know."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from django.urls.resolvers import RoutePattern, URLResolver

from tests.door.askers import Line

METHODS = ("get", "post", "put", "patch", "delete")


def routes_of(resolver: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(route, view) of everything that the URLconf holds."""
    for pattern in resolver.url_patterns:
        route = str(pattern.pattern)
        if not isinstance(pattern.pattern, RoutePattern):
            # The admin's two regular expressions, by the name of their group.
            route = re.sub(r"\^?\(\?P(<\w+>).*?\)(/?)\$", r"\1\2", route)
        if isinstance(pattern, URLResolver):
            yield from routes_of(pattern, prefix + route)
        else:
            yield prefix + route, pattern.callback


def without_a_line(routes: dict[str, Any], posts: Collection[str], lines: list[Line]) -> list[str]:
    """Of the URLconf's routes and the paths of the ASGI door, those that no line tells of."""
    known = {line.route for line in lines}
    answered = {
        (method.upper(), route)
        for route, view in routes.items()
        for method in METHODS
        if hasattr(getattr(view, "cls", None), method)
    }
    answered |= {("POST", path.removeprefix("/")) for path in posts}
    missing = answered - {(line.method, line.route) for line in lines}
    return sorted({*routes} - known) + sorted(f"{method} {route}" for method, route in missing)
