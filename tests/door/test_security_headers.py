"""Headers of answers that no route gives: errors of every kind, static files. Of all routes, and of
all who may ask there, `test_matrix` checks them."""

import asyncio

import pytest

from llmapi import places
from tests.door.client import Answer, Client
from tests.door.headers import lacking
from tests.door.test_history import CHAT, COMPLETIONS, EMBEDDINGS

HTML = {"accept": "text/html"}


def test_the_check_sees_what_is_not_there() -> None:
    bare = Answer(200, {"content-type": "text/html"}, b"")
    assert lacking(bare) == [
        *("x-content-type-options", "referrer-policy", "x-frame-options"),
        *("content-security-policy", "x-request-id"),
    ]
    weak = {"content-security-policy": "default-src *"}
    assert "content-security-policy" in lacking(Answer(200, weak, b""))


@pytest.mark.parametrize("headers", [HTML, {}], ids=["page", "json"])
async def test_errors_of_djangos_side_have_them(served, user, headers, monkeypatch) -> None:
    nobody = Client()
    asked = {
        400: nobody.get("/history/?q=%00", headers=headers),
        401: nobody.get("/v1/models", headers=headers),
        403: nobody.request("POST", "/sign-in/", headers=headers),
        404: nobody.get("/nothing/here", headers=headers),
        405: nobody.request("DELETE", "/v1/models", headers=headers),
    }
    for status, asking in asked.items():
        answer = await asking
        assert answer.status in (status, 401), answer
        assert lacking(answer) == [], status
    wrong_host = await nobody.get("/", headers={**headers, "host": "elsewhere.example.org"})
    assert wrong_host.status == 400
    assert lacking(wrong_host) == []

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("accounts.pages.sign_in.SignIn.get", fail)
    broken = await nobody.get("/sign-in/", headers=headers)
    assert broken.status == 500
    assert lacking(broken) == []


@pytest.mark.parametrize("headers", [HTML, {}], ids=["page", "json"])
async def test_so_has_the_refusal_of_a_server_that_is_too_busy(
    served, headers, monkeypatch
) -> None:
    async def full(self: places.Places, lane: str) -> None:
        raise places.Full

    monkeypatch.setattr(places.Places, "take", full)
    answer = await Client().get("/sign-in/", headers=headers)
    assert answer.status == 503
    assert lacking(answer) == []


async def test_answers_and_errors_of_the_door_have_theirs(client) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    answers = await asyncio.gather(
        client.post(CHAT, chat),
        client.post(CHAT, {**chat, "stream": True}),
        client.post(COMPLETIONS, {"prompt": []}),
        client.post(EMBEDDINGS, b"{"),
        Client().post(CHAT, chat),
        client.post(CHAT, {**chat, "model": "none"}),
    )
    assert sorted(answer.status for answer in answers) == [200, 200, 400, 400, 401, 404]
    for answer in answers:
        assert lacking(answer, is_door=True) == []


async def test_static_files_have_them_those_of_other_makers_too(served) -> None:
    for path, status in (
        ("/static/accounts/pages.css", 200),
        ("/static/admin/css/base.css", 200),
        ("/static/drf_spectacular_sidecar/swagger-ui-dist/oauth2-redirect.html", 200),
        ("/static/nothing.html", 404),
    ):
        answer = await Client().get(path)
        assert answer.status == status
        assert lacking(answer, is_file=True) == [], path
