"""Queries that are wrong, ids of nothing, routes and methods that there are not."""

from tests.door.bad.line import (
    ADAPTERS,
    CHAT,
    COMPLETIONS,
    CONVERSATION,
    CONVERSATIONS,
    EMBEDDINGS,
    ITEM,
    ITEMS,
    ONE_CHAT,
    Bad,
)

MODELS, USAGE, MESSAGES = "/v1/models", "/v1/usage", f"{ONE_CHAT}/messages"
ONE_ITEM, ONE_MODEL, ONE_ADAPTER = f"{ITEMS}/{{item}}", f"{MODELS}/echo", f"{ADAPTERS}/zh"
NOT_FOUND, UNKNOWN = "not_found", "unknown_parameter"


NO_NUMBERS = [
    *("", "ten", "-1", "+1", "1.0", "1e1", "1_0", "0x10", "NaN", "%20", "%D9%A1", "%FF"),
    *(2**63, 10**400),
]
"""Nor too large ones."""


def query(path: str, sent: str, param: str | None, code: str | None = None) -> Bad:
    status = 404 if code == NOT_FOUND else 400
    return Bad("GET", f"{path}?{sent}", status, code, param)


LISTS = [
    query(path, sent, param, code)
    for path in (CHAT, MESSAGES, CONVERSATIONS, ITEMS)
    for sent, param, code in (
        *((f"limit={value}", "limit", None) for value in (*NO_NUMBERS, 0, 101)),
        ("limit=1&limit=2", "limit", None),
        *((f"order={value}", "order", None) for value in ("", "up", "ASC", "%ff")),
        ("order=asc&order=asc", "order", None),
        ("after=a%00b", "after", None),
        ("after=nothing", "after", NOT_FOUND),
        ("after=", "after", NOT_FOUND),
        ("after=%ED%A0%80", "after", NOT_FOUND),
        ("after=" + "x" * 9000, "after", NOT_FOUND),
        ("modle=x", "modle", UNKNOWN),
        ("%00=1", "\0", None),
        ("k" * 300 + "=1", "k" * 100, UNKNOWN),
        ("=1", None, UNKNOWN),
    )
]  # fmt: skip

OF_CHATS = [
    query(CHAT, sent, param)
    for sent, param in (
        ("status=nice", "status"),
        ("status=", "status"),
        ("model=a%00b", "model"),
        ("metadata[a%00b]=x", "metadata[a\0b]"),
        ("metadata[]=x", "metadata"),
        ("metadata[" + "k" * 65 + "]=x", "metadata"),
        ("metadata[k]=" + "x" * 513, "metadata.k"),
        ("&".join(f"metadata[k{i}]=x" for i in range(17)), "metadata"),
        ("&".join(f"metadata[k{i}]=x" for i in range(3000)), None),
    )
] + [query(CHAT, "metadata=x", "metadata", UNKNOWN)]

OF_ITEMS = [
    query(path, f"include={value}", "include", "unsupported_parameter")
    for path in (ITEMS, ONE_ITEM)
    for value in ("", "everything", "message.input_image.image_url&include=x", "%FF")
]

OF_USAGE = [
    query(USAGE, sent, param, code)
    for sent, param, code in (
        *((f"start_time={value}", "start_time", None) for value in NO_NUMBERS),
        ("start_time=1000&end_time=1000", "start_time", None),
        ("start_time=1&start_time=2", "start_time", None),
        ("start_time[]=1", "start_time[]", UNKNOWN),
        ("end_time=99999999999", "end_time", None),
        ("end_time=", "end_time", None),
        ("end_time=0", "end_time", None),
        ("bucket_width=1m", "bucket_width", None),
        *((f"limit={value}", "limit", None) for value in (0, 32, 2**63, 10**400, "true", "%FF")),
        ("bucket_width=1h&limit=169", "limit", None),
        ("group_by=project_id", "group_by", None),
        ("group_by=model,kind", "group_by", None),
        *((f"page={value}", "page", None) for value in ("2", "page_1", "page_99999999999", "")),
        ("models=%00", "models", None),
        ("api_key_ids=%00", "api_key_ids", None),
        ("api_key_ids=nothing", "api_key_ids", NOT_FOUND),
        ("user_ids=nobody", "user_ids", NOT_FOUND),
        ("&".join(["models=a"] * 101), "models", None),
        ("model=tiny", "model", UNKNOWN),
        ("%00=1", "\0", None),
        ("&".join(["a"] * 3000), None, None),
    )
]  # fmt: skip

NO_QUERY = [query(path, "limit=1", "limit", UNKNOWN) for path in (ONE_CHAT, CONVERSATION, ONE_ITEM)]

STRANGE = [
    "nothing",
    "%F0%9F%98%80",
    "%FF",
    "%ED%A0%80",
    "a" * 3000,
    "%E2%80%AE",
    "-1",
    "'--",
    "%25",
]
"""Ids of nothing, as they stand in a path."""

IDS = [
    *(
        Bad(method, path.format(strange), 404, NOT_FOUND, param, body)
        for strange in STRANGE
        for method, path, param, body in (
            ("GET", f"{CHAT}/{{}}", "completion_id", b""),
            ("POST", f"{CHAT}/{{}}", "completion_id", {"metadata": {}}),
            ("DELETE", f"{CHAT}/{{}}", "completion_id", b""),
            ("GET", f"{CHAT}/{{}}/messages", "completion_id", b""),
            ("GET", f"{CONVERSATIONS}/{{}}", "conversation_id", b""),
            ("POST", f"{CONVERSATIONS}/{{}}", "conversation_id", {"metadata": {}}),
            ("DELETE", f"{CONVERSATIONS}/{{}}", "conversation_id", b""),
            ("GET", f"{CONVERSATIONS}/{{}}/items", "conversation_id", b""),
            ("POST", f"{CONVERSATIONS}/{{}}/items", "conversation_id", {"items": [ITEM]}),
            ("GET", f"{CONVERSATIONS}/{{}}/items/msg_x", "conversation_id", b""),
        )
    ),
    *(Bad("GET", f"{ITEMS}/{strange}", 404, NOT_FOUND, "item_id") for strange in STRANGE),
    *(Bad("DELETE", f"{ITEMS}/{strange}", 404, NOT_FOUND, "item_id") for strange in STRANGE),
    *(Bad("GET", f"{MODELS}/{strange}", 404, "model_not_found", "model") for strange in STRANGE),
    *(Bad("DELETE", f"{ADAPTERS}/{s}", 404, "adapter_not_found", None) for s in STRANGE),
    *(
        Bad(method, path, 400, None, None)
        for method, path in (
            ("GET", f"{MODELS}/%00"),
            ("GET", f"{CHAT}/a%00b"),
            ("DELETE", f"{CONVERSATIONS}/a%00b"),
            ("DELETE", f"{ADAPTERS}/%00"),
        )
    ),
]

ROUTES = [
    Bad(method, path, 404, "unknown_route", None)
    for method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "FOO")
    for path in (
        *("/v1", "/v1/", "/v1/nothing", "//v1/models", "/v1//models", "/v1/chat/completions/"),
        *(f"{CHAT}/x/y", f"{CONVERSATIONS}/x/y", f"{CONVERSATIONS}/", "/v1/models/", "/V1/models"),
        *("/v1/../admin/", "/v1/%2e%2e/", "/v1/responses", "/healthy", "/ready/", "/.env"),
        *("*", "localhost:80", "/%FF", "/%0D%0AX:%20y", "/" + "a" * 9000, "/v1/models%0A"),
    )
]

METHODS = {
    CHAT: "GET, POST, HEAD, OPTIONS",
    ONE_CHAT: "GET, POST, DELETE, HEAD, OPTIONS",
    MESSAGES: "GET, HEAD, OPTIONS",
    COMPLETIONS: "POST, OPTIONS",
    EMBEDDINGS: "POST, OPTIONS",
    CONVERSATIONS: "GET, POST, HEAD, OPTIONS",
    CONVERSATION: "GET, POST, DELETE, HEAD, OPTIONS",
    ITEMS: "GET, POST, HEAD, OPTIONS",
    ONE_ITEM: "GET, DELETE, HEAD, OPTIONS",
    MODELS: "GET, HEAD, OPTIONS",
    ONE_MODEL: "GET, HEAD, OPTIONS",
    USAGE: "GET, HEAD, OPTIONS",
    ADAPTERS: "GET, POST, HEAD, OPTIONS",
    ONE_ADAPTER: "DELETE, OPTIONS",
    "/health": "GET, HEAD, OPTIONS",
    "/ready": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
}
"""What each route takes, as its Allow header says."""

WRONG_METHODS = [
    Bad(method, path, 405, "method_not_allowed", None)
    for path, allowed in METHODS.items()
    for method in (
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "HEAD",
        "TRACE",
        "CONNECT",
        "FOO",
        "get",
    )
    if method.upper() not in allowed
]

LINES = [
    *(*LISTS, *OF_CHATS, *OF_ITEMS, *OF_USAGE, *NO_QUERY),
    *(*IDS, *ROUTES, *WRONG_METHODS),
]
