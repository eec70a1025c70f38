"""Logging in with a real browser through the edge: at the demo issuer, and at a provider that is not ours."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route
from urllib3 import HTTPHeaderDict, PoolManager

from services.people.entry import SESSION_COOKIE
from services.people.service import TOKEN_PATH
from tests.e2e.browsing import PHONE, chromium, needs_chromium
from tests.e2e.conftest import System
from tests.parts import World, free_port, listens, until
from tests.people import People

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the machine."""
    with chromium() as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Cookies of its own."""
    context = browser.new_context(locale="zh-CN", viewport={"width": PHONE, "height": 800})
    yield context
    context.close()


def log_in(system: System, page: Page, person: str) -> None:
    """Comes in as a demo person."""
    page.goto(system.edge + "/people/sessions")
    assert urlsplit(page.url).path == "/people/login"
    page.get_by_role("link", name="演示登录").click()
    page.get_by_role("link", name=person, exact=True).click()
    page.wait_for_url("**/people/sessions")


def session_of(context: BrowserContext) -> str | None:
    """The secret that the browser holds."""
    found = [cookie for cookie in context.cookies() if cookie["name"] == SESSION_COOKIE]
    return found[0]["value"] if found else None


def ask(system: System, path: str, headers: dict[str, str] | None = None) -> tuple[int, HTTPHeaderDict, str]:
    """What a program gets through the edge: status, headers, body."""
    answer = PoolManager().request("GET", system.edge + path, headers=headers, retries=False, redirect=False)
    return answer.status, answer.headers, answer.data.decode()


def test_a_demo_person_comes_in_looks_at_the_logins_and_goes_out(system: System, context: BrowserContext) -> None:
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    log_in(system, page, "演示县级经办人一")
    assert "县级工会经办人" in page.locator("dl").inner_text()
    assert page.get_by_text("当前设备").count() == 1
    held = {cookie["name"]: cookie for cookie in context.cookies()}
    cookie = held[SESSION_COOKIE]
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")
    assert "eyJ" not in json.dumps(held), "no token reaches the browser"
    assert SESSION_COOKIE not in page.evaluate("document.cookie")
    listed = page.request.get(system.edge + "/api/v1/stations/stations?limit=200").json()["items"]
    assert {station["county"] for station in listed} == {"370902", "370902-js"}, "the edge made it a bearer token"
    page.get_by_role("link", name="退出登录").click()
    page.get_by_role("button", name="退出登录").click()
    page.wait_for_url(system.edge + "/")
    assert session_of(context) is None
    assert complaints == []


def test_a_first_login_mends_its_form_and_agrees(system: System, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(system.edge + "/people/login?next=/people/sessions")
    page.get_by_role("link", name="演示登录").click()
    page.get_by_role("link", name="首次登录的人").click()
    if urlsplit(page.url).path == "/people/register":
        page.get_by_role("button", name="同意并开通").click()
        assert page.get_by_role("alert").is_visible()
        page.get_by_label("所在县（市、区）").select_option("370982")
        page.get_by_label("我已阅读并同意服务条款").check()
        page.get_by_role("button", name="同意并开通").click()
    page.wait_for_url("**/people/sessions")
    assert "职工" in page.locator("dl").inner_text()


def test_what_the_edge_sets_cannot_be_brought_along(system: System, context: BrowserContext) -> None:
    log_in(system, context.new_page(), "演示职工一")
    cookie = f"{SESSION_COOKIE}={session_of(context)}"
    for path in (
        TOKEN_PATH,
        f"/people/..{TOKEN_PATH}",
        f"/people/%2e%2e{TOKEN_PATH}",
        f"/people/..%2f{TOKEN_PATH[1:]}",
        f"//{TOKEN_PATH[1:]}",
        f"/people/{TOKEN_PATH}",
        TOKEN_PATH.replace("internal", "intern%61l"),
        TOKEN_PATH + "/",
    ):
        status, headers, _body = ask(system, path, {"Cookie": cookie})
        assert status in {400, 404}, path
        assert "Authorization" not in headers
    token = {"Authorization": "Bearer nonsense", "Cookie": cookie}
    assert ask(system, "/api/v1/people/me", token)[0] == 401, "who brings a credential is taken by it"
    assert ask(system, "/api/v1/people/me", {"Cookie": cookie})[0] == 200
    assert ask(system, "/api/v1/people/me", {"Cookie": f"a=b; {cookie}; c=d"})[0] == 200
    assert ask(system, "/api/v1/people/me", {"Cookie": f"x{cookie}"})[0] == 401
    assert ask(system, "/api/v1/people/me", {"X-Forwarded-Uri": TOKEN_PATH})[0] == 401


def test_another_site_cannot_use_the_login(system: System, context: BrowserContext) -> None:
    page = context.new_page()
    log_in(system, page, "演示职工二")
    before = session_of(context)
    other = f"http://localhost:{urlsplit(system.edge).port}"

    def evil(route: Route) -> None:
        body = f'<form method="post" action="{system.edge}/people/sessions/revoke"></form>'
        route.fulfill(body=body, content_type="text/html")

    page.route(other + "/evil", evil)
    page.goto(other + "/evil")
    with page.expect_navigation():
        page.evaluate("document.forms[0].submit()")
    assert session_of(context) == before
    page.goto(system.edge + "/people/sessions")
    assert urlsplit(page.url).path == "/people/sessions", "still logged in"


@pytest.fixture
def people_away(system: System) -> Iterator[None]:
    """While the test runs, the people service does not answer."""
    found = json.loads(system.run("status", "--json"))["processes"]
    pid = next(process["pid"] for process in found if process["name"] == "people")
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.usefixtures("people_away")
def test_programs_and_strangers_are_served_while_people_is_away(system: System) -> None:
    officer = {"Authorization": "Bearer " + system.run("token").strip()}
    assert ask(system, "/api/v1/stations/stations", officer)[0] == 200
    assert ask(system, "/api/v1/stations/open")[0] == 200
    status, headers, body = ask(system, "/api/v1/stations/open", {"Cookie": f"{SESSION_COOKIE}=whatever"})
    assert status in {502, 504}, "nobody is taken for somebody else, or for nobody, on a guess"
    assert headers["Retry-After"]
    assert json.loads(body)["code"] == "unavailable"


@contextmanager
def provider(subject: str) -> Iterator[str]:
    """A provider that is not ours, in a process of its own, which knows one person; its issuer."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--require-nonce", "true", "--user", subject], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: listens(port), "the provider listens")
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def foreign(world: World, tmp_path: Path) -> Iterator[People]:
    """The people service with a provider that is not ours."""
    with provider("somebody-elsewhere") as issuer:
        entry = {
            "key": "elsewhere",
            "kind": "oidc",
            "label": {"zh": "外部登录", "en": "Elsewhere"},
            "client_id": "estation-test",
            "secret_file": "secret",
            "issuer": issuer,
        }
        (tmp_path / "secret").write_text("a-client-secret")
        (tmp_path / "providers.json").write_text(json.dumps({"providers": [entry]}))
        environ = {"ESTATION_IDENTITY_PROVIDERS": str(tmp_path / "providers.json"), "ESTATION_DEMO_ISSUER": "off"}
        with People(world, **environ) as running:
            yield running


def test_a_provider_that_is_not_ours_says_who_somebody_is(foreign: People, context: BrowserContext) -> None:
    page = context.new_page()

    def come_in() -> None:
        page.goto(foreign.origin + "/people/login?next=/people/docs")
        page.get_by_role("link", name="外部登录").click()
        assert urlsplit(page.url).hostname == "localhost"
        page.get_by_role("button", name="somebody-elsewhere").click()

    come_in()
    assert urlsplit(page.url).path == "/people/register"
    page.get_by_label("所在县（市、区）").select_option("370902")
    page.get_by_label("我已阅读并同意服务条款").check()
    page.get_by_role("button", name="同意并开通").click()
    page.wait_for_url("**/people/docs")
    first = session_of(context)
    assert first is not None
    context.clear_cookies()
    come_in()
    page.wait_for_url("**/people/docs")
    assert session_of(context) not in {None, first}
    assert foreign.database["accounts"].count_documents({}) == 1
    account = foreign.database["accounts"].find_one()
    assert "somebody-elsewhere" not in str(account)


def test_a_person_who_says_no_there_is_not_logged_in(foreign: People, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(foreign.origin + "/people/login")
    page.get_by_role("link", name="外部登录").click()
    with page.expect_response("**/people/callback/elsewhere**") as answered:
        page.get_by_role("button", name="Deny").click()
    assert answered.value.status == 400
    assert session_of(context) is None
