"""Passwords: changed by their owners, set by a link or in the admin; and what ends then."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import authenticate
from django.contrib.auth.models import Permission
from django.core.exceptions import ValidationError
from django.core.management import CommandError
from django.test import Client
from django.urls import reverse

from accounts import links, services
from accounts.attempts import SIGN_IN
from accounts.models import ANONYMOUS_USERNAME, ApiKey, User
from tests.accounts.pages import HTML, PASSWORD, manage, sign_in, signed_in, user_with_password

pytestmark = pytest.mark.django_db

ANOTHER = "another long-winded password"


@pytest.fixture(autouse=True)
def quick_passwords(settings) -> None:  # type: ignore[no-untyped-def]
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def boss(db: None) -> User:
    return User.objects.create_superuser("boss")


# ---- by a link -----------------------------------------------------------------------------------


def set_password(client: Client, link: str):  # type: ignore[no-untyped-def]
    """Follows the link, whose token goes into the session, and sends the form."""
    page = client.get(link, **HTML, follow=True)
    if not page.redirect_chain:
        return page
    form = page.redirect_chain[-1][0]
    new = {"new_password1": PASSWORD, "new_password2": PASSWORD}
    return client.post(form, new, **HTML)


def test_passwordlink_lets_a_user_without_a_password_set_one_once(client) -> None:
    manage("createkey", "carol")
    link = manage("passwordlink", "carol").strip()
    assert link.startswith("http://127.0.0.1:19327/password/")
    path = link.removeprefix("http://127.0.0.1:19327")
    assert set_password(client, path)["Location"] == "/sign-in/"
    assert authenticate(username="carol", password=PASSWORD) is not None
    again = Client().get(path, **HTML)
    assert "not valid any more" in again.content.decode()


def test_passwordlink_is_for_users_who_may_sign_in(client) -> None:
    user_with_password("gone", is_active=False)
    services.anonymous_user()
    for name in ("gone", ANONYMOUS_USERNAME, "nobody"):
        with pytest.raises(CommandError):
            manage("passwordlink", name)
    user = user_with_password("carol")
    path = links.password_path(user)
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert "not valid any more" in set_password(client, path).content.decode()


def password_links(client: Client, *users: User):  # type: ignore[no-untyped-def]
    data = {"action": "password_links", "_selected_action": [user.pk for user in users]}
    return client.post("/admin/accounts/user/", data, follow=True)


def test_staff_make_links_for_users_but_not_for_other_staff(client, boss) -> None:
    carol = User.objects.create_user("carol")
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "change_user"]))
    both = password_links(signed_in(clerk), carol, boss).content.decode()
    assert "superusers alone" in both
    assert "/password/" not in both.replace("/admin/password_change/", "")
    answer = password_links(signed_in(clerk), carol)
    assert "no-store" in answer["Cache-Control"]
    found = re.findall(r'value="http://testserver(/password/[^"]+)"', answer.content.decode())
    assert len(found) == 1
    assert set_password(client, found[0]).status_code == 302
    carol.refresh_from_db()
    assert carol.has_usable_password()
    by_boss = password_links(signed_in(boss), carol, clerk, boss).content.decode()
    assert by_boss.count('value="http://testserver/password/') == 3


def test_looking_at_users_is_not_enough_to_make_a_link(boss) -> None:
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename="view_user"))
    answer = password_links(signed_in(viewer), viewer)
    assert "/password/" not in answer.content.decode().replace("/admin/password_change/", "")


def test_newer_link_ends_the_older_ones_and_one_that_was_used_ends_all(client, boss) -> None:
    carol = User.objects.create_user("carol")
    first = links.password_path(carol)
    second = links.password_path(carol)
    assert "not valid any more" in set_password(client, first).content.decode()
    assert not User.objects.get(pk=carol.pk).has_usable_password()
    answer = password_links(signed_in(boss), carol)
    third = re.findall(r'value="http://testserver(/password/[^"]+)"', answer.content.decode())[0]
    assert "not valid any more" in set_password(client, second).content.decode()
    assert set_password(Client(), third)["Location"] == "/sign-in/"
    for used in (first, second, third):
        assert "not valid any more" in set_password(Client(), used).content.decode()


def test_form_that_an_older_link_opened_sets_no_password(client) -> None:
    carol = User.objects.create_user("carol")
    opened = client.get(links.password_path(carol), **HTML, follow=True).redirect_chain[-1][0]
    links.password_path(carol)
    new = {"new_password1": PASSWORD, "new_password2": PASSWORD}
    assert "not valid any more" in client.post(opened, new, **HTML).content.decode()
    assert not User.objects.get(pk=carol.pk).has_usable_password()


@pytest.mark.django_db(transaction=True)
def test_of_links_that_are_made_at_once_one_is_good(at_once) -> None:
    carol = User.objects.create_user("carol")
    paths = at_once(4, lambda _: links.password_path(User.objects.get(pk=carol.pk)))
    fresh = User.objects.get(pk=carol.pk)
    good = [links.password_tokens.check_token(fresh, path.split("/")[-2]) for path in paths]
    assert sorted(good) == [False, False, False, True]


def test_links_begin_with_the_operators_address_wherever_they_are_made(boss, settings) -> None:
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"public_url": "https://llm.example.org/"})
    carol = User.objects.create_user("carol")
    body = password_links(signed_in(boss), carol).content.decode()
    assert 'value="https://llm.example.org/password/' in body
    assert manage("passwordlink", "carol").startswith("https://llm.example.org/password/")


def test_link_is_not_made_by_who_does_not_govern_the_user(boss) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    stale = User.objects.create_user("carol")
    User.objects.filter(pk=stale.pk).update(is_staff=True)  # after it was read
    with pytest.raises(ValidationError, match="Superusers alone"):
        links.password_path(stale, made_by=clerk)
    assert links.password_path(stale, made_by=boss)


# ---- changed by its owner ------------------------------------------------------------------------


def change(client: Client, old: str, new: str = ANOTHER):  # type: ignore[no-untyped-def]
    form = {"old_password": old, "new_password1": new, "new_password2": new}
    return client.post("/password/", form)


def test_who_has_come_to_a_session_does_not_find_out_the_password() -> None:
    client = signed_in(user_with_password("bob"))
    for _ in range(SIGN_IN.per_name):
        assert "errorlist" in change(client, "guess").content.decode()
    answer = change(client, PASSWORD)
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) >= 1
    assert User.objects.get().check_password(PASSWORD)


def test_failures_before_the_right_password_are_forgotten() -> None:
    client = signed_in(user_with_password("bob"))
    for _ in range(SIGN_IN.per_name - 1):
        change(client, "guess")
    assert change(client, PASSWORD).status_code == 302
    assert change(client, ANOTHER, PASSWORD).status_code == 302


def test_admin_has_no_form_of_its_own_for_ones_own_password(boss) -> None:
    client = signed_in(boss)
    for method in (client.get, client.post):
        assert method("/admin/password_change/")["Location"] == "/password/"


# ---- what ends with it ---------------------------------------------------------------------------


def by_page(user: User) -> None:
    assert change(signed_in(user), PASSWORD).status_code == 302


def by_link(user: User) -> None:
    assert set_password(Client(), links.password_path(user)).status_code == 302


def by_staff(user: User) -> None:
    set_in_admin(signed_in(User.objects.get(username="boss")), user)


def signing_out(user: User) -> None:
    assert signed_in(user).post("/sign-out/").status_code == 302


def signing_out_of_the_admin(user: User) -> None:
    assert signed_in(user).post("/admin/logout/").status_code == 302


def set_in_admin(client: Client, user: User):  # type: ignore[no-untyped-def]
    page = reverse("admin:auth_user_password_change", args=[user.pk])
    both = {"password1": ANOTHER, "password2": ANOTHER, "usable_password": "true"}
    return client.post(page, both)


@pytest.mark.parametrize(
    "ends", [by_page, by_link, by_staff, signing_out, signing_out_of_the_admin]
)
def test_playgrounds_keys_end_with_the_password_and_with_the_session(boss, ends) -> None:
    bob, other = user_with_password("bob"), user_with_password("other")
    for user in (bob, other):
        services.playground_key_create(user)
    own, _ = services.key_create(user=bob, name="laptop")
    ends(bob)
    alive = {key.user: key for key in ApiKey.objects.filter(for_playground=True, revoked_at=None)}
    assert set(alive) == {other}
    own.refresh_from_db()
    assert own.is_usable, "keys go on working"


# ---- known to others -----------------------------------------------------------------------------


def manager() -> User:
    staff = User.objects.create_user("manager", is_staff=True)
    rights = ["view_user", "add_user", "change_user"]
    staff.user_permissions.set(Permission.objects.filter(codename__in=rights))
    return staff


def make_staff(user: User) -> str:
    page = reverse("admin:accounts_user_change", args=[user.pk])
    data = {
        **{f"date_joined_{i}": part for i, part in enumerate(("2026-01-01", "00:00:00"))},
        "username": user.username,
        "is_active": "on",
        "is_staff": "on",
        "token_budget_period": "month",
        **{f"api_keys-{name}_FORMS": 0 for name in ("TOTAL", "INITIAL")},
    }
    boss = signed_in(User.objects.get(username="boss"))
    return boss.post(page, data, follow=True).content.decode()


def test_who_is_given_rights_keeps_no_password_that_a_key_manager_has_set(boss) -> None:
    page = reverse("admin:accounts_user_add")
    new = {"username": "dave", "password1": PASSWORD, "password2": PASSWORD}
    clerk = signed_in(manager())
    assert clerk.post(page, new | {"usable_password": "true"}).status_code == 302
    dave = User.objects.get(username="dave")
    known = Client()
    assert sign_in(known, "dave", PASSWORD).status_code == 302
    body = make_staff(dave)
    assert "The password of dave was set by manager" in body
    assert "do not fit together" in sign_in(Client(), "dave", PASSWORD).content.decode()
    assert known.get("/keys/").status_code == 302, "nor a session that began with it"
    assert LogEntry.objects.filter(
        object_id=dave.pk, change_message="Password ended: rights were given."
    )


def test_password_that_its_owner_or_a_superuser_has_set_stays(boss) -> None:
    clerk = signed_in(manager())
    carol, erin = user_with_password("carol"), user_with_password("erin")
    for user in (carol, erin):
        assert set_in_admin(clerk, user).status_code == 302
    by_link(carol)
    assert set_in_admin(signed_in(boss), erin).status_code == 302
    for user, password in ((carol, PASSWORD), (erin, ANOTHER)):
        assert "was set by" not in make_staff(user)
        assert User.objects.get(pk=user.pk).check_password(password)


def test_conflicting_form_is_no_new_password(boss) -> None:
    carol = user_with_password("carol")
    page = reverse("admin:auth_user_password_change", args=[carol.pk])
    assert signed_in(manager()).post(page, {"usable_password": "false"}).status_code == 302
    carol.refresh_from_db()
    assert (carol.check_password(PASSWORD), carol.password_by) == (True, None)
