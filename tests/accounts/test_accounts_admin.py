"""Staff make keys in the admin, see each once, and delete nothing."""

import html
import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.forms import UserChangeForm
from django.contrib.auth.models import Group, Permission
from django.urls import reverse
from django.utils import timezone

from accounts import keys, services
from accounts.admin.forms import ApiKeyForm
from accounts.models import ApiKey, User

pytestmark = pytest.mark.django_db

ADD = "/admin/accounts/apikey/add/"
LIST = "/admin/accounts/apikey/"


def make_key(client, owner: User, **fields: object):  # type: ignore[no-untyped-def]
    data = {"user": owner.pk, "name": "laptop", "expires_at_0": "", "expires_at_1": ""}
    data |= {"token_budget_period": "month", **fields}
    return client.post(ADD, data)


def test_new_key_is_shown_once_and_kept_nowhere(staff_client, alice) -> None:
    response = make_key(staff_client, alice)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    texts = re.findall(r"sk-[0-9A-Za-z]{46}", response.content.decode())
    assert len(texts) == 1
    key = ApiKey.objects.get()
    assert (key.digest, key.user, key.name) == (keys.digest(texts[0]), alice, "laptop")

    secret = texts[0][11:]
    pages = [LIST, reverse("admin:accounts_apikey_change", args=[key.pk]), "/admin/"]
    pages += [reverse("admin:accounts_user_change", args=[alice.pk])]
    pages += [reverse("admin:accounts_apikey_history", args=[key.pk])]
    for page in pages:
        body = staff_client.get(page).content.decode()
        assert secret not in body
        assert key.digest not in body
    assert secret not in str(staff_client.cookies)
    assert not any(secret in str(value) for value in staff_client.session.values())
    entry = LogEntry.objects.get()
    logged = f"{entry.object_repr} {entry.change_message}"
    for part in (secret, key.digest, key.public_id, key.last_four):
        assert part not in logged


def test_save_and_add_another_shows_the_key_too(staff_client, alice) -> None:
    response = make_key(staff_client, alice, _addanother="1")
    assert re.search(r"sk-[0-9A-Za-z]{46}", response.content.decode())


def test_form_gives_rights_and_limits_and_nothing_that_is_the_servers_own(
    staff_client, alice
) -> None:
    body = staff_client.get(ADD).content.decode()
    for name in ("digest", "public_id", "for_playground", "created_by"):
        assert f'name="{name}"' not in body
    rights = {"scopes": ["chat", "history"], "allowed_models": " gpt-4 \n\nlaw\ngpt-4"}
    limits = {"requests_per_minute": "5", "token_budget": "0", "token_budget_period": "day"}
    make_key(staff_client, alice, **rights, **limits, digest="x", for_playground="on")
    key = ApiKey.objects.get()
    assert (key.scopes, key.allowed_models) == (["chat", "history"], ["gpt-4", "law"])
    assert (key.requests_per_minute, key.tokens_per_minute) == (5, None)
    assert (key.token_budget, key.token_budget_period) == (0, "day")
    assert (key.created_by.username, key.for_playground) == ("staff", False)
    assert key.digest != "x"
    for wrong in ({"scopes": ["all"]}, {"allowed_models": "x" * 201}, {"token_budget": "-1"}):
        assert "errorlist" in make_key(staff_client, alice, **wrong).content.decode()
    assert ApiKey.objects.count() == 1


def test_rights_and_limits_of_a_key_change_until_it_is_revoked(staff_client, alice) -> None:
    key, _ = services.key_create(user=alice, scopes=["chat"], limits={"tokens_per_minute": 7})
    page = reverse("admin:accounts_apikey_change", args=[key.pk])
    change = {"name": "new", "scopes": ["embeddings"], "allowed_models": "law"}
    change |= {"tokens_per_minute": "8", "token_budget_period": "month"}
    for _ in range(2):
        staff_client.post(page, change)
        key.refresh_from_db()
        assert (key.scopes, key.allowed_models, key.tokens_per_minute) == (
            ["embeddings"],
            ["law"],
            8,
        )
        services.key_revoke(key)
        change |= {"scopes": [], "allowed_models": "", "tokens_per_minute": "9"}


def test_models_that_are_not_served_are_told_when_a_key_is_made_or_changed(
    staff_client, alice, settings
) -> None:
    settings.OFFERED_MODELS = "tests.accounts.test_pages_keys.two_models"
    told = "Not served at present, so the key cannot use it yet: law."
    assert told in make_key(staff_client, alice, allowed_models="llama\nlaw").content.decode()
    assert told not in make_key(staff_client, alice, allowed_models="llama").content.decode()
    key = ApiKey.objects.latest("pk")
    page = reverse("admin:accounts_apikey_change", args=[key.pk])
    for models, is_told in (("llama", False), ("law", True), ("law", False)):
        change = {"allowed_models": models, "token_budget_period": "month"}
        answer = staff_client.post(page, change, follow=True)
        assert (told in answer.content.decode()) is is_told, "once, when they are changed"
        key.refresh_from_db()
        assert key.allowed_models == [models]
    data = {"action": "rotate", "_selected_action": [key.pk], "grace": "1"}
    assert told in staff_client.post(LIST, data).content.decode()


def test_key_that_ends_while_its_form_is_on_its_way_has_ended(
    staff_client, alice, monkeypatch
) -> None:
    key, _ = services.key_create(user=alice, name="old")

    def clean(form) -> None:  # type: ignore[no-untyped-def]
        services.key_rotate(ApiKey.objects.get(pk=key.pk), timedelta(hours=1))
        services.key_revoke(key)

    monkeypatch.setattr(ApiKeyForm, "clean", clean)
    page = reverse("admin:accounts_apikey_change", args=[key.pk])
    change = {"name": "new", "tokens_per_minute": "5", "token_budget_period": "month"}
    assert staff_client.post(page, change).status_code == 302
    key.refresh_from_db()
    assert (key.name, key.tokens_per_minute) == ("new", 5)
    assert None not in (key.revoked_at, key.expires_at, key.replaced_by)


def test_user_who_is_changed_while_the_form_is_on_its_way_stays_so(
    staff_client, alice, monkeypatch
) -> None:
    def clean(form) -> None:  # type: ignore[no-untyped-def]
        user = User.objects.get(pk=alice.pk)
        user.set_password("a new one")
        user.email = "alice@example.org"
        user.save()

    monkeypatch.setattr(UserChangeForm, "clean", clean)
    page = reverse("admin:accounts_user_change", args=[alice.pk])
    joined = alice.date_joined
    data = {
        "username": "alice",
        "first_name": "Alice",
        "is_active": "on",
        "date_joined_0": f"{joined:%Y-%m-%d}",
        "date_joined_1": f"{joined:%H:%M:%S}",
        "token_budget_period": "month",
        "requests_per_minute": "3",
        "api_keys-TOTAL_FORMS": "0",
        "api_keys-INITIAL_FORMS": "0",
    }
    assert staff_client.post(page, data).status_code == 302
    alice.refresh_from_db()
    assert (alice.first_name, alice.requests_per_minute) == ("Alice", 3)
    assert alice.check_password("a new one")
    assert alice.email == "alice@example.org"


def test_limits_of_a_user_are_on_its_page(staff_client, alice) -> None:
    page = reverse("admin:accounts_user_change", args=[alice.pk])
    fields = staff_client.get(page).context["adminform"].form.initial
    data = {name: value for name, value in fields.items() if value not in (None, False)}
    joined = alice.date_joined
    data |= {"date_joined_0": f"{joined:%Y-%m-%d}", "date_joined_1": f"{joined:%H:%M:%S}"}
    data |= {"concurrent_requests": "3", "token_budget": "1000", "token_budget_period": "day"}
    inline = {"api_keys-TOTAL_FORMS": "0", "api_keys-INITIAL_FORMS": "0"}
    assert staff_client.post(page, data | inline).status_code == 302
    alice.refresh_from_db()
    assert (alice.concurrent_requests, alice.token_budget) == (3, 1000)
    assert (alice.requests_per_minute, alice.token_budget_period) == (None, "day")


def test_rotate_action_shows_the_new_key_once(staff_client, alice) -> None:
    key, _ = services.key_create(user=alice, name="<b>laptop</b>", scopes=["chat"])
    data = {"action": "rotate", "_selected_action": [key.pk]}
    asked = staff_client.post(LIST, data)
    assert "still works" in asked.content.decode()
    assert "<b>laptop</b>" not in asked.content.decode()
    assert ApiKey.objects.count() == 1
    shown = staff_client.post(LIST, {**data, "grace": "1"})
    assert "no-store" in shown["Cache-Control"]
    (text,) = re.findall(r"sk-[0-9A-Za-z]{46}", shown.content.decode())
    new = ApiKey.objects.get(digest=keys.digest(text))
    key.refresh_from_db()
    assert (key.replaced_by, new.scopes, new.created_by.username) == (new, ["chat"], "staff")
    assert key.expires_at - timezone.now() <= timedelta(hours=1)
    again = staff_client.post(LIST, {**data, "grace": "1"}, follow=True)
    assert "was rotated before" in again.content.decode()
    assert ApiKey.objects.count() == 2


def test_keys_of_the_playground_are_in_no_list(staff_client, alice) -> None:
    services.playground_key_create(alice)
    key = ApiKey.objects.get()
    pages = [LIST, reverse("admin:accounts_user_change", args=[alice.pk])]
    for page in pages:
        assert key.masked not in html.unescape(staff_client.get(page).content.decode())
    services.key_create(user=alice)
    assert "(no name)" in staff_client.get(LIST).content.decode()


def test_key_that_could_not_work_is_not_made(staff_client, alice) -> None:
    past = timezone.now() - timedelta(days=1)
    for data in (
        {"expires_at_0": past.strftime("%Y-%m-%d"), "expires_at_1": "00:00:00"},
        {"user": str(services.anonymous_user().pk)},
        {"user": str(User.objects.create_user("gone", is_active=False).pk)},
    ):
        response = make_key(staff_client, alice, **data)
        assert "errorlist" in response.content.decode()
    assert not ApiKey.objects.exists()


def test_revoke_action_revokes_and_says_so_in_the_list(staff_client, alice) -> None:
    key, _ = services.key_create(user=alice)
    data = {"action": "revoke", "_selected_action": [key.pk]}
    body = staff_client.post(LIST, data, follow=True).content.decode()
    assert "1 revoked" in body
    assert ApiKey.objects.get().revoked_at is not None
    assert ">revoked<" in body
    assert LogEntry.objects.get().get_change_message() == "Revoked."


def test_owner_of_a_key_never_changes(staff_client, alice) -> None:
    key, _ = services.key_create(user=alice, name="old")
    other = User.objects.create_user("other")
    page = reverse("admin:accounts_apikey_change", args=[key.pk])
    data = {"user": other.pk, "name": "new", "token_budget_period": "month"}
    staff_client.post(page, data)
    key.refresh_from_db()
    assert (key.user, key.name) == (alice, "new")


@pytest.mark.parametrize("model", ["user", "apikey"])
def test_nothing_is_deleted(staff_client, alice, model: str) -> None:
    key, _ = services.key_create(user=alice)
    pk = {"user": alice.pk, "apikey": key.pk}[model]
    url = reverse(f"admin:accounts_{model}_delete", args=[pk])
    assert staff_client.post(url, {"post": "yes"}).status_code == 403
    body = staff_client.get(reverse(f"admin:accounts_{model}_changelist")).content.decode()
    assert "delete_selected" not in body


def test_user_page_shows_the_users_keys(staff_client, alice) -> None:
    key, _ = services.key_create(user=alice, name="<b>laptop</b>")
    body = staff_client.get(reverse("admin:accounts_user_change", args=[alice.pk])).content.decode()
    assert key.masked in html.unescape(body)
    assert "<b>laptop</b>" not in body


def test_list_filters_by_status_and_does_not_query_per_row(
    staff_client, alice, django_assert_max_num_queries
) -> None:
    for index in range(20):
        services.key_create(user=alice, name=f"key {index}")
    expired, _ = services.key_create(
        user=alice, name="stale", expires_at=timezone.now() - timedelta(1)
    )
    with django_assert_max_num_queries(8):
        assert "key 19" in staff_client.get(LIST).content.decode()
    body = staff_client.get(LIST, {"status": "expired"}).content.decode()
    assert expired.masked in body
    assert "key 19" not in body
    assert "stale" not in staff_client.get(LIST, {"status": "usable"}).content.decode()
    assert "key 19" not in staff_client.get(LIST, {"status": "revoked"}).content.decode()


def test_staff_see_what_their_permissions_say_and_without_any_nothing(client) -> None:
    staff = User.objects.create_user("staff", is_staff=True)
    client.force_login(staff)
    models = ["accounts/user", "accounts/apikey"]
    models += [f"conversations/{model}" for model in ("conversation", "completion")]
    models += ["conversations/serverprocess"]
    index = client.get("/admin/").content.decode()
    assert not any(f"/admin/{model}/" in index for model in models)
    for model in models:
        app, name = model.split("/")
        permission = Permission.objects.get(content_type__app_label=app, codename=f"view_{name}")
        staff.user_permissions.set([permission])
        for other in models:
            assert client.get(f"/admin/{other}/").status_code == (200 if other == model else 403)


# ---- groups --------------------------------------------------------------------------------------


def test_who_is_given_rights_by_a_group_keeps_no_key_that_others_made(staff_client, alice) -> None:
    group = Group.objects.get(name="auditor")
    alice.is_staff = True
    alice.save()
    alice.groups.add(group)
    once = User.objects.create_superuser("once")
    for maker in (alice, once):
        services.key_create(user=alice, name=maker.username, created_by=maker)
    User.objects.filter(pk=once.pk).update(is_superuser=False)
    page = reverse("admin:auth_group_change", args=[group.pk])
    had = [*group.permissions.values_list("pk", flat=True)]
    staff_client.post(page, {"name": "auditors", "permissions": had[1:]})
    assert not ApiKey.objects.exclude(revoked_at=None).exists(), "rights were taken"
    more = [*had, Permission.objects.get(codename="read_text").pk]
    answer = staff_client.post(page, {"name": "auditors", "permissions": more}, follow=True)
    assert "1 of alice&#x27;s keys were made by others" in answer.content.decode()
    assert [key.name for key in ApiKey.objects.exclude(revoked_at=None)] == ["once"]


def test_superusers_alone_change_groups(client) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(content_type__model="group"))
    group = Group.objects.get(name="auditor")
    clerk.groups.add(group)
    client.force_login(clerk)
    page = reverse("admin:auth_group_change", args=[group.pk])
    rights = [*Permission.objects.values_list("pk", flat=True)]
    assert client.get(page).status_code == 200
    assert client.post(page, {"name": "auditor", "permissions": rights}).status_code == 403
    assert client.get(reverse("admin:auth_group_add")).status_code == 403
    assert client.post(reverse("admin:auth_group_delete", args=[group.pk])).status_code == 403
    assert group.permissions.count() < len(rights)
