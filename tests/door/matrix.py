"""Who may do what: one line a route and method, with the status that each kind of asker gets.

A route without a line fails `test_matrix`. Askers of the API come with a key, or with the session
of a page, which opens nothing there; askers of pages with a session, or with a key, which opens
nothing there. A line says what the owner of its objects gets; what it does not say is the rule.

Objects may stand in paths and in bodies: `{chat}`, its `{conversation}` and `{item}`, and `{key}`
are alice's, by their public ids; `{chat_pk}` and the like are for the admin (`World.look_up`).
"""

from dataclasses import dataclass, field
from typing import Any

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
ITEMS = {"items": [{"type": "message", "role": "user", "content": "Hello"}]}

SESSIONS = ("owner", "another user", "staff without rights", "superuser")
NO_KEY = ("nobody", "malformed key", "revoked", "expired", "owner not active", "session, no key")
NO_SESSION = ("nobody", "key, no session", "session of a user not active")


@dataclass(frozen=True)
class Line:
    method: str
    route: str
    """As the URLconf writes it."""

    expected: dict[str, int]
    """Asker -> status."""

    path: str
    body: Any = None
    destroys: bool = False
    """Each asker gets objects of their own to destroy."""

    is_form: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.method} {self.path}"


def api(
    method: str,
    route: str,
    owner: int = 200,
    *,
    others: int | None = None,
    wrong_scope: int = 403,
    playground: int = 403,
    staff: int | None = None,
    superuser: int | None = None,
    path: str | None = None,
    body: Any = None,
    destroys: bool = False,
) -> Line:
    """A route for keys. others: what any other user's key gets, staff's too; None: as the owner."""
    others = owner if others is None else others
    staff = others if staff is None else staff
    expected = {
        **dict.fromkeys(NO_KEY, 401),
        "wrong scope": wrong_scope,
        "the playground's key": playground,
        "another user": others,
        "staff without rights": staff,
        "superuser": staff if superuser is None else superuser,
        "owner": owner,
    }
    return Line(method, route, expected, path or route, body, destroys)


def own(method: str, route: str, owner: int = 200, **kwargs: Any) -> Line:
    """A route about one object of one user: for everybody else there is none."""
    return api(method, route, owner, others=404, **kwargs)


def page(
    method: str,
    route: str,
    owner: int = 200,
    *,
    others: int | None = None,
    nobody: int = 302,
    path: str | None = None,
    body: Any = None,
    destroys: bool = False,
) -> Line:
    """A page for whoever is signed in; others are sent to sign in."""
    others = owner if others is None else others
    expected = {
        **dict.fromkeys(NO_SESSION, nobody),
        **dict.fromkeys(SESSIONS, others),
        "owner": owner,
    }
    if method == "POST":
        body = body or {}
        expected["owner, no CSRF token"] = 403
    return Line(method, route, expected, path or route, body, destroys, is_form=True)


def mine(method: str, route: str, owner: int = 200, **kwargs: Any) -> Line:
    """A page about one object of one user."""
    return page(method, route, owner, others=404, **kwargs)


def public(method: str, route: str, status: int = 200, *, path: str | None = None) -> Line:
    """The same for everybody."""
    askers = {*NO_KEY, *NO_SESSION, *SESSIONS}
    return Line(method, route, dict.fromkeys(sorted(askers), status), path or route)


def admin(
    route: str,
    superuser: int = 200,
    *,
    staff: int = 403,
    owner: int = 302,
    path: str | None = None,
) -> list[Line]:
    """A page of the admin: users are sent away, staff see what they have a right to."""
    expected = {
        **dict.fromkeys(NO_SESSION, 302),
        "owner": owner,
        "staff without rights": staff,
        "superuser": superuser,
    }
    route = f"admin/{route}"
    return [Line("GET", route, expected, f"admin/{path}" if path else route)]


def admin_model(
    model: str,
    pk: str,
    *,
    add: int = 200,
    change: int = 200,
    delete: int = 200,
    staff: int = 403,
) -> list[Line]:
    """The pages of a registered model, as a superuser may see them, and staff without rights."""
    one = f"{model}/<path:object_id>/"
    at = f"{model}/{pk}/"
    return [
        *admin(f"{model}/", staff=staff),
        *admin(f"{model}/add/", add),
        *admin(f"{one}history/", staff=staff, path=f"{at}history/"),
        *admin(f"{one}delete/", delete, path=f"{at}delete/"),
        *admin(f"{one}change/", change, staff=staff, path=f"{at}change/"),
        # Leads to `change/`, which tells whether it may be seen.
        *admin(one, 302, staff=302, path=at),
    ]


CHATS = "v1/chat/completions"
ONE_CHAT = f"{CHATS}/<str:completion_id>"
CONVERSATION = "v1/conversations/<str:conversation_id>"
ITEM = f"{CONVERSATION}/items/<str:item_id>"
REQUEST = "history/requests/<str:public_id>/"
TRANSCRIPT = "history/<str:public_id>/"

LINES = [
    # ---- the API: keys, and no session ----
    api("POST", CHATS, body=CHAT, playground=200),
    own("POST", CHATS, body={**CHAT, "conversation": "{conversation}"}, playground=200),
    api("GET", CHATS),
    own("GET", ONE_CHAT, path=f"{CHATS}/{{chat}}"),
    own("POST", ONE_CHAT, path=f"{CHATS}/{{chat}}", body={"metadata": {"a": "b"}}),
    own("DELETE", ONE_CHAT, path=f"{CHATS}/{{chat}}", destroys=True),
    own("GET", f"{ONE_CHAT}/messages", path=f"{CHATS}/{{chat}}/messages"),
    api("GET", "v1/conversations"),
    api("POST", "v1/conversations", body={}),
    own("GET", CONVERSATION, path="v1/conversations/{conversation}"),
    own("POST", CONVERSATION, path="v1/conversations/{conversation}", body={"metadata": {}}),
    own("DELETE", CONVERSATION, path="v1/conversations/{conversation}", destroys=True),
    own("GET", f"{CONVERSATION}/items", path="v1/conversations/{conversation}/items"),
    own("POST", f"{CONVERSATION}/items", path="v1/conversations/{conversation}/items", body=ITEMS),
    own("GET", ITEM, path="v1/conversations/{conversation}/items/{item}"),
    own("DELETE", ITEM, path="v1/conversations/{conversation}/items/{item}", destroys=True),
    api("POST", "v1/completions", body={"prompt": "Hello"}),
    api("POST", "v1/embeddings", body={"input": "Hello"}),
    api("GET", "v1/models", wrong_scope=200),
    api("GET", "v1/models/<path:model>", wrong_scope=200, path="v1/models/echo"),
    api("GET", "v1/usage"),
    api("GET", "v1/admin/adapters", 403, superuser=200),
    # The operator of this server lets nobody add any.
    api("POST", "v1/admin/adapters", 403, body={"name": "a", "path": "a"}),
    api("DELETE", "v1/admin/adapters/<path:name>", 403, superuser=404, path="v1/admin/adapters/a"),
    public("GET", "health"),
    public("GET", "ready"),
    # With the token of LLMAPI_METRICS_TOKEN too: tests/door/test_metrics.py.
    api("GET", "metrics", 403, superuser=200),
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
    mine("GET", "keys/<str:public_id>/", path="keys/{key}/"),
    mine("POST", "keys/<str:public_id>/", 302, path="keys/{key}/", body={"name": "renamed"}),
    mine("GET", "keys/<str:public_id>/revoke/", path="keys/{key}/revoke/"),
    mine("POST", "keys/<str:public_id>/revoke/", 302, path="keys/{key}/revoke/", destroys=True),
    mine("GET", "keys/<str:public_id>/rotate/", path="keys/{key}/rotate/"),
    mine(
        "POST",
        "keys/<str:public_id>/rotate/",
        path="keys/{key}/rotate/",
        body={"grace": "24", "form_token": "{token}"},
        destroys=True,
    ),
    page("GET", "usage/"),
    page("GET", "history/"),
    page("GET", "history/export/"),
    page("GET", "history/requests/"),
    page("GET", "history/requests/export/"),
    # Of a chat, to its place in the conversation.
    mine("GET", REQUEST, 302, path="history/requests/{chat}/"),
    mine("GET", f"{REQUEST}export/", path="history/requests/{chat}/export/"),
    mine("GET", f"{REQUEST}delete/", path="history/requests/{chat}/delete/"),
    mine("POST", f"{REQUEST}delete/", 302, path="history/requests/{chat}/delete/", destroys=True),
    mine("GET", TRANSCRIPT, path="history/{conversation}/"),
    mine(
        "GET",
        f"{TRANSCRIPT}messages/<str:message_id>/",
        path="history/{conversation}/messages/{item}/",
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
    # Nobody may sign up here, and there is no such invitation.
    public("GET", "sign-up/", 403),
    public("GET", "sign-up/<str:token>/", 403, path="sign-up/x/"),
    public("GET", "password/<uidb64>/<token>/", path="password/MQ/x/"),
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
    # ---- the last, for it ends the session ----
    page("POST", "sign-out/", 302),
]
