"""The headers that keep browsers from doing harm: which of them an answer lacks."""

from accounts.middleware import policy
from tests.door.client import Answer

EVERYWHERE = {"x-content-type-options": "nosniff", "referrer-policy": "same-origin"}
PAGES = {"x-frame-options": "DENY"}
POLICIES = (policy(), policy(style_src="'self' 'unsafe-inline'"))
"""That of all pages, and that of Swagger's."""


def lacking(answer: Answer, *, is_door: bool = False, is_file: bool = False) -> list[str]:
    """`is_door`: JSON or events of a consumer, which no browser shows as a page. `is_file`: a
    static one."""
    wanted = dict(EVERYWHERE)
    if not (is_door or is_file):
        wanted |= PAGES
    lacks = [name for name, value in wanted.items() if answer.headers.get(name) != value]
    if not is_door and answer.headers.get("content-security-policy") not in POLICIES:
        lacks.append("content-security-policy")
    if not is_file and not answer.headers.get("x-request-id", "").startswith("req_"):
        lacks.append("x-request-id")
    return lacks
