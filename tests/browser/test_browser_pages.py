"""The pages in a real browser: nothing breaks their policy, nothing runs out of a phone."""

import httpx
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.browser.chromium import complaints, look
from tests.serve.server import ServerUnderTest, until

WIDTHS = (360, 390, 768, 1280, 1400)


def press(driver: Chrome, selector: str) -> None:
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def fits(driver: Chrome) -> None:
    """At no width does the page itself scroll sideways; code and tables may, within."""
    for width in WIDTHS:
        look(driver, width, 844)
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, f"{driver.current_url} is {wide} wide at {width}"


def test_user_signs_up_makes_a_key_and_it_works(served: ServerUnderTest, chrome: Chrome) -> None:
    look(chrome, 1280, 900)
    chrome.get(f"{served.url}/sign-up/")
    fits(chrome)
    for name, value in (
        ("username", "carol"),
        ("password1", "a long-winded password"),
        ("password2", "a long-winded password"),
    ):
        chrome.find_element(By.NAME, name).send_keys(value)
    press(chrome, "form.form button[type=submit]")
    until(lambda: chrome.current_url == f"{served.url}/", "the start page")
    fits(chrome)
    for path in ("/keys/", "/password/", "/keys/new/"):
        chrome.get(served.url + path)
        fits(chrome)
    chrome.find_element(By.NAME, "name").send_keys("laptop " + "x" * 90)
    press(chrome, "main form button[type=submit]")
    key = until(lambda: chrome.find_elements(By.ID, "key-text"), "the page that shows the key")[
        0
    ].get_property("value")
    fits(chrome)
    answer = httpx.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200

    press(chrome, "label[for=tab-python]")
    shown = [tab for tab in chrome.find_elements(By.CSS_SELECTOR, ".tab") if tab.is_displayed()]
    assert len(shown) == 1
    assert key in shown[0].text
    copy = chrome.find_element(By.CSS_SELECTOR, "[data-copy=key-text]")
    assert copy.is_displayed()

    chrome.get(f"{served.url}/keys/")
    fits(chrome)
    assert key not in chrome.page_source
    times = chrome.find_elements(By.CSS_SELECTOR, "td time")
    assert times
    assert times[0].get_attribute("title").endswith("UTC"), "shown in the reader's own time zone"
    press(chrome, "button[name=language][value=zh-hans]")
    until(lambda: "密钥" in chrome.title, "the page in Chinese")
    fits(chrome)
    assert complaints(chrome) == []


def test_admin_and_the_api_reference_keep_their_policies(
    served: ServerUnderTest, chrome: Chrome
) -> None:
    link = served.manage("passwordlink", "admin").strip()
    look(chrome, 1280, 900)
    chrome.get(served.url + "/" + link.split("/", 3)[3])
    for name in ("new_password1", "new_password2"):
        chrome.find_element(By.NAME, name).send_keys("another long-winded password")
    press(chrome, "form.form button[type=submit]")
    until(lambda: chrome.current_url.endswith("/sign-in/"), "the sign-in page")
    chrome.find_element(By.NAME, "username").send_keys("admin")
    chrome.find_element(By.NAME, "password").send_keys("another long-winded password")
    press(chrome, "form.form button[type=submit]")
    until(lambda: chrome.current_url == f"{served.url}/", "the start page")
    for path in ("accounts/apikey/add/", "accounts/user/1/change/", "conversations/conversation/"):
        chrome.get(f"{served.url}/admin/{path}")
        assert chrome.find_elements(By.ID, "content")
    chrome.get(f"{served.url}/docs/")
    until(lambda: chrome.find_elements(By.CLASS_NAME, "opblock"), "the routes in Swagger's page")
    assert complaints(chrome) == []
