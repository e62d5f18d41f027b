"""Groups of staff: each sees and does what it is for, and no text without the right to read it."""

import html
import re
from urllib.parse import parse_qsl, urljoin, urlsplit
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.urls import reverse

from accounts import services as accounts
from accounts.audit import record
from accounts.links import password_path, password_tokens
from accounts.models import ApiKey, AuditEvent, User
from conversations import reviews
from conversations.models import Completion, Conversation, RoleRight
from conversations.processes.presence import process_register
from conversations.staff import roles
from conversations.staff.roles import ROLES

pytestmark = pytest.mark.django_db

SECRET = "xyzzy"
WITHOUT_TEXT = ["auditor", "key manager", "privacy officer"]


@pytest.fixture
def member(client):  # type: ignore[no-untyped-def]
    """member(group): the client, signed in as one of that group."""

    def sign_in(group: str):  # type: ignore[no-untyped-def]
        user = User.objects.create_user(f"a {group}", is_staff=True)
        user.groups.add(Group.objects.get(name=group))
        client.force_login(user)
        client.user = user
        return client

    return sign_in


@pytest.fixture
def secrets(alice, history):  # type: ignore[no-untyped-def]
    """One conversation and one completion that say SECRET wherever a client or a reviewer can."""
    key, _ = accounts.key_create(user=alice, name="laptop")
    process = process_register(uuid=uuid4(), host="h/b", pid=1, lock_path="")
    fields = {
        "api_key_id": key.pk,
        "process_id": process,
        "parameters": {"stop": [f"{SECRET} stop"], "user": f"{SECRET} user"},
    }
    chat = history.start(alice, [("user", f"{SECRET} question", f"{SECRET}_name")], **fields)
    history.finish(chat, f"{SECRET} answer", status="failed", error=f"{SECRET} error")
    silent = history.start(alice, [("user", f"{SECRET} lonely")], **fields)
    history.finish(silent, status="failed", error=f"{SECRET} error")
    plain = history.start(alice, prompt=f"{SECRET} prompt", **fields)
    history.finish(plain, f"{SECRET} output")
    Completion.objects.update(metadata={SECRET: f"{SECRET} label"})
    Conversation.objects.update(metadata={SECRET: f"{SECRET} label"})
    conversation = Completion.objects.get(pk=chat).conversation
    reviews.review_save(
        conversation.pk,
        reviews.Judgement(2, ["spam"], f"{SECRET} notes"),
        reviewer=User.objects.create_user("judge", is_staff=True),
        version="",
        seen_at=conversation.updated_at,
    )
    record(AuditEvent.Action.READ, conversation.public_id)
    return conversation


def crawl(client, *starts: str) -> dict[str, str]:  # type: ignore[no-untyped-def]
    """{address: body} of all pages of the admin that one gets to by links, each path with each of
    its parameters once."""
    waiting, pages, seen = [*starts], {}, set()
    while waiting:
        url = waiting.pop()
        parts = urlsplit(url)
        names = [name for name, _ in parse_qsl(parts.query)]
        kind = (parts.path, *names)
        if kind in seen or not parts.path.startswith("/admin/") or "logout" in parts.path:
            continue
        if len(names) > 1:
            continue
        seen.add(kind)
        response = client.get(url)
        # Django offers those who may look at a user the way to a new password, and refuses it.
        assert response.status_code in (200, 302, 403), url
        pages[url] = body = "" if response.streaming else response.content.decode()
        if response.status_code == 302:
            waiting.append(response["Location"])
        links = re.findall(r'href="([^"#]+)', body)
        waiting += [urljoin(url, html.unescape(link)) for link in links]
    return pages


# ---- who gets where ------------------------------------------------------------------------------

LISTS = {
    "accounts/user": {"auditor", "key manager", "privacy officer"},
    "accounts/apikey": {"auditor", "key manager", "privacy officer"},
    "accounts/auditevent": {"auditor", "privacy officer"},
    "conversations/conversation": {"auditor", "reviewer", "privacy officer"},
    "conversations/completion": {"auditor", "reviewer", "privacy officer"},
    "conversations/serverprocess": {"auditor"},
    "conversations/label": {"reviewer"},
    "auth/group": set(),
}
PAGES = {
    "conversations/conversation/unreviewed/": {"reviewer"},
    "conversations/conversation/export/": {"privacy officer"},
    "conversations/completion/export/": {"auditor", "privacy officer"},
    "conversations/completion/prune/": {"privacy officer"},
    "accounts/user/add/": {"key manager"},
    "accounts/apikey/add/": {"key manager"},
    "conversations/label/add/": {"reviewer"},
    "conversations/conversation/add/": set(),
    "conversations/completion/add/": set(),
    "accounts/auditevent/add/": set(),
}


@pytest.mark.parametrize("group", ROLES)
def test_each_group_opens_its_pages_and_no_others(member, secrets, group: str) -> None:
    client = member(group)
    expected = {**{f"{path}/": groups for path, groups in LISTS.items()}, **PAGES}
    for path, groups in expected.items():
        status = client.get(f"/admin/{path}").status_code
        allowed = (200, 302) if group in groups else (403,)
        assert status in allowed, path
    dashboard = "Busiest users" in client.get("/admin/").content.decode()
    assert dashboard == (group in {"auditor", "reviewer", "privacy officer"})


ACTIONS = {
    "accounts/user": {"erase_texts": {"privacy officer"}},
    "accounts/apikey": {"revoke": {"key manager"}},
    "conversations/conversation": {
        "export_selected": {"privacy officer"},
        "erase_selected": {"privacy officer"},
    },
    "conversations/completion": {
        "export_selected": {"auditor", "privacy officer"},
        "erase_selected": {"privacy officer"},
    },
}


@pytest.mark.parametrize("group", ROLES)
def test_each_group_is_offered_its_actions_and_no_others(member, secrets, group: str) -> None:
    client = member(group)
    for path, actions in ACTIONS.items():
        if group not in LISTS[path]:
            continue
        body = client.get(f"/admin/{path}/").content.decode()
        for action, groups in actions.items():
            assert (f'value="{action}"' in body) == (group in groups), (path, action)


@pytest.mark.parametrize("group", ["auditor", "reviewer", "key manager"])
def test_an_action_that_is_not_offered_does_nothing(member, secrets, group: str) -> None:
    client = member(group)
    for path, actions in ACTIONS.items():
        for action, groups in actions.items():
            if group in groups:
                continue
            pks = [secrets.pk, *Completion.objects.values_list("pk", flat=True), secrets.user.pk]
            data = {"action": action, "_selected_action": pks, "confirmed": "yes"}
            response = client.post(f"/admin/{path}/", data)
            assert response.status_code in (200, 302, 403)
            assert not response.streaming
    for page in ("conversations/conversation/export/", "conversations/completion/prune/"):
        assert client.post(f"/admin/{page}").status_code == 403
    assert Conversation.objects.filter(pk=secrets.pk).exists()
    assert not Completion.objects.exclude(erased_at=None).exists()
    assert not AuditEvent.objects.exclude(action="read").exists()


def test_a_tick_at_what_is_no_row_is_refused_by_every_list(staff_client) -> None:
    for model in admin.site._registry:
        url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        form = staff_client.get(url).context["action_form"]
        offered = [name for name, _ in form.fields["action"].choices if name] if form else []
        for ticked in ("x", "", "1 OR 1=1", "9" * 40, "-1", "1.0"):
            for action in ("nothing", *offered[:1]):
                data = {"action": action, "_selected_action": [ticked]}
                assert staff_client.post(url, data).status_code == 400, (url, action, ticked)


# ---- no text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", WITHOUT_TEXT)
def test_without_the_right_no_page_holds_what_was_said(member, secrets, group: str) -> None:
    client = member(group)
    urls = ["/admin/"]
    if group != "key manager":
        for model, pks in (
            ("conversation", [secrets.pk]),
            ("completion", Completion.objects.values_list("pk", flat=True)),
        ):
            for pk in pks:
                urls.append(reverse(f"admin:conversations_{model}_change", args=[pk]))
                urls.append(reverse(f"admin:conversations_{model}_history", args=[pk]))
        fields = "app_label=conversations&model_name=completion&field_name=conversation"
        picker = client.get(f"/admin/autocomplete/?{fields}&term=")
        assert secrets.public_id in picker.content.decode()
        assert SECRET not in picker.content.decode()
        picker = client.get(f"/admin/autocomplete/?{fields}&term={SECRET}")
        assert picker.json()["results"] == []
    pages = crawl(client, *urls)
    assert len(pages) > 15
    for url, body in pages.items():
        assert SECRET not in html.unescape(body).lower(), url
    if group == "privacy officer":
        for model, pk in (
            ("conversation", secrets.pk),
            ("completion", Completion.objects.first().pk),
        ):
            url = reverse(f"admin:conversations_{model}_changelist")
            data = {"action": "erase_selected", "_selected_action": [pk]}
            asked = client.post(url, data).content.decode()
            assert "Erase for ever" in asked
            assert SECRET not in asked


def test_the_crawler_finds_the_text_where_it_may_be_read(member, secrets) -> None:
    pages = crawl(member("reviewer"), "/admin/")
    saying = {urlsplit(url).path for url, body in pages.items() if SECRET in body}
    assert reverse("admin:conversations_conversation_changelist") in saying
    assert reverse("admin:conversations_conversation_change", args=[secrets.pk]) in saying
    assert (
        reverse("admin:conversations_completion_change", args=[secrets.completions.get().pk])
        in saying
    )


@pytest.mark.parametrize("group", ["auditor", "privacy officer"])
def test_without_the_right_no_search_filter_or_order_tells_of_the_text(
    member, secrets, group: str
) -> None:
    client = member(group)
    lists = [reverse(f"admin:conversations_{m}_changelist") for m in ("conversation", "completion")]
    for url in lists:
        assert "0 results" in client.get(url, {"q": SECRET}).content.decode()
    for lookup in ("title__startswith", "title", "metadata__icontains", "error__contains"):
        for url in lists:
            assert client.get(url, {lookup: SECRET}).status_code == 400
    probing = {"content__prompt__icontains": SECRET, "review__notes__contains": SECRET}
    for lookup, value in probing.items():
        assert client.get(lists[0], {lookup: value}).status_code == 400
    for owner in ("user", "apikey"):
        url = reverse(f"admin:accounts_{owner}_changelist")
        for lookup in ("conversations__title__startswith", "completions__error__contains"):
            assert client.get(url, {lookup: SECRET}).status_code == 400
    found = client.get(lists[0], {"q": secrets.public_id}).content.decode()
    assert "1 result" in found
    # No column is the title, so none can be sorted by it.
    assert "title_shown" not in found


# ---- key managers --------------------------------------------------------------------------------


@pytest.fixture
def boss(db):  # type: ignore[no-untyped-def]
    return User.objects.create_superuser("boss", password="a long one")


def test_key_managers_make_users_and_keys_but_no_staff(member, alice, boss) -> None:
    client = member("key manager")
    page = reverse("admin:accounts_user_change", args=[alice.pk])
    form = client.get(page).content.decode()
    for right in ("is_staff", "is_superuser", "groups", "user_permissions"):
        assert f'name="{right}"' not in form
    data = {
        "username": "alice",
        "first_name": "Alice",
        "email": "",
        "is_active": "on",
        "is_staff": "on",
        "is_superuser": "on",
        "groups": [Group.objects.get(name="reviewer").pk],
        "user_permissions": [Permission.objects.get(codename="read_text").pk],
        **{f"date_joined_{i}": part for i, part in enumerate(("2026-01-01", "00:00:00"))},
        "last_login_0": "",
        "last_login_1": "",
        "token_budget_period": "month",
        "api_keys-TOTAL_FORMS": 0,
        "api_keys-INITIAL_FORMS": 0,
    }
    response = client.post(page, data)
    assert response.status_code == 302, response.context["errors"]
    alice.refresh_from_db()
    assert alice.first_name == "Alice"
    assert not alice.is_staff
    assert not alice.is_superuser
    assert not alice.groups.exists()
    assert not alice.user_permissions.exists()

    form = {"token_budget_period": "month"}
    added = client.post("/admin/accounts/apikey/add/", form | {"user": alice.pk, "name": "made"})
    assert b"sk-" in added.content
    for staff in (boss, User.objects.create_user("clerk", is_staff=True)):
        stolen = form | {"user": staff.pk, "name": "stolen"}
        client.post("/admin/accounts/apikey/add/", stolen)
        key, _ = accounts.key_create(user=staff, name="theirs")
        rotated = {"action": "rotate", "_selected_action": [key.pk], "grace": "0"}
        assert client.post("/admin/accounts/apikey/", rotated).status_code == 302
        key.delete()
    assert [key.name for key in ApiKey.objects.all()] == ["made"]


def test_key_managers_change_nothing_of_staff(member, boss) -> None:
    key, _ = accounts.key_create(user=boss, name="theirs")
    client = member("key manager")
    page = reverse("admin:accounts_user_change", args=[boss.pk])
    assert client.get(page).status_code == 200
    assert client.post(page, {"username": "boss", "is_active": ""}).status_code == 403
    password = {"password1": "new-pass-word-1", "password2": "new-pass-word-1"}
    response = client.post(reverse("admin:auth_user_password_change", args=[boss.pk]), password)
    assert response.status_code == 403
    key_page = reverse("admin:accounts_apikey_change", args=[key.pk])
    assert client.post(key_page, {"name": "x"}).status_code == 403
    for action in ("revoke", "rotate"):
        data = {"action": action, "_selected_action": [key.pk], "grace": "0"}
        body = client.post("/admin/accounts/apikey/", data, follow=True).content.decode()
        assert "Nothing was done" in body
    key.refresh_from_db()
    boss.refresh_from_db()
    assert (key.name, key.revoked_at) == ("theirs", None)
    assert boss.check_password("a long one")


def give(client, user: User, **rights: object):  # type: ignore[no-untyped-def]
    page = reverse("admin:accounts_user_change", args=[user.pk])
    data = {
        "username": user.username,
        "is_active": "on",
        "token_budget_period": "month",
        **{f"date_joined_{i}": part for i, part in enumerate(("2026-01-01", "00:00:00"))},
        "api_keys-TOTAL_FORMS": 0,
        "api_keys-INITIAL_FORMS": 0,
    }
    return client.post(page, data | rights, follow=True).content.decode()


@pytest.mark.parametrize("right", ["is_staff", "is_superuser", "groups", "user_permissions"])
def test_who_is_given_rights_keeps_no_key_that_a_key_manager_could_have(
    staff_client, alice, boss, right: str
) -> None:
    manager = User.objects.create_user("manager", is_staff=True)
    makers = {"own": alice, "boss": boss, "command": None, "manager": manager}
    for name, maker in makers.items():
        accounts.key_create(user=alice, name=name, created_by=maker)
    token = password_path(alice).split("/")[-2]
    give(staff_client, alice, first_name="Alice")
    assert not ApiKey.objects.exclude(revoked_at=None).exists()
    value = {
        "groups": [Group.objects.get(name="auditor").pk],
        "user_permissions": [Permission.objects.get(codename="read_text").pk],
    }.get(right, "on")
    assert "they are revoked" in give(staff_client, alice, **{right: value})
    assert [key.name for key in ApiKey.objects.exclude(revoked_at=None)] == ["manager"]
    entry = LogEntry.objects.get(change_message__startswith="Revoked")
    assert entry.get_change_message() == "Revoked: alice was given rights."
    alice.refresh_from_db()
    assert password_tokens.check_token(alice, token) is not right.startswith("is_")


@pytest.mark.parametrize("group", ["auditor", "key manager", "privacy officer"])
def test_lists_are_asked_by_their_filters_alone(member, alice, group: str) -> None:
    accounts.key_create(user=alice)
    client = member(group)
    probes = {
        "accounts/apikey": ["digest__startswith", "last_four", "user__password__startswith"],
        "accounts/user": ["password__startswith", "last_name__startswith"],
    }
    if group == "key manager":
        probes["accounts/invitation"] = ["digest__startswith", "note__startswith"]
    for path, lookups in probes.items():
        assert client.get(f"/admin/{path}/").status_code == 200
        for lookup in lookups:
            assert client.get(f"/admin/{path}/", {lookup: "a"}).status_code == 400, lookup
    time = {"created_at__gte": "2026-01-01 00:00:00+00:00"}
    keys = {"user__id__exact": alice.pk, "status": "usable", **time}
    auditors = {"groups__id__exact": Group.objects.get(name="auditor").pk, "is_staff__exact": "1"}
    for path, query, count in (("apikey", keys, 1), ("user", auditors, int(group == "auditor"))):
        found = client.get(f"/admin/accounts/{path}/", query)
        assert len(found.context["cl"].result_list) == count, query


# ---- the groups themselves -----------------------------------------------------------------------


def rights_of(name: str) -> set[str]:
    codes = Group.objects.get(name=name).permissions.values_list(
        "content_type__app_label", "codename"
    )
    return {f"{app}.{code}" for app, code in codes}


def test_a_new_database_has_the_groups_with_their_rights(db) -> None:
    for name, rights in ROLES.items():
        assert rights_of(name) == set(rights)


def test_migrating_again_changes_nothing_that_the_operator_did(db) -> None:
    auditors = Group.objects.get(name="auditor")
    auditors.permissions.clear()
    Group.objects.get(name="reviewer").delete()
    Group.objects.filter(name="key manager").update(name="porters")
    call_command("migrate", verbosity=0)
    roles.roles_update()
    assert not auditors.permissions.exists()
    names = set(Group.objects.values_list("name", flat=True))
    assert names == {"auditor", "porters", "privacy officer"}


def test_what_a_later_version_adds_to_a_role_its_group_is_given_once(db, monkeypatch) -> None:
    operators = Group.objects.create(name="curator")
    Group.objects.get(name="key manager").delete()
    taken = Permission.objects.get(codename="view_auditevent")
    Group.objects.get(name="auditor").permissions.remove(taken)
    own = Permission.objects.get(codename="read_text")
    Group.objects.get(name="auditor").permissions.add(own)
    later = {
        **ROLES,
        "auditor": (*ROLES["auditor"], "conversations.view_label"),
        "key manager": (*ROLES["key manager"], "conversations.view_label"),
        "librarian": ("conversations.view_label",),
        "curator": ("conversations.view_label",),
    }
    monkeypatch.setattr(roles, "ROLES", later)
    roles.roles_update()
    expected = {*ROLES["auditor"], "conversations.view_label", "conversations.read_text"}
    assert rights_of("auditor") == expected - {"accounts.view_auditevent"}
    assert rights_of("librarian") == {"conversations.view_label"}
    assert not operators.permissions.exists()
    assert not Group.objects.filter(name="key manager").exists()
    assert rights_of("reviewer") == set(ROLES["reviewer"])
    # Once: what is taken away again stays away.
    Group.objects.get(name="librarian").permissions.clear()
    roles.roles_update()
    assert rights_of("librarian") == set()


def test_groups_of_a_database_from_before_are_left_as_they_are(db) -> None:
    RoleRight.objects.all().delete()
    Group.objects.exclude(name="auditor").delete()
    Group.objects.get(name="auditor").permissions.clear()
    roles.roles_update()
    assert list(Group.objects.values_list("name", flat=True)) == ["auditor"]
    assert rights_of("auditor") == set()
    assert RoleRight.objects.count() == sum(map(len, ROLES.values()))
