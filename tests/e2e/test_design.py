"""What axe cannot see, on the design page: labels, order, focus, size, zoom, and forms with and without JavaScript."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request

from tests.e2e.browsing import DESIGN, DESK, PHONE, chromium, needs_chromium, tab
from tests.e2e.conftest import System

CONTROLS = "input:not([type=hidden]), select, textarea"
RIGHT = {
    "name": "张示例",
    "id_number": "370902199001011234",
    "phone": "13853800000",
    "people": "12",
    "day": "2025-07-16",
}

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests here."""
    with chromium() as opened:
        yield opened


def _focused(page: Page) -> Any:
    return page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")


@pytest.mark.parametrize("path", DESIGN)
def test_every_control_has_a_visible_label_and_none_stands_in_the_field(
    system: System, browser: Browser, path: str
) -> None:
    with tab(browser, PHONE) as page:
        page.goto(system.edge + path)
        bare = page.evaluate(
            """selector => [...document.querySelectorAll(selector)].filter(one => {
                const label = one.labels[0];
                return !label || !label.innerText.trim() || label.offsetWidth < 10 || label.offsetHeight < 10
                    || one.hasAttribute("placeholder");
            }).map(one => one.outerHTML)""",
            CONTROLS,
        )
        assert bare == []
        assert page.locator(CONTROLS).count() == {"/docs/design": 2}.get(
            path, 11 if "form" in path or "refused" in path else 0
        )


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("path", DESIGN)
def test_tab_goes_through_the_page_in_its_order_and_shows_where_it_is(
    system: System, browser: Browser, path: str, width: int
) -> None:
    with tab(browser, width) as page:
        page.goto(system.edge + path)
        page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges(); window.scrollTo(0, 0)")
        page.evaluate(
            """() => { const first = document.querySelector('.skip'); first.focus(); first.blur();
                window.order = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, '
                    + 'textarea, summary')]; }"""
        )
        page.locator(".skip").focus()
        visited = [0]
        for _press in range(120):
            page.keyboard.press("Tab")
            place, ring = page.evaluate(
                """() => { const one = document.activeElement, style = getComputedStyle(one);
                    const ring = style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth);
                    return [window.order.indexOf(one), ring]; }"""
            )
            if place < 0:  # the end of the document
                break
            assert ring >= 2, f"no focus ring on element {place}"
            if place != visited[-1]:  # a date has several stops of its own
                visited.append(place)
        assert visited == sorted(visited)
        radios = page.locator("input[type=radio]").count()
        skipped = max(0, radios - 1)  # a group is one stop
        assert len(visited) == page.evaluate("window.order.length") - skipped


@pytest.mark.parametrize("path", DESIGN)
def test_whatever_one_touches_is_44_pixels_high(system: System, browser: Browser, path: str) -> None:
    with tab(browser, PHONE) as page:
        page.goto(system.edge + path)
        small = page.evaluate(
            """() => [...document.querySelectorAll('a[href]:not(.skip), button, input:not([type=hidden]), select, '
                + 'textarea, summary')].map(one => one.matches('[type=radio], [type=checkbox]') ? one.labels[0] : one)
                .filter(one => one.getBoundingClientRect().height < 43.9).map(one => one.outerHTML)"""
        )
        assert small == []


@pytest.mark.parametrize("path", DESIGN)
def test_nothing_scrolls_sideways_at_320_pixels_or_with_text_twice_as_large(
    system: System, browser: Browser, path: str
) -> None:
    for width, zoom in ((320, 1), (PHONE, 2), (DESK, 2)):
        with tab(browser, width) as page:
            page.goto(system.edge + path)
            page.evaluate("zoom => { document.documentElement.style.fontSize = `${zoom * 100}%`; }", zoom)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (width, zoom)


@pytest.mark.parametrize("javascript", [True, False])
def test_a_refused_form_keeps_what_was_typed_and_leads_to_each_error(
    system: System, browser: Browser, javascript: bool
) -> None:
    with tab(browser, PHONE, javascript=javascript) as page:
        page.goto(system.edge + "/docs/design/form")
        for name, value in {**RIGHT, "phone": "138"}.items():
            page.locator(f"[name={name}]").fill(value)
        page.get_by_role("button", name="提交申请").click()
        summary = page.get_by_role("alert")
        assert summary.evaluate("one => one === document.activeElement")
        assert [one.inner_text() for one in summary.get_by_role("link").all()] == [
            "手机号码：电话号码有误，请核对。",
            "县市区：必填。",
            "领取方式：必填。",
            "我已阅读并同意个人信息使用说明：必填。",
        ]
        summary.get_by_role("link").first.click()
        phone = page.get_by_label("手机号码")
        assert phone.evaluate("one => one === document.activeElement")
        assert phone.input_value() == "138"
        assert phone.get_attribute("aria-invalid") == "true"
        described = str(phone.get_attribute("aria-describedby"))
        assert page.locator(f"#{described}").text_content() == "错误：电话号码有误，请核对。"
        assert page.get_by_label("姓名").input_value() == "张示例"


@pytest.mark.parametrize("javascript", [True, False])
def test_a_form_is_sent_without_javascript_as_with_it(system: System, browser: Browser, javascript: bool) -> None:
    with tab(browser, PHONE, javascript=javascript) as page:
        page.goto(system.edge + "/docs/design/form")
        _fill(page)
        page.get_by_role("button", name="提交申请").click()
        assert "填写无误" in page.get_by_role("status").first.inner_text()


def _fill(page: Page) -> None:
    for name, value in RIGHT.items():
        page.locator(f"[name={name}]").fill(value)
    page.get_by_label("县市区").select_option("370902")
    page.get_by_label("到驿站领取").check()
    page.get_by_label("我已阅读并同意个人信息使用说明").check()


def test_two_clicks_send_once_and_coming_back_lets_send_again(system: System, browser: Browser) -> None:
    with tab(browser, PHONE) as page:
        sent: list[str] = []

        def note(request: Request) -> None:
            if request.method == "POST":
                sent.append(request.post_data or "")

        page.on("request", note)
        page.goto(system.edge + "/docs/design/form")
        _fill(page)
        page.evaluate(
            "() => { const one = document.querySelector('form[data-once] button'); one.click(); one.click(); }"
        )
        page.wait_for_selector(".notice.success")
        assert len(sent) == 1
        page.go_back()
        page.get_by_role("button", name="提交申请").click()
        page.wait_for_selector(".notice.success, .notice.error")
        assert len(sent) == 2


def test_every_form_shown_has_its_own_idempotency_key(system: System, browser: Browser) -> None:
    with tab(browser, javascript=False) as page:
        keys = set()
        for _time in range(2):
            page.goto(system.edge + "/docs/design/form")
            keys.add(page.locator("[name=idempotency_key]").get_attribute("value"))
        assert len(keys) == 2


def test_a_filter_replaces_the_list_alone_where_javascript_runs(system: System, browser: Browser) -> None:
    with tab(browser) as page:
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(system.edge + "/docs/design")
        page.evaluate(
            "document.querySelector('h1').dataset.kept = 'yes'; document.querySelector('#list').dataset.old = 'yes'"
        )
        page.get_by_label("状态").select_option("good")
        page.get_by_role("button", name="筛选").click()
        page.wait_for_selector("#list:not([data-old])")
        assert page.locator("h1").get_attribute("data-kept") == "yes"
        assert "filter_state=good" in page.url
        assert complaints == []


def test_print_leaves_out_what_paper_cannot_do(system: System, browser: Browser) -> None:
    with tab(browser) as page:
        page.goto(system.edge + "/docs/design")
        page.emulate_media(media="print")
        for gone in (".places", ".filters", ".pager", "footer.site"):
            assert not page.locator(gone).first.is_visible()
        assert page.locator("table.cards").first.is_visible()


def test_whoever_wants_less_motion_gets_none(system: System, browser: Browser) -> None:
    with tab(browser) as page:
        page.emulate_media(reduced_motion="reduce")
        page.goto(system.edge + "/docs/design/form")
        assert page.locator("button[type=submit]").evaluate("one => getComputedStyle(one).transitionDuration") == "0s"
