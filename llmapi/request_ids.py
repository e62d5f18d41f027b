"""What requests are called: by us, and by those who send them."""

import re
import secrets
from collections.abc import Callable

OURS = "req_"
THEIRS = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}", re.ASCII)
TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?",
    re.ASCII,
)
"""https://www.w3.org/TR/trace-context/#traceparent-header-field-values"""


def new_request_id() -> str:
    """The id of one request, in its answer's headers, its row and the log. Never a client's own:
    two rows must not have the same, and nobody may choose what another's is mistaken for."""
    return OURS + secrets.token_hex(12)


def ids_of_client(header: Callable[[str], str]) -> dict[str, str]:
    """What a client, or a proxy before this server, calls the request: for the log, where ours can
    be found by theirs. `header`: the value by the lower-case name, empty if there is none. What is
    not of the form is ignored."""
    found = {}
    theirs = header("x-request-id")
    if THEIRS.fullmatch(theirs):
        found["client_request_id"] = theirs
    if traced := TRACEPARENT.fullmatch(header("traceparent")):
        found["trace_id"] = traced["trace"]
    return found
