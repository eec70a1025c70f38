"""The pages behind a login in a real browser: one's data, children, inbox, export and erasure; an officer's desk."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # has none
from playwright.sync_api import Browser, Locator, Page, Request, expect

from services.kernel.personal import mask_id_number
from tests.builders import id_number
from tests.e2e.browsing import DESK, PHONE, chromium, needs_chromium, tab
from tests.e2e.conftest import System
from tests.e2e.test_login import log_in, session_of

WORKER, PARENT, OFFICER, NEWCOMER = "演示职工一", "演示家长一", "演示市级经办人", "首次登录的人"
CHILD_BORN = date(2018, 5, 6)
HAN = re.compile(r"[\u3400-\u9fff]")
CONTROLS = "input:not([type=hidden]), select, textarea"
Cookies = Callable[[str], Any]

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests here."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def cookies(system: System, browser: Browser) -> Cookies:
    """The cookies of a demo person, who has logged in once."""

    @cache
    def of(person: str) -> Any:
        with tab(browser, PHONE) as page:
            log_in(system, page, person)
            return page.context.cookies()

    return of


@contextmanager
def visit(
    browser: Browser, cookies: Any = (), width: int = PHONE, *, javascript: bool = True, number: str = ""
) -> Iterator[Page]:
    """A tab in which nothing complains but a refused form, and no address ever holds ``number``."""
    with tab(browser, width, javascript=javascript) as page:
        if cookies:
            page.context.add_cookies(cookies)
        complaints: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: complaints.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.on("request", lambda request: asked.append(request.url))
        yield page
        unexpected = [one for one in complaints if "status of 422" not in one]
        assert not unexpected, "\n".join(unexpected)
        assert asked
        assert not number or [one for one in asked if number in one] == []


def follow(control: Locator) -> None:
    """Goes where a button or link leads, until the page there stands with its styles.

    Whoever asks earlier makes the browser fetch the icons of a sheet that another one overrides; the policy refuses.
    """
    with control.page.expect_navigation():
        control.click()


def assert_sound(page: Page) -> None:
    """Whatever state a page is in: it has a heading and labels, fits its width, and axe finds nothing."""
    assert page.title()
    assert page.locator("h1").count() == 1
    bare = page.locator(CONTROLS).evaluate_all(
        "all => all.filter(one => !one.labels[0]?.innerText.trim() || one.placeholder).map(one => one.outerHTML)"
    )
    assert bare == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
    violations = Axe().run(page).response["violations"]
    assert [(one["impact"], one["id"], [node["target"] for node in one["nodes"]]) for one in violations] == []


def fill(page: Page, number: str, *, name: str = "张 示例", phone: str = "138 5380 0000") -> None:
    """Types who one is, as people type."""
    page.get_by_label("姓名").fill(name)
    page.get_by_label("身份证号").fill(number)
    page.get_by_label("手机号码").fill(phone)


def keep(system: System, page: Page, number: str, **said: str) -> None:
    """Says who one is, unless that is known: how often one may is limited."""
    page.goto(system.edge + "/people/person")
    if page.get_by_text(mask_id_number(number)).count():
        return
    fill(page, number, **said)
    page.get_by_label("我同意泰安e站为办理工会服务保存以上信息").check()
    follow(page.get_by_role("button", name="保存", exact=True))
    expect(page.locator("dl")).to_contain_text(mask_id_number(number))


def add_child(system: System, page: Page, number: str, name: str) -> None:
    """Adds a child."""
    page.goto(system.edge + "/people/children")
    page.get_by_label("子女姓名").fill(name)
    page.get_by_label("子女身份证号").fill(number)
    page.get_by_label("我是监护人").check()
    follow(page.get_by_role("button", name="登记"))
    expect(page.get_by_role("region", name=name)).to_contain_text(mask_id_number(number))


def remove_child(page: Page, name: str) -> None:
    """Takes a child out, in two steps."""
    child = page.get_by_role("region", name=name)
    child.get_by_text(f"删除 {name}").click()
    follow(child.get_by_role("button", name="确认删除"))
    expect(page.get_by_role("region", name=name)).to_have_count(0)


@pytest.mark.parametrize("javascript", [True, False])
def test_a_wrong_id_number_is_mended_and_shown_nowhere_else(
    system: System, browser: Browser, cookies: Cookies, javascript: bool
) -> None:
    right = id_number(301)
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    with visit(browser, cookies(WORKER), javascript=javascript, number=right[:-1]) as page:
        page.goto(system.edge + "/people/person")
        fill(page, wrong)
        follow(page.get_by_role("button", name="保存", exact=True))
        summary = page.get_by_role("alert")
        expect(summary).to_be_focused()
        assert [one.inner_text() for one in summary.get_by_role("link").all()] == [
            "身份证号：身份证号码有误，请核对。",
            "我同意泰安e站为办理工会服务保存以上信息：需要您同意才能保存。",
        ]
        if javascript:  # axe is a script
            assert_sound(page)
        summary.get_by_role("link").first.click()
        field = page.get_by_label("身份证号")
        expect(field).to_be_focused()
        assert field.input_value() == wrong
        assert field.get_attribute("aria-invalid") == "true"
        errors = str(field.get_attribute("aria-describedby")).split()
        assert page.locator(f"#{errors[-1]}").text_content() == "错误：身份证号码有误，请核对。"
        assert page.get_by_label("手机号码").input_value() == "138 5380 0000"
        field.fill(" ".join([right[:6], right[6:14], right[14:]]))
        page.get_by_label("我同意泰安e站为办理工会服务保存以上信息").check()
        follow(page.get_by_role("button", name="保存", exact=True))
        expect(page.locator("dl")).to_contain_text(mask_id_number(right))
        assert page.url == system.edge + "/people/person"
        assert right not in page.content()
        assert page.get_by_label("姓名").input_value() == "张示例"
        assert page.get_by_label("身份证号").input_value() == ""


def test_a_consent_to_text_messages_is_given_and_withdrawn(system: System, browser: Browser, cookies: Cookies) -> None:
    with visit(browser, cookies(WORKER)) as page:
        keep(system, page, id_number(301))
        messages = page.get_by_role("region", name="短信通知")
        expect(messages).to_contain_text("未同意")
        follow(messages.get_by_role("button", name="同意"))
        expect(messages).to_contain_text("已同意")
        follow(messages.get_by_role("button", name="撤回同意"))
        expect(messages).to_contain_text("未同意")


def test_what_deletes_all_takes_a_second_step(system: System, browser: Browser, cookies: Cookies) -> None:
    with visit(browser, cookies(WORKER), javascript=False) as page:
        keep(system, page, id_number(301))
        identity = page.get_by_role("region", name="保存身份信息")
        ending = identity.get_by_role("button", name="撤回并删除这些信息")
        expect(ending).to_be_hidden()
        identity.get_by_text("撤回这项同意").click()
        follow(ending)
        expect(page.locator("dl")).to_have_count(0)
        assert page.get_by_label("姓名").input_value() == ""


@pytest.mark.parametrize("javascript", [True, False])
def test_a_child_is_added_and_taken_out(system: System, browser: Browser, cookies: Cookies, javascript: bool) -> None:
    number = id_number(302, CHILD_BORN)
    with visit(browser, cookies(WORKER), javascript=javascript, number=number) as page:
        keep(system, page, id_number(301))
        follow(page.get_by_role("link", name="查看、登记或删除子女信息"))
        page.get_by_label("子女姓名").fill("张小示例")
        page.get_by_label("子女身份证号").fill(number)
        follow(page.get_by_role("button", name="登记"))
        expect(page.get_by_role("alert")).to_be_focused()
        expect(page.get_by_role("alert")).to_contain_text("需要您同意才能保存。")
        if javascript:
            assert_sound(page)
        page.get_by_label("我是监护人").check()
        follow(page.get_by_role("button", name="登记"))
        expect(page.get_by_role("region", name="张小示例")).to_contain_text(mask_id_number(number))
        assert number not in page.content()
        remove_child(page, "张小示例")


def test_two_clicks_add_one_child(system: System, browser: Browser, cookies: Cookies) -> None:
    with visit(browser, cookies(WORKER)) as page:
        sent: list[str] = []

        def note(request: Request) -> None:
            if request.method == "POST":
                sent.append(request.url)

        keep(system, page, id_number(301))
        page.goto(system.edge + "/people/children")
        page.on("request", note)
        page.get_by_label("子女姓名").fill("张双示例")
        page.get_by_label("子女身份证号").fill(id_number(303, CHILD_BORN))
        page.get_by_label("我是监护人").check()
        page.evaluate(
            "() => { const send = document.querySelector('form[data-once] button'); send.click(); send.click(); }",
        )
        expect(page.get_by_role("region", name="张双示例")).to_have_count(1)
        assert sent == [system.edge + "/people/children"]
        remove_child(page, "张双示例")


def test_a_notice_is_new_once(system: System, browser: Browser) -> None:
    with visit(browser) as page:
        log_in(system, page, "演示职工二")
        page.get_by_role("navigation", name="主导航").get_by_role("link", name="我的消息").click()
        newest = page.get_by_role("region").first
        expect(newest).to_contain_text("您的账号刚刚登录。")
        expect(newest.locator(".badge")).to_have_text(re.compile("新"))
        page.reload()
        expect(newest).to_contain_text("您的账号刚刚登录。")
        expect(page.locator("main .badge")).to_have_count(0)


def test_all_of_it_is_downloaded_in_full(system: System, browser: Browser, cookies: Cookies, tmp_path: Path) -> None:
    number = id_number(301)
    with visit(browser, cookies(WORKER), number=number) as page:
        keep(system, page, number)
        with page.expect_download() as started:
            page.get_by_role("link", name="下载我的全部资料").click()
        assert re.fullmatch(r"estation-people-\d{4}-\d{2}-\d{2}\.json", started.value.suggested_filename)
        started.value.save_as(tmp_path / "export.json")
    kept = json.loads((tmp_path / "export.json").read_text("utf-8"))
    assert kept["person"]["id_number"] == number
    assert kept["person"]["name"] == "张示例"
    assert kept["notices"]


def test_a_newcomer_is_verified_at_a_desk_and_erased(system: System, browser: Browser, cookies: Cookies) -> None:
    number = id_number(304)
    # whom a test before has registered may live in another county: an officer of the city finds everybody
    with visit(browser, number=number) as page, visit(browser, cookies(OFFICER), DESK, number=number) as desk:
        _come_in_for_the_first_time(system, page)
        keep(system, page, number, name="王示例", phone="139 5380 0001")
        expect(page.locator("dl")).to_contain_text("尚未核实")
        _verify(system, desk, number)
        page.reload()
        expect(page.locator("dl")).to_contain_text("已在柜台核实")
        follow(page.get_by_role("link", name="删除我的账号和全部资料"))
        follow(page.get_by_role("button", name="删除我的账号"))
        expect(page.get_by_role("alert")).to_contain_text("我明白删除后不能恢复：必填。")
        assert_sound(page)
        assert session_of(page.context) is not None
        page.get_by_label("我明白删除后不能恢复").check()
        follow(page.get_by_role("button", name="删除我的账号"))
        expect(page.get_by_role("status")).to_contain_text("您的资料已删除")
        assert_sound(page)
        assert session_of(page.context) is None
        receipt = page.request.get(page.get_by_role("link", name="查询进度").evaluate("one => one.href")).json()
        assert receipt["state"] in {"requested", "completed"}
        page.evaluate("history.go(-2)")  # one step would send the refused form again: the browser asks first
        page.wait_for_url("**/people/login?next=*erase")
        page.goto(system.edge + "/people/person")
        assert urlsplit(page.url).path == "/people/login"
        desk.goto(system.edge + "/people/desk")
        desk.get_by_label("身份证号").fill(number)
        follow(desk.get_by_role("button", name="查找"))
        expect(desk.locator("main")).to_contain_text("本地区没有符合的人员。")


def _come_in_for_the_first_time(system: System, page: Page) -> None:
    page.goto(system.edge + "/people/login?next=/people/person")
    follow(page.get_by_role("link", name="演示登录"))
    follow(page.get_by_role("link", name=NEWCOMER))
    page.wait_for_url(re.compile("/people/(register|person)"))
    if urlsplit(page.url).path == "/people/register":  # else a test before has left the account
        page.get_by_label("所在县（市、区）").select_option("370902")
        page.get_by_label("我已阅读并同意服务条款").check()
        follow(page.get_by_role("button", name="同意并开通"))
    page.wait_for_url("**/people/person")


def _verify(system: System, page: Page, number: str) -> None:
    """An officer's part: nothing, two things, then the number; the card is checked."""
    page.goto(system.edge + "/people/desk")
    follow(page.get_by_role("button", name="查找"))
    expect(page.get_by_role("alert")).to_contain_text("请只填写一项。")
    assert_sound(page)
    page.get_by_label("身份证号").fill(number)
    follow(page.get_by_role("button", name="查找"))
    found = page.get_by_role("region", name="王**")
    expect(found).to_contain_text(mask_id_number(number))
    expect(found).to_contain_text("139****0001")
    expect(found).to_contain_text("尚未核实")
    assert "王示例" not in page.content()
    assert_sound(page)
    follow(found.get_by_role("button", name="已核对证件"))
    page.get_by_label("身份证号").fill(number)
    follow(page.get_by_role("button", name="查找"))
    expect(page.get_by_role("region", name="王**")).to_contain_text("已在柜台核实")


@pytest.fixture(scope="module")
def parent(system: System, browser: Browser, cookies: Cookies) -> Iterator[Any]:
    """The cookies of a parent of whom all is known; the names are Latin, so that other pages may be English."""
    with visit(browser, cookies(PARENT)) as page:
        keep(system, page, id_number(305), name="Example Parent")
        add_child(system, page, id_number(306, CHILD_BORN), "Example Child")
    yield cookies(PARENT)
    with visit(browser, cookies(PARENT)) as page:
        page.goto(system.edge + "/people/children")
        remove_child(page, "Example Child")


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", ["sessions", "person", "children", "inbox", "erase", "desk", "accounts"])
def test_a_page_fits_passes_axe_and_is_english_by_a_click(
    system: System, browser: Browser, cookies: Cookies, parent: Any, name: str, width: int, tmp_path: Path
) -> None:
    with visit(browser, cookies(OFFICER) if name in {"desk", "accounts"} else parent, width) as page:
        page.goto(f"{system.edge}/people/{name}")
        assert_sound(page)
        page.screenshot(path=str(tmp_path / "zh.png"), full_page=True)
        follow(page.get_by_role("link", name="English"))
        expect(page.locator("html")).to_have_attribute("lang", "en")
        assert page.url == f"{system.edge}/people/{name}"
        assert set(HAN.findall(page.locator("body").inner_text())) <= set("中文")
        assert set(HAN.findall(page.title())) == set()
        assert_sound(page)
        page.screenshot(path=str(tmp_path / "en.png"), full_page=True)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_role_is_granted_and_ended(
    system: System, browser: Browser, cookies: Cookies, width: int, tmp_path: Path
) -> None:
    with visit(browser, cookies(WORKER)) as page:
        page.goto(system.edge + "/people/sessions")
        account = page.locator("code").inner_text()
    with visit(browser, cookies(OFFICER), width) as page:
        page.goto(f"{system.edge}/people/accounts/{account}")
        follow(page.get_by_role("button", name="授予"))
        expect(page.get_by_role("alert").get_by_role("link")).to_have_count(3)
        assert_sound(page)
        page.screenshot(path=str(tmp_path / "refused.png"), full_page=True)
        page.get_by_label("角色").select_option("volunteer")
        page.get_by_label("地区").select_option("370902")
        page.get_by_label("原因").fill("年度志愿服务安排")
        follow(page.get_by_role("button", name="授予"))
        granted = page.get_by_role("region", name="志愿者")
        expect(granted).to_contain_text("泰山区")
        assert_sound(page)
        page.screenshot(path=str(tmp_path / "granted.png"), full_page=True)
        follow(granted.get_by_role("link", name="撤销角色"))
        assert_sound(page)
        page.screenshot(path=str(tmp_path / "end.png"), full_page=True)
        page.get_by_label("原因").fill("安排结束")
        follow(page.get_by_role("button", name="撤销角色"))
        expect(page.get_by_role("region", name="志愿者")).to_have_count(0)


def test_a_form_is_refused_in_english_too(system: System, browser: Browser, parent: Any) -> None:
    with visit(browser, parent) as page:
        page.goto(system.edge + "/people/person")
        follow(page.get_by_role("link", name="English"))
        page.get_by_label("Name").fill("Example Parent")
        follow(page.get_by_role("button", name="Save"))
        expect(page.get_by_role("alert").get_by_role("link")).to_have_count(2)
        assert set(HAN.findall(page.locator("body").inner_text())) <= set("中文")
