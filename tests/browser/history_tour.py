"""`PASSWORD=... python -m tests.browser.history_tour URL USER FOLDER`: pictures of the pages of
history and usage of a user whose history `tests.browser.content` made.

It deletes a request: run it on a database of its own.
"""

import argparse
import os
from pathlib import Path

from selenium.webdriver.common.by import By

from tests.browser.chromium import browser
from tests.browser.screenshots import LANGUAGES, Tour


def tour(see: Tour, username: str, password: str) -> None:
    see.go("/sign-in/")
    see.fill(username=username, password=password)
    see.press("form.form button[type=submit]")

    see.page("usage", "/usage/")
    see.page("usage-30d-keys", "/usage/?range=30d&by=key")
    see.page("usage-24h", "/usage/?range=24h")
    see.page("history", "/history/")
    see.driver.find_element(By.CSS_SELECTOR, "td a.title").click()
    path = see.driver.current_url.removeprefix(see.url)
    see.shoot("conversation")
    see.driver.execute_script("document.querySelector('.folded input').click()")
    see.shoot("conversation-unfolded")
    see.go(path)
    versions = see.driver.find_elements(By.CSS_SELECTOR, ".versions a")
    versions[0].click()
    see.shoot("conversation-version")
    see.page("conversation-delete", path + "delete/")
    see.go(path)
    see.driver.find_element(By.CSS_SELECTOR, ".said-actions a").click()
    see.shoot("request-delete")
    see.page("search", "/history/?q=sorted+lists&model=poems")
    see.page("search-chinese", "/history/?q=东坡")
    see.page("search-nothing", "/history/?q=unheard-of")
    see.page("search-mistaken", "/history/?since=2026-02-01&until=2026-01-01")
    see.page("requests", "/history/requests/")
    see.page("requests-embeddings", "/history/requests/?kind=embedding")
    see.driver.find_element(By.CSS_SELECTOR, "td a.title").click()
    see.shoot("request-embedding")
    see.go("/history/requests/?kind=completion")
    see.driver.find_element(By.CSS_SELECTOR, "td a.title").click()
    see.shoot("request-completion")


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
            see = Tour(driver, options.url.rstrip("/"), folder, code)
            tour(see, options.username, os.environ["PASSWORD"])


if __name__ == "__main__":
    main()
