"""What the edge says with every answer, so that a browser helps to protect people; and pages that bear it."""

import re
from html.parser import HTMLParser

import pytest
import requests

from tests.e2e.conftest import System

PAGES = ("/", "/docs", "/docs/events", "/docs/design", "/people/login", "/stations/docs", "/people/docs")
OTHERS = (
    "/api/v1/stations/open",
    "/api/v1/people/me",
    "/people/person",
    "/nowhere",
    "/readyz",
    "/internal/people/token",
)
EXPECTED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Inline(HTMLParser):
    """What a strict policy would not run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes scripts without an address, styles, and handlers in attributes."""
        names = {name for name, _value in attrs}
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)
        self.found += [f"{tag} {name}" for name in names if name == "style" or name.startswith("on")]
        self.found += [value for _name, value in attrs if value and value.lower().startswith("javascript:")]


def get(system: System, path: str) -> requests.Response:
    """The answer of the edge, without following."""
    return requests.get(system.settings()["ESTATION_EDGE_URL"] + path, allow_redirects=False, timeout=30)


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
def test_every_answer_tells_the_browser_to_be_careful(system: System, path: str) -> None:
    headers = get(system, path).headers
    assert {name: headers.get(name) for name in EXPECTED} == EXPECTED
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert (policy["default-src"], policy["img-src"]) == ("'self'", "'self' data:")
    assert "script-src" not in policy, "scripts are as default-src says"
    assert {policy[name] for name in ("base-uri", "frame-ancestors", "object-src")} == {"'none'"}
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert not {"Server", "Via", "X-Powered-By"} & set(headers)


@pytest.mark.parametrize("path", PAGES)
def test_no_page_needs_what_the_policy_forbids(system: System, path: str) -> None:
    answer = get(system, path)
    assert answer.status_code == 200
    inline = Inline()
    inline.feed(answer.text)
    assert inline.found == []
    assert re.findall(r'(?:src|href)="(?:https?:)?//', answer.text) == [], "everything comes from here"
