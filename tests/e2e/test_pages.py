"""The pages that stand so far, in a real browser at the width of a phone and of a desk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.conftest import System

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
]
PHONE, DESK = 360, 1280

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[PHONE, DESK])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page without JavaScript that collects what the browser complains of."""
    context = browser.new_context(viewport={"width": request.param, "height": 800}, java_script_enabled=True)
    page = context.new_page()
    yield page
    context.close()


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/events", "/stations/docs", "/docs/metrics"])
def test_a_page_opens_without_a_complaint_and_fits_its_width(
    system: System, page: Page, path: str, tmp_path: Path
) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    answer = page.goto(system.edge + path)
    assert answer is not None
    assert answer.status == 200
    assert page.title()
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
    assert complaints == []
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)


def test_the_board_shows_what_is_known_and_says_what_is_not(system: System, page: Page) -> None:
    page.goto(system.edge + "/")
    rows = page.locator(".row")
    stations = rows.filter(has_text="工会驿站服务").locator(".value").inner_text()
    assert int(stations.replace(",", "")) > 0
    unknown = rows.filter(has_text="开办托管班")
    assert unknown.locator(".value").inner_text() == "—"
    assert "尚无数据来源" in unknown.inner_text()
