"""Who asks, and what a line of the matrix says of each of them (`matrix.py`).

Askers of the API come with a key, or with the session of a page, which opens nothing there; askers
of pages with a session, or with a key, which opens nothing there; and some with both, of two users.
What a line does not say is the rule that the function that makes it stands for.
"""

from dataclasses import dataclass
from typing import Any

from accounts.models import Scope

SECRET = "xyzzy"
"""Alice has said it, and nobody else, and nobody else ever reads it."""

ALICES_CHAT = {"messages": [{"role": "user", "content": f"Hello, {SECRET}"}]}
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
ITEMS = {"items": [{"type": "message", "role": "user", "content": "Hello"}]}

SESSIONS = ("owner", "another user", "staff without rights", "superuser")
BOTH = "another user, with what the owner has on the other side"
"""Of the API: the owner's session beside the own key; of pages: the owner's key."""

NO_KEY = (
    *("nobody", "malformed key", "unknown key", "revoked", "expired", "owner not active"),
    "session, no key",
)
READERS = ("owner", "superuser", "the playground's key")
"""Who may read what alice has said: by her keys, and in the admin."""

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
    scope: Scope | None = None
    """Of a key that has some, which one opens the route; None: any."""

    @property
    def title(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def takes_key(self) -> bool:
        """Whether it is a route of the API."""
        return "the playground's key" in self.expected

    @property
    def is_page(self) -> bool:
        """Whether sessions open it, and not keys."""
        return self.is_form or self.route.startswith("admin/")


def api(
    method: str,
    route: str,
    owner: int = 200,
    *,
    scope: Scope | None,
    others: int | None = None,
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
        "the playground's key": playground,
        **dict.fromkeys(("another user", BOTH), others),
        "staff without rights": staff,
        "superuser": staff if superuser is None else superuser,
        "owner": owner,
    }
    return Line(method, route, expected, path or route, body, destroys, scope=scope)


def own(method: str, route: str, owner: int = 200, **kwargs: Any) -> Line:
    """A route about one object of one user: for everybody else there is none."""
    kwargs.setdefault("scope", Scope.HISTORY)
    return api(method, route, owner, others=404, **kwargs)


def mixed(method: str, route: str, path: str, body: Any = None) -> Line:
    """A route about bob's object where the query, or a further part of the path, names alice's:
    neither has such a thing."""
    return api(method, route, 404, scope=Scope.HISTORY, path=path, body=body)


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
        **dict.fromkeys((*SESSIONS, BOTH), others),
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
