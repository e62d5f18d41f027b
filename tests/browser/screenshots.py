"""`PASSWORD=... python -m tests.browser.screenshots URL USER FOLDER`: a picture of every page of a
running server, at two widths, in two languages, light and dark.

It makes keys and an invitation: run it on a database of its own.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.chromium import browser, complaints, look, save_page
from tests.browser.reader import Reader

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
LANGUAGES = {"en": "en", "zh": "zh-CN"}


class Tour:
    """One browser, one language; every page is shot in each size and scheme where it stands."""

    def __init__(self, driver: Chrome, url: str, folder: Path, language: str) -> None:
        self.driver, self.url, self.folder, self.language = driver, url, folder, language

    def go(self, path: str) -> None:
        look(self.driver, *SIZES["desktop"])
        self.driver.get(self.url + path)

    def shoot(
        self, name: str, prepare: Callable[[], None] | None = None, *, whole: bool = True
    ) -> None:
        for size, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                look(self.driver, width, height, scheme)
                if prepare:
                    prepare()
                path = self.folder / f"{name}-{size}-{self.language}-{scheme}.png"
                save_page(self.driver, path, whole=whole)
        for complaint in complaints(self.driver):
            print(f"{name} {self.language}: {complaint}")

    def page(self, name: str, path: str) -> None:
        self.go(path)
        self.shoot(name)

    def fill(self, **values: str) -> None:
        for name, value in values.items():
            field = self.driver.find_element(By.NAME, name)
            field.clear()
            field.send_keys(value)

    def press(self, selector: str = "main form button[type=submit]") -> None:
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def sign_in(self, username: str, password: str) -> None:
        self.go("/sign-in/")
        self.fill(username=username, password=password)
        self.press("form.form button[type=submit]")

    def open_menu(self) -> None:
        self.driver.execute_script("document.querySelector('[data-menu]').open = true")

    def open_all(self) -> None:
        self.driver.execute_script(
            "for (const d of document.querySelectorAll('details.fold')) d.open = true"
        )


def tour(driver: Chrome, url: str, username: str, password: str, folder: Path, code: str) -> None:
    see = Tour(driver, url, folder, code)
    for path, name in (
        ("/sign-in/", "sign-in"),
        ("/sign-up/", "sign-up"),
        ("/sign-up/no-such-token/", "invitation-void"),
        ("/password/MQ/no-such-token/", "password-link-void"),
        ("/nothing/here/", "not-found"),
    ):
        see.page(name, path)
    see.sign_in(username, "wrong")
    see.shoot("sign-in-wrong")
    for _ in range(7):
        see.sign_in(f"nobody-{code}", "wrong")
    see.shoot("too-many-attempts")
    see.sign_in(username, password)

    see.page("keys-first", "/keys/")
    see.go("/keys/new/")
    see.shoot("key-new")
    see.open_all()
    see.shoot("key-new-open")
    see.fill(name="website" if code == "en" else "网站", other_models="x" * 300)
    see.press()
    see.open_all()
    see.shoot("key-new-errors")
    see.fill(other_models="", requests_per_minute="20", token_budget="500000")
    for scope in ("chat", "embeddings"):
        see.press(f"input[value={scope}]")
    see.press()
    see.shoot("key-made")
    see.page("start", "/")
    see.shoot("menu", see.open_menu)
    playground(driver, url, folder, code)
    see.page("password", "/password/")
    see.go("/keys/")
    driver.find_element(By.CSS_SELECTOR, "td a.title").click()
    path = driver.current_url.removeprefix(url)
    see.shoot("key")
    see.page("key-rotate", path + "rotate/")
    see.press()
    see.shoot("key-rotated")
    see.page("key-replaced", path)
    see.page("keys", "/keys/")
    see.page("key-revoke", path + "revoke/")
    see.press()
    see.open_all()
    see.shoot("keys-ended")

    see.go("/docs/")
    WebDriverWait(driver, 20).until(lambda page: page.find_elements(By.CLASS_NAME, "opblock"))
    see.shoot("docs")
    for name, place in (
        ("admin", ""),
        ("admin-keys", "accounts/apikey/"),
        ("admin-key-add", "accounts/apikey/add/"),
        ("admin-user", "accounts/user/1/change/"),
        ("admin-invitation-add", "accounts/invitation/add/"),
    ):
        see.page(name, f"/admin/{place}")
    see.press("input[name=_save]")
    see.shoot("admin-invitation")
    see.go("/admin/accounts/user/")
    see.press("input.action-select")
    driver.find_element(By.CSS_SELECTOR, "option[value=password_links]").click()
    see.press("button[name=index]")
    see.shoot("admin-password-links")
    link = driver.find_element(By.ID, "link-1").get_property("value")
    see.page("password-link", "/" + str(link).split("/", 3)[3])


SAID = {
    "en": (
        "What is the capital of China?",
        "And what is it known for? Answer with a list.",
        "Write a Python function that counts the words of a text.",
    ),
    "zh": (
        "中国的首都是哪里？",
        "它以什么闻名？请用列表回答。",
        "写一个统计文本词数的 Python 函数。",
    ),
}


def playground(driver: Chrome, url: str, folder: Path, code: str) -> None:
    """Signed in already. Empty, on its way, a longer conversation, its code, an error."""
    see = Tour(driver, url, folder, code)
    reader = Reader(driver, url)
    see.page("playground", "/playground/")
    see.go("/playground/")
    reader.fill("max_tokens", "200")  # a small model knows no end in Chinese
    for said in SAID[code][:2]:
        reader.chat(said)
    see.shoot("playground-answered", whole=False)
    reader.say(SAID[code][2])
    reader.until(lambda: len(reader.answers()[-1]) > 200 or reader.is_idle(), "some words")
    see.shoot("playground-streaming", whole=False)
    reader.press(Keys.ESCAPE)
    reader.until(reader.is_idle, "it stopped")
    see.shoot("playground-long")
    driver.execute_script("document.getElementById('show-code').click()")
    see.shoot("playground-code", whole=False)
    reader.press(Keys.ESCAPE)
    look(driver, *SIZES["desktop"])
    reader.fill("stop", "\n".join("abcde"))
    reader.say(SAID[code][0])
    reader.until(lambda: reader.find(".pg-notice"), "refused")
    see.shoot("playground-error", whole=False)
    opened = "document.getElementById('settings').open = true; scrollTo(0, 0)"
    see.shoot("playground-settings", lambda: driver.execute_script(opened), whole=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "username", "folder"):
        parser.add_argument(name)
    parser.add_argument("--language", choices=LANGUAGES, action="append")
    options = parser.parse_args()
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for code in options.language or LANGUAGES:
        with browser(LANGUAGES[code]) as driver:
            password = os.environ["PASSWORD"]
            tour(driver, options.url.rstrip("/"), options.username, password, folder, code)


if __name__ == "__main__":
    main()
