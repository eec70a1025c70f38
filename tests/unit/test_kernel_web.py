"""The frame of every page: escaped, without scripts, its style kept by browsers until it changes."""

import hashlib

from services.kernel import openapi, web
from services.kernel.http import Endpoint


def test_a_page_escapes_its_title_and_frames_its_body() -> None:
    text = web.page("<泰安> & co", "<p>body</p>").decode()
    assert text.startswith("<!doctype html>")
    assert "<title>&lt;泰安&gt; &amp; co</title>" in text
    assert "<p>body</p>" in text
    assert '<html lang="zh-CN">' in text
    assert "<script" not in text
    assert "style=" not in text, "a strict content security policy refuses it"


def test_assets_are_named_by_their_content_and_kept_for_a_year() -> None:
    for content, path in ((web.STYLE, web.STYLE_PATH), (web.ICON, web.ICON_PATH)):
        assert hashlib.sha256(content).hexdigest()[:16] in path
        assert path.encode() in web.page("x", "")
    answer = web.asset(web.STYLE, "text/css")
    assert (answer.body, answer.content_type) == (web.STYLE, "text/css")
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_people_can_read_the_api() -> None:
    document = openapi.document("x", "X <y>", "x", [Endpoint("GET", "/api/v1/x", "List <all>")])
    text = web.api_page("驿站", document).decode()
    assert "List &lt;all&gt;" in text
    assert "/api/v1/x" in text
    assert "驿站" in text
    assert 'href="/docs"' in text


def test_a_page_is_an_answer() -> None:
    answer = web.html(b"<p>", 404, {"X": "y"})
    assert (answer.body, answer.status, answer.headers) == (b"<p>", 404, {"X": "y"})
    assert answer.content_type == "text/html; charset=utf-8"
