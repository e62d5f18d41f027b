"""Becoming a user: by an invitation, or where sign-up is open."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user
from django.core.management import CommandError
from django.test import Client
from django.utils import timezone

from accounts import links
from accounts.attempts import SIGN_UP
from accounts.models import ANONYMOUS_USERNAME, Invitation, User
from tests.accounts.pages import HTML, PASSWORD, manage, signed_in, user_with_password

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quick_passwords(settings) -> None:  # type: ignore[no-untyped-def]
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def sign_up_is(settings):  # type: ignore[no-untyped-def]
    def set_to(mode: str) -> None:
        settings.LLMAPI = settings.LLMAPI.model_copy(update={"sign_up": mode})

    return set_to


@pytest.fixture
def boss(db: None) -> User:
    return User.objects.create_superuser("boss")


def sign_up(client: Client, path: str = "/sign-up/", name: str = "carol", **extra: str):  # type: ignore[no-untyped-def]
    data = {"username": name, "password1": PASSWORD, "password2": PASSWORD, **extra}
    return client.post(path, data, **HTML)


def test_sign_up_is_closed_unless_the_operator_opens_it(client, boss, sign_up_is) -> None:
    _, path = links.invitation_create(created_by=boss)
    for door in ("/sign-up/", path):
        assert client.get(door, **HTML).status_code == 403
        assert sign_up(client, door).status_code == 403
    sign_up_is("invitation")
    assert sign_up(client, "/sign-up/").status_code == 403
    assert sign_up(client, "/sign-up/wrong-token/").status_code == 410
    assert not User.objects.filter(username="carol").exists()
    assert "Sign up" not in client.get("/sign-in/").content.decode()


def test_open_sign_up_makes_a_user_without_rights_and_signs_in(client, sign_up_is) -> None:
    sign_up_is("open")
    assert "Sign up" in client.get("/sign-in/").content.decode()
    extra = {"is_staff": "on", "is_superuser": "on", "requests_per_minute": "9"}
    assert sign_up(client, **extra)["Location"] == "/"
    user = User.objects.get(username="carol")
    assert (user.is_staff, user.is_superuser, user.requests_per_minute) == (False, False, None)
    assert get_user(client) == user
    assert client.get("/sign-up/")["Location"] == "/", "one is enough"


def test_names_that_are_taken_or_reserved_are_refused(client, sign_up_is) -> None:
    sign_up_is("open")
    user_with_password("Bob")
    for name in ("Bob", "bob", ANONYMOUS_USERNAME, "Anonymous", "two words", "", "a\0b"):
        assert "errorlist" in sign_up(client, name=name).content.decode()
    assert User.objects.count() == 1
    for password in ("short", "12345678901", "password123"):
        answer = sign_up(client, password1=password, password2=password)
        assert "errorlist" in answer.content.decode()
    assert User.objects.count() == 1


def test_open_sign_up_is_limited_for_each_address(client, sign_up_is) -> None:
    sign_up_is("open")
    for index in range(SIGN_UP.per_address):
        assert sign_up(Client(), name=f"user{index}").status_code == 302
    answer = sign_up(Client(), name="onemore")
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) >= 1
    assert User.objects.count() == SIGN_UP.per_address


def test_invitation_is_good_once(client, boss, sign_up_is) -> None:
    sign_up_is("invitation")
    invitation, path = links.invitation_create(created_by=boss, note="for Carol")
    assert client.get(path).status_code == 200
    assert sign_up(client, path)["Location"] == "/"
    invitation.refresh_from_db()
    assert invitation.used_by == User.objects.get(username="carol")
    assert invitation.used_at is not None
    assert Client().get(path).status_code == 410
    assert sign_up(Client(), path, name="dave").status_code == 410
    assert not User.objects.filter(username="dave").exists()


def test_invitation_ends_when_it_expires_or_is_withdrawn(client, boss, sign_up_is) -> None:
    sign_up_is("invitation")
    old, old_path = links.invitation_create(created_by=boss)
    Invitation.objects.filter(pk=old.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    withdrawn, withdrawn_path = links.invitation_create(created_by=boss)
    assert links.invitation_withdraw(withdrawn)
    assert not links.invitation_withdraw(withdrawn)
    for path in (old_path, withdrawn_path):
        assert sign_up(client, path).status_code == 410
    assert not User.objects.filter(username="carol").exists()


def test_only_the_digest_of_an_invitation_is_at_rest(boss) -> None:
    invitation, path = links.invitation_create(created_by=boss)
    token = path.strip("/").split("/")[-1]
    assert invitation.digest == links.digest(token)
    assert token not in str(Invitation.objects.values().get())


def test_tokens_of_links_are_not_in_the_log(boss, client, sign_up_is, caplog) -> None:
    sign_up_is("invitation")
    caplog.set_level("INFO", logger="llmapi")
    _, invitation = links.invitation_create(created_by=boss)
    password = links.password_path(boss)
    client.get(invitation)
    client.get(password, follow=True)
    assert "/sign-up/…" in caplog.text
    assert "/password/…" in caplog.text
    for path in (invitation, password):
        assert path.strip("/").split("/")[-1] not in caplog.text


@pytest.mark.django_db(transaction=True)
def test_of_several_who_accept_one_invitation_at_once_one_becomes_a_user(
    at_once, sign_up_is
) -> None:
    sign_up_is("invitation")
    boss = User.objects.create_superuser("boss")
    _, path = links.invitation_create(created_by=boss)
    answers = at_once(5, lambda index: sign_up(Client(), path, name=f"user{index}").status_code)
    assert sorted(answers) == [302, 410, 410, 410, 410]
    assert User.objects.exclude(pk=boss.pk).count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_several_who_take_one_name_at_once_one_gets_it(at_once, sign_up_is) -> None:
    sign_up_is("open")
    answers = at_once(4, lambda _: sign_up(Client()).status_code)
    assert sorted(answers) == [200, 200, 200, 302]
    assert User.objects.count() == 1


def test_invite_prints_a_link_that_works(boss, client, sign_up_is, settings) -> None:
    with pytest.raises(CommandError, match="LLMAPI_SIGN_UP=invitation"):
        manage("invite")
    sign_up_is("invitation")
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"public_url": "https://llm.example.org/"})
    link = manage("invite", "--days", "2", "--note", "Carol").strip()
    assert link.startswith("https://llm.example.org/sign-up/")
    invitation = Invitation.objects.get()
    assert (invitation.note, invitation.created_by) == ("Carol", boss)
    assert invitation.expires_at - timezone.now() <= timedelta(days=2)
    assert sign_up(client, link.removeprefix("https://llm.example.org")).status_code == 302
    for wrong in (["--days", "0"], ["--note", "x" * 201], ["--by", "nobody"]):
        with pytest.raises(CommandError):
            manage("invite", *wrong)


def test_staff_invite_in_the_admin_and_see_the_link_once(boss, sign_up_is) -> None:
    client = signed_in(boss)
    assert client.get("/admin/accounts/invitation/add/").status_code == 403, "sign-up is closed"
    sign_up_is("invitation")
    data = {"note": "<b>Carol</b>", "days": "3"}
    answer = client.post("/admin/accounts/invitation/add/", data)
    body = answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert "<b>Carol" not in body
    path = re.findall(r'value="http://testserver(/sign-up/[^"]+)"', body)[0]
    assert Client().get(path).status_code == 200
    listed = client.get("/admin/accounts/invitation/").content.decode()
    assert path.split("/")[-2] not in listed
    assert Invitation.objects.get().digest not in listed
    withdraw = {"action": "withdraw", "_selected_action": [Invitation.objects.get().pk]}
    client.post("/admin/accounts/invitation/", withdraw)
    assert Client().get(path).status_code == 410
