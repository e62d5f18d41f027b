"""What the playground's page is given: a key for chats alone, the models, a conversation."""

import json
import re

import pytest
from django.test import Client as Browser
from django.utils import timezone, translation
from django.utils.translation import gettext

from accounts.models import ApiKey, User
from accounts.services import PLAYGROUND_KEYS, playground_key_create
from llmapi.playground.fields import FIELDS
from llmapi.playground.words import words
from llmapi.services import models
from tests.door.client import Client

KEY = "/playground/key/"
CHAT = "/v1/chat/completions"


@pytest.fixture
def alice(served, user) -> Browser:
    browser = Browser()
    browser.force_login(user)
    return browser


def config_of(page) -> dict:
    found = re.search(r'<script id="playground-config" [^>]*>(.*?)</script>', page.content.decode())
    return json.loads(found[1])


def test_the_key_is_for_chats_for_an_hour_and_in_no_list(alice) -> None:
    answer = alice.post(KEY)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    key = ApiKey.objects.get()
    assert (key.scopes, key.for_playground) == (["chat"], True)
    left_s = (key.expires_at - timezone.now()).total_seconds()
    assert 3540 < left_s <= answer.json()["expires_in"] == 3600
    assert key.public_id not in alice.get("/keys/").content.decode()
    assert alice.get(f"/keys/{key.public_id}/").status_code == 404


def test_a_key_is_given_to_a_form_of_this_site_alone(alice, user) -> None:
    strict = Browser(enforce_csrf_checks=True)
    strict.force_login(user)
    assert strict.post(KEY).status_code == 403
    assert alice.get(KEY).status_code == 405
    nobody = Browser().post(KEY)
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "signed_out")
    assert not ApiKey.objects.exists()


async def test_the_key_chats_and_opens_nothing_else(served, user) -> None:
    from asgiref.sync import sync_to_async

    client = Client(await sync_to_async(playground_key_create)(user))
    said = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    assert (await client.post(CHAT, said)).status == 200
    for path in ("/v1/models", CHAT, "/v1/conversations"):
        answer = await client.get(path)
        assert (answer.status, answer.error["code"]) == (403, "permission_denied"), path
    assert (await client.post("/v1/embeddings", {"input": "Hello"})).status == 403


def test_of_many_keys_the_newest_few_go_on_working(alice) -> None:
    texts = [alice.post(KEY).json()["key"] for _ in range(PLAYGROUND_KEYS + 2)]
    usable = {key.public_id for key in ApiKey.objects.all() if key.is_usable}
    assert usable == {text[3:11] for text in texts[-PLAYGROUND_KEYS:]}


def test_who_asks_for_too_many_keys_is_told_when_to_come_again(alice, monkeypatch) -> None:
    monkeypatch.setattr("accounts.services.playground_keys.PLAYGROUND_KEYS_MADE", 1)
    assert alice.post(KEY).status_code == 200
    refused = alice.post(KEY)
    assert (refused.status_code, ApiKey.objects.count()) == (429, 1)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused["Retry-After"]) <= 120


def test_every_model_is_offered_with_what_it_answers_with(alice, monkeypatch) -> None:
    monkeypatch.setattr(models, "_aliases", {"gpt-4": "random"})
    offered = {model["id"]: model for model in config_of(alice.get("/playground/"))["models"]}
    assert list(offered) == ["reciter", "random", "gpt-4"]
    assert offered["gpt-4"]["alias_of"] == "random"
    defaults = {"temperature", "top_p", "top_k", "repetition_penalty", "max_tokens"}
    assert set(offered["random"]["defaults"]) == defaults
    assert offered["gpt-4"]["defaults"] == offered["random"]["defaults"]
    assert offered["random"]["defaults"]["max_tokens"] == 512


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_limits_are_told_in_the_words_of_the_page(language) -> None:
    with translation.override(language):
        said = words()
        label = next(str(field.label) for field in FIELDS if field.name == "max_tokens")
        new_chat = gettext("New chat").lower()
    for kind in ("limit_too_large", "limit_budget"):
        assert label in said[kind]
        assert new_chat in said[kind]
    for kind, sentence in said.items():
        if kind.startswith("limit"):
            assert "max_tokens" not in sentence
            assert "API" not in sentence


def test_code_is_shown_with_the_operators_address(alice, settings) -> None:
    assert config_of(alice.get("/playground/"))["base_url"] == "http://testserver/v1"
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"public_url": "https://llm.example.org"})
    assert config_of(alice.get("/playground/"))["base_url"] == "https://llm.example.org/v1"


async def test_a_conversation_comes_as_it_is_to_be_sent_again(client, user) -> None:
    from asgiref.sync import sync_to_async

    hostile = "</script><img src=x onerror=alert(1)>"
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": hostile}]},
    ]
    answer = (await client.post(CHAT, {"messages": said, "max_tokens": 2})).json()

    def look() -> dict:
        browser = Browser()
        browser.force_login(user)
        page = browser.get("/playground/", {"conversation": answer["conversation"]["id"]})
        assert hostile not in page.content.decode()
        return config_of(page)["conversation"]

    shown = await sync_to_async(look)()
    assert [(m["role"], m["content"]) for m in shown["messages"][:2]] == [
        (m["role"], m["content"]) for m in said
    ]
    assert shown["messages"][1]["text"] == hostile
    assert shown["messages"][2]["content"] == answer["choices"][0]["message"]["content"]
    assert shown["model"] == answer["model"]


def test_the_page_of_anothers_conversation_does_not_exist(alice) -> None:
    from conversations.models import Conversation

    others = Conversation.objects.create(user=User.objects.create_user("bob"))
    for name in (others.public_id, "conv_none", "' OR 1=1"):
        assert alice.get("/playground/", {"conversation": name}).status_code == 404
