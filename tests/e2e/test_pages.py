"""Every page in a real browser: phone and desk, Chinese and English; what it weighs; what it says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # has none
from playwright.sync_api import Browser, Page

from tests.e2e.browsing import DESIGN, DESK, PAGES, PHONE, chromium, needs_chromium, tab
from tests.e2e.conftest import System

FIRST_BYTES, REPEAT_BYTES = 120 * 1024, 10 * 1024
"""A page's budget on the wire, compressed: the first one of a site, and one of a site that is known already."""

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests here."""
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("path", PAGES + DESIGN)
def test_a_page_opens_without_a_complaint_fits_its_width_and_passes_axe(
    system: System, browser: Browser, path: str, width: int, language: str, tmp_path: Path
) -> None:
    status = 422 if path.endswith("/refused") else 200
    with tab(browser, width, language) as page:
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        answer = page.goto(system.edge + path)
        assert answer is not None
        assert answer.status == status
        assert page.title()
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.lang") == {"zh": "zh-CN", "en": "en"}[language]
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
        assert [one for one in complaints if f"status of {status}" not in one] == []
        violations = Axe().run(page).response["violations"]
        assert [(one["impact"], one["id"], [node["target"] for node in one["nodes"]]) for one in violations] == []
        page.screenshot(path=str(tmp_path / "page.png"), full_page=True)


@pytest.mark.parametrize("path", ["/", "/docs/events", "/docs/design/refused"])
def test_a_page_is_light_at_first_and_lighter_again(system: System, browser: Browser, path: str) -> None:
    with tab(browser, PHONE) as page:
        first, again = _weight(page, system.edge + path), _weight(page, system.edge + path)
    assert 1000 < again < REPEAT_BYTES
    assert again < first < FIRST_BYTES


def _weight(page: Page, url: str) -> float:
    """Bytes on the wire, headers and all, until a page stands."""
    weighed: list[float] = []
    wire = page.context.new_cdp_session(page)
    wire.on("Network.loadingFinished", lambda event: weighed.append(event["encodedDataLength"]))
    wire.send("Network.enable")
    page.goto(url, wait_until="networkidle")
    wire.detach()
    return sum(weighed)


def test_the_board_shows_what_is_known_and_says_what_is_not(system: System, browser: Browser) -> None:
    with tab(browser, PHONE) as page:
        page.goto(system.edge + "/")
        stations = page.locator(".tile").filter(has_text="工会驿站服务").locator(".value").inner_text()
        assert int(stations.split()[0].replace(",", "")) > 0
        unknown = page.get_by_role("table", name="尚无数据来源的项目").get_by_role("row").filter(has_text="开办托管班")
        assert unknown.get_by_role("cell").last.inner_text() == "—"


def test_the_other_language_is_one_click_away_and_stays(system: System, browser: Browser) -> None:
    with tab(browser, javascript=False) as page:
        page.goto(system.edge + "/docs/design")
        page.get_by_role("link", name="English").click()
        assert page.url == system.edge + "/docs/design"
        assert page.locator("h1").inner_text() == "Page components"
        page.goto(system.edge + "/")
        assert page.locator("html").get_attribute("lang") == "en"
        page.get_by_role("link", name="中文").click()
        assert page.locator("html").get_attribute("lang") == "zh-CN"


def test_an_error_is_a_page_for_people(system: System, browser: Browser) -> None:
    with tab(browser, PHONE) as page:
        answer = page.goto(system.edge + "/docs/nowhere")
        assert answer is not None
        assert answer.status == 404
        assert page.locator("h1").inner_text() == "未找到。"
