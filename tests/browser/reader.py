"""Somebody in front of the browser: what they do, and what they see."""

from collections.abc import Callable
from typing import Any

import pytest

PASSWORD = "correct horse battery"
WAIT_S = 20


class Reader:
    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url
        self.sessions: dict[str, Any] = {}

    def begin(self) -> None:
        from tests.browser.chromium import complaints, look

        look(self.driver, 1280, 900)
        self.driver.get(self.url + "/health")  # cookies are deleted for the place that one is at
        self.driver.delete_all_cookies()
        complaints(self.driver)

    # ---- going places ---------------------------------------------------------------------------

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    def sign_in(self, username: str) -> None:
        """By the form, once; after that by the session that it began, for a password is slow."""
        self.driver.delete_all_cookies()
        if username in self.sessions:
            self.driver.add_cookie(self.sessions[username])
            return
        self.open("/sign-in/")
        self.fill("username", username)
        self.fill("password", PASSWORD)
        self.driver.find_element("css selector", "form.form").submit()
        self.until(lambda: self.find(".menu-name"), "signed in")
        assert self.text(".menu-name") == username
        self.sessions[username] = self.driver.get_cookie("sessionid")

    # ---- doing things ---------------------------------------------------------------------------

    def find(self, selector: str) -> Any:
        """The first element that is shown, or None."""
        found = self.driver.find_elements("css selector", selector)
        return next((element for element in found if element.is_displayed()), None)

    def fill(self, name: str, value: str) -> None:
        field = self.driver.find_element("name", name)
        field.clear()
        field.send_keys(value)

    def click(self, selector: str) -> None:
        self.until(lambda: self.find(selector), f"there is a {selector}").click()

    def click_word(self, selector: str, word: str) -> None:
        """Of the elements that are shown, the last one with this text."""
        for element in reversed(self.driver.find_elements("css selector", selector)):
            if element.text == word:
                element.click()
                return
        pytest.fail(f"no {selector} says {word!r}")

    def press(self, *keys: str) -> None:
        """On the keyboard, wherever the cursor is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def write(self, text: str) -> None:
        """Puts the text, of any length and any characters, in the playground's field."""
        self.js(
            "const field = document.getElementById('prompt'); field.value = arguments[0];"
            "field.dispatchEvent(new Event('input', {bubbles: true})); field.focus()",
            text,
        )

    def say(self, text: str) -> None:
        self.write(text)
        self.click("#send")

    def chat(self, text: str) -> str:
        """Says it, waits for the end of the answer, and returns that."""
        count = len(self.answers())
        self.say(text)
        self.until(lambda: len(self.answers()) == count + 1 and self.is_idle(), "answered")
        return self.answers()[-1]

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    # ---- seeing things --------------------------------------------------------------------------

    def text(self, selector: str) -> str:
        element = self.find(selector)
        return element.text if element is not None else ""

    def texts(self, selector: str) -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0])].map(found => found.textContent)"
        )
        found: list[str] = self.js(script, selector)
        return found

    def answers(self) -> list[str]:
        return self.texts(".pg-message[data-role=assistant] .pg-text")

    def questions(self) -> list[str]:
        return self.texts(".pg-message[data-role=user] .pg-text")

    def facts(self, number: int = -1) -> str:
        """What stands below an answer, the last one if none is named."""
        return self.texts(".pg-message[data-role=assistant] .pg-facts")[number]

    def is_idle(self) -> bool:
        return not self.js("return document.querySelector('[data-busy]') !== null")

    def is_too_wide(self) -> bool:
        return bool(
            self.js(
                "const html = document.documentElement; return html.scrollWidth > html.clientWidth"
            )
        )

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        from tests.serve.server import until

        return until(condition, lambda: f"{what}\n{self.text('body')}", WAIT_S)

    def complaints(self) -> list[str]:
        from tests.browser.chromium import complaints

        return complaints(self.driver)
