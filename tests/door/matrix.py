"""Who may do what: one line a route and method, with the status that each kind of asker gets.

A route without a line fails `test_matrix`. A line says what the owner of its objects gets; who else
there is, and the rule for them, stands in `askers.py`.

Objects may stand in paths, queries and bodies: `{chat}`, its `{conversation}`, `{item}` (the
answer) and `{question}`, and `{key}` are alice's, by their public ids; `{bobs_chat}` and
`{bobs_conversation}` are those of "another user"; `{chat_pk}` and the like are for the admin
(`World.look_up`).
"""

from accounts.models import Scope
from tests.door.askers import CHAT, ITEMS, admin, admin_model, api, mine, mixed, own, page, public

CHATS = "v1/chat/completions"
ONE_CHAT = f"{CHATS}/<str:completion_id>"
CONVERSATIONS = "v1/conversations"
CONVERSATION = f"{CONVERSATIONS}/<str:conversation_id>"
ITEM = f"{CONVERSATION}/items/<str:item_id>"
MODEL = "v1/models/<path:model>"
USAGE = "v1/usage"
ADAPTERS = "v1/admin/adapters"
ADAPTER = f"{ADAPTERS}/<path:name>"
REQUEST = "history/requests/<str:public_id>/"
TRANSCRIPT = "history/<str:public_id>/"
KEY = "keys/<str:public_id>/"

GOES_ON = {**CHAT, "conversation": "{conversation}"}
LABEL = {"metadata": {"a": "b"}}

LINES = [
    # ---- the API: keys, and no session ----
    api("POST", CHATS, body=CHAT, scope=Scope.CHAT, playground=200),
    own("POST", CHATS, body=GOES_ON, scope=Scope.CHAT, playground=200),
    own(
        "POST",
        CHATS,
        body={**CHAT, "conversation": {"id": "{conversation}"}},
        scope=Scope.CHAT,
        playground=200,
    ),
    api("GET", CHATS, scope=Scope.HISTORY),
    own("GET", CHATS, path=f"{CHATS}?after={{chat}}"),
    own("GET", ONE_CHAT, path=f"{CHATS}/{{chat}}"),
    own("POST", ONE_CHAT, path=f"{CHATS}/{{chat}}", body=LABEL),
    own("DELETE", ONE_CHAT, path=f"{CHATS}/{{chat}}", destroys=True),
    own("GET", f"{ONE_CHAT}/messages", path=f"{CHATS}/{{chat}}/messages"),
    own("GET", f"{ONE_CHAT}/messages", path=f"{CHATS}/{{chat}}/messages?after={{question}}"),
    mixed("GET", f"{ONE_CHAT}/messages", f"{CHATS}/{{bobs_chat}}/messages?after={{question}}"),
    api("GET", CONVERSATIONS, scope=Scope.HISTORY),
    own("GET", CONVERSATIONS, path=f"{CONVERSATIONS}?after={{conversation}}"),
    api("POST", CONVERSATIONS, body={}, scope=Scope.HISTORY),
    own("GET", CONVERSATION, path=f"{CONVERSATIONS}/{{conversation}}"),
    own("POST", CONVERSATION, path=f"{CONVERSATIONS}/{{conversation}}", body={"metadata": {}}),
    own("DELETE", CONVERSATION, path=f"{CONVERSATIONS}/{{conversation}}", destroys=True),
    own("GET", f"{CONVERSATION}/items", path=f"{CONVERSATIONS}/{{conversation}}/items"),
    own(
        "GET",
        f"{CONVERSATION}/items",
        path=f"{CONVERSATIONS}/{{conversation}}/items?after={{item}}",
    ),
    mixed(
        "GET",
        f"{CONVERSATION}/items",
        f"{CONVERSATIONS}/{{bobs_conversation}}/items?after={{item}}",
    ),
    own(
        "POST",
        f"{CONVERSATION}/items",
        path=f"{CONVERSATIONS}/{{conversation}}/items",
        body=ITEMS,
    ),
    own("GET", ITEM, path=f"{CONVERSATIONS}/{{conversation}}/items/{{item}}"),
    own("DELETE", ITEM, path=f"{CONVERSATIONS}/{{conversation}}/items/{{item}}", destroys=True),
    mixed("GET", ITEM, f"{CONVERSATIONS}/{{bobs_conversation}}/items/{{item}}"),
    mixed("DELETE", ITEM, f"{CONVERSATIONS}/{{bobs_conversation}}/items/{{item}}"),
    api("POST", "v1/completions", body={"prompt": "Hello"}, scope=Scope.COMPLETIONS),
    api("POST", "v1/embeddings", body={"input": "Hello"}, scope=Scope.EMBEDDINGS),
    api("GET", "v1/models", scope=None),
    api("GET", MODEL, path="v1/models/echo", scope=None),
    api("GET", USAGE, scope=Scope.HISTORY),
    own("GET", USAGE, path=f"{USAGE}?api_key_ids={{key}}", superuser=200),
    api(
        "GET",
        USAGE,
        others=403,
        superuser=200,
        path=f"{USAGE}?user_ids=alice",
        scope=Scope.HISTORY,
    ),
    api("GET", USAGE, 403, superuser=200, path=f"{USAGE}?group_by=user", scope=Scope.HISTORY),
    api("GET", ADAPTERS, 403, superuser=200, scope=Scope.ADMIN),
    # The operator of this server lets nobody add any.
    api("POST", ADAPTERS, 403, body={"name": "a", "path": "a"}, scope=Scope.ADMIN),
    api("DELETE", ADAPTER, 403, superuser=404, path=f"{ADAPTERS}/a", scope=Scope.ADMIN),
    public("GET", "health"),
    public("GET", "ready"),
    # With the token of LLMAPI_METRICS_TOKEN too: tests/door/test_metrics.py.
    api("GET", "metrics", 403, superuser=200, scope=Scope.ADMIN),
    public("GET", "openapi.json"),
    public("GET", "docs/"),
    public("GET", "favicon.ico", 204),
    # ---- pages: sessions, and no key ----
    page("GET", ""),
    page("GET", "playground/"),
    mine("GET", "playground/", path="playground/?conversation={conversation}"),
    # It is asked by a script, which wants no page to sign in at.
    page("POST", "playground/key/", nobody=401),
    page("GET", "keys/"),
    page("GET", "keys/new/"),
    page("POST", "keys/new/", body={"name": "new", "form_token": "{token}"}),
    mine("GET", KEY, path="keys/{key}/"),
    mine("POST", KEY, 302, path="keys/{key}/", body={"name": "renamed"}),
    mine("GET", f"{KEY}revoke/", path="keys/{key}/revoke/"),
    mine("POST", f"{KEY}revoke/", 302, path="keys/{key}/revoke/", destroys=True),
    mine("GET", f"{KEY}rotate/", path="keys/{key}/rotate/"),
    mine(
        "POST",
        f"{KEY}rotate/",
        path="keys/{key}/rotate/",
        body={"grace": "24", "form_token": "{token}"},
        destroys=True,
    ),
    page("GET", "usage/"),
    page("GET", "history/"),
    # To what it names; others find nothing.
    page("GET", "history/", 302, others=200, path="history/?q={conversation}"),
    page("GET", "history/", path="history/?key={key}"),
    page("GET", "history/export/"),
    page("GET", "history/requests/"),
    page("GET", "history/requests/", 302, others=200, path="history/requests/?q={chat}"),
    page("GET", "history/requests/", path="history/requests/?key={key}"),
    page("GET", "history/requests/export/"),
    # Of a chat, to its place in the conversation.
    mine("GET", REQUEST, 302, path="history/requests/{chat}/"),
    mine("GET", f"{REQUEST}export/", path="history/requests/{chat}/export/"),
    mine("GET", f"{REQUEST}delete/", path="history/requests/{chat}/delete/"),
    mine("POST", f"{REQUEST}delete/", 302, path="history/requests/{chat}/delete/", destroys=True),
    mine("GET", TRANSCRIPT, path="history/{conversation}/"),
    mine("GET", TRANSCRIPT, path="history/{conversation}/?at={item}"),
    page("GET", TRANSCRIPT, 404, path="history/{bobs_conversation}/?at={item}"),
    page("GET", TRANSCRIPT, 404, path="history/{bobs_conversation}/?before={item}"),
    mine(
        "GET",
        f"{TRANSCRIPT}messages/<str:message_id>/",
        path="history/{conversation}/messages/{item}/",
    ),
    page(
        "GET",
        f"{TRANSCRIPT}messages/<str:message_id>/",
        404,
        path="history/{bobs_conversation}/messages/{item}/",
    ),
    mine(
        "POST",
        f"{TRANSCRIPT}rename/",
        302,
        path="history/{conversation}/rename/",
        body={"title": "renamed"},
    ),
    mine("GET", f"{TRANSCRIPT}export/", path="history/{conversation}/export/"),
    mine("GET", f"{TRANSCRIPT}delete/", path="history/{conversation}/delete/"),
    mine(
        "POST",
        f"{TRANSCRIPT}delete/",
        302,
        path="history/{conversation}/delete/",
        destroys=True,
    ),
    page("GET", "password/"),
    page("POST", "password/"),
    page("GET", "sign-in/", 302, nobody=200),
    page("POST", "sign-in/", 302, nobody=200, body={"username": "alice", "password": "wrong"}),
    # Nobody may sign up here, and there is no such invitation.
    public("GET", "sign-up/", 403),
    page("POST", "sign-up/", 403, nobody=403),
    public("GET", "sign-up/<str:token>/", 403, path="sign-up/x/"),
    page("POST", "sign-up/<str:token>/", 403, nobody=403, path="sign-up/x/"),
    public("GET", "password/<uidb64>/<token>/", path="password/MQ/x/"),
    page("POST", "password/<uidb64>/<token>/", nobody=200, path="password/MQ/x/"),
    page("POST", "language/", 302, body={"language": "en"}),
    # ---- the admin ----
    *admin("", staff=200),
    *admin("login/", 302, staff=302, owner=403),
    public("GET", "admin/logout/", 405),
    public("GET", "admin/password_change/", 302),  # to that of the pages
    *admin("password_change/done/", staff=200),
    *admin("autocomplete/", 403),  # of nothing that is asked
    *admin("jsi18n/", staff=200),
    *admin("r/<path:content_type_id>/<path:object_id>/", 404, staff=404, path="r/999999/1/"),
    *admin("<app_label>/", path="accounts/", staff=404),
    *admin("<url>", 404, staff=404, path="nothing/here/"),
    *admin("accounts/user/<id>/password/", path="accounts/user/{user_pk}/password/"),
    *admin_model("auth/group", "{group_pk}"),
    *admin_model("accounts/user", "{user_pk}", delete=403),
    *admin_model("accounts/apikey", "{key_pk}", delete=403),
    *admin_model("accounts/invitation", "{invitation_pk}", add=403, delete=403),
    *admin_model("conversations/conversation", "{conversation_pk}", add=403, delete=403),
    *admin_model("conversations/completion", "{chat_pk}", add=403, delete=403),
    # To the next one that waits for a review, and back after one.
    *admin("conversations/conversation/unreviewed/", 302),
    *admin(
        "conversations/conversation/<int:pk>/review/",
        302,
        path="conversations/conversation/{conversation_pk}/review/",
    ),
    *admin("conversations/conversation/export/"),
    *admin("conversations/completion/prune/"),
    *admin("conversations/completion/export/"),
    *admin_model("conversations/label", "{label_pk}"),
    *admin_model("accounts/auditevent", "{event_pk}", add=403, delete=403),
    *admin_model("conversations/serverprocess", "{process_pk}", add=403, delete=403),
    # That none can be added here is told on the list.
    *admin_model("llmapi/adapter", "{adapter_pk}", add=302, delete=403),
    # ---- the last, for they end the sessions ----
    page("POST", "sign-out/", 302),
    page("POST", "admin/logout/", 302),
]
