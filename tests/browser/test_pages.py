"""All pages in a real browser: two users who see nothing of each other, two languages, a phone."""

import re

import httpx
import pytest

from tests.browser.chromium import look

pytestmark = pytest.mark.browser

PAGES = (
    *("/", "/playground/", "/history/", "/history/requests/", "/usage/"),
    *("/keys/", "/keys/new/", "/password/", "/docs/"),
)
OPEN_PAGES = ("/sign-in/", "/sign-up/x/", "/password/MQ/x/", "/nothing/here/")
REFUSED = re.compile(r"Failed to load resource: .* status of 4\d\d")
"""What the console says of a page that itself says that it is not to be had."""


def make_key(reader) -> str:
    reader.open("/keys/new/")
    reader.fill("name", "laptop")
    reader.click("main form [type=submit]")
    key = reader.until(lambda: reader.find("#key-text"), "the key is shown").get_attribute("value")
    assert re.fullmatch(r"sk-[0-9A-Za-z]{46}", key)
    return key


def ask(server, key: str, method: str = "GET", path: str = "/v1/chat/completions", **kwargs):
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.request(method, server.url + path, headers=headers, timeout=30, **kwargs)


def test_two_users_make_keys_chat_and_reach_nothing_of_each_other(reader, server) -> None:
    made = {}
    for name in ("alice", "bob"):
        reader.sign_in(name)
        key = make_key(reader)
        said = {"messages": [{"role": "user", "content": f"{name} by a program"}]}
        answer = ask(server, key, "POST", json=said)
        assert answer.json()["choices"][0]["message"]["content"] == f"{name} by a program"
        reader.open("/playground/")
        assert reader.chat(f"{name} in the playground") == f"{name} in the playground"
        chats = ask(server, key, params={"order": "desc", "limit": 2}).json()["data"]
        texts = [chat["choices"][0]["message"]["content"] for chat in chats]
        assert texts == [f"{name} in the playground", f"{name} by a program"]
        chat = reader.driver.current_url.removeprefix(server.url)
        conversation = chat.partition("=")[2]
        reader.open("/history/")
        titles = reader.text("main")
        assert f"{name} in the playground" in titles
        assert f"{name} by a program" in titles
        reader.open(f"/history/{conversation}/")
        assert reader.text("main").count(f"{name} in the playground") >= 2
        reader.open("/usage/")
        assert "echo" in reader.text("main")
        if name == "bob":
            assert "alice" not in titles + reader.text("main")
        made[name] = (f"/keys/{key[3:11]}/", chat, f"/history/{conversation}/")
    for path in made["alice"]:  # bob is signed in
        reader.open(path)
        assert reader.text(".error-code") == "404"
        assert "alice" not in reader.driver.page_source
    for path in made["bob"]:
        reader.open(path)
        assert reader.text(".error-code") == ""
    assert all(map(REFUSED.search, reader.complaints()))


def test_pages_change_their_language_and_stay_in_it(alice) -> None:
    assert alice.text("h1") == "Playground"
    alice.click("[data-menu] summary")
    alice.click("[data-menu] button[lang=zh-Hans]")
    alice.until(lambda: alice.js("return document.documentElement.lang") == "zh-Hans", "in Chinese")
    assert alice.driver.current_url == alice.url + "/playground/"
    assert alice.text("h1") != "Playground"
    alice.chat("你好，世界")
    assert "tokens in" not in alice.facts()
    alice.open("/keys/")
    assert alice.js("return document.documentElement.lang") == "zh-Hans"


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_no_page_is_wider_than_a_phone_or_breaks_the_policy(reader, server, language) -> None:
    def look_at(path: str) -> None:
        reader.open(path)
        assert not reader.is_too_wide(), (path, language)
        assert language.startswith(reader.js("return document.documentElement.lang.slice(0, 2)"))
        wrong = [line for line in reader.complaints() if not REFUSED.search(line)]
        assert wrong == [], path

    look(reader.driver, 390, 844)
    reader.driver.add_cookie({"name": "django_language", "value": language})
    for path in OPEN_PAGES:
        look_at(path)
    reader.sign_in("bob")
    reader.driver.add_cookie({"name": "django_language", "value": language})
    key = f"/keys/{make_key(reader)[3:11]}/"
    for path in (*PAGES, key, f"{key}rotate/", f"{key}revoke/"):
        if path != "/docs/" or language == "en":  # it is in English alone
            look_at(path)
    reader.open("/playground/")
    reader.click("#settings summary")
    reader.say("x" * 500 + "\n```\n" + "y" * 500 + "\n```")
    reader.until(lambda: reader.answers() and reader.is_idle(), "answered")
    assert not reader.is_too_wide()
    look_at("/history/" + reader.driver.current_url.partition("=")[2] + "/")
