"""What all pages have: the policy, the language, errors for people beside errors for programs."""

import re
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.test import Client
from django.utils import translation

from accounts import links, services, translations
from accounts.middleware import policy
from accounts.models import User
from tests.accounts.pages import HTML, signed_in

pytestmark = pytest.mark.django_db

TEMPLATES = sorted(
    path
    for app in translations.APPS
    for path in (django_settings.BASE_DIR / app).rglob("templates/**/*.html")
)


@pytest.fixture
def boss(db: None) -> User:
    return User.objects.create_superuser("boss", password="x")


def test_every_page_carries_the_policy_and_its_headers(boss, client) -> None:
    key, _ = services.key_create(user=boss, name="laptop")
    signed = signed_in(boss)
    own = [f"/keys/{key.public_id}/{action}" for action in ("", "rotate/", "revoke/")]
    paths = ["/", "/keys/", "/keys/new/", "/password/", "/nothing/", "/admin/", *own]
    answers = [signed.get(path) for path in paths]
    answers += [client.get(path, **HTML) for path in ("/sign-in/", "/sign-up/", "/password/a/b/")]
    for answer in answers:
        assert answer["Content-Security-Policy"] == policy(), answer.request["PATH_INFO"]
        assert "unsafe" not in answer["Content-Security-Policy"]
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["Referrer-Policy"] == "same-origin"
        assert answer["X-Frame-Options"] == "DENY"


def test_swaggers_page_has_its_style_and_no_script_inline(client) -> None:
    answer = client.get("/docs/")
    assert answer["Content-Security-Policy"] == policy(style_src="'self' 'unsafe-inline'")
    body = answer.content.decode()
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", body))
    assert "openapi.json" in client.get("/docs/?script=").content.decode()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_script_or_style_inline(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    assert "https://" not in text
    assert "|safe" not in text.replace("field.help_text|safe", ""), "Django's own help texts alone"


def test_pages_of_users_are_kept_in_no_cache(alice) -> None:
    client = signed_in(alice)
    for path in ("/", "/keys/", "/password/"):
        assert "no-store" in client.get(path)["Cache-Control"]


def test_pages_behind_links_are_kept_in_no_cache_and_named_to_nobody(boss, settings) -> None:
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"sign_up": "invitation"})
    _, invitation = links.invitation_create(created_by=boss)
    for path in (invitation, links.password_path(User.objects.create_user("carol"))):
        answer = Client().get(path, **HTML, follow=True)
        assert 'type="password"' in answer.content.decode()
        for one in (answer, *([Client().get(path, **HTML)] if answer.redirect_chain else [])):
            assert "no-store" in one["Cache-Control"]
            assert one["Referrer-Policy"] == "same-origin"


def test_current_section_is_marked(alice) -> None:
    client = signed_in(alice)
    assert 'href="/keys/" aria-current="page"' in client.get("/keys/new/").content.decode()
    assert "aria-current" not in client.get("/").content.decode()


def test_people_get_pages_for_errors_and_programs_get_json(client) -> None:
    page = client.get("/nothing/", **HTML)
    assert (page.status_code, page["Content-Type"]) == (404, "text/html; charset=utf-8")
    for path, extra in (
        ("/nothing/", {}),
        ("/v1/nothing", HTML),
        ("/v1/nothing", {}),
        ("/nothing/", {"HTTP_ACCEPT": "*/*"}),
    ):
        answer = client.get(path, **extra)
        assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")
        assert answer.json()["error"]["code"] == "unknown_route"


def test_page_of_an_unexpected_error_asks_the_database_nothing(
    alice, monkeypatch, django_assert_num_queries
) -> None:
    client = signed_in(alice)
    client.raise_request_exception = False

    def fail(user: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("accounts.pages.keys.own_keys", fail)
    with django_assert_num_queries(2):  # who asks: before it failed
        answer = client.get("/keys/")
    assert (answer.status_code, answer["Content-Type"]) == (500, "text/html; charset=utf-8")
    assert "a bug" not in answer.content.decode()
    assert "Content-Security-Policy" in answer


def test_language_is_the_browsers_until_the_reader_chooses_one(client) -> None:
    chinese = {"HTTP_ACCEPT_LANGUAGE": "zh-CN,zh;q=0.9"}
    assert "Sign in" in client.get("/sign-in/").content.decode()
    body = client.get("/sign-in/", **chinese).content.decode()
    assert "登录" in body
    assert '<html lang="zh-Hans">' in body
    answer = client.post("/language/", {"language": "en", "next": "/sign-in/"}, **chinese)
    assert answer["Location"] == "/sign-in/"
    cookie = client.cookies["django_language"]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert cookie["max-age"] == 365 * 24 * 3600
    assert "Sign in" in client.get("/sign-in/", **chinese).content.decode()


def test_api_answers_in_english_whatever_the_browser_reads(client) -> None:
    chinese = {"HTTP_ACCEPT_LANGUAGE": "zh-CN", "HTTP_COOKIE": "django_language=zh-hans"}
    client.get("/sign-in/", **chinese)
    answer = client.post("/v1/models", **chinese)
    assert "Content-Language" not in answer
    assert answer.json()["error"]["message"].isascii()


def test_catalogues_are_complete_and_what_django_reads_is_made_of_them() -> None:
    call_command("translations", "--check")
    with translation.override("zh-hans"):
        assert translation.gettext("Sign out") == "退出登录"
    for app in translations.APPS:
        assert not any(message.id and message.fuzzy for message in translations.read(app))


def test_translations_keep_what_is_filled_in() -> None:
    for app in translations.APPS:
        for message in translations.read(app):
            names = re.compile(r"%\(\w+\)[sd]|\{\w*\}|</?\w+>")
            ids = message.id if isinstance(message.id, tuple) else (message.id,)
            strings = message.string if isinstance(message.string, tuple) else (message.string,)
            for text in strings if message.id else ():
                assert sorted(names.findall(text)) == sorted(names.findall(ids[-1])), ids


def test_times_come_in_utc_with_their_machine_readable_form(alice) -> None:
    key, _ = services.key_create(user=alice)
    body = signed_in(alice).get(f"/keys/{key.public_id}/").content.decode()
    assert f'<time datetime="{key.created_at:%Y-%m-%dT%H:%M:%SZ}">' in body


def test_everything_but_copying_works_without_scripts(alice) -> None:
    services.key_create(user=alice)
    for path in ("/", "/keys/", "/keys/new/", "/password/"):
        body = signed_in(alice).get(path).content.decode()
        for button in re.findall(r"<button[^>]*data-copy[^>]*>", body):
            assert "hidden" in button
        assert 'href="#"' not in body


def test_a_page_of_every_route_of_the_pages_needs_a_session(alice) -> None:
    key, _ = services.key_create(user=alice)
    for path in ("", "rotate/", "revoke/"):
        answer = Client().post(f"/keys/{key.public_id}/{path}")
        assert answer["Location"].startswith("/sign-in/?next=")
