"""Signing in, by the one door that the pages and the admin have."""

from datetime import timedelta

import pytest
from django.contrib.auth import get_user
from django.contrib.auth.hashers import MD5PasswordHasher
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.attempts import SIGN_IN
from accounts.links import password_path
from accounts.models import Attempt, User
from accounts.services import anonymous_user, first_staff_create
from tests.accounts.pages import HTML, PASSWORD, sign_in, signed_in, user_with_password

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quick_passwords(settings) -> None:  # type: ignore[no-untyped-def]
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def test_who_is_signed_out_is_asked_to_sign_in_and_comes_back(client) -> None:
    user_with_password("bob")
    for path in ("/", "/keys/", "/keys/new/", "/password/"):
        answer = client.get(path)
        assert answer.status_code == 302
        assert answer["Location"] == f"/sign-in/?next={path}"
    answer = sign_in(client, "bob", PASSWORD, next="/keys/")
    assert answer["Location"] == "/keys/"
    assert client.get("/keys/").status_code == 200


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"],
)
def test_next_leads_to_pages_of_this_server_alone(client, elsewhere: str) -> None:
    user_with_password("bob")
    assert sign_in(client, "bob", PASSWORD, next=elsewhere)["Location"] == "/"
    language = client.post("/language/", {"language": "zh-hans", "next": elsewhere}, **HTML)
    assert "evil" not in language["Location"]


def test_one_sentence_refuses_unknown_users_wrong_passwords_and_inactive_accounts(client) -> None:
    user_with_password("bob")
    user_with_password("gone", is_active=False)
    User.objects.create_user("keys-only")
    bodies = set()
    for name, password in (
        ("bob", "wrong"),
        ("nobody", "wrong"),
        ("gone", PASSWORD),
        ("keys-only", ""),
        ("keys-only", "wrong"),
    ):
        if not password:
            continue
        answer = sign_in(client, name, password)
        assert answer.status_code == 200
        text = answer.content.decode()
        assert "do not fit together" in text
        bodies.add(text.split("<ul class=")[1].split("</ul>")[0])
    assert len(bodies) == 1
    assert not get_user(client).is_authenticated


class CountedHasher(MD5PasswordHasher):
    """How often passwords were hashed: what takes the time, and so tells."""

    count = 0

    def encode(self, password: str, salt: str) -> str:
        type(self).count += 1
        return super().encode(password, salt)


def test_every_refusal_takes_the_same_work(client, settings) -> None:
    settings.PASSWORD_HASHERS = [f"{__name__}.CountedHasher"]
    user_with_password("bob")
    user_with_password("gone", is_active=False)
    keys_only = User.objects.create_user("keys-only")
    assert not keys_only.has_usable_password()
    anonymous_user()
    counts = {}
    for name in ("bob", "nobody", "gone", "keys-only", "anonymous"):
        before = CountedHasher.count
        assert "do not fit together" in sign_in(client, name, "wrong").content.decode()
        counts[name] = CountedHasher.count - before
    assert set(counts.values()) == {1}, counts


def test_session_of_before_is_nobodys_after_the_sign_in_and_the_sign_out(client) -> None:
    bob = user_with_password("bob")
    client.get(password_path(bob), follow=True)  # its token goes into a session
    before = client.cookies["sessionid"].value
    assert sign_in(client, "bob", PASSWORD).status_code == 302
    during = client.cookies["sessionid"].value
    assert during != before
    client.post("/sign-out/")
    for old in (before, during):
        stranger = Client()
        stranger.cookies["sessionid"] = old
        assert stranger.get("/keys/").status_code == 302


def test_too_many_failures_for_one_name_are_429_and_the_right_password_does_not_help() -> None:
    user_with_password("bob")
    client = Client()
    for _ in range(SIGN_IN.per_name):
        assert sign_in(client, "bob", "wrong").status_code == 200
    answer = sign_in(client, "bob", PASSWORD)
    assert answer.status_code == 429
    assert 1 <= int(answer["Retry-After"]) <= SIGN_IN.window.total_seconds()
    assert "Too many attempts" in answer.content.decode()
    assert sign_in(client, "BOB", PASSWORD).status_code == 429, "in another spelling"
    assert sign_in(Client(), "bob", PASSWORD, address="192.0.2.2").status_code == 302, (
        "nobody locks somebody else out"
    )


def test_failures_of_one_address_count_over_all_names() -> None:
    user_with_password("bob")
    for index in range(SIGN_IN.per_address):
        assert sign_in(Client(), f"guess{index}", "wrong").status_code == 200
    assert sign_in(Client(), "bob", PASSWORD).status_code == 429
    assert sign_in(Client(), "bob", PASSWORD, address="192.0.2.2").status_code == 302


def test_one_households_ipv6_addresses_count_as_one() -> None:
    for index in range(SIGN_IN.per_name):
        sign_in(Client(), "bob", "wrong", address=f"2001:db8::{index + 1:x}")
    assert sign_in(Client(), "bob", "wrong", address="2001:db8::ffff").status_code == 429
    assert sign_in(Client(), "bob", "wrong", address="2001:db8:0:1::1").status_code == 200


def test_success_forgets_the_failures_of_that_name() -> None:
    user_with_password("bob")
    for _ in range(3):
        for _ in range(SIGN_IN.per_name - 1):
            sign_in(Client(), "bob", "wrong")
        assert sign_in(Client(), "bob", PASSWORD).status_code == 302
    assert not Attempt.objects.exists()


def test_failures_stop_counting_after_their_window() -> None:
    user_with_password("bob")
    for _ in range(SIGN_IN.per_name):
        sign_in(Client(), "bob", "wrong")
    Attempt.objects.update(at=timezone.now() - SIGN_IN.window - timedelta(seconds=1))
    assert sign_in(Client(), "bob", PASSWORD).status_code == 302


def test_refused_attempts_do_not_make_the_wait_longer() -> None:
    for _ in range(SIGN_IN.per_name + 5):
        sign_in(Client(), "bob", "wrong")
    assert Attempt.objects.count() == SIGN_IN.per_name


def test_what_was_typed_is_not_kept() -> None:
    sign_in(Client(), "my secret password", "oops")
    row = Attempt.objects.get()
    assert "secret" not in row.name
    assert "192.0.2" not in row.address


@pytest.mark.django_db(transaction=True)
def test_attempts_at_once_get_no_more_than_the_limit_through(at_once) -> None:
    answers = at_once(12, lambda _: sign_in(Client(), "bob", "wrong").status_code)
    assert answers.count(200) <= SIGN_IN.per_name
    assert set(answers) <= {200, 429}


def test_behind_a_proxy_the_address_is_the_one_that_the_proxy_saw(settings) -> None:
    def guess(forwarded: str) -> int:
        data = {"username": "bob", "password": "wrong"}
        extra = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": forwarded}
        return Client().post("/sign-in/", data, **extra).status_code

    settings.LLMAPI = settings.LLMAPI.model_copy(update={"proxies": 1})
    for index in range(SIGN_IN.per_name):
        assert guess(f"198.51.100.{index}, 192.0.2.1") == 200
    assert guess("198.51.100.99, 192.0.2.1") == 429, "the client wrote the first one itself"
    assert guess("192.0.2.2") == 200
    assert guess("192.0.2.1:50123") == 429, "some proxies add the port"
    for _ in range(SIGN_IN.per_name):
        guess("[2001:db8::1]:443")
    assert guess("2001:db8::2") == 429, "the household of the one before"
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"proxies": 0})
    for _ in range(SIGN_IN.per_name):
        guess("192.0.2.77")
    assert guess("192.0.2.78") == 429, "without proxies the header is the client's own"


def test_admin_has_no_sign_in_of_its_own(client) -> None:
    answer = client.get("/admin/", **HTML, follow=True)
    assert answer.redirect_chain[-1][0].startswith("/sign-in/?next=")
    assert client.post("/admin/login/", {"username": "a", "password": "b"}).status_code == 302
    assert client.get("/admin/login/?next=//evil.example/")["Location"].startswith("/sign-in/")
    user_with_password("boss", is_staff=True)
    assert sign_in(client, "boss", PASSWORD, next="/admin/")["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_user_without_staff_status_is_told_so_and_not_sent_round_in_circles() -> None:
    client = signed_in(user_with_password("bob"))
    answer = client.get("/admin/", follow=True)
    assert answer.status_code == 403
    assert "not for your account" in answer.content.decode()


def test_sign_out_takes_a_post_and_ends_the_session() -> None:
    client = signed_in(user_with_password("bob"))
    assert client.get("/sign-out/").status_code == 405
    assert client.post("/sign-out/")["Location"] == "/sign-in/"
    assert client.get("/keys/").status_code == 302


@pytest.mark.parametrize(
    "path", ["/sign-in/", "/sign-out/", "/password/", "/keys/new/", "/language/"]
)
def test_forms_without_their_token_are_refused(path: str) -> None:
    client = Client(enforce_csrf_checks=True, headers={"accept": "text/html"})
    client.force_login(user_with_password("bob"))
    answer = client.post(path, {})
    assert answer.status_code == 403
    assert "too old" in answer.content.decode()


def test_first_staff_user_changes_its_password_and_other_sessions_end() -> None:
    made = first_staff_create()
    assert made is not None
    user, password, _ = made
    here, elsewhere = signed_in(user), signed_in(user)
    new = {"new_password1": "correct horse battery", "new_password2": "correct horse battery"}
    assert "errorlist" in here.post("/password/", {"old_password": "x", **new}).content.decode()
    assert here.post("/password/", {"old_password": password, **new}).status_code == 302
    assert here.get("/keys/").status_code == 200
    assert elsewhere.get("/keys/").status_code == 302
    assert sign_in(Client(), "admin", "correct horse battery").status_code == 302


def test_session_opens_no_route_of_the_api(alice) -> None:
    client = signed_in(alice)
    for path in ("/v1/models", "/v1/admin/adapters"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer["Content-Type"] == "application/json"


def test_nobody_signs_in_as_the_user_of_requests_without_a_key(client) -> None:
    user_with_password("anonymous")
    assert "do not fit together" in sign_in(client, "anonymous", PASSWORD).content.decode()
    assert not get_user(client).is_authenticated


def test_that_user_is_given_no_password_in_the_admin(staff_client) -> None:
    user = anonymous_user()
    page = reverse("admin:auth_user_password_change", args=[user.pk])
    data = {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
    assert "it has no password" in staff_client.post(page, data).content.decode()
    user.refresh_from_db()
    assert not user.has_usable_password()
