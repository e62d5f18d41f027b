"""`PASSWORD=... python -m tests.browser.staff_tour URL SUPERUSER FOLDER`: pictures of the pages of
staff, of a database that `generatehistory` and `tests.browser.content` filled.

It reviews, exports nothing, and erases nothing. English alone, as the admin is.
"""

import argparse
import os
from pathlib import Path

from selenium.webdriver.common.by import By

from tests.browser.chromium import browser
from tests.browser.screenshots import Tour

CONVERSATIONS = "/admin/conversations/conversation/"
COMPLETIONS = "/admin/conversations/completion/"


def tour(see: Tour, username: str, password: str, reader: str) -> None:
    see.sign_in(username, password)
    for span in ("24h", "7d", "30d", "90d"):
        see.page(f"dashboard-{span}", f"/admin/?range={span}")
    see.page("conversations", CONVERSATIONS)
    see.page("conversations-filtered", f"{CONVERSATIONS}?user={reader}&q=sorted&reviewed=no")
    see.page("conversations-none", f"{CONVERSATIONS}?user=nobody")
    see.go(f"{CONVERSATIONS}?user={reader}")
    see.driver.find_element(By.CSS_SELECTOR, "#result_list tbody th a").click()
    page = see.driver.current_url.removeprefix(see.url)
    see.shoot("transcript")
    see.press("input[name=score][value='4']")
    see.fill(new_labels="helpful, code", notes="A good answer; the second version is shorter.")
    see.press("#review button[type=submit]:not([name])")
    see.page("transcript-reviewed", page)
    see.page("conversations-reviewed", f"{CONVERSATIONS}?reviewed=yes")
    see.page("completions", COMPLETIONS)
    see.go(f"{COMPLETIONS}?user={reader}&kind__exact=completion")
    see.driver.find_element(By.CSS_SELECTOR, "#result_list tbody th a").click()
    see.shoot("completion")
    for name, place in (
        ("export", f"{CONVERSATIONS}export/?user={reader}&model=poems"),
        ("export-all", f"{COMPLETIONS}export/"),
        ("prune", f"{COMPLETIONS}prune/"),
        ("audit", "/admin/accounts/auditevent/"),
        ("labels", "/admin/conversations/label/"),
        ("processes", "/admin/conversations/serverprocess/"),
        ("users", "/admin/accounts/user/"),
        ("keys", "/admin/accounts/apikey/"),
        ("adapters", "/admin/llmapi/adapter/"),
        ("invitations", "/admin/accounts/invitation/"),
        ("groups", "/admin/auth/group/"),
    ):
        see.page(name, place)
    see.go("/admin/accounts/auditevent/")
    see.driver.find_element(By.CSS_SELECTOR, "#result_list tbody th a").click()
    see.shoot("audit-event")
    see.go(CONVERSATIONS)
    for box in see.driver.find_elements(By.CSS_SELECTOR, "input.action-select")[:3]:
        box.click()
    see.driver.find_element(By.CSS_SELECTOR, "option[value=erase_selected]").click()
    see.press("button[name=index]")
    see.shoot("erase")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "username", "folder"):
        parser.add_argument(name)
    parser.add_argument("--reader", default="carol", help="a user with a history of `content`")
    options = parser.parse_args()
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with browser("en") as driver:
        see = Tour(driver, options.url.rstrip("/"), folder, "en")
        tour(see, options.username, os.environ["PASSWORD"], options.reader)


if __name__ == "__main__":
    main()
