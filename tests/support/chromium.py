"""A real Chromium, the machine's own, driven through its own chromedriver; nothing is downloaded."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support.waiting import wait_until_sync

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
AXE = Path(__file__).resolve().parents[1] / "browser" / "axe-core" / "axe.min.js"
WAIT = 30.0
_AXE_RUN = """
const done = arguments[arguments.length - 1];
axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
  .then((found) => done(found.violations), (error) => done([String(error)]));
"""
_FOCUSED = """
const e = document.activeElement;
return e.id || `${e.tagName.toLowerCase()}:${e.ariaLabel ?? e.innerText}`;
"""


class Browser:
    """One window.

    Attributes:
        driver: For what is not here.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def look_like(self, *, width: int = 1440, height: int = 1024, theme: str = "light") -> None:
        """Set the size of the window and the theme that the machine asks for."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        """Return an element that is there."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return all elements."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return what an element says now, "" if it is not there; in one step, so that it cannot go meanwhile."""
        script = "const found = document.querySelector(arguments[0]); return found ? found.innerText : '';"
        return str(self.driver.execute_script(script, selector))

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, predicate: Callable[[], Any], what: str = "") -> Any:
        """Wait until something is true."""
        return wait_until_sync(predicate, WAIT, what=lambda: f"{what} {self.errors()}\n{self.text('body')}")

    def click(self, selector: str) -> None:
        """Click what can be clicked as soon as it can."""
        self.until(
            lambda: self.run(
                "const e = document.querySelector(arguments[0]); return !!e && !e.disabled && e.checkVisibility();",
                selector,
            ),
            f"no {selector} to click",
        )
        self.find(selector).click()

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        """Return the id of the element that has the focus; of one without, what it is and says."""
        return str(self.run(_FOCUSED))

    def errors(self) -> list[str]:
        """Return what the browser complained of since this was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def violations(self) -> list[str]:
        """Return what axe-core finds against WCAG 2.1 A and AA on the page as it is now."""
        if not self.run("return 'axe' in window"):
            self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
        found = self.driver.execute_async_script(_AXE_RUN)
        return [each if isinstance(each, str) else _told(each) for each in found]

    def picture(self) -> bytes:
        """Return what the window shows, as PNG."""
        return self.driver.get_screenshot_as_png()


def _told(violation: dict[str, Any]) -> str:
    nodes = [f"{node['target']} {node['failureSummary']}" for node in violation["nodes"]]
    return json.dumps([violation["id"], violation["help"], nodes], indent=1)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser with a profile of its own for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options, Service(str(DRIVER)))
        driver.set_script_timeout(60)
        try:
            yield Browser(driver)
        finally:
            driver.quit()


__all__ = ["CHROMIUM", "DRIVER", "Browser", "Keys", "chromium"]
