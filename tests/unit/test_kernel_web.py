"""The frame of every page: escaped, strict, without inline script; its files as they were vendored, kept for a year."""

import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from services.kernel import openapi, web
from services.kernel.auth import Actor
from services.kernel.errors import NotFound, TooManyRequests, Unavailable
from services.kernel.http import Endpoint
from services.kernel.web import navigation, static
from services.kernel.web.environment import environment
from services.kernel.web.translation import FRAME
from tests.pages import Outline, call

VENDORED = json.loads((FRAME / "vendored.json").read_text("utf-8"))
CSS = static.FILES["estation.css"].decode()


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("part", ["parts", "form", "refused", "confirm", "problem"])
def test_a_page_is_an_answer_in_the_callers_language(part: str, language: str) -> None:
    answer = web.design_page(call(language=language), part)
    assert answer.status == (422 if part == "refused" else 200)
    assert answer.content_type == "text/html; charset=utf-8"
    assert answer.headers["Content-Language"] == {"zh": "zh-CN", "en": "en"}[language]
    assert answer.headers["Vary"] == "Accept-Language, Cookie"
    page = Outline(answer)
    assert page.of("html") == [{"lang": {"zh": "zh-CN", "en": "en"}[language], "data-theme": "light"}]
    assert page.tags.count("h1") == 1
    ids = [names["id"] for _tag, names in page.attributes if "id" in names]
    assert len(ids) == len(set(ids))


def test_a_template_escapes_what_it_is_given_and_refuses_what_it_is_not() -> None:
    made = environment("metrics", "zh")
    assert made.from_string("{{ x }}").render(x="<b>&") == "&lt;b&gt;&amp;"
    with pytest.raises(UndefinedError):
        made.from_string("{{ y }}").render()


def test_a_page_without_forms_loads_no_script() -> None:
    assert "script" not in Outline(web.api(call(), {"zh": "x", "en": "x"}, _document())).tags
    assert Outline(web.design_page(call())).tags.count("script") == 2


def _document() -> dict[str, object]:
    return openapi.document("x", "X <y>", "x", [Endpoint("GET", "/api/v1/x", "List <all>")])


def test_people_can_read_the_api() -> None:
    page = Outline(web.api(call(language="en"), {"zh": "驿站", "en": "Stations"}, _document()))
    assert "List <all>" in page.text
    assert "/api/v1/x" in page.text
    assert "anyone" in page.text
    assert "Stations" in page.text
    assert "/docs" in page.links


def test_an_error_is_said_to_people_with_its_parameters() -> None:
    answer = web.problem(TooManyRequests(7), "zh", here="/docs?x=1")
    assert answer.status == 429
    assert answer.headers["Retry-After"] == "7"
    page = Outline(answer)
    assert "请求过于频繁，请 7 秒后再试。" in page.text
    assert "/language/en?to=%2Fdocs%3Fx%3D1" in page.links
    assert "not your fault" in Outline(web.problem(Unavailable(), "en")).text


# Navigation and language


def _places(tmp_path: Path, text: str) -> tuple[navigation.Place, ...]:
    file = tmp_path / "navigation.yaml"
    file.write_text(text, "utf-8")
    return navigation.read([file])


def test_navigation_shows_each_role_its_places_in_order(tmp_path: Path) -> None:
    places = _places(
        tmp_path,
        "- {label: {zh: 审核, en: Review}, path: /desk, order: 2, roles: [city_officer]}\n"
        "- {label: {zh: 首页, en: Home}, path: /, order: 1}\n",
    )
    assert [place.en for place in navigation.visible(places, ())] == ["Home"]
    assert [place.en for place in navigation.visible(places, {"worker"})] == ["Home"]
    assert [place.en for place in navigation.visible(places, {"city_officer"})] == ["Home", "Review"]


def test_navigation_knows_where_one_is(tmp_path: Path) -> None:
    places = _places(
        tmp_path,
        "- {label: {zh: a, en: a}, path: /, order: 1}\n- {label: {zh: b, en: b}, path: /docs, order: 1}\n"
        "- {label: {zh: c, en: c}, path: /docs/events, order: 1}\n",
    )
    for path, where in (("/", "a"), ("/docs", "b"), ("/docs/x", "b"), ("/docs/events", "c"), ("/docsx", None)):
        found = navigation.current(places, path)
        assert (found.en if found else None) == where


@pytest.mark.parametrize("text", ["- {label: {zh: a}, path: /, order: 1}", "- {label: {zh: a, en: a}, path: /}"])
def test_navigation_refuses_half_an_entry(tmp_path: Path, text: str) -> None:
    with pytest.raises((KeyError, TypeError)):
        _places(tmp_path, text)


def test_the_present_place_is_marked() -> None:
    page = Outline(web.design_page(call(url="/docs/design")))
    assert [names["href"] for names in page.of("a", **{"aria-current": "page"})] == ["/docs"]


def test_a_role_sees_what_it_may_visit_in_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = navigation.Place("审核", "Review", "/desk", 1, frozenset({"city_officer"}))
    monkeypatch.setattr(navigation, "places", lambda: (desk,))
    officer = Actor("p", "person", frozenset({"city_officer"}), "370900")
    assert "/desk" in Outline(web.design_page(call(actor=officer))).links
    assert "/desk" not in Outline(web.design_page(call())).links


@pytest.mark.parametrize(
    ("asked", "led"),
    [
        ("/docs?x=1&y=%2F", "/docs?x=1&y=%2F"),
        ("/驿站", "/%E9%A9%BF%E7%AB%99"),
        ("", "/"),
        ("docs", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ('/"><script>', "/%22%3E%3Cscript%3E"),
    ],
)
def test_the_language_switch_leads_back_and_nowhere_else(asked: str, led: str) -> None:
    answer = web.choose_language(call(path={"language": "en"}, query={"to": asked}))
    assert answer.status == 303
    assert answer.headers["Location"] == led
    assert answer.cookies == ("lang=en; Path=/; Max-Age=31536000; SameSite=Lax; HttpOnly",)


def test_the_switch_never_leads_to_what_a_form_was_sent_to() -> None:
    page = Outline(web.design_page(call(url="/docs/design/form", typed={"name": "x"}), "form"))
    assert "/language/en?to=%2F" in page.links


# Static files


def test_static_files_are_kept_for_a_year_under_a_tag_of_their_content() -> None:
    _, _, tag, name = static.url("estation.css").split("/")
    answer = web.static_file(call(path={"tag": tag, "name": name}))
    assert (answer.body, answer.content_type) == (static.FILES["estation.css"], "text/css")
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    files = sorted((FRAME / "static").iterdir())
    parts = [part for one in files if one.suffix in static.TYPES for part in (one.name.encode(), one.read_bytes())]
    assert hashlib.sha256(b"\0".join(parts) + b"\0").hexdigest().startswith(tag)


def test_a_page_of_another_release_finds_its_files_and_nobody_keeps_them() -> None:
    answer = web.static_file(call(path={"tag": "0" * 16, "name": "estation.css"}))
    assert answer.body == static.FILES["estation.css"]
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["nothing.css", "pico.LICENSE", "../forms.py", ""])
def test_there_is_nothing_else_to_fetch(name: str) -> None:
    with pytest.raises(NotFound):
        web.static_file(call(path={"tag": static.TAG, "name": name}))
    with pytest.raises(KeyError):
        static.url(name)


@pytest.mark.parametrize("name", sorted(VENDORED))
def test_what_was_vendored_is_as_it_was_published(name: str) -> None:
    assert hashlib.sha256((FRAME / "static" / name).read_bytes()).hexdigest() == VENDORED[name]["sha256"]


def test_everything_vendored_is_listed_with_its_version_and_licence() -> None:
    assert {
        path.name for path in (FRAME / "static").iterdir() if ".min." in path.name or path.suffix == ".LICENSE"
    } == (set(VENDORED))
    licensed = {entry["package"] for name, entry in VENDORED.items() if name.endswith(".LICENSE")}
    assert {entry["package"] for entry in VENDORED.values()} == licensed
    assert f"v{VENDORED['pico.min.css']['version']} " in static.FILES["pico.min.css"][:100].decode()
    assert f'version="{VENDORED["htmx.min.js"]["version"]}"' in static.FILES["htmx.min.js"].decode()


# The look


def test_no_icon_comes_from_a_data_address_which_the_policy_refuses() -> None:
    icons = set(re.findall(r"(--pico-icon-[a-z]+):url\(", static.FILES["pico.min.css"].decode()))
    assert icons
    assert icons <= set(re.findall(r"(--pico-icon-[a-z]+):", CSS))
    assert "data:" not in re.sub(r"/\*.*?\*/", "", CSS, flags=re.DOTALL)
    for name in re.findall(r'url\("([^"]+)"\)', CSS):
        assert name in static.FILES


def _colour(name: str) -> str:
    found = re.search(rf"--{name}: (#[0-9a-f]{{6}});", CSS)
    assert found
    return found[1]


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_from_every_ground_it_may_have() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    grounds = [_colour(name) for name in ("paper", "card", "act-pale", "good-pale", "warn-pale", "bad-pale")]
    texts = [_colour(name) for name in ("ink", "dim", "act", "act-dark", "good", "warn", "bad")]
    for text, ground in itertools.product(texts, grounds):
        assert _contrast(text, ground) >= 4.5, (text, ground)
    for filled in ("act", "act-dark", "bad", "dim", "good"):
        assert _contrast("#ffffff", _colour(filled)) >= 4.5


def test_the_edge_of_a_field_stands_out_from_its_ground() -> None:
    """WCAG 2.2, 1.4.11: 3 to 1."""
    for ground in ("card", "paper"):
        assert _contrast(_colour("edge"), _colour(ground)) >= 3
