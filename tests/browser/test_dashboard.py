"""The page in a real Chromium, on a real queue: what an operator sees, does, and cannot do by mistake."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from streams_queue import RedisEventQueue
from streams_queue.messages import QueueStats
from tests.support.builders import event, events, redis_config
from tests.support.dashboards import RunningDashboard, serving
from tests.support.servers import RedisServer

pytest.importorskip("selenium", reason="selenium, of the extra `dev`, is not installed")
from tests.support.chromium import CHROMIUM, DRIVER, Browser, Keys, chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()), reason="Debian's packages chromium and chromium-driver are missing"
    ),
]

MAX_SIZE = 20
TOKEN = "correct-horse-battery-staple"
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\"'&lt;b&gt;"


class Page:
    """The page of one queue, beside the queue itself."""

    def __init__(self, browser: Browser, dashboard: RunningDashboard, config: dict[str, Any]) -> None:
        self.browser = browser
        self.url = dashboard.url
        self._config = config

    def on_queue(self, action: Callable[[RedisEventQueue], Awaitable[Any]]) -> Any:
        """Do something with the queue, as another process would."""

        async def act() -> Any:
            async with RedisEventQueue(self._config) as queue:
                return await action(queue)

        return asyncio.run(act())

    def stats(self) -> QueueStats:
        """Look at the queue."""
        return self.on_queue(lambda queue: queue.stats())

    def bury(self, *payloads: dict[str, Any], reason: str = "rejected") -> None:
        """Make dead letters."""

        async def bury(queue: RedisEventQueue) -> None:
            await queue.enqueue_many(payloads)
            left = len(payloads)
            while left:
                for delivery in await queue.receive(left, timeout=10):
                    await queue.dead_letter(delivery, reason)
                    left -= 1

        self.on_queue(bury)

    def empty(self) -> None:
        """Leave nothing in the queue."""

        async def empty(queue: RedisEventQueue) -> None:
            await queue.purge()
            await queue.purge_dead()

        self.on_queue(empty)

    def open(self) -> None:
        """Open the page and wait until it shows the figures of the queue as it is now."""
        stats = self.stats()
        self.browser.open(self.url)
        self.shows(waiting=stats.waiting, dead=stats.dead)

    def shows(self, **figures: int) -> None:
        """Wait until the page shows these figures, and as many rows as there are dead letters."""

        def all_shown() -> bool:
            shown = all(self.browser.text(f"#{name}") == str(value) for name, value in figures.items())
            return shown and ("dead" not in figures or len(self.browser.all("#dead-rows tr")) == figures["dead"])

        self.browser.until(all_shown, f"the page does not show {figures}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this module."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def config(redis_server: RedisServer) -> dict[str, Any]:
    """The configuration of the queue of this module, which holds few events, so that it is soon full."""
    return redis_config(redis_server.url, namespace=f"b{uuid.uuid4().hex[:10]}", max_size=MAX_SIZE)


@pytest.fixture(scope="module")
def dashboard(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDashboard]:
    """The page's server."""
    with serving(tmp_path_factory.mktemp("dashboard"), config) as running:
        yield running


@pytest.fixture
def page(browser: Browser, dashboard: RunningDashboard, config: dict[str, Any]) -> Iterator[Page]:
    """The page of an empty queue, not opened yet; in the end the browser must have nothing to complain of."""
    browser.look_like()
    browser.errors()
    made = Page(browser, dashboard, config)
    made.empty()
    yield made
    assert browser.errors() == []
    browser.open("about:blank")


def test_the_page_loads_and_follows_what_happens(page: Page) -> None:
    """Under its content security policy, and without being loaded again: events come, are taken, are done."""
    browser = page.browser
    page.open()
    assert browser.text("h1") == "events"
    browser.until(lambda: browser.text("#link-text") == "Live")
    browser.run("window.loadedOnce = true")

    async def work(queue: RedisEventQueue) -> None:
        await queue.enqueue_many(events(3))
        await asyncio.to_thread(page.shows, waiting=3)
        held = await queue.receive(1, timeout=10)
        await asyncio.to_thread(
            browser.until, lambda: len(browser.all("#in-flight-rows tr")) >= 1 and browser.all("#consumers-rows tr")
        )
        assert held[0].event_id in browser.text("#in-flight-rows")
        while held:
            await queue.ack(*held)
            held = await queue.receive(3, timeout=0.2)

    page.on_queue(work)
    page.shows(waiting=0)
    browser.until(lambda: not browser.all("#in-flight-rows tr"))
    browser.until(lambda: browser.text("#processed-rate") not in {"", "–", "0"})
    assert "now 0" in str(browser.find("#chart-waiting").get_attribute("aria-label"))
    assert len(browser.all(".chart canvas")) == 3
    assert browser.run("return window.loadedOnce") is True


def test_a_dead_letter_is_redriven(page: Page) -> None:
    """One by its button, those that match by a filter, and all that are left; it waits again and is no dead letter."""
    browser = page.browser
    page.bury(event(1), event(2), reason="no such repository")
    page.bury(event(3), event(4), reason="crashed")
    page.open()
    assert browser.text("#dead-rows tr:first-child .badge") == "no such repository"

    browser.click("#dead-rows tr:first-child button[aria-label^=Redrive]")
    page.shows(waiting=1, dead=3)

    browser.find("#filter").send_keys("NO SUCH")
    browser.until(lambda: len(browser.all("#dead-rows tr")) == 1 and browser.text("#redrive-all") == "Redrive these…")
    browser.click("#redrive-all")
    browser.click("#redrive-dialog button[value=go]")
    browser.until(lambda: browser.text("#dead") == "2" and browser.text("#dead-empty") == "No dead letter matches.")
    browser.find("#filter").send_keys(*[Keys.BACKSPACE] * 7)
    page.shows(waiting=2, dead=2)

    browser.click("#redrive-all")
    browser.click("#redrive-dialog button:not([value])")  # cancel
    assert page.stats().dead == 2
    browser.click("#redrive-all")
    browser.click("#redrive-dialog button[value=go]")
    page.shows(waiting=4, dead=0)
    stats = page.stats()
    assert (stats.waiting, stats.dead) == (4, 0)


def test_flushing_wants_the_queues_name(page: Page) -> None:
    """Nothing happens without it; with it, what waits is in the dead letters, and not deleted."""
    browser = page.browser
    page.on_queue(lambda queue: queue.enqueue_many(events(3)))
    page.open()
    browser.click("#flush")
    assert "3 events" in browser.text("#flush-text")
    assert browser.find("#flush-go").get_property("disabled")

    browser.press("event", Keys.ENTER)
    assert browser.find("#flush-go").get_property("disabled")
    browser.press(Keys.ESCAPE)
    browser.until(lambda: not browser.run("return document.getElementById('flush-dialog').open"))
    assert page.stats().waiting == 3

    browser.click("#flush")
    browser.press("events")
    browser.click("#flush-go")
    page.shows(waiting=0, dead=3)
    assert "3 events flushed" in browser.text("#toast")
    assert (page.stats().waiting, page.stats().dead) == (0, 3)


def test_what_strangers_wrote_is_only_ever_text(page: Page) -> None:
    """Payload, event id and reason full of markup: shown as they are, and nothing of them runs."""
    browser = page.browser

    async def bury(queue: RedisEventQueue) -> None:
        await queue.enqueue({"title": EVIL, EVIL: [EVIL]}, event_id=EVIL)
        (delivery,) = await queue.receive(1, timeout=10)
        await queue.dead_letter(delivery, EVIL)

    page.on_queue(bury)
    page.open()
    assert browser.run("return document.querySelector('#dead-rows .badge').textContent") == EVIL
    browser.click("#dead-rows button[aria-label^=View]")
    browser.until(lambda: browser.text("#payload"))
    shown = browser.run("return document.getElementById('payload').textContent")
    assert shown.count("<script>window.hacked = 1</script>") == 3
    assert browser.run("return document.getElementById('payload-title').textContent") == EVIL
    assert (
        browser.run("return document.querySelectorAll('main script, main img, dialog script, dialog img').length") == 0
    )
    assert browser.run("return window.hacked") is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(theme: str, page: Page) -> None:
    """WCAG 2.1 A and AA, on a page that has something to show: a warning, rows, and each of its dialogs."""
    browser = page.browser
    browser.look_like(theme=theme)
    page.bury(event(1), event(2))

    async def fill(queue: RedisEventQueue) -> None:
        await queue.enqueue_many(events(17))
        await queue.receive(2, timeout=10)
        await asyncio.to_thread(look)

    def look() -> None:
        browser.open(page.url)
        browser.until(lambda: browser.all("#dead-rows tr") and browser.all("#in-flight-rows tr"))
        browser.until(lambda: browser.text("#alerts") == "The queue is more than 80 % full.")
        assert browser.find("#tile-depth").get_attribute("data-level") == "warn"
        assert browser.violations() == []
        for opener, dialog in (
            ("#flush", "#flush-dialog"),
            ("#redrive-all", "#redrive-dialog"),
            ("#check", "#health-dialog"),
            ("#dead-rows button[aria-label^=View]", "#payload-dialog"),
        ):
            browser.click(opener)
            browser.until(lambda dialog=dialog: browser.run("return document.querySelector(arguments[0]).open", dialog))
            assert browser.violations() == [], dialog
            browser.press(Keys.ESCAPE)

    page.on_queue(fill)


def test_the_theme_can_be_chosen_and_is_kept(page: Page) -> None:
    """Whatever the machine asks for, and after the page was loaded again."""
    browser = page.browser
    ground = "return getComputedStyle(document.body).backgroundColor"
    page.open()
    light = browser.run(ground)
    browser.find("#theme").send_keys("Dark")
    dark = browser.run(ground)
    assert dark != light
    page.open()
    assert browser.run(ground) == dark
    browser.find("#theme").send_keys("System")
    assert browser.run(ground) == light


def test_everything_can_be_done_with_a_keyboard(page: Page) -> None:
    """Tab reaches all of it in the order in which it is seen; dialogs take the focus and give it back."""
    browser = page.browser
    page.bury(event(1), event(2))
    page.open()
    reached = []
    for _ in range(15):
        browser.press(Keys.TAB)
        reached.append(browser.focused())
    assert reached[:5] == ["a:Skip to the figures", "theme", "check", "flush", "filter"]
    assert reached[5] == "redrive-all"
    assert [name.partition(" ")[0] for name in reached[7:11]] == ["button:View", "button:Redrive"] * 2

    browser.run("document.getElementById('theme').focus()")
    browser.press(Keys.TAB)
    browser.press(Keys.ENTER)
    browser.until(lambda: browser.text("#health-title") == "Health: healthy")
    browser.press(Keys.ESCAPE)
    browser.until(lambda: browser.focused() == "check")

    browser.run("document.querySelector('#dead-rows button[aria-label^=Redrive]').focus()")
    browser.press(Keys.ENTER)
    page.shows(waiting=1, dead=1)
    browser.until(lambda: browser.focused().startswith("button:View"), "the next row has not got the focus")

    browser.run("document.getElementById('check').focus()")
    browser.press(Keys.TAB)
    browser.press(Keys.SPACE)
    browser.until(lambda: browser.focused() == "flush-confirm")
    browser.press("events", Keys.ENTER)
    page.shows(waiting=0, dead=2)
    browser.until(lambda: browser.focused() == "flush")


def test_the_token_is_asked_for_under_a_prefix(
    browser: Browser, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever comes without it sees the login page; a wrong one changes nothing; logging out ends it."""
    options = ("--root-path", "/ops/queue")
    with serving(tmp_path_factory.mktemp("token"), config, *options, token=TOKEN) as dashboard:
        browser.look_like()
        browser.open(dashboard.url)
        browser.until(lambda: browser.driver.current_url == f"{dashboard.url}login")
        assert browser.violations() == []
        browser.errors()
        browser.press("something else", Keys.ENTER)
        browser.until(lambda: browser.text("#problem") == "That is not the token")
        browser.errors()  # a refusal is one
        browser.press(TOKEN, Keys.ENTER)
        browser.until(lambda: browser.text("#link-text") == "Live")
        (cookie,) = browser.driver.get_cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ops/queue/")
        assert TOKEN not in cookie["value"]
        assert browser.run("return document.cookie") == ""
        assert browser.errors() == []
        browser.click("#logout")
        browser.until(lambda: browser.driver.current_url == f"{dashboard.url}login")
        browser.open(dashboard.url)
        browser.until(lambda: browser.driver.current_url == f"{dashboard.url}login")
        browser.open("about:blank")
    assert not [line for line in dashboard.log if TOKEN in line]
