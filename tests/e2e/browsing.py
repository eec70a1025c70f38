"""The machine's own Chromium, as tests of pages use it."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
]
PHONE, DESK = 360, 1280
TAGS = {"zh": "zh-CN", "en": "en-GB"}
PAGES = ["/", "/docs", "/docs/metrics", "/docs/events", "/stations/docs", "/people/docs", "/people/login"]
DESIGN = ["/docs/design", *(f"/docs/design/{part}" for part in ("form", "refused", "confirm", "problem"))]

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def tab(browser: Browser, width: int = DESK, language: str = "zh", *, javascript: bool = True) -> Iterator[Page]:
    """A page of a browser that prefers a language, with nothing kept from before."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, locale=TAGS[language], java_script_enabled=javascript
    )
    yield context.new_page()
    context.close()
