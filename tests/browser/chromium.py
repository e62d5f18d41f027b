"""A Chromium without a window, driven by Selenium. Needs `chromium` and `chromedriver`."""

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
# No sandbox, for it wants rights that containers do not have; it opens pages of our own alone.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def why_no_browser() -> str | None:
    if BROWSER is None:
        return "there is no chromium (Debian: apt install chromium chromium-driver)"
    if DRIVER is None:
        return "there is no chromedriver (Debian: apt install chromium-driver)"
    return None


@contextmanager
def browser(language: str = "en", logs: bool = True) -> Iterator[webdriver.Chrome]:
    """A browser with a fresh profile, which goes with it."""
    options = Options()
    options.binary_location = BROWSER or ""
    profile = tempfile.mkdtemp(prefix="llmapi-browser-")
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--lang={language}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    if logs:
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.set_page_load_timeout(30)
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def look(driver: webdriver.Chrome, width: int, height: int, scheme: str = "light") -> None:
    """The size of the window's inside, in CSS pixels, and the colour scheme that the system has."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {
            "features": [
                {"name": "prefers-color-scheme", "value": scheme},
                # No picture of half a transition.
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ]
        },
    )


def save_page(driver: webdriver.Chrome, path: Path, *, whole: bool = True) -> None:
    """A picture of the whole page, or of what fits the window, once nothing moves any more."""
    driver.execute_script("for (const change of document.getAnimations()) change.finish()")
    shot = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole}
    )
    path.write_bytes(base64.b64decode(shot["data"]))


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the browser's console has said since the last time: broken policies among it."""
    return [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]
