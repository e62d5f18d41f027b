"""NUL, which PostgreSQL has no text for: a 400 wherever an address or a cookie holds one."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client as Browser
from django.urls import reverse

from accounts.models import ApiKey, User
from accounts.services import key_create
from tests.accounts.pages import HTML, signed_in
from tests.door.client import Client

API = [
    ("GET", "/v1/models/%00", None),
    ("GET", "/v1/chat/completions/a%00b", None),
    ("GET", "/v1/conversations/a%00b", None),
    ("GET", "/v1/conversations?after=a%00b", "after"),
    ("DELETE", "/v1/admin/adapters/%00", None),
]
PAGES = [
    "/keys/%00/",
    "/keys/%00/revoke/",
    "/keys/%00/rotate/",
    "/history/a%00b/",
    "/history/requests/a%00b/",
    "/history/conv_a/messages/a%00/",
    "/history/?model=%00",
    "/history/?older=1-%00",
    "/history/requests/?model=%00",
    "/playground/?conversation=%00",
]
ADMIN = [
    "/admin/?range=%00",
    "/admin/accounts/user/%00/change/",
    "/admin/accounts/auditevent/?action__exact=%00",
    "/admin/conversations/conversation/?user=%00",
    "/admin/conversations/conversation/?label=%00",
    "/admin/conversations/completion/?kind__exact=%00",
    "/admin/conversations/completion/?model=%00",
    "/admin/conversations/completion/?q=%00",
    "/admin/conversations/completion/export/?kind__exact=%00",
]
TEXT = "text/html; charset=utf-8"


@pytest.fixture
def boss(db) -> User:  # type: ignore[no-untyped-def]
    return User.objects.create_superuser("boss")


@pytest.mark.parametrize(("method", "address", "param"), API)
def test_the_api_refuses_it_in_the_envelope(boss, method, address, param) -> None:
    key = key_create(user=boss)[1]
    answer = Browser().generic(method, address, headers={"authorization": f"Bearer {key}"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["type"] == "invalid_request_error"
    assert "NUL" in error["message"]


@pytest.mark.parametrize("address", PAGES + ADMIN)
def test_browsers_get_a_page(boss, address) -> None:
    for method in ("GET", "POST"):
        answer = signed_in(boss).generic(method, address)
        assert (answer.status_code, answer["Content-Type"]) == (400, TEXT)
        assert "x-request-id" in answer


def test_a_cookie_can_hold_one_too(db) -> None:
    """By the escapes of quoted cookies."""
    cookie = "sessionid=" + '"' + "\\000" * 8 + '"'
    assert Browser().get("/", HTTP_COOKIE=cookie, **HTML).status_code == 400


def test_an_escaped_percent_sign_is_none(boss) -> None:
    assert signed_in(boss).get("/history/?model=%2500").status_code == 200


def test_names_of_models_of_a_key_hold_none(boss) -> None:
    fields = {"user": boss.pk, "token_budget_period": "month", "allowed_models": "a\0b"}
    answer = signed_in(boss).post(reverse("admin:accounts_apikey_add"), fields)
    assert (answer.status_code, ApiKey.objects.count()) == (200, 0)
    assert "none of them NUL" in answer.content.decode()
    assert not LogEntry.objects.exists()


async def test_the_door_refuses_it_too(db) -> None:
    answer = await Client().get("/v1/usage?models[]=%00")
    assert (answer.status, answer.error["param"]) == (400, "models")
