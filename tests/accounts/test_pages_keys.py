"""A user's own keys by the pages: made, shown once, renamed, rotated, revoked; nobody else's."""

import html
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts import keys as key_format
from accounts import services
from accounts.limits.limiter import limiter
from accounts.models import ApiKey, User
from accounts.pages.allowances import key_holder
from tests.accounts.pages import signed_in

pytestmark = pytest.mark.django_db

NEW = "/keys/new/"
KEY = re.compile(r"sk-[0-9A-Za-z]{46}")


@pytest.fixture
def mine(alice: User) -> Client:
    return signed_in(alice)


@pytest.fixture(autouse=True)
def served(settings) -> None:  # type: ignore[no-untyped-def]
    settings.OFFERED_MODELS = "tests.accounts.test_pages_keys.two_models"


@pytest.fixture
def counted() -> Iterator[None]:
    """Nothing counted before, and nothing left: the counts are the process's."""
    limiter.open(None)
    yield
    limiter.open(None)


def two_models() -> list[str]:
    return ["llama", "org/hostile<b>\"'"]


def no_models() -> list[str]:
    return []


def make(client: Client, **fields: object):  # type: ignore[no-untyped-def]
    token = re.search(r'name="form_token" value="([^"]+)"', client.get(NEW).content.decode())
    assert token
    return client.post(NEW, {"name": "laptop", "form_token": token[1], **fields})


def text_of(answer) -> str:  # type: ignore[no-untyped-def]
    return html.unescape(answer.content.decode())


def test_new_key_is_shown_once_and_never_again(mine, alice) -> None:
    answer = make(mine)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    texts = set(KEY.findall(answer.content.decode()))
    assert len(texts) == 1
    text = texts.pop()
    key = ApiKey.objects.get()
    assert (key.digest, key.user, key.created_by) == (key_format.digest(text), alice, alice)
    for path in ("/", "/keys/", f"/keys/{key.public_id}/", f"/keys/{key.public_id}/rotate/"):
        body = mine.get(path).content.decode()
        assert text[11:] not in body
        assert key.digest not in body
    assert text not in str([*mine.session.items()])


def test_snippets_carry_the_key_and_this_servers_own_address(mine) -> None:
    answer = make(mine, offered="llama")
    body = text_of(answer)
    text = KEY.findall(body)[0]
    assert f'-H "Authorization: Bearer {text}"' in body
    assert "curl http://testserver/v1/chat/completions" in body
    assert f'OpenAI(base_url="http://testserver/v1", api_key="{text}")' in body
    assert f"export OPENAI_API_KEY={text}" in body
    assert "export OPENAI_BASE_URL=http://testserver/v1" in body
    assert 'model="llama"' in body


def test_snippets_use_what_the_key_may_be_used_for(mine) -> None:
    body = text_of(make(mine, scopes="embeddings"))
    assert "/v1/embeddings" in body
    assert "/v1/chat/completions" not in body


def test_models_that_are_not_served_are_told_with_the_new_key(mine, alice, settings) -> None:
    told = "No model of this name is served at present"
    assert told not in text_of(make(mine, offered="llama"))
    answer = make(mine, offered="llama", other_models="later, <i>last</i>")
    assert re.search(rf"{told}.*<code[^>]*>later</code>, <code", answer.content.decode())
    assert "<i>last" not in answer.content.decode()
    key = ApiKey.objects.latest("pk")
    rotated = mine.post(f"/keys/{key.public_id}/rotate/", {"grace": "0", "form_token": "once"})
    assert told in rotated.content.decode()
    assert key.allowed_models == ["llama", "later", "<i>last</i>"], "and made all the same"
    # While a model is loading, which ones there will be is not known.
    settings.OFFERED_MODELS = "tests.accounts.test_pages_keys.no_models"
    assert told not in text_of(make(mine, other_models="later"))


def test_form_that_is_sent_again_makes_no_second_key(mine) -> None:
    token = re.search(r'name="form_token" value="([^"]+)"', mine.get(NEW).content.decode())
    assert token
    fields = {"name": "laptop", "form_token": token[1]}
    assert mine.post(NEW, fields).status_code == 200
    assert mine.post(NEW, fields)["Location"] == "/keys/"
    assert ApiKey.objects.count() == 1


def test_all_that_was_chosen_is_the_keys(mine) -> None:
    make(
        mine,
        expires="30",
        scopes=["chat", "read-only"],
        offered=["llama"],
        other_models=" llama , later ,",
        requests_per_minute="10",
        tokens_per_minute="1000",
        concurrent_requests="2",
        token_budget="50000",
        token_budget_period="day",
    )
    key = ApiKey.objects.get()
    assert (key.name, key.scopes) == ("laptop", ["chat", "read-only"])
    assert key.allowed_models == ["llama", "later"]
    assert (key.requests_per_minute, key.tokens_per_minute) == (10, 1000)
    assert (key.concurrent_requests, key.token_budget) == (2, 50000)
    assert key.token_budget_period == "day"
    assert key.expires_at is not None
    left = key.expires_at - timezone.now()
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)


def test_key_may_have_no_more_than_its_owner(mine, alice) -> None:
    alice.requests_per_minute = 10
    alice.token_budget, alice.token_budget_period = 1000, "day"
    alice.save()
    for wrong in (
        {"requests_per_minute": "11"},
        {"token_budget": "1001", "token_budget_period": "day"},
        {"token_budget": "31001", "token_budget_period": "month"},
    ):
        answer = make(mine, **wrong)
        assert "No more than your own limit" in answer.content.decode()
    assert not ApiKey.objects.exists()
    make(mine, requests_per_minute="10", token_budget="31000", token_budget_period="month")
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"expires": "31"},
        {"scopes": ["everything"]},
        {"scopes": ["admin"]},
        {"offered": ["unknown"]},
        {"other_models": "x" * 201},
        {"other_models": ",".join(f"m{index}" for index in range(51))},
        {"requests_per_minute": "-1"},
        {"requests_per_minute": "9" * 30},
        {"token_budget": "many"},
        {"token_budget_period": "year"},
        {"name": "a\0b"},
    ],
)
def test_what_cannot_be_is_said_beside_its_field(mine, wrong: dict[str, object]) -> None:
    answer = make(mine, **wrong)
    assert answer.status_code == 200
    assert 'class="errorlist' in answer.content.decode()
    assert not ApiKey.objects.exists()


def test_scope_of_staff_is_offered_to_staff_alone(mine) -> None:
    assert 'value="admin"' not in mine.get(NEW).content.decode()
    staff = signed_in(User.objects.create_user("boss", is_staff=True))
    assert 'value="admin"' in staff.get(NEW).content.decode()


def test_hostile_text_is_shown_as_text(mine, alice) -> None:
    key, _ = services.key_create(user=alice, name="<script>alert(1)</script>")
    for path in ("/", "/keys/", NEW, f"/keys/{key.public_id}/", f"/keys/{key.public_id}/revoke/"):
        body = mine.get(path).content.decode()
        assert "<script>alert" not in body
        assert "hostile<b>" not in body


def test_list_has_own_keys_alone_and_none_of_the_playground(mine, alice) -> None:
    own, _ = services.key_create(user=alice, name="own")
    others, _ = services.key_create(user=User.objects.create_user("bob"), name="others")
    playground, _ = services.key_create(user=alice, name="played")
    ApiKey.objects.filter(pk=playground.pk).update(for_playground=True)
    for path in ("/", "/keys/"):
        body = mine.get(path).content.decode()
        assert own.masked in body
        assert others.public_id not in body
        assert playground.public_id not in body


def test_list_does_not_query_per_key(mine, alice, django_assert_max_num_queries) -> None:
    for index in range(20):
        services.key_create(user=alice, name=f"key {index}")
    services.key_revoke(ApiKey.objects.earliest("pk"))
    with django_assert_max_num_queries(4):
        assert "key 19" in mine.get("/keys/").content.decode()


@pytest.mark.parametrize("action", ["", "revoke/", "rotate/"])
def test_key_of_another_user_does_not_exist(mine, action: str) -> None:
    bob = User.objects.create_user("bob")
    key, _ = services.key_create(user=bob, name="others")
    playground, _ = services.key_create(user=User.objects.get(username="alice"))
    ApiKey.objects.filter(pk=playground.pk).update(for_playground=True)
    for public_id in (key.public_id, playground.public_id, "nothing1"):
        path = f"/keys/{public_id}/{action}"
        assert mine.get(path).status_code == 404
        assert mine.post(path, {"name": "mine", "grace": "0"}).status_code == 404
    key.refresh_from_db()
    assert (key.name, key.revoked_at, key.replaced_by) == ("others", None, None)


def test_key_is_renamed_and_nothing_else_of_it_changes(mine, alice) -> None:
    key, _ = services.key_create(user=alice, name="old")
    path = f"/keys/{key.public_id}/"
    assert 'class="errorlist' in mine.post(path, {"name": " "}).content.decode()
    mine.post(path, {"name": "new", "expires_at": "2030-01-01", "digest": "x"})
    same = ApiKey.objects.get()
    assert (same.name, same.digest, same.expires_at) == ("new", key.digest, None)


def test_key_is_revoked_after_a_question(mine, alice) -> None:
    key, _ = services.key_create(user=alice, name="laptop")
    path = f"/keys/{key.public_id}/revoke/"
    assert "cannot be undone" in mine.get(path).content.decode()
    assert ApiKey.objects.get().revoked_at is None
    assert mine.post(path)["Location"] == "/keys/"
    assert ApiKey.objects.get().revoked_at is not None
    assert "Revoked" in mine.get("/keys/").content.decode()


def test_rotation_shows_a_new_key_and_the_old_one_ends_after_its_grace(mine, alice) -> None:
    key, old_text = services.key_create(user=alice, name="laptop", scopes=["chat"])
    path = f"/keys/{key.public_id}/rotate/"
    answer = mine.post(path, {"grace": "24", "form_token": "once"})
    assert "no-store" in answer["Cache-Control"]
    text = KEY.findall(answer.content.decode())[0]
    assert text != old_text
    key.refresh_from_db()
    new = ApiKey.objects.get(digest=key_format.digest(text))
    assert (key.replaced_by, new.scopes, new.created_by) == (new, ["chat"], alice)
    assert key.expires_at is not None
    assert timedelta(hours=23) < key.expires_at - timezone.now() <= timedelta(hours=24)
    again = mine.post(path, {"grace": "24", "form_token": "twice"})
    assert "replaced already" in again.content.decode()
    assert ApiKey.objects.count() == 2


def test_pages_show_how_much_of_the_limits_is_used(mine, alice, counted) -> None:
    alice.concurrent_requests, alice.token_budget = 4, 1_000_000
    alice.save()
    key, _ = services.key_create(user=alice, name="laptop", limits={"requests_per_minute": 10})
    holder = key_holder(key)
    assert holder is not None
    limiter.reserve((holder,), "chatcmpl-1", 5, lambda *_: 0)
    body = " ".join(mine.get(f"/keys/{key.public_id}/").content.decode().split())
    assert 'Requests per minute</span><span class="number quiet">1 / 10</span>' in body
    start = mine.get("/").content.decode()
    assert "0 / 1,000,000" in start
    assert "0 / 4" in start


def test_servers_defaults_bound_keys_of_users_without_limits(mine, settings) -> None:
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"default_requests_per_minute": 5})
    assert "No more than your own limit, 5." in make(mine, requests_per_minute="6").content.decode()
    assert not ApiKey.objects.exists()
